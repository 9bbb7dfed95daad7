"""Fixed effects against explicit dummies, planted slopes, and the grouped jackknife against clustered errors."""

from pathlib import Path

import numpy as np
import planted
import pytest
import statsmodels.api as sm
from scipy.stats import t

from analysis import fixed_effects
from analysis.attention import layer_slopes, slopes
from training.dumps.pairs import distances, patch_distance
from training.dumps.store import Dump, open_dump
from training.intervals import over_units

BETAS = planted.BETAS
PATCHES = planted.GRID[0] * planted.GRID[1]
QUERY, KEY = np.nonzero(~np.eye(PATCHES, dtype=bool))


def positioned(noise: float) -> planted.ScoreMaker:
    """S = -β|Δ| + f(r) + a_ni + b_ij, with an f and a b that go with |Δ| when depth tilts."""
    distance, columns = patch_distance(planted.GRID), np.arange(PATCHES) % 4
    effect = np.sin(3 * distance) - 0.8 * abs(columns[:, None] - columns)

    def make(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return planted.falling(BETAS, noise=noise, offset=5.0)(np.nan_to_num(delta), generator) + effect

    return make


def tilted(num_images: int, gaps: bool = False) -> np.ndarray:
    """(images, patches): deeper to the right, each image its own way and with something of its own."""
    generator = np.random.default_rng(5)
    tilt = generator.uniform(0.2, 1, num_images)
    z = np.outer(tilt, np.arange(PATCHES) % 4) + generator.normal(0, 0.2, (num_images, PATCHES))
    if gaps:
        z[generator.uniform(size=z.shape) < 0.15] = np.nan
        z[0, : PATCHES - 2] = np.nan  # two patches left: two pairs
    return z


def written(path: Path, scores: planted.ScoreMaker, depths: np.ndarray) -> tuple[Dump, np.ndarray, np.ndarray]:
    """The dump, its head-mean scores (images, layers, P, P) and |Δ|."""
    options = {"num_images": len(depths), "num_groups": min(8, len(depths)), "reads_depth": 0.0}
    filled = np.nan_to_num(depths, nan=50.0)  # block outputs may hold anything where there is no depth
    with pytest.MonkeyPatch.context() as patch:
        own = planted._outputs
        patch.setattr(planted, "_outputs", lambda stream, z, *rest: own(stream, filled, *rest))
        dump = open_dump(planted.write_dump(path, scores, depths=depths, **options))
    delta = abs(depths[:, :, None] - depths[:, None])
    return dump, scores(delta, np.random.default_rng(1)).mean(2), delta


@pytest.mark.parametrize("gaps", [False, True])
def test_distance_effects_equal_explicit_dummies(tmp_path: Path, gaps: bool) -> None:
    dump, scores, delta = written(tmp_path / "d.zarr", positioned(0.5), tilted(5, gaps))
    x = delta[:, QUERY, KEY].ravel()
    there = np.isfinite(x)
    assert there.all() != gaps
    row = (np.arange(5)[:, None] * PATCHES + QUERY).ravel()
    place = np.tile(distances(planted.GRID)[1][QUERY, KEY], 5)
    dummies = np.column_stack([np.eye(5 * PATCHES)[row], np.eye(place.max() + 1)[place]])
    design = np.column_stack([x, dummies])[there]
    found = fixed_effects.by_distance(dump).value
    for layer in range(planted.LAYERS):
        fit = np.linalg.lstsq(design, scores[:, layer][:, QUERY, KEY].ravel()[there], rcond=None)[0]
        assert found[layer] == pytest.approx(fit[0], rel=1e-9)


@pytest.mark.parametrize("gaps", [False, True])
def test_two_way_effects_equal_explicit_dummies(tmp_path: Path, gaps: bool) -> None:
    """Over images without gaps: two of them have none."""
    depths = tilted(4)
    if gaps:
        depths[[0, 2], [1, 4]] = np.nan
    dump, scores, delta = written(tmp_path / "d.zarr", positioned(0.5), depths)
    whole = np.isfinite(depths).all(1)
    count = int(whole.sum())
    assert count == (2 if gaps else 4)
    row = (np.arange(count)[:, None] * PATCHES + QUERY).ravel()
    dummies = np.column_stack([np.eye(count * PATCHES)[row], np.tile(np.eye(len(QUERY)), (count, 1))])
    design = np.column_stack([delta[whole][:, QUERY, KEY].ravel(), dummies])
    found = fixed_effects.two_way(dump)
    for layer in range(planted.LAYERS):
        fit = np.linalg.lstsq(design, scores[whole, layer][:, QUERY, KEY].ravel(), rcond=None)[0]
        assert found.value[layer] == pytest.approx(fit[0], rel=1e-9)
    np.testing.assert_allclose(fixed_effects.two_way_heads(dump).mean(1), found.value, rtol=1e-9)


def test_each_head_has_its_own_two_way_slope(tmp_path: Path) -> None:
    own = np.array([[0.5, -0.2], [0.1, 0.3], [0.0, 1.0], [-1.0, 0.4]])

    def make(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return positioned(0.0)(0 * delta, generator) - own[:, :, None, None] * delta[:, None, None]

    dump, *_ = written(tmp_path / "d.zarr", make, tilted(6))
    np.testing.assert_allclose(fixed_effects.two_way_heads(dump), -own, atol=1e-9)


def test_two_way_effects_recover_what_was_planted_and_the_naive_slope_does_not(tmp_path: Path) -> None:
    dump, *_ = written(tmp_path / "d.zarr", positioned(0.0), tilted(20))
    planted_slopes = -np.array(BETAS)
    found = fixed_effects.two_way(dump)
    np.testing.assert_allclose(found.value, planted_slopes, atol=1e-9)
    np.testing.assert_allclose([found.low, found.high], [planted_slopes] * 2, atol=1e-5)  # groups are kept in fp32
    assert (np.abs(slopes(dump, "gauge_fixed")["slope"] - planted_slopes) > 0.3).all()
    assert (np.abs(fixed_effects.by_distance(dump).value - planted_slopes) > 0.02).all()  # b is not of distance alone


def test_intervals_hold_the_truth_and_widen_when_images_differ(tmp_path: Path) -> None:
    widths = []
    for spread in (0.0, 0.5):
        path = planted.write_dump(tmp_path / f"{spread}.zarr", planted.falling(BETAS, image_noise=spread))
        dump = open_dump(path)
        for found in (fixed_effects.by_distance(dump), fixed_effects.two_way(dump)):
            if not spread:
                assert ((found.low < -np.array(BETAS)) & (-np.array(BETAS) < found.high)).all()
            widths.append(found.high - found.low)
        plain = layer_slopes(dump, "gauge_fixed")
        np.testing.assert_allclose(widths[-2], plain.high - plain.low, rtol=0.5)
    assert (widths[2] > 3 * widths[0]).all() and (widths[3] > 3 * widths[1]).all()


def test_replicates_leave_out_one_group_of_images(tmp_path: Path) -> None:
    """A jackknife made by writing a dump again without each group."""
    depths = tilted(12)
    depths[5, 0] = np.nan  # the only image of its group
    content = positioned(0.4)(abs(depths[:, :, None] - depths[:, None]), np.random.default_rng(0))
    dump, *_ = written(tmp_path / "all.zarr", lambda *_: content, depths)
    rests = []
    for group in range(8):
        kept = np.arange(12) % 8 != group
        rests.append(written(tmp_path / f"{group}.zarr", lambda *_, k=kept: content[k], depths[kept])[0])
    for estimate, groups in ((fixed_effects.by_distance, rests), (fixed_effects.two_way, rests[:5] + rests[6:])):
        error = np.sqrt((len(groups) - 1) * np.var([estimate(rest).value for rest in groups], axis=0))
        found = estimate(dump)
        half = (found.high - found.low) / 2
        np.testing.assert_allclose(half, t.ppf(0.975, len(groups) - 1) * error, rtol=1e-4)


def test_nothing_to_compare_is_undefined(tmp_path: Path) -> None:
    alone = open_dump(planted.write_dump(tmp_path / "one.zarr", planted.falling(BETAS), num_images=1))
    assert np.isnan(fixed_effects.two_way(alone).value).all()
    assert np.isfinite(fixed_effects.by_distance(alone).value).all()
    assert np.isnan(fixed_effects.by_distance(alone).low).all()
    still = np.tile(np.arange(16.0) % 3, (6, 1))
    dump = open_dump(planted.write_dump(tmp_path / "same.zarr", planted.falling(BETAS), num_images=6, depths=still))
    assert np.isnan(fixed_effects.two_way(dump).value).all()  # every image has the same depth: it is a pair effect


def clustered(images: int = 200, pairs: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose slope and offset differ from image to image, and |Δ|."""
    generator = np.random.default_rng(4)
    delta = abs(generator.normal(size=(images, pairs))) * generator.uniform(0.5, 1.5, (images, 1))
    beta = -0.3 + 0.4 * generator.normal(size=(images, 1))
    return beta * delta + generator.normal(size=(images, 1)) + 0.8 * generator.normal(size=(images, pairs)), delta


def test_grouped_jackknife_is_near_clustered_errors_and_naive_ones_are_9_times_too_small() -> None:
    score, delta = clustered()
    images, pairs = delta.shape
    fit = sm.OLS(score.ravel(), sm.add_constant(delta.ravel()))
    naive = fit.fit().bse[1]
    robust = fit.fit(cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(images), pairs)}).bse[1]
    rows = np.stack([np.full(images, pairs), delta.sum(1), score.sum(1), (delta**2).sum(1), (delta * score).sum(1)], -1)
    grouped = np.stack([rows[np.arange(images) % 50 == group].sum(0) for group in range(50)])

    def slope(sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, xy = np.moveaxis(sums, -1, 0)
        return (xy - x * y / n) / (xx - x * x / n)

    found = over_units(grouped, slope)
    assert float(found.value) == pytest.approx(fit.fit().params[1], rel=1e-9)
    error = float(found.high - found.low) / 2 / 2.0096  # t of 49 degrees of freedom
    assert error == pytest.approx(robust, rel=0.2)
    assert 7 < robust / naive < 11
    every = over_units(rows, slope)
    assert float(every.high - every.low) / 2 / 1.9720 == pytest.approx(robust, rel=0.05)
