"""What changed depth does, on dumps with known answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
import zarr
from scipy import stats

from analysis.causal import effects, readable_effects, readable_refitted, refitted, swap_slopes
from analysis.figures import figure_of
from analysis.load import AnalysisError
from analysis.read import read
from training.dumps.pairs import distances
from training.dumps.schema import OUTCOMES
from training.dumps.store import Dump, open_dump
from training.intervals import over_units

CHANGES = ["swap", "zero", "mean", "real", "erase_scores-all"]


def dump(path: Path, slope: float, **more) -> Dump:
    settings = {"num_causal": 200, "num_images": 200, "interventions": CHANGES, "causal": slope} | more
    return open_dump(planted.write_dump(path / "d.zarr", planted.falling(planted.BETAS), **settings))


def test_swaps_give_back_the_planted_slope(tmp_path: Path) -> None:
    found = swap_slopes(dump(tmp_path, -0.2))
    np.testing.assert_allclose(found.value, -0.2, atol=3e-3)
    assert ((found.low < -0.2) & (found.high > -0.2)).mean() >= 0.5
    assert (found.high < 0).all()


def test_swaps_give_back_a_slope_planted_at_every_distance(tmp_path: Path) -> None:
    """Steeper the farther, by layer; the figure draws these numbers, and holds the truth in its bands."""
    planted_dump = dump(tmp_path, -0.2, num_causal=200, num_groups=50)
    group = zarr.open_group(planted_dump.path, mode="a")
    radii, _ = distances(planted.GRID)
    pairs = planted_dump["causal/swap/distance_pairs"]
    slopes = -0.1 * np.arange(1, planted.LAYERS + 1)[:, None] * np.floor(radii)
    noise = np.random.default_rng(0).normal(0, 0.02, (50, planted.LAYERS, 1))
    group["causal/swap/distance"][:] = (slopes + noise) * pairs[:, None]
    drawn = figure_of(10).drawn(read(planted_dump.path), "causal")
    frame = drawn.frames[""]
    assert "200 images of the dumps' 200 images" in drawn.caption
    of_layers = frame[frame["layer"] != "all"]
    truth = -0.1 * of_layers["layer"].astype(float) * of_layers["distance"]
    np.testing.assert_allclose(of_layers["slope"], truth, atol=0.012)
    assert of_layers["slope_low"].lt(truth).mean() >= 0.7 and of_layers["slope_high"].gt(truth).mean() >= 0.7
    pooled = frame[frame["layer"] == "all"]
    np.testing.assert_allclose(pooled["slope"], -0.25 * pooled["distance"], atol=0.012)


def test_partners_are_drawn_together(tmp_path: Path) -> None:
    """What the second half repeats of the first tells nothing new: the interval is that of the first alone."""
    moved = dump(tmp_path, -0.2)
    rows, pairs = (moved[f"causal/swap/{name}"] for name in ("rows", "pairs"))
    group = zarr.open_group(moved.path, mode="a")
    group["causal/swap/rows"][100:], group["causal/swap/pairs"][100:] = rows[:100], pairs[:100]
    found = swap_slopes(open_dump(moved.path))
    first = np.stack([rows[:100], np.broadcast_to(pairs[:100, None], (100, planted.LAYERS))], -1)
    alone = over_units(first, lambda sums: sums[..., 0] / sums[..., 1])
    np.testing.assert_allclose(found.low, alone.low)
    np.testing.assert_allclose(found.high, alone.high)


def test_what_never_moves_is_exactly_zero(tmp_path: Path) -> None:
    still = dump(tmp_path, 0.0)
    assert (swap_slopes(still).value == 0).all()
    frame = effects(still)
    assert (frame[["kl", "kl_low", "kl_high", "logit_mae", "changed"]] == 0).all(axis=None)


def test_outcomes_are_the_means_with_paired_tests(tmp_path: Path) -> None:
    moved = dump(tmp_path, -0.2)
    frame = effects(moved)
    assert frame["change"].tolist() == CHANGES
    base, values = moved["causal/base"].astype(float), moved["causal/outcomes"]
    for place, row in enumerate(frame.to_dict("records")):
        correct = values[:, place, OUTCOMES.index("correct")]
        assert row["top1_change"] == pytest.approx((correct - base).mean())
        assert row["kl"] == pytest.approx(values[:, place, OUTCOMES.index("kl")].mean())
        assert row["top1_change_low"] <= row["top1_change"] <= row["top1_change_high"]
        more, fewer = int((correct > base).sum()), int((correct < base).sum())
        exact = stats.binomtest(min(more, fewer), more + fewer).pvalue
        assert row["p"] == pytest.approx(exact, abs=0.1)
    assert readable_effects(frame).shape == (5, 8)
    assert readable_effects(frame)["change, points"].str[0].isin(list("−+")).all()


def test_outcomes_of_a_swap_draw_partners_together(tmp_path: Path) -> None:
    """Partners alike: of a swap only half as many images are independent, of other changes all are."""
    moved = dump(tmp_path, -0.2)
    group = zarr.open_group(moved.path, mode="a")
    for name in ("causal/outcomes", "causal/base"):
        group[name][100:] = moved[name][:100]
    frame = effects(open_dump(moved.path)).set_index("change")
    for kind in ("top1_change", "kl", "logit_mae"):
        width = frame[f"{kind}_high"] - frame[f"{kind}_low"]
        assert width["swap"] / width["zero"] == pytest.approx(np.sqrt(2), rel=0.25)


def test_without_labels_all_but_accuracy_remains(tmp_path: Path) -> None:
    with_labels, without = (
        effects(dump(path, -0.2, **more))
        for path, more in ((tmp_path / "a", {}), (tmp_path / "b", {"labelled": False, "class_names": []}))
    )
    unknown = ["accuracy", "unchanged", "top1_change", "top1_change_low", "top1_change_high", "p"]
    assert without[unknown].isna().all(axis=None)
    pd.testing.assert_frame_equal(without.drop(columns=unknown), with_labels.drop(columns=unknown))
    both = readable_effects(pd.concat([with_labels, without], ignore_index=True))
    for column in ("top-1 %", "change, points", "p"):
        assert (both[column] == "no labels").tolist() == [False] * 5 + [True] * 5
    assert not both.astype(str).map(lambda text: "nan" in text).any(axis=None)


def test_a_dump_without_changes_says_how_to_make_one(tmp_path: Path) -> None:
    plain = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS)))
    for of in (swap_slopes, effects, refitted):
        with pytest.raises(AnalysisError, match=r"holds no changed depth: make it again with 'train dump .* --causal"):
            of(plain)
    with pytest.raises(
        AnalysisError, match=r"no dump of m4ch holds changed depth: make one with 'train dump .* --causal"
    ):
        figure_of(10).drawn(read(plain.path), "causal")


def test_the_command_prints_and_writes(tmp_path: Path, analyze) -> None:
    moved = dump(tmp_path, -0.2)
    code, out, err = analyze("causal", moved.path, "--out", tmp_path / "tables")
    assert code == 0, err
    assert "what changing depth does to answers" in out
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    for name in ("causal", "causal-erased"):
        assert {f"{name}.{kind}" for kind in ("csv", "md", "pdf", "svg", "png")} <= written
    assert readable_refitted(refitted(moved)).columns[0] == "model"
