"""Figures 4 and 14: from planted sweeps and gaps, against scipy and what was planted."""

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from scipy.interpolate import PchipInterpolator
from statsmodels.stats.proportion import proportion_confint

import analysis
from analysis.figures import figure_of
from analysis.figures.spec import Drawn
from analysis.load import AnalysisError, Given
from analysis.robustness import at_sigma, swept_models, top1_at

MLIN, M4CH = [0.65, 0.62, 0.60, 0.50], [0.70, 0.60, 0.45, 0.30]


def runs(folder: Path, *, seeds: int = 1, **changes: Any) -> list[Path]:
    """m3ch, mlin and m4ch with both kinds of noise; patch noise costs half as much. `changes` are mlin's sweeps'."""
    made = []
    for seed in range(seeds):
        for model, top1 in (("m3ch", [0.6] * 4), ("mlin", MLIN), ("m4ch", M4CH)):
            made.append(planted.write_run(folder / f"{model}-{seed}", model=model, seed=seed))
            for noise in ("pixel", "patch"):
                values = top1 if noise == "pixel" else [(top1[0] + each) / 2 for each in top1]
                own = changes if model == "mlin" else {}
                planted.write_sweep(made[-1], planted.enduring(values, seed=seed), noise, **own)
    return made


def gapped(folder: Path, **changes: Any) -> Given:
    made = runs(folder)
    for run, stars in zip(
        made, ({"pixel": None}, {"pixel": 0.7, "patch": 1.1}, {"pixel": 0.8, "patch": None}), strict=True
    ):
        planted.write_gap(run, stars, **(changes if run.name.startswith("m4ch") else {}))
    return analysis.load(made)


def draw(study: Given, number: int, variant: str | None = None) -> Drawn:
    return figure_of(number).drawn(study, variant)


def test_figure4_is_what_was_planted(tmp_path: Path) -> None:
    drawn = draw(analysis.load(runs(tmp_path)), 4)
    frame = drawn.frames[""]
    assert len(drawn.figure.axes) == 4 and len(frame) == 2 * 3 * 4
    pixel = frame[(frame["noise"] == "pixel") & (frame["model"] == "m4ch")]
    assert pixel["sigma"].tolist() == planted.SIGMAS
    np.testing.assert_allclose(pixel["top1"], M4CH)
    for row in pixel.itertuples():
        wanted = proportion_confint(round(1000 * row.top1), 1000, method="wilson")
        np.testing.assert_allclose((row.low, row.high), wanted, rtol=1e-6)
    np.testing.assert_allclose(pixel["change"], np.subtract(M4CH, 0.7), atol=1e-12)
    # Planted samples only ever turn wrong: the change is minus a share of n, whose spread is the binomial's.
    spread = np.sqrt(0.25 * 0.75 / 1000)
    assert pixel["change_high"].iloc[2] == pytest.approx(-0.25 + 1.96 * spread, abs=0.003)
    still = frame[frame["model"] == "m3ch"]  # equal outcomes on a thousand samples
    assert (still["change"] == 0).all() and still["change_high"].to_numpy() == pytest.approx(0.003827, abs=1e-6)
    assert "(1,000 samples, 1 seed, epoch 5)" in drawn.caption


def test_seeds_are_averaged_by_sample(tmp_path: Path) -> None:
    made = runs(tmp_path, seeds=2)
    drawn = draw(analysis.load(made), 4)
    frame = drawn.frames[""].query("noise == 'pixel' and model == 'mlin'")
    np.testing.assert_allclose(frame["top1"], MLIN)
    assert (frame["seeds"] == 2).all() and "2 seeds" in drawn.caption
    one = draw(analysis.load(made[:3]), 4).frames[""].query("noise == 'pixel' and model == 'mlin'")
    width, alone = (each["change_high"] - each["change_low"] for each in (frame, one))
    assert (width.to_numpy()[1:] < 0.85 * alone.to_numpy()[1:]).all()


