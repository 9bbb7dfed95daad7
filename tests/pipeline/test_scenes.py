"""Toy rooms: deterministic, fast, true to their documentation; the class is in the depth."""

import numpy as np
import pytest

from pipeline import scenes
from pipeline.scenes import CLASS_NAMES, SEG_NAMES, SceneConfig, fill, render, sense

CONFIG = SceneConfig()


@pytest.fixture(scope="module")
def rooms() -> list[scenes.Scene]:
    return [render(11, index) for index in range(300)]


def test_shapes_dtypes_and_ranges(rooms):
    for room in rooms:
        assert room.rgb.shape == (64, 64, 3) and room.rgb.dtype == np.uint8
        assert room.seg.shape == (64, 64) and room.seg.dtype == np.uint8 and room.seg.max() < len(SEG_NAMES)
        for depth_m in (room.exact_m, room.sensor_m):
            assert depth_m.shape == (64, 64) and depth_m.dtype == np.float32
        assert np.isfinite(room.exact_m).all()
        assert room.exact_m.min() > 0.3 and room.exact_m.max() <= scenes.MAX_DEPTH_M
        assert 0 <= room.label < len(CLASS_NAMES)


def test_other_size():
    room = render(0, 0, SceneConfig(size_px=96))
    assert room.rgb.shape == (96, 96, 3) and room.sensor_m.shape == (96, 96)


def test_is_a_function_of_seed_and_index():
    first, again = render(3, 5), render(3, 5)
    for name in ("rgb", "exact_m", "sensor_m", "seg"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.label == again.label and first.boxes == again.boxes
    for other in (render(3, 6), render(4, 5), render(5, 3)):
        assert not np.array_equal(first.rgb, other.rgb) and not np.array_equal(first.exact_m, other.exact_m)


def test_every_class_is_drawn_equally_often(rooms):
    counts = np.bincount([room.label for room in rooms], minlength=len(CLASS_NAMES))
    assert counts.min() > 25 and counts.max() < 80


def test_target_is_labelled_boxed_and_large(rooms):
    for room in rooms:
        value, top, left, bottom, right = room.boxes[0]
        assert SEG_NAMES[value] == CLASS_NAMES[room.label]
        target = room.seg == value
        rows, columns = np.nonzero(target)
        assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (top, left, bottom, right)
        assert target.mean() > 0.05
        assert set(np.unique(room.seg)) & set(range(1, 1 + len(CLASS_NAMES))) == {value}


def test_depth_profile_tells_shapes_of_one_outline_apart(rooms):
    """Centre against rim, in units of the rim's depth: hollow shapes recede, bulging ones come forward."""
    relief: dict[str, list[float]] = {name: [] for name in CLASS_NAMES}
    for room in rooms:
        value, top, left, bottom, right = room.boxes[0]
        inside = room.seg[top:bottom, left:right] == value
        depth_m = np.where(inside, room.exact_m[top:bottom, left:right], np.nan)
        row = depth_m[(bottom - top) // 2]
        rim, middle = np.nanmean([row[inside[(bottom - top) // 2]][i] for i in (0, -1)]), row[(right - left) // 2]
        relief[CLASS_NAMES[room.label]].append(float((rim - middle) / rim))
    for bulging, hollow in (("ball", "bowl"), ("cylinder", "trough")):
        assert np.min(relief[bulging]) > 0.05 and np.nanmax(relief[hollow]) < 0
    assert np.isnan(relief["ring"]).mean() > 0.9  # one sees through


def test_camouflage_hides_the_target_in_rgb_but_not_in_depth():
    plain, faint, hidden = (SceneConfig(camouflage=c, noise=0.0) for c in (0.0, 0.6, 1.0))

    def outline_contrast(config: SceneConfig) -> float:
        jumps = []
        for index in range(60):
            room = render(2, index, config)
            target = np.isin(room.seg, range(1, 1 + len(CLASS_NAMES)))
            edge = target[:, 1:] ^ target[:, :-1]
            light = room.rgb.astype(float).mean(axis=2)
            jumps.append(np.abs(np.diff(light, axis=1))[edge].mean())
        return float(np.mean(jumps))

    assert outline_contrast(hidden) < 0.75 * outline_contrast(faint) < 0.75 * outline_contrast(plain)
    np.testing.assert_array_equal(render(2, 0, plain).exact_m, render(2, 0, hidden).exact_m)


def test_sensor_is_right_where_it_measures_and_misses_edges(rooms):
    missing, missing_at_edges, error_sigmas = [], [], []
    for room in rooms[:100]:
        z, measured = room.exact_m, np.isfinite(room.sensor_m)
        missing.append(1 - measured.mean())
        edge = np.zeros_like(measured)
        edge[:, 1:] = np.abs(np.diff(z, axis=1)) > 0.1 * z[:, 1:]
        missing_at_edges.extend(~measured[edge])
        sigma = 0.0012 + 0.0019 * (z - 0.4) ** 2  # Nguyen 2012
        step = z**2 / (580 * 0.075 * 8)  # 1/8 px of disparity
        error_sigmas.append(((room.sensor_m - z) / np.hypot(sigma, step / 12**0.5))[measured])
    assert 0.005 < np.mean(missing) < 0.15
    assert np.mean(missing_at_edges) > 0.4
    assert 0.9 < np.concatenate(error_sigmas).std() < 1.1
    assert abs(np.concatenate(error_sigmas).mean()) < 0.05


def test_sensor_noise_grows_with_the_square_of_distance():
    near, far = (sense(np.full((64, 64), z, np.float32), np.random.default_rng(0)) for z in (2.0, 8.0))
    assert 10 < np.nanstd(far) / np.nanstd(near) < 35


def test_fill_takes_the_nearest_measurement_of_the_row():
    nan = np.nan
    holes = np.array([[nan, 1, nan, nan, nan, 4], [nan] * 6, [2, nan, 3, nan, nan, nan]], np.float32)
    filled = fill(holes)
    np.testing.assert_array_equal(filled, [[1, 1, 1, 1, 4, 4], [1, 1, 1, 1, 4, 4], [2, 2, 3, 3, 3, 3]])
    assert filled.dtype == np.float32
    with pytest.raises(ValueError, match="at least one measured pixel"):
        fill(np.full((4, 4), nan, np.float32))


def test_fill_keeps_measurements_and_leaves_no_holes(rooms):
    for room in rooms[:50]:
        filled, measured = fill(room.sensor_m), np.isfinite(room.sensor_m)
        assert np.isfinite(filled).all()
        np.testing.assert_array_equal(filled[measured], room.sensor_m[measured])


@pytest.mark.parametrize(
    "wrong", [{"size_px": 8}, {"camouflage": 1.5}, {"camouflage": -0.1}, {"max_furniture": -1}, {"noise": -1.0}]
)
def test_bad_config_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*must.*got"):
        SceneConfig(**wrong)
