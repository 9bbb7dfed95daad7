"""Nulls, the randomisation test, effect sizes and the frame that holds them, on planted truth."""

from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted
import pytest

from analysis import nulls
from analysis.attention import bias_slopes, layer_slopes
from analysis.evidence import attended_depth, decomposition, evidence
from training.dumps.from_raw import raw_depth, raw_scores
from training.dumps.pairs import NULLS, REGRESSORS, Pairs, filled, partner
from training.dumps.store import Dump, open_dump

BETAS = planted.BETAS


def dump_of(path: Path, scores: planted.ScoreMaker = planted.falling(BETAS), **options: Any) -> Dump:
    return open_dump(planted.write_dump(path, scores, **options))


def test_null_slopes_lie_near_0_where_the_images_own_does_not(tmp_path: Path) -> None:
    depths = np.random.default_rng(2).normal(size=(60, 16))
    dump = dump_of(tmp_path / "d.zarr", num_images=60, depths=depths)
    found = nulls.null_slopes(dump)
    assert set(found) == set(NULLS)
    for estimate in found.values():
        assert (abs(estimate.value) < 0.2 * np.array(BETAS)).all()
    # A patch and its mirror image keep their |Δ| when a map is mirrored, so `flipped` sees a little of it.
    holds = [(found[name].low < 0) & (found[name].high > 0) for name in ("other", "shuffled")]
    assert np.mean(holds) >= 0.75  # 8 intervals of 95 %


def test_partners_are_drawn_together(tmp_path: Path) -> None:
    """S of an image with |Δ| of its partner is the same number as the other way round: half as many are independent."""
    depths = np.random.default_rng(2).normal(size=(60, 16))
    dump = dump_of(tmp_path / "d.zarr", planted.falling(BETAS, noise=0), num_images=60, depths=depths)
    together, apart = nulls.null_slopes(dump)["other"], layer_slopes(dump, "gauge_fixed", names=("other",))
    np.testing.assert_allclose(together.value, apart.value)
    np.testing.assert_allclose((together.high - together.low) / (apart.high - apart.low), np.sqrt(2), rtol=0.2)


def test_position_shared_by_all_images_shows_in_the_other_images_slope(tmp_path: Path) -> None:
    """Depth that tilts alike everywhere: the null sees it, shuffled patches do not."""
    tilt = np.outer(np.linspace(0.5, 1, 40), np.divmod(np.arange(16), 4)[0])
    found = nulls.null_slopes(dump_of(tmp_path / "d.zarr", depths=tilt))
    assert (found["other"].high < -0.1).all()
    assert (abs(found["shuffled"].value) < 0.5 * abs(found["other"].value)).all()


def test_derangements_are_uniform_and_keep_none_in_place() -> None:
    drawn = nulls.derangements(4, 9000)
    assert (drawn != np.arange(4)).all()
    every = [order for order in permutations(range(4)) if all(a != b for a, b in enumerate(order))]
    counts = [int((drawn == order).all(1).sum()) for order in every]
    assert sum(counts) == 9000 and len(every) == 9
    assert max(abs(np.array(counts) - 1000)) < 150  # five standard deviations


@pytest.mark.parametrize("part", ["content", "total"])
def test_randomisation_finds_the_planted_layers_only(tmp_path: Path, part: str) -> None:
    """Layers 1 and 3 follow depth, 2 and 4 do not; but for `total`, where mlin's bias makes all of them do."""
    dump = dump_of(tmp_path / "d.zarr", planted.falling([0.5, 0, 0.5, 0], noise=1.5), num_raw=40, model="mlin")
    p = nulls.randomisation_p(dump, part)
    assert p is not None
    assert (p[[0, 2]] == 0.001).all()
    assert (p[[1, 3]] > 0.05).all() if part == "content" else p[1] == 0.001
    assert nulls.randomisation_p(dump_of(tmp_path / "few.zarr", num_raw=7)) is None
    assert nulls.randomisation_p(dump_of(tmp_path / "none.zarr")) is None


