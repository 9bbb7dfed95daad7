"""Figures 7 and 8: from planted logs, against the models' own formulas."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import planted
import pytest

import analysis
from analysis import style
from analysis.depth_bias import alpha_by_epoch, density_of_delta, head_scale, phi_curves, run_of
from analysis.figures import figure_of
from analysis.figures.spec import Drawn
from analysis.load import AnalysisError, Given


def mlin(folder: Path, **changes: Any) -> Given:
    run = planted.write_run(folder / "mlin", model="mlin", **changes)
    alphas = {epoch: {"alpha": [1 + 0.1 * epoch, 1 + 0.3 * epoch, 1 - 0.1 * epoch, 1.0]} for epoch in (0, 2, 1)}
    return analysis.load(planted.write_parameters(run, alphas))


def mmlp(folder: Path, slope: float = 0.5) -> Given:
    run = planted.as_model(planted.write_run(folder / "mmlp"), "mmlp")
    delta = np.array(planted.PHI_GRID)
    curves = [(slope * layer * np.maximum(delta, 0) + 0.2).tolist() for layer in (3, 2, 1, 0)]
    return analysis.load(planted.write_parameters(run, {5: {"phi": curves, "phi_grid": planted.PHI_GRID}}))


def draw(study: Given, number: int, variant: str | None = None) -> Drawn:
    return figure_of(number).drawn(study, variant)


def lines(drawn: Drawn) -> list[Any]:
    """Those of layers, not those at 0."""
    return [line for line in drawn.figure.axes[0].lines if len(line.get_xdata()) > 2]


def test_head_scale_is_that_of_the_models() -> None:
    from training.models.fusion.mlin import head_scale as of_model

    config = {"model": {"heads": 12, "initial_value": 2.0, "decay_range": 4.0}}
    np.testing.assert_allclose(head_scale(config), of_model(2.0, 4.0, 12).numpy(), rtol=1e-6)
    assert head_scale(config)[[0, -1]] == pytest.approx([-0.288, -0.0199], abs=5e-4)


def test_figure7_draws_alpha_by_epoch(tmp_path: Path) -> None:
    study = mlin(tmp_path)
    literal = draw(study, 7)
    drawn = lines(literal)
    assert len(drawn) == 4
    np.testing.assert_allclose(drawn[1].get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(drawn[1].get_ydata(), [1, 1.3, 1.6])
    assert drawn[-1].get_color() == style.GREY and drawn[-1].get_linestyle() == "--"
    assert len({str(line.get_color()) for line in drawn}) == 4
    assert "no gradient" in literal.caption and "1 seed (0)" in literal.caption
    effective = draw(study, 7, "effective")
    scale = -np.log(1 - 2.0 ** np.array([-2.0, -4.0]))  # two heads
    np.testing.assert_allclose(lines(effective)[1].get_ydata(), np.array([1, 1.3, 1.6]) * scale.mean())
    last = effective.frames[""].query("epoch == 2 and layer == 2").iloc[0]
    assert (last["effective_low"], last["effective_high"]) == pytest.approx((1.6 * scale[1], 1.6 * scale[0]))


def test_figure8_draws_the_bias_and_in_the_papers_sign(tmp_path: Path) -> None:
    study = mmlp(tmp_path)
    effective, literal = draw(study, 8), draw(study, 8, "literal")
    bias = lines(effective)[0]
    x, y = np.asarray(bias.get_xdata()), np.asarray(bias.get_ydata())
    scale = np.log(1 - 2.0 ** np.array([-2.0, -4.0])).mean()
    np.testing.assert_allclose(y, scale * (1.5 * np.maximum(x, 0) + 0.2), atol=1e-12)
    assert (y < 0).all()  # φ is positive everywhere: attend less; φ(0) is not taken off
    phi = lines(literal)[0]
    x, y = np.asarray(phi.get_xdata()), np.asarray(phi.get_ydata())
    np.testing.assert_allclose(y, 1.5 * np.maximum(-x, 0) + 0.2, atol=1e-12)
    assert "the density of Δ is left out" in effective.caption and set(effective.frames) == {""}
    assert lines(effective)[-1].get_color() == style.GREY
    assert "epoch 5" in effective.caption


def test_frames_hold_both_signs(tmp_path: Path) -> None:
    frame = phi_curves(run_of(mmlp(tmp_path), "mmlp"))
    assert len(frame) == 4 * 81
    assert (frame["paper_delta"] == -frame["delta"]).all()
    assert frame.groupby("layer")["trained"].first().tolist() == [True, True, True, False]


def test_the_lowest_seed_is_drawn(tmp_path: Path) -> None:
    runs = [planted.write_run(tmp_path / f"mlin-{seed}", model="mlin", seed=seed) for seed in (2, 1)]
    frame = alpha_by_epoch(run_of(analysis.load(runs), "mlin"))
    assert set(frame["seed"]) == {1}


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    study = analysis.load(planted.write_run(tmp_path / "m4ch"))
    for number, model in ((7, "mlin"), (8, "mmlp")):
        with pytest.raises(
            AnalysisError, match=f"no run of {model} was given: make one with 'train pretrain --preset PRESET --model"
        ):
            figure_of(number).drawn(study)
    study = analysis.load(planted.write_parameters(planted.write_run(tmp_path / "mlin", model="mlin"), {}))
    with pytest.raises(AnalysisError, match=r"metrics.jsonl holds no alpha of mlin"):
        figure_of(7).drawn(study)
    with pytest.raises(AnalysisError, match=r"--depth must be one of pseudo .*got exact"):
        figure_of(7).drawn(study, depth="exact")


class Depths:
    """Stands for a dump: patch depths alone, given out as they are asked for."""

    def __init__(self, z: np.ndarray) -> None:
        self.z, self.most = z, 0
        self.info = SimpleNamespace(num_images=len(z), num_patches=z.shape[1])

    def read(self, name: str, rows: slice) -> np.ndarray:
        assert name == "statistics/patch_depth"
        self.most = max(self.most, rows.stop - rows.start)
        return self.z[rows]


def test_density_is_that_of_all_ordered_pairs() -> None:
    z = np.random.default_rng(0).normal(0, 1.5, (150, 10)).astype(np.float32)
    z[3, :4] = z[100] = np.inf  # no depth
    dump = Depths(z)
    found = density_of_delta(dump)
    assert dump.most < 150
    wide = z.astype(np.float64)
    pairs = [wide[n, i] - wide[n, j] for n in range(150) for i in range(10) for j in range(10)
             if i != j and np.isfinite(wide[n, [i, j]]).all()]  # fmt: skip
    counts, edges = np.histogram(pairs, bins=80, range=(-4, 4))
    np.testing.assert_allclose(found["density"], counts / len(pairs) / 0.1, atol=1e-12)
    np.testing.assert_allclose(found["low"], edges[:-1], atol=1e-12)
    mass = found["density"].sum() * 0.1
    assert mass == pytest.approx((np.abs(pairs) < 4).mean()) and mass < 1


def test_figure8_shows_the_density_of_its_own_dump(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "mmlp", model="mmlp", scores=planted.falling(planted.BETAS), num_images=20)
    curves = [np.maximum(planted.PHI_GRID, 0).tolist()] * 4
    planted.write_parameters(run, {5: {"phi": curves, "phi_grid": planted.PHI_GRID}})
    drawn = draw(analysis.load(run), 8)
    z = planted.patch_depths(20)
    pairs = (z[:, :, None] - z[:, None])[:, ~np.eye(16, dtype=bool)]
    counts, _ = np.histogram(pairs, bins=80, range=(-4, 4))
    np.testing.assert_allclose(drawn.frames["-density"]["density"], counts / pairs.size / 0.1, atol=0.01)
    assert "pairs of patches of 20 images (patch depth mean of pseudo)" in drawn.caption
    assert len([axes for axes in drawn.figure.axes if axes.get_ylabel() == "density (1/z)"]) == 1


def test_density_is_of_the_depth_the_model_was_trained_on_and_reads(tmp_path: Path) -> None:
    """Beside the run's own dump lie one on real depth, of more images, and one of the other patch depth."""
    run = planted.write_run(tmp_path / "mmlp", model="mmlp", scores=planted.falling(planted.BETAS), num_images=20)
    curves = [np.maximum(planted.PHI_GRID, 0).tolist()] * 4
    planted.write_parameters(run, {5: {"phi": curves, "phi_grid": planted.PHI_GRID}})
    alone = draw(analysis.load(run), 8).frames["-density"]
    others = {"latest-real": {"depth_field": "real"}, "centre": {"patch_depth": "center4"}}
    for name, changes in others.items():
        path = run / "dumps" / f"{name}.zarr"
        depths = 3 * planted.patch_depths(30, seed=5)
        planted.write_dump(path, planted.falling(planted.BETAS), model="mmlp", num_images=30, depths=depths, **changes)
    pd.testing.assert_frame_equal(draw(analysis.load(run), 8).frames["-density"], alone)
    shutil.rmtree(run / "dumps" / "epoch-5.zarr")
    assert "patch depth center4 of pseudo" in draw(analysis.load(run), 8).caption
    shutil.rmtree(run / "dumps" / "centre.zarr")
    assert "no dump on pseudo depth" in draw(analysis.load(run), 8).caption
