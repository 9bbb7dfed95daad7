"""How far depth fields agree: numbers held to other people's, summary and sheet."""

import csv
import shutil

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from running import command, fails_in_one_line

from pipeline import compare, shards
from pipeline.colours import NOT_MEASURED, difference_colours
from pipeline.compare import Agreement


def test_numbers_are_those_of_scipy_and_numpy():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(40, 30)).round(1).astype(np.float32)  # with ties
    other = (0.5 * reference + rng.normal(size=(40, 30))).astype(np.float32)
    reference[:3], other[-2:] = np.nan, np.nan
    found = compare.agreement("k", 0, ("a", "b"), reference, other)
    one, two = reference[3:-2].ravel().astype(float), other[3:-2].ravel().astype(float)
    assert found.num_pixels == one.size == 35 * 30
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(one, two).statistic, abs=1e-12)
    scale, shift = np.linalg.lstsq(np.stack([two, np.ones_like(two)], 1), one, rcond=None)[0]
    assert (found.scale, found.shift) == pytest.approx((scale, shift), abs=1e-12)
    spread = np.abs(one - np.median(one)).mean()
    assert found.error == pytest.approx(np.abs(scale * two + shift - one).mean() / spread, abs=1e-12)


def test_scale_and_shift_cost_nothing_and_no_relation_costs_all():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(100, 100)).astype(np.float32)
    same = compare.agreement("k", 0, ("a", "b"), z, 3 * z + 5)
    assert same.spearman == pytest.approx(1) and same.error < 1e-6 and same.scale == pytest.approx(1 / 3, rel=1e-5)
    assert compare.agreement("k", 0, ("a", "b"), z, -z).spearman == pytest.approx(-1)
    unlike = compare.agreement("k", 0, ("a", "b"), z, rng.normal(size=z.shape).astype(np.float32))
    assert abs(unlike.spearman) < 0.05 and unlike.error == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("odd", [np.full((9, 9), np.nan), np.ones((9, 9)), np.eye(9)[:1]])
def test_a_map_without_depth_has_no_number(odd):
    z = np.arange(odd.size, dtype=np.float32).reshape(odd.shape)
    for one, two in ((z, odd), (odd, z)):
        found = compare.agreement("k", 0, ("a", "b"), one.astype(np.float32), two.astype(np.float32))
        assert np.isnan(found.spearman) and np.isnan(found.error)


def test_the_worst_come_first_and_what_has_no_number_never():
    found = [Agreement(key, "a", "b", r, 0, 1, 0, 9, 0) for key, r in (("x", 0.5), ("y", -0.2), ("z", np.nan))]
    assert [one.key for one in compare.most_different(found, ("a", "b"), 5)] == ["y", "x"]


def test_differences_are_white_at_none_and_as_strong_to_both_sides():
    colours = difference_colours(np.array([0.0, -2.0, 2.0, -9.0, np.nan]), 2.0)
    assert colours[0].min() > 240 and tuple(colours[4]) == NOT_MEASURED
    assert (colours[1] == colours[3]).all() and colours[1][0] > colours[1][2] and colours[2][2] > colours[2][0]


def test_a_data_set_is_compared(rooms, tmp_path):
    done = command("precompute-depth", "compare", rooms, "--out", tmp_path, "--images", 6, "--samples", 2)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "compare-train.csv").read_text().splitlines()))
    assert {(row["reference"], row["other"]) for row in rows} == {("exact", "raw"), ("exact", "real"), ("raw", "real")}
    assert len(rows) == 18
    split = shards.open_split(rooms, "train")
    assert {row["key"] for row in rows} <= {split.key(k) for k in range(len(split))}
    by_hand = np.median([float(row["spearman"]) for row in rows if row["other"] == "raw"])
    assert f"{by_hand:.3f}" in done.stdout and by_hand > 0.9
    image = np.asarray(Image.open(tmp_path / "compare-train.png"))
    assert image.shape[0] > 6 * 160 and (image == NOT_MEASURED).all(2).any()  # raw has holes
    assert not list(rooms.rglob("compare*"))


def test_mistakes_are_one_line(rooms, labelled, tmp_path):
    fails_in_one_line(command("precompute-depth", "compare", labelled), "must have two depth fields", "has pseudo")
    fails_in_one_line(command("precompute-depth", "compare", tmp_path), "no finished 'train' split")
    fails_in_one_line(
        command("precompute-depth", "compare", rooms, "--fields", "real,da3", "--out", tmp_path), "has no 'da3' depth"
    )
    shutil.copytree(labelled / "train", labelled / "train" / "da3")
    (labelled / "train" / "da3" / "index.json").unlink()
    fails_in_one_line(
        command("precompute-depth", "compare", labelled, "--fields", "pseudo,da3"), "train/da3 is not finished"
    )
