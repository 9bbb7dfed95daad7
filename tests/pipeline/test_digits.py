"""Digits: the order of overlap is in the depth and nowhere in the RGB; labels are the topmost digit's."""

import json
import tarfile

import numpy as np
import pytest
from running import command, contents, fails_in_one_line

from pipeline import digits, shards
from pipeline.digits import CLASS_NAMES, SEG_NAMES, DigitsConfig, render


@pytest.fixture(scope="module")
def stacks() -> list[digits.Stack]:
    return [render(11, index) for index in range(300)]


def test_shapes_dtypes_and_ranges(stacks):
    for stack in stacks:
        assert stack.rgb.shape == (64, 64, 3) and stack.rgb.dtype == np.uint8 and stack.rgb.max() < 255
        assert stack.seg.shape == (64, 64) and set(np.unique(stack.seg)) == set(range(len(SEG_NAMES)))
        for depth_m in (stack.exact_m, stack.sensor_m):
            assert depth_m.shape == (64, 64) and depth_m.dtype == np.float32
        assert len(np.unique(stack.exact_m)) == 3  # two planes and the ground
        assert 0.005 < np.isnan(stack.sensor_m).mean() < 0.25
    assert render(0, 0, DigitsConfig(size_px=96)).rgb.shape == (96, 96, 3)


def test_is_a_function_of_seed_and_index():
    first, again = render(3, 5), render(3, 5)
    for name in ("rgb", "exact_m", "sensor_m", "seg", "overlap"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.label, first.digits) == (again.label, again.digits)
    for other in (render(3, 6), render(4, 5), render(5, 3)):
        assert not np.array_equal(first.rgb, other.rgb)


def test_rgb_is_the_same_bits_whichever_digit_is_on_top(stacks):
    for index, stack in enumerate(stacks):
        other = render(11, index, swapped=True)
        np.testing.assert_array_equal(stack.rgb, other.rgb)
        np.testing.assert_array_equal(stack.overlap, other.overlap)
        assert other.digits == stack.digits[::-1] and other.label != stack.label
        differs = stack.seg != other.seg
        np.testing.assert_array_equal(differs, stack.overlap)  # the labels differ there and nowhere else
        assert (stack.exact_m != other.exact_m)[stack.overlap].sum() == 0  # the nearer plane either way, but ...
        below = (stack.seg > 0) & ~stack.overlap
        assert (stack.exact_m != other.exact_m)[below].all()  # ... the rest of each digit changes planes


def test_labels_are_those_of_the_nearest_digit(stacks):
    for stack in stacks:
        top, below = stack.digits
        assert CLASS_NAMES[stack.label] == f"{digits.COLOURS[top.colour]} {top.value}"
        for digit in stack.digits:
            even, red = digit.value % 2 == 0, digits.COLOURS[digit.colour] == "red"
            assert SEG_NAMES[1 + digit.kind] == ("red odd or blue even" if red != even else "red even or blue odd")
        near_m, far_m, _ = np.unique(stack.exact_m)
        np.testing.assert_array_equal(stack.exact_m == near_m, stack.seg == 1 + top.kind)
        np.testing.assert_array_equal(stack.exact_m == far_m, stack.seg == 1 + below.kind)
        assert (stack.exact_m[stack.overlap] == near_m).all()


def test_neither_colour_nor_parity_nor_place_tells_the_kind(stacks):
    tops = [stack.digits[0] for stack in stacks]
    for known in (lambda d: d.colour, lambda d: d.value % 2, lambda d: 0):
        for value in {known(d) for d in tops}:
            assert 0.38 < np.mean([d.kind for d in tops if known(d) == value]) < 0.62
    assert all(stack.digits[0].kind != stack.digits[1].kind for stack in stacks)
    assert {stack.label for stack in stacks} == set(range(len(CLASS_NAMES)))
    same_colour = np.mean([stack.digits[0].colour == stack.digits[1].colour for stack in stacks])
    assert 0.4 < same_colour < 0.6


def test_digits_overlap_and_stay_inside(stacks):
    shares = [stack.overlap.sum() / (stack.seg > 0).sum() for stack in stacks]
    assert min(shares) > 0.05 and np.mean(shares) > 0.15
    border = [np.r_[s.seg[0], s.seg[-1], s.seg[:, 0], s.seg[:, -1]].any() for s in stacks]
    assert np.mean(border) < 0.1


