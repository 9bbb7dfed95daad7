"""Errors of metric depth: by hand, over images and pixels, at drawn pixels, near edges, and of what lacks scale."""

import numpy as np
import pytest

from pipeline import scenes
from training.tasks.sparse_depth import metrics
from training.tasks.sparse_depth.protocols import protocols


def rng(seed=0):
    return np.random.default_rng(seed)


def test_errors_are_those_written_out():
    true, estimated = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.1, 1.5, 4.0, 17.0])
    found = metrics.errors(estimated, true)
    np.testing.assert_allclose(found[0], [0.1, 0.25, 0, 1.125])
    np.testing.assert_allclose(found[1], [0.01, 0.25, 0, 81])
    np.testing.assert_allclose(found[2], np.abs(np.log10([1.1, 0.75, 1, 17 / 8])))
    assert found[3:].tolist() == [[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert metrics.errors(true * 1.25, true)[3].sum() == 0, "less than, not at most"


def test_images_count_alike_in_means_and_pixels_alike_when_pooled():
    first, second = metrics.errors(np.full(3, 1.2), np.ones(3)), metrics.errors(np.array([4.0]), np.array([2.0]))
    both = [metrics.image_errors(first), None, metrics.image_errors(second)]
    mean, pooled = metrics.over_images(both), metrics.pooled(both)
    assert mean.abs_rel == pytest.approx((0.2 + 1.0) / 2) and pooled.abs_rel == pytest.approx((0.6 + 1.0) / 4)
    assert mean.rmse_m == pytest.approx((0.2 + 2.0) / 2) and pooled.rmse_m == pytest.approx((4.12 / 4) ** 0.5)
    assert mean.delta1 == 0.5 and pooled.delta1 == 0.75
    assert metrics.image_errors(first[:, :0]) is None


@pytest.mark.parametrize("asked", [1, 64, 256, 1024])
def test_the_expectation_is_the_same_however_many_pixels_are_asked(asked):
    """Of one order of 1,024 pixels the lots of any size that divides them have the same mean, which is that of all."""
    of_pixels = metrics.errors(rng().uniform(1, 5, 1024), rng(1).uniform(1, 5, 1024))
    everything = metrics.image_errors(of_pixels).mean
    means = np.zeros((0, 6))
    for seed in range(3 if asked < 1024 else 1):
        drawn = metrics.drawn_errors(of_pixels, asked, rng(seed))
        assert drawn.count == asked and len(drawn.draws) == min(metrics.MAX_DRAWS, 1024 // asked)
        np.testing.assert_array_equal(drawn.draws[0], drawn.mean)
        if 1024 // asked <= metrics.MAX_DRAWS:
            np.testing.assert_allclose(drawn.draws.mean(0), everything, rtol=1e-12)
        means = np.concatenate([means, drawn.draws])
    standard_error = of_pixels.std(1) / np.sqrt(len(means) * asked)
    assert (np.abs(means.mean(0) - everything) <= 4 * standard_error + 1e-12).all()


def test_the_spread_falls_with_the_number_that_is_asked():
    images = [metrics.errors(rng(i).uniform(1, 5, 4096), rng(i + 50).uniform(1, 5, 4096)) for i in range(8)]
    spreads = [
        metrics.spread([metrics.drawn_errors(each, asked, rng(i)) for i, each in enumerate(images)])
        for asked in (1, 64, 256)
    ]
    assert spreads[0].abs_rel > spreads[1].abs_rel > spreads[2].abs_rel > 0
    expected = np.sqrt(np.mean([each[0].var() for each in images]) / 64 / len(images))
    assert spreads[1].abs_rel == pytest.approx(expected, rel=0.3)
    few = metrics.drawn_errors(images[0][:, :100], 256, rng())
    assert few.count == 100 and metrics.spread([few]) is None, "of fewer pixels all are asked"


def test_edges_are_those_where_the_toy_sensor_loses_measurements():
    depth = scenes.render(0, 3, scenes.SceneConfig(size_px=64)).exact_m
    found = metrics.edges(depth)
    by_hand = np.zeros_like(found)
    for row in range(64):
        for column in range(64):
            here = depth[row, column]
            for other in ((row, column - 1), (row - 1, column)):
                if min(other) >= 0 and abs(here - depth[other]) > 0.1 * here:
                    by_hand[row, column] = True
    assert found.any() and (found == by_hand).all()
    rows, columns = np.nonzero(found)
    near = metrics.near_edges(depth)
    for row in range(64):
        for column in range(64):
            within = (np.maximum(np.abs(rows - row), np.abs(columns - column)) <= 3).any()
            assert near[row, column] == within
    depth[10, 10] = np.nan
    assert not metrics.edges(np.where(np.isnan(depth), np.nan, 1.0)).any(), "beside the unknown nothing jumps"


@pytest.mark.parametrize("inverse", [True, False])
def test_what_lacks_scale_and_shift_is_aligned_in_inverse_depth(inverse):
    true = rng().uniform(1, 6, (20, 30))
    true[0, :5] = np.nan
    estimate = (1 / true - 0.05) / 3 if inverse else 1 / ((1 / true - 0.05) / 3)
    known = np.isfinite(true)
    estimate[~known] = 0.7
    found = metrics.aligned(estimate, true, "affine", inverse)
    np.testing.assert_allclose(found[known], true[known], rtol=1e-9)
    scaled = metrics.aligned(2 / true if inverse else true / 2, true, "median", inverse)
    np.testing.assert_allclose(scaled[known], true[known], rtol=1e-9)
    far = metrics.aligned(np.linspace(-1, 1, 600).reshape(20, 30), true, "affine", True)
    assert far.max() <= 10


def test_alignment_is_that_of_the_teachers_metrics():
    from training.tasks.depth.metrics import collected

    true, estimate = rng().uniform(1, 6, (16, 16)), rng(1).uniform(0, 3, (16, 16))
    theirs = collected([(estimate[None], 1 / true[None], np.zeros((1, 16, 16), np.uint8))], np.full((16, 16), 0.4))
    ours = metrics.errors(metrics.aligned(estimate, true, "affine", True), true)[0].mean()
    assert ours == pytest.approx(theirs["abs_rel"][0], rel=1e-9)


def test_nyu_is_scored_by_the_fields_crop_and_the_authors_centre():
    by_name = {each.name: each for each in protocols("nyu", (480, 640), 14)}
    assert by_name["whole"].window == (2, 5, 476, 630) == by_name["eigen"].window
    depth = np.full((476, 630), 3.0)
    mask = by_name["eigen"].mask(depth)
    rows, columns = np.nonzero(mask)
    assert (rows.min() + 2, rows.max() + 3, columns.min() + 5, columns.max() + 6) == (45, 471, 41, 601)
    assert by_name["author"].window == (65, 82, 350, 476) and by_name["author"].mask(depth[:350, :476]).all()
    depth[100, 100:103] = [0.0005, 10.0, 10.001]
    assert by_name["eigen"].mask(depth)[100, 100:103].tolist() == [False, True, False]
    by_name = {each.name: each for each in protocols("nyu", (480, 640), 32)}
    assert by_name.keys() == {"whole", "eigen"} and by_name["eigen"].window == (0, 0, 480, 640)
    assert by_name["eigen"].counts == (45, 41, 426, 560)
    assert [each.name for each in protocols("toyrooms", (480, 640), 14)] == ["whole"]
    assert [each.name for each in protocols("nyu", (224, 300), 14)] == ["whole"]


def test_positions_are_medians():
    maps = [np.full((2, 2), value) for value in (1.0, 2.0, 9.0)]
    maps[2][0, 0] = np.nan
    np.testing.assert_allclose(metrics.position_median(maps), [[1.5, 2], [2, 2]])
    for each in maps:
        each[1, 1] = np.nan
    np.testing.assert_allclose(metrics.position_median(maps), [[1.5, 2], [2, np.nan]])  # a warning would fail the test