def test_randomisation_reads_no_more_images_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones alone: what p is does not depend on how many follow."""
    monkeypatch.setattr(nulls, "MOST_IMAGES", 10)
    found = []
    for count in (10, 20):
        depths = planted.patch_depths(20)[:count]
        dump = dump_of(tmp_path / f"{count}.zarr", rising_in_time, num_images=count, num_raw=count, depths=depths)
        found.append(nulls.randomisation_p(dump))
    np.testing.assert_array_equal(found[0], found[1])
    monkeypatch.setattr(nulls, "MOST_IMAGES", 20)
    assert (found[0] == 0.001).all() and (nulls.randomisation_p(dump) > 0.01).all()


def rising_in_time(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The first ten images fall with |Δ|, the others rise as much."""
    slopes = np.where(np.arange(len(delta)) < 10, -1.0, 1.0)[:, None, None] * delta
    return np.broadcast_to(slopes[:, None, None], (len(delta), planted.LAYERS, planted.HEADS, *delta.shape[1:]))


def test_randomisation_p_is_uniform_where_nothing_is_there(tmp_path: Path) -> None:
    found = []
    for seed in range(6):
        dump = dump_of(tmp_path / f"{seed}.zarr", planted.falling([0] * 4), num_images=9, num_raw=9, seed=seed)
        p = nulls.randomisation_p(dump, num_derangements=199)
        assert p is not None
        found.append(p)
    assert 0.3 < np.mean(found) < 0.7
    assert np.mean(np.concatenate(found) <= 0.1) < 0.25


@pytest.mark.parametrize("gaps", [False, True])
def test_statistic_of_the_test_is_the_slope_of_explicit_pairs(tmp_path: Path, gaps: bool) -> None:
    """Every image against every map, with the images' gaps, by the regressors that dumps are made of."""
    dump = dump_of(tmp_path / "d.zarr", num_images=8, num_raw=8)
    depth = raw_depth(dump, "mean", slice(8))
    if gaps:
        depth[np.random.default_rng(0).uniform(size=depth.shape) < 0.2] = np.nan
    delta, squares = nulls._against_each(depth)
    products = nulls._centred_scores(dump, "content", 1, ~np.isnan(depth)) @ delta.T
    scores = raw_scores(dump, 1, slice(8))[:, :, 1:, 1:].mean(1)
    for shift in (1, 3):
        others = (np.arange(8) + shift) % 8
        pairs = Pairs.of(depth, filled(depth)[others], np.zeros((8, 16, 3)), planted.GRID, np.arange(8), np.zeros(0))
        other = pairs.centred[:, REGRESSORS.index("other")].reshape(8, -1)
        np.testing.assert_allclose(squares[np.arange(8), others], (other**2).sum(1), rtol=1e-9)
        expected = (scores.reshape(8, -1) * other).sum(1)
        np.testing.assert_allclose(products[np.arange(8), others], expected, atol=1e-9)


def test_attended_depth_is_1_without_depth_and_below_where_attention_seeks_it(tmp_path: Path) -> None:
    flat = attended_depth(dump_of(tmp_path / "flat.zarr", planted.constant()))
    np.testing.assert_allclose([flat.value, flat.low, flat.high], 1, atol=1e-9)

    def positional(delta: np.ndarray, _: np.random.Generator) -> np.ndarray:
        own = np.random.default_rng(8).normal(size=(1, planted.LAYERS, planted.HEADS, 16, 16))
        return np.broadcast_to(own, (len(delta), *own.shape[1:]))

    fixed = attended_depth(dump_of(tmp_path / "fixed.zarr", positional))
    np.testing.assert_allclose([fixed.value, fixed.low, fixed.high], 1, atol=1e-9)
    falls = attended_depth(dump_of(tmp_path / "falls.zarr", planted.falling([0.5, 1, 0.1, -0.5])))
    assert (falls.high[:2] < 1).all() and falls.value[1] < falls.value[0] < falls.value[2] and falls.low[3] > 1