def test_no_glyph_is_in_both_splits(stacks):
    images, values = digits.glyphs()
    train, val = (digits.glyphs_of(split) for split in digits.SPLITS)
    assert len(values) == 1797 and sorted([*train, *val]) == list(range(1797))
    assert not {images[place].tobytes() for place in train} & {images[place].tobytes() for place in val}
    assert np.bincount(values[val], minlength=10).min() > 25
    for split, places in (("train", train), ("val", val)):
        drawn = {d.glyph for index in range(100) for d in render(5, index, DigitsConfig(split=split)).digits}
        assert drawn <= set(places.tolist()) and len(drawn) > 80
    assert all(values[d.glyph] == d.value for stack in stacks for d in stack.digits)


def test_a_mask_survives_its_runs(stacks):
    rng = np.random.default_rng(0)
    masks = [rng.random((5, 7)) < share for share in (0, 0.3, 1)] + [stack.overlap for stack in stacks[:20]]
    for mask in masks:
        np.testing.assert_array_equal(shards.mask_of(shards.runs_of(mask), mask.shape), mask)


def test_the_command_makes_shards_that_verify(tmp_path):
    words = [
        "--teacher", "none", "--samples", 30, "--val-samples", 10, "--size", 32, "--seed", 7, "--samples-per-shard", 20,
    ]  # fmt: skip
    for out in (tmp_path / "one", tmp_path / "two"):
        done = command("precompute-depth", "digits", out, *words)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert command("precompute-depth", "verify", tmp_path / "one").returncode == 0
    assert command("precompute-depth", "inspect", tmp_path / "one", "--split", "val").returncode == 0
    split = shards.open_split(tmp_path / "one", "train")
    assert split.index.class_names == list(CLASS_NAMES) and split.index.seg_names == list(SEG_NAMES)
    assert set(split.index.depth) == {"exact", "real", "raw"}
    for position in range(len(split)):
        sample = split[position]
        again = render(7, int(sample["key"].removeprefix("digits-")), DigitsConfig(size_px=32))
        np.testing.assert_array_equal(sample["rgb"], again.rgb)
        np.testing.assert_array_equal(sample["seg"], again.seg)
        np.testing.assert_array_equal(shards.mask_of(sample["json"]["overlap"], (32, 32)), again.overlap)
        exact_m = split.index.depth["exact"].standardisation.invert(sample["exact"])
        np.testing.assert_allclose(exact_m, again.exact_m, atol=2e-3)
        assert sample["cls"] == again.label and sample["json"]["glyphs"] == [d.glyph for d in again.digits]


def test_damaged_shards_are_made_again(tmp_path):
    out = tmp_path / "digits"
    done = command(
        "precompute-depth", "digits", out, "--teacher", "none", "--samples", 4, "--val-samples", 2, "--size", 16
    )
    assert done.returncode == 0, done.stderr
    before, tar = contents(out), out / "train" / "shard-000000.tar"
    with tarfile.open(tar) as opened:
        offset = opened.getmember("digits-00000000.rgb.png").offset_data
    data = bytearray(tar.read_bytes())
    data[offset + 30] ^= 1
    tar.write_bytes(data)
    assert command("precompute-depth", "verify", out).returncode == 1
    assert command("precompute-depth", "verify", out, "--repair", "--yes").returncode == 0
    assert contents(out) == before
    assert json.loads((out / "train" / "index.json").read_text())["source"] == "digits"


@pytest.mark.parametrize("wrong", [{"size_px": 8}, {"split": "test"}, {"noise": -1.0}])
def test_bad_config_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*must.*got"):
        DigitsConfig(**wrong)


def test_mistakes_end_in_one_line(tmp_path):
    out = tmp_path / "digits"
    for words, message in (
        (["--size", 8], "size_px must be 16 to 4096, got 8"),
        (["--samples", 0], "--samples and --val-samples must be at least 1, got 0 and 1000"),
        (["--val-samples", -1], "got 6000 and -1"),
        (["--stats", "x"], "--stats must be"),
    ):
        fails_in_one_line(command("precompute-depth", "digits", out, "--teacher", "none", *words), message)
        assert not out.exists()
