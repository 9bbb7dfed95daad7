"""Planted slopes come back; what was not planted does not."""

from pathlib import Path

import numpy as np
import planted
import pytest

from analysis.attention import (
    VARIANTS,
    Variant,
    bin_rule,
    head_slopes,
    layer_slopes,
    mlin_bias_slope,
    moments,
    partial_slope,
    score_curve,
    slope,
    slopes,
)
from training.dumps import sums
from training.dumps.store import open_dump

BETAS = planted.BETAS


@pytest.mark.parametrize("variant", VARIANTS)
def test_planted_slope_is_recovered_without_noise(tmp_path: Path, variant: Variant) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS, noise=0, offset=0)))
    frame = slopes(dump, variant)
    np.testing.assert_allclose(frame["slope"], -np.array(BETAS), atol=1e-9)
    np.testing.assert_allclose(frame["odds_ratio"], np.exp(-np.array(BETAS)), atol=1e-9)
    np.testing.assert_allclose(frame["standardised"], -1, atol=1e-9)
    assert (frame["heads_below_zero"] == 1).all()


def test_row_offsets_disturb_literal_only(tmp_path: Path) -> None:
    plain = open_dump(planted.write_dump(tmp_path / "a.zarr", planted.falling(BETAS, noise=0, offset=0)))
    moved = open_dump(planted.write_dump(tmp_path / "b.zarr", planted.falling(BETAS, noise=0, offset=50)))
    np.testing.assert_allclose(head_slopes(moved, "gauge_fixed"), head_slopes(plain, "gauge_fixed"), atol=1e-9)
    assert np.abs(head_slopes(moved, "literal") - head_slopes(plain, "literal")).max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_slope_equals_numpys_least_squares(variant: Variant) -> None:
    depth = planted.patch_depths(6)
    depth[0, 3] = np.nan
    pairs = sums.Pairs.of(depth, planted.GRID)
    scores = np.random.default_rng(0).normal(size=(6, 1, 16, 16)) - 0.4 * pairs.delta[:, None]
    rows = np.concatenate([sums.score_rows(scores, pairs)[0][:, 0], pairs.rows()], 1).sum(0)
    kept = pairs.weight > 0
    if variant == "literal":
        design = np.stack([np.ones(kept.sum()), pairs.delta[kept], pairs.r[kept]], 1)
        response = scores[:, 0][kept]
    else:
        design = np.stack([pairs.delta_c[kept], pairs.r_c[kept]], 1)
        response = sums.centre_rows(scores[:, 0], pairs.weight)[kept]
    simple = np.linalg.lstsq(design[:, :-1], response, rcond=None)[0][-1]
    both = np.linalg.lstsq(design, response, rcond=None)[0][-2]
    assert slope(rows, variant) == pytest.approx(simple, abs=1e-10)
    assert partial_slope(rows, variant) == pytest.approx(both, abs=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_distance_confound_fools_the_naive_slope_only(tmp_path: Path, variant: Variant) -> None:
    distance = sums.patch_distance(planted.GRID)

    def confounded(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        clean = planted.falling(BETAS, noise=0, offset=0)(delta, generator)
        return clean - 0.8 * distance

    tilted = np.outer(np.linspace(0.2, 1, 40), np.divmod(np.arange(16), 4)[0])  # deeper towards the top, as in rooms
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", confounded, depths=tilted))
    frame = slopes(dump, variant)
    np.testing.assert_allclose(frame["partial_slope"], -np.array(BETAS), atol=1e-8)
    assert (np.abs(frame["slope"] + np.array(BETAS)) > 0.2).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_bias_slope_is_total_minus_content(tmp_path: Path, variant: Variant) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS), model="mlin"))
    total, content = (slope(moments(dump, part).mean(2).sum(0), variant) for part in ("total", "content"))
    np.testing.assert_allclose(total - content, mlin_bias_slope(dump.info.config, planted.ALPHA), atol=1e-9)


def test_interval_widens_when_images_differ(tmp_path: Path) -> None:
    same = layer_slopes(open_dump(planted.write_dump(tmp_path / "a.zarr", planted.falling(BETAS))), "gauge_fixed")
    differ = layer_slopes(
        open_dump(planted.write_dump(tmp_path / "b.zarr", planted.falling(BETAS, image_noise=0.5))), "gauge_fixed"
    )
    assert ((differ.high - differ.low) > 3 * (same.high - same.low)).all()
    assert ((same.low < -np.array(BETAS)) & (-np.array(BETAS) < same.high)).all()


def test_bins_hold_the_means_and_hide_the_thin(tmp_path: Path) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS, noise=0, offset=0)))
    curve = score_curve(dump, "literal")
    min_pairs, min_images = bin_rule(dump.info.num_images)
    enough = (curve["pairs"] >= min_pairs) & (curve["images"] >= min_images) & np.isfinite(curve["delta_high"])
    assert (curve["shown"] == enough).all()
    assert not curve["shown"].all()
    assert curve["pairs"].sum() == 40 * 16 * 15 * planted.LAYERS
    shown = curve[curve["shown"]]
    beta = np.array(BETAS)[shown["layer"] - 1]
    assert (shown["score"] <= -beta * shown["delta_low"]).all()
    assert (shown["score"] >= -beta * shown["delta_high"]).all()


def test_bin_rule_is_the_papers_from_500_images() -> None:
    assert bin_rule(500) == bin_rule(50_000) == (1000, 50)
    assert bin_rule(40) == (80, 4)
    assert bin_rule(1) == (2, 1)


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS), num_images=1))
    estimate = layer_slopes(dump, "literal")
    assert np.isfinite(estimate.value).all()
    assert np.isnan(estimate.low).all()