def test_attended_depth_equals_its_definition(tmp_path: Path) -> None:
    """E_A |Δ| over Σ mean A mean |Δ| / Σ mean A, from patterns made anew."""
    scores = planted.falling(BETAS)
    dump = dump_of(tmp_path / "d.zarr", scores, num_images=70)
    z = planted.patch_depths(70)
    delta = abs(z[:, :, None] - z[:, None])
    raised = np.exp(np.pad(scores(delta, np.random.default_rng(1)), [(0, 0)] * 3 + [(1, 0)] * 2))
    among = (raised / raised.sum(-1, keepdims=True))[..., 1:, 1:].mean(2) * (1 - np.eye(16))
    own = (among * delta[:, None]).sum((0, 2, 3)) / among.sum((0, 2, 3))
    mean = (among.mean(0) * delta.mean(0)).sum((1, 2)) / among.mean(0).sum((1, 2))
    np.testing.assert_allclose(attended_depth(dump).value, own / mean, rtol=1e-9)


def test_decomposition_says_what_content_does_to_the_bias(tmp_path: Path) -> None:
    """α s_h < 0 in layers 1 to 3 and above in layer 4: content that falls adds in the first, offsets in the last."""
    dump = dump_of(tmp_path / "mlin.zarr", planted.falling([0.6, 0, -0.5, 0.5]), model="mlin")
    frame = decomposition(dump)
    assert frame["content_is"].tolist() == ["adding", "neither", "offsetting", "offsetting"]
    np.testing.assert_allclose(frame["bias"], bias_slopes(dump).mean(1), atol=1e-9)
    np.testing.assert_allclose(frame["total"], frame["bias"] + frame["content"], atol=1e-7)
    seen = layer_slopes(dump, "gauge_fixed", "total")
    np.testing.assert_allclose(frame[["total", "total_low", "total_high"]].T, [seen.value, seen.low, seen.high])
    table = decomposition(dump_of(tmp_path / "mmlp.zarr", planted.falling([0.6, 0, -0.5, -0.5]), model="mmlp"))
    assert (table["bias"] < 0).all()
    assert table["content_is"].tolist() == ["adding", "neither", "offsetting", "offsetting"]


@pytest.mark.parametrize(("images", "left"), [(48, 8), (64, 16), (28, None)])
def test_groups_hold_partners_together_or_differ_as_much_as_partners_can_make_them(
    images: int, left: int | None
) -> None:
    """`left` of 16 groups; where too few would be left all stay, √2 times as far from their mean."""
    groups = np.arange(images) % 16
    values = np.random.default_rng(0).normal(size=images)
    sums = np.bincount(groups, values)
    found = nulls.partner_groups(SimpleNamespace(info=SimpleNamespace(num_images=images)), sums)
    if left is None:
        assert found.mean() == pytest.approx(sums.mean())
        assert found.var() == pytest.approx(2 * sums.var())
        return
    together = np.arange(images) % left
    assert all(together[image] == together[partner(image, images)] for image in range(images))
    np.testing.assert_allclose(found, np.bincount(together, values))


def test_evidence_holds_all_there_is(tmp_path: Path) -> None:
    dump = dump_of(tmp_path / "d.zarr", model="mlin", num_raw=8, causal=-0.4, num_causal=10, interventions=["swap"])
    content, total = evidence(dump), evidence(dump, "total")
    for name in ("slope", "distance", "colour", "distance_effects", "two_way"):
        assert content[name].to_numpy() == pytest.approx(-np.array(BETAS), abs=0.05)
        assert (content[f"{name}_low"] < content[name]).all() and (content[name] < content[f"{name}_high"]).all()
    assert content[["causal", "attended_depth"]].isna().all(axis=None)  # these are of scores with their bias
    assert total[["causal", "attended_depth", "p"]].notna().all(axis=None)
    assert total["causal"].to_numpy() == pytest.approx(-0.4, abs=0.02)
    np.testing.assert_allclose(content["odds_ratio"], np.exp(content["two_way"]))
    assert (content["p"] <= 0.02).all() and (content["heads_below_zero"] == 1).all()
    expected = decomposition(dump)
    for name in ("bias", "content", "content_low", "content_high"):
        np.testing.assert_allclose(total[name], expected[name])
    assert total["content_is"].tolist() == ["adding", "adding", "adding", "offsetting"]
    assert "content_is" not in content
    assert (total["p_images"] == 8).all() and (total["num_images"] == 40).all()
    without = evidence(dump_of(tmp_path / "small.zarr", model="m3ch"))
    assert (without["p_images"] == 0).all()
    assert without[["causal", "p"]].isna().all(axis=None)
    assert without["layer"].tolist() == [1, 2, 3, 4]
