"""Planted slopes come back; what was not planted does not."""

from pathlib import Path
from typing import get_args

import numpy as np
import planted
import pytest
import statsmodels.api as sm

from analysis.attention import (
    Variant,
    bias_slopes,
    bin_rule,
    coefficients,
    head_slopes,
    layer_slopes,
    moments,
    partial_correlation,
    score_curve,
    slope,
    slopes,
    standardised,
)
from training.dumps.pairs import patch_distance
from training.dumps.store import open_dump

BETAS = planted.BETAS


@pytest.mark.parametrize("variant", get_args(Variant))
def test_planted_slope_is_recovered_without_noise(tmp_path: Path, variant: Variant) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS, noise=0, offset=0)))
    frame = slopes(dump, variant)
    np.testing.assert_allclose(frame["slope"], -np.array(BETAS), atol=1e-9)
    np.testing.assert_allclose(frame["odds_ratio"], np.exp(-np.array(BETAS)), atol=1e-9)
    np.testing.assert_allclose(frame["standardised"], -1, atol=1e-9)
    assert (frame["heads_below_zero"] == 1).all()


def test_heads_are_counted_layer_by_layer(tmp_path: Path) -> None:
    signs = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [2.0, -1.0]])

    def scores(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return np.asarray(signs[:, :, None, None] * delta[:, None, None])

    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", scores))
    np.testing.assert_allclose(head_slopes(dump, "literal"), signs, atol=1e-9)
    assert slopes(dump, "literal")["heads_below_zero"].tolist() == [1, 0.5, 0, 0.5]


def test_row_offsets_disturb_literal_only(tmp_path: Path) -> None:
    plain = open_dump(planted.write_dump(tmp_path / "a.zarr", planted.falling(BETAS, noise=0, offset=0)))
    moved = open_dump(planted.write_dump(tmp_path / "b.zarr", planted.falling(BETAS, noise=0, offset=50)))
    np.testing.assert_allclose(head_slopes(moved, "gauge_fixed"), head_slopes(plain, "gauge_fixed"), atol=1e-9)
    assert np.abs(head_slopes(moved, "literal") - head_slopes(plain, "literal")).max() > 0.1


@pytest.mark.parametrize("variant", get_args(Variant))
def test_slopes_equal_statsmodels_least_squares(tmp_path: Path, variant: Variant) -> None:
    """With dummies for query rows where rows are centred; coefficients given distance, colour and sign too."""
    distance = patch_distance(planted.GRID)

    def scores(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return planted.falling(BETAS)(delta, generator) - 0.3 * distance

    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", scores, num_images=5))
    z, colour = dump["statistics/patch_depth"], np.random.default_rng(3).uniform(size=(5, 16, 3))
    assert np.isfinite(z).all()
    content = scores(
        abs(planted.patch_depths(5)[:, :, None] - planted.patch_depths(5)[:, None]), np.random.default_rng(1)
    )
    i, j = np.nonzero(~np.eye(16, dtype=bool))
    signed = (planted.patch_depths(5)[:, i] - planted.patch_depths(5)[:, j]).ravel()
    tint = np.linalg.norm(colour[:, i] - colour[:, j], axis=-1).ravel()
    design = np.column_stack([abs(signed), np.tile(distance[i, j], 5), tint, signed])
    intercepts = np.ones((len(signed), 1))
    if variant == "gauge_fixed":
        row = (np.arange(5)[:, None] * 16 + i).ravel()
        intercepts = np.eye(80)[row]
    for layer in range(planted.LAYERS):
        response = content[:, layer].mean(1)[:, i, j].ravel()
        for names in (("delta",), ("delta", "r"), ("delta", "r", "colour"), ("delta", "r", "colour", "signed")):
            fit = sm.OLS(response, np.column_stack([design[:, : len(names)], intercepts])).fit()
            found = coefficients(moments(dump, variant, names).sum(0), variant)[layer]
            np.testing.assert_allclose(found, fit.params[: len(names)], rtol=1e-7)
        alone = sm.OLS(response, np.column_stack([design[:, :1], intercepts])).fit()
        if variant == "literal":
            share = standardised(moments(dump, variant).sum(0), variant)[layer]
            assert share**2 == pytest.approx(alone.rsquared, abs=1e-9)


def test_asymmetry_is_of_nearer_against_farther_keys(tmp_path: Path) -> None:
    """Scores that fall with |Δ| where the key is farther only; and where both sides do alike, 0 is in the interval."""
    z = planted.patch_depths(40)
    nearer = z[:, :, None] > z[:, None]  # the key

    def one_sided(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        both = planted.falling([0.5] * 4, offset=0)(delta, generator)
        return both + 0.5 * (delta * nearer)[:, None, None]

    for name, scores, expected in (("one", one_sided, 0.5), ("both", planted.falling([0.5] * 4, offset=0), 0.0)):
        frame = slopes(open_dump(planted.write_dump(tmp_path / f"{name}.zarr", scores)), "literal")
        np.testing.assert_allclose(frame["asymmetry"], expected, atol=0.03)
        np.testing.assert_allclose(frame["asymmetry"], frame["nearer_keys"] - frame["farther_keys"])
        inside = (frame["asymmetry_low"] < expected) & (frame["asymmetry_high"] > expected)
        assert inside.sum() >= 3 and (frame["asymmetry_high"] - frame["asymmetry_low"]).between(0.001, 0.1).all()


def test_partial_correlation_is_that_of_the_residuals(tmp_path: Path) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.local, num_images=4))
    z = planted.patch_depths(4)
    delta = abs(z[:, :, None] - z[:, None])
    content = planted.local(delta, np.random.default_rng(1))
    i, j = np.nonzero(~np.eye(16, dtype=bool))
    distance = sm.add_constant(np.tile(patch_distance(planted.GRID)[i, j], 4))
    found = partial_correlation(dump, "literal").value
    for layer in range(planted.LAYERS):
        one, other = (
            sm.OLS(values, distance).fit().resid
            for values in (content[:, layer].mean(1)[:, i, j].ravel(), delta[:, i, j].ravel())
        )
        assert found[layer] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-9)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_distance_confound_fools_the_naive_slope_only(tmp_path: Path, variant: Variant) -> None:
    distance = patch_distance(planted.GRID)

    def confounded(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        clean = planted.falling(BETAS, noise=0, offset=0)(delta, generator)
        return clean - 0.8 * distance

    tilted = np.outer(np.linspace(0.2, 1, 40), np.divmod(np.arange(16), 4)[0])  # deeper towards the top, as in rooms
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", confounded, depths=tilted))
    frame = slopes(dump, variant)
    np.testing.assert_allclose(frame["partial_slope"], -np.array(BETAS), atol=1e-8)
    assert (np.abs(frame["slope"] + np.array(BETAS)) > 0.2).all()


@pytest.mark.parametrize("variant", get_args(Variant))
def test_bias_slope_is_total_minus_content(tmp_path: Path, variant: Variant) -> None:
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", planted.falling(BETAS), model="mlin"))
    total, content = (head_slopes(dump, variant, part) for part in ("total", "content"))
    np.testing.assert_allclose(total - content, bias_slopes(dump), atol=1e-7)  # parameters are kept in fp32
    whole, own = (slope(moments(dump, variant, part=part).sum(0), variant) for part in ("total", "content"))
    np.testing.assert_allclose(whole - own, bias_slopes(dump).mean(1), atol=1e-7)


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


@pytest.mark.parametrize("variant", get_args(Variant))
def test_intervals_of_slopes_are_those_of_clustered_errors(tmp_path: Path, variant: Variant) -> None:
    """Images as clusters, degrees of freedom not corrected; with pairs taken for independent errors are far smaller."""
    count, make = 60, planted.falling(BETAS, image_noise=0.3)
    dump = open_dump(planted.write_dump(tmp_path / "d.zarr", make, num_images=count))
    z = planted.patch_depths(count)
    content = make(abs(z[:, :, None] - z[:, None]), np.random.default_rng(1))
    i, j = np.nonzero(~np.eye(16, dtype=bool))
    image = np.repeat(np.arange(count), len(i))
    found = layer_slopes(dump, variant)
    for layer in range(planted.LAYERS):
        y, x = content[:, layer].mean(1)[:, i, j].ravel(), abs(z[:, i] - z[:, j]).ravel()
        if variant == "gauge_fixed":
            row = (image * 16 + np.tile(i, count)).astype(int)
            y, x = (each - (np.bincount(row, each) / np.bincount(row))[row] for each in (y, x))
        design = np.column_stack([x, np.ones_like(x)])
        clustered, naive = (
            sm.OLS(y, design).fit(**how).bse[0]
            for how in ({"cov_type": "cluster", "cov_kwds": {"groups": image, "use_correction": False}}, {})
        )
        error = (found.high[layer] - found.low[layer]) / (2 * 1.96)
        assert error == pytest.approx(clustered, rel=0.15)
        assert clustered > 2 * naive