def test_one_kind_of_noise_makes_one_column(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run")
    planted.write_sweep(run, planted.enduring(M4CH), "patch")
    assert len(draw(analysis.load(run), 4).figure.axes) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_seed": 7}, r"m3ch-0 and .*mlin-0 have noise sweeps of different noise seeds \(0 and 7\)"),
        ({"split": "test"}, r"m3ch-0 and .*mlin-0 have noise sweeps of different splits \(val and test\)"),
        ({"fingerprint": "x"}, r"different shards \(val-fingerprint and x\)"),
        ({"image_size": 32}, "different image sizes"),
        ({"correct1": ["0" * 1000] * 4}, "mlin-0: its pixel noise sweep of epoch 5 is damaged"),
        ({"correct1": ["0"]}, "is damaged"),
    ],
)
def test_sweeps_that_do_not_compare_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    study = analysis.load(runs(tmp_path, **changes))
    for number in (4, 14):
        with pytest.raises(AnalysisError, match=message):
            figure_of(number).drawn(study)


def test_the_last_checkpoint_counts(tmp_path: Path) -> None:
    made = runs(tmp_path)
    planted.write_sweep(made[1], planted.enduring([0.1] * 4), epoch=2, noise_seed=9)
    assert swept_models(analysis.load(made))[1].top1 == pytest.approx(MLIN)


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run")
    with pytest.raises(AnalysisError, match="no run has a noise sweep: make them with 'train evaluate RUN"):
        figure_of(4).drawn(analysis.load(run))
    planted.write_sweep(run, planted.enduring(M4CH))
    with pytest.raises(AnalysisError, match="has a gap to real depth: make them with 'train gap"):
        figure_of(14).drawn(analysis.load(run))
    with pytest.raises(AnalysisError, match=r"--depth must be one of pseudo .*, got real"):
        figure_of(4).drawn(analysis.load(run), depth="real")


def test_figure14_marks_what_was_planted(tmp_path: Path) -> None:
    study = gapped(tmp_path)
    drawn = draw(study, 14)
    stars = drawn.frames["-sigma-star"]
    row = stars.query("model == 'mlin' and noise == 'pixel' and reading == 'z'").iloc[0]
    assert (row["sigma_star"], row["low"], row["high"]) == pytest.approx((0.7, 0.63, 0.77))
    assert row["top1"] == pytest.approx(float(PchipInterpolator(planted.SIGMAS, MLIN)(0.7)))
    assert 0.60 < row["top1"] < 0.62 and row["top1_low"] < row["top1"] < row["top1_high"]
    uprights = [
        line for line in drawn.figure.axes[0].lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert sorted(line.get_xdata()[0] for line in uprights) == pytest.approx([0.7, 0.8, 0.875, 1.0])
    assert "σ* lies above the measured grid for m4ch (patch, z), m4ch (patch, inverse)." in drawn.caption
    assert "m3ch does not react to depth" in drawn.caption and "1,449 images" in drawn.caption
    soft = draw(study, 14, "softmax").frames["-sigma-star"]
    assert soft.query("model == 'mlin' and noise == 'pixel' and reading == 'z'")["sigma_star"].item() == 0.35


def test_gaps_of_other_images_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"m3ch-0 and .*m4ch-0 have gaps of different images"):
        figure_of(14).drawn(gapped(tmp_path, fingerprints={"val": "z"}))


def test_top1_between_sigmas(tmp_path: Path) -> None:
    swept = {(each.model, each.noise): each for each in swept_models(analysis.load(runs(tmp_path)))}
    m4ch, mlin = swept["m4ch", "pixel"], swept["mlin", "pixel"]
    for sigma, place in ((0.0, 0), (2.0, 3)):
        at = top1_at(m4ch, sigma)
        assert float(at.value) == pytest.approx(M4CH[place])
        spread = np.sqrt(M4CH[place] * (1 - M4CH[place]) / 1000)
        assert float(at.high - at.low) == pytest.approx(2 * 1.96 * spread, rel=0.1)
    between = at_sigma(mlin, 1.3)[1].mean(0)
    assert between.mean() == pytest.approx(float(PchipInterpolator(planted.SIGMAS, MLIN)(1.3)))
    # What a sample adds is its outcome times the curve's derivative: the spread is that of resampled curves.
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(400):
        rows = mlin.correct[:, generator.integers(0, 1000, 1000)]
        draws.append(float(PchipInterpolator(planted.SIGMAS, rows.mean(1))(1.3)))
    assert between.std() / np.sqrt(1000) == pytest.approx(np.std(draws), rel=0.15)
    slope = PchipInterpolator(planted.SIGMAS, MLIN).derivative()(1.3)
    assert at_sigma(mlin, 1.3)[0] == pytest.approx(float(slope))
    assert np.isnan(top1_at(mlin, 2.1).value)
