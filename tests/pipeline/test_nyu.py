"""NYUDepthV2: the manifest against its sources, and the .mat as a source of samples."""

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from nyu_file import facts_for, small_arrays, write_nyu
from PIL import Image
from rich.console import Console
from running import command, fails_in_one_line

import data_manifests
from pipeline import job, shards
from pipeline.shards import VOID
from pipeline.sources import SourceError
from pipeline.sources.ledger import Ledger
from pipeline.sources.nyu import Nyu

ARRAYS = small_arrays()
FACTS = facts_for(ARRAYS, train=[3, 4, 5], test=[1, 2, 6])
MANIFEST = data_manifests.load("nyudepthv2")


@pytest.fixture(scope="module")
def mat(tmp_path_factory):
    return write_nyu(tmp_path_factory.mktemp("nyu") / "small.mat", ARRAYS)


@pytest.fixture(scope="module")
def source(mat):
    return Nyu(mat, FACTS)


# --- manifest ------------------------------------------------------------------------------------------------------


def test_the_split_covers_every_image_once():
    train, test = MANIFEST["train"], MANIFEST["test"]
    assert (len(train), len(test)) == (MANIFEST["num_train"], MANIFEST["num_test"]) == (795, 654)
    assert sorted(train + test) == list(range(1, MANIFEST["num_images"] + 1))
    assert (train[:3], test[:3]) == ([3, 4, 5], [1, 2, 9])


def test_every_label_has_one_of_forty_classes():
    assert len(MANIFEST["class_of_label"]) == 894
    assert set(MANIFEST["class_of_label"]) == set(range(1, 41))
    assert len(set(MANIFEST["classes"])) == len(MANIFEST["classes"]) == 40


def test_the_manifest_says_what_the_published_files_say():
    folder = os.environ.get("PSEUDODEPTH_NYU")
    if not folder:
        pytest.skip("PSEUDODEPTH_NYU names no folder with splits.mat and classMapping40.mat")
    from scipy.io import loadmat

    splits, classes = loadmat(Path(folder) / "splits.mat"), loadmat(Path(folder) / "classMapping40.mat")
    assert MANIFEST["train"] == splits["trainNdxs"].ravel().tolist()
    assert MANIFEST["test"] == splits["testNdxs"].ravel().tolist()
    assert MANIFEST["class_of_label"] == classes["mapClass"].ravel().tolist()
    assert MANIFEST["classes"] == [str(name[0]) for name in classes["className"].ravel()]
    # A label that has the name of a class is of that class, so numbers and names are joined as meant.
    for label, name in enumerate(classes["allClassName"].ravel()):
        if str(name[0]) in MANIFEST["classes"]:
            assert MANIFEST["classes"][MANIFEST["class_of_label"][label] - 1] == str(name[0])


# --- source --------------------------------------------------------------------------------------------------------


def test_listing_counts_from_0_what_the_split_counts_from_1(source):
    listed = list(source.listing(Ledger()))
    assert [unit for split, unit, *_ in listed if split == "train"] == ["0002", "0003", "0004"]
    assert [unit for split, unit, *_ in listed if split == "val"] == ["0000", "0001", "0005"]
    assert source.samples("0002") == ["0002"]
    assert source.key("train", "0002") == "nyu-0002"


def test_images_of_no_split_are_left_out(source):
    ledger = Ledger()
    fewer = Nyu(source.path, {**source.facts, "test": [1, 6]})
    for item in fewer.listing(ledger):
        ledger.add(item)
    ledger.settle()
    assert [(entry.reason, entry.names) for entry in ledger.left_out()] == [("in neither split", ["images[1]"])]


def test_samples_are_what_the_file_holds(source):
    for split, unit, *_ in source.listing(Ledger()):
        k = int(unit)
        photo = source.load(split, unit)
        assert np.array_equal(photo.rgb, ARRAYS.images[k])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(photo.rgb_bytes))), ARRAYS.images[k])
        assert photo.rgb_extension == "rgb.png"
        assert np.array_equal(photo.depth["real"], ARRAYS.depths[k])
        missing = ARRAYS.raw_depths[k] == 0
        assert missing.any()
        assert np.array_equal(np.isnan(photo.depth["raw"]), missing)
        assert np.array_equal(photo.depth["raw"][~missing], ARRAYS.raw_depths[k][~missing])
        assert photo.cls is None
        assert photo.facts["nyu_index"] == k and photo.facts["nyu_number"] == k + 1
        assert photo.facts["scene"] == f"kitchen_{k // 2:04d}"
        assert photo.facts["source"] == f"small.mat images[{k}]"
        assert all(array.flags.c_contiguous for array in (photo.rgb, photo.seg, *photo.depth.values()))


def test_scenes_become_ten_classes_where_asked_for(mat, source, tmp_path):
    names = MANIFEST["scene_classes"]
    assert len(names) == 10 and source.class_names == () and "scene_classes" not in source.config()
    scenes = ["kitchen_0004", "home_office_0011", "office_0002", "cafe_0001", "office_kitchen_0001", "bookstore_0001a"]
    arrays = replace(ARRAYS, scenes=scenes)
    asked = Nyu(write_nyu(tmp_path / "scenes.mat", arrays), FACTS, scene_classes=True)
    found = [names[asked.load("train", f"{k:04d}").cls] for k in range(6)]
    assert found == ["kitchen", "home_office", "office", "others", "others", "bookstore"]
    assert asked.config()["scene_classes"] is True and list(asked.class_names) == names


def test_labels_become_forty_classes(source):
    for split, unit, *_ in source.listing(Ledger()):
        seg = source.load(split, unit).seg
        for label, value in zip(ARRAYS.labels[int(unit)].ravel(), seg.ravel(), strict=True):
            assert value == (VOID if label == 0 else MANIFEST["class_of_label"][label - 1] - 1)
    assert source.seg_names[0] == "wall" and source.seg_names[39] == "otherprop"


def test_depth_that_is_no_length_counts_as_not_measured(tmp_path):
    depths, raw = ARRAYS.depths.copy(), ARRAYS.raw_depths.copy()
    depths[0, 0, 0], raw[0, 0, :3] = np.nan, (np.inf, -1, np.nan)
    photo = Nyu(write_nyu(tmp_path / "odd.mat", replace(ARRAYS, depths=depths, raw_depths=raw)), FACTS).load(
        "val", "0000"
    )
    assert np.isnan(photo.depth["real"][0, 0]) and np.isnan(photo.depth["raw"][0, :3]).all()


def test_threads_read_the_same(source):
    units = [unit for _, unit, *_ in source.listing(Ledger())] * 4
    with ThreadPoolExecutor(8) as pool:
        for unit, photo in zip(units, pool.map(lambda unit: source.load("train", unit), units), strict=True):
            assert np.array_equal(photo.rgb, ARRAYS.images[int(unit)])


def test_config_notices_another_file(source, mat, tmp_path):
    copy = tmp_path / "small.mat"
    copy.write_bytes(mat.read_bytes())
    assert Nyu(copy, FACTS).config() == source.config()
    write_nyu(copy, replace(ARRAYS, images=255 - ARRAYS.images))
    assert Nyu(copy, FACTS).config() != source.config()


# --- bad input -----------------------------------------------------------------------------------------------------


def refuses(path, *fragments, facts=FACTS):
    with pytest.raises(SourceError) as caught:
        list(map(Nyu(path, facts).load, ["train"], ["0002"]))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in (str(path), "2,972,037,809 bytes", *fragments):
        assert fragment in message, message


def test_files_that_are_none(tmp_path):
    refuses(tmp_path / "none.mat", "does not exist")
    refuses(tmp_path, "is a folder")
    for name, content in {"empty.mat": b"", "text.mat": b"<html>not found</html>" * 100}.items():
        (tmp_path / name).write_bytes(content)
        refuses(tmp_path / name, f"{len(content):,} bytes", "complete HDF5")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
def test_a_truncated_download(mat, tmp_path, share):
    content = mat.read_bytes()
    cut = tmp_path / "cut.mat"
    cut.write_bytes(content[: int(share * len(content))])
    refuses(cut, "complete HDF5", f"{cut.stat().st_size:,} bytes")


def test_damage_inside_a_finished_download(mat, tmp_path):
    with h5py.File(mat) as file:
        chunk = file["images"].id.get_chunk_info(2)
    content = bytearray(mat.read_bytes())
    assert content[chunk.byte_offset] == 0x78  # where zlib starts
    content[chunk.byte_offset : chunk.byte_offset + 64] = bytes(64)
    (tmp_path / "damaged.mat").write_bytes(content)
    refuses(tmp_path / "damaged.mat", "images[2] is damaged")


@pytest.mark.parametrize("name", ["images", "depths", "rawDepths", "labels", "scenes"])
def test_a_missing_array(mat, tmp_path, name):
    path = tmp_path / "lacks.mat"
    path.write_bytes(mat.read_bytes())
    with h5py.File(path, "r+") as file:
        del file[name]
    refuses(path, "must hold", f"'{name}'")


def test_another_number_of_images(mat):
    refuses(
        mat, "'images' must be uint8 of shape (1449, 3, 640, 480), got uint8 of shape (6, 3, 32, 24)", facts=MANIFEST
    )


def test_another_type(tmp_path):
    path = write_nyu(tmp_path / "wide.mat", replace(ARRAYS, depths=ARRAYS.depths.astype(np.float64)))
    refuses(path, "'depths' must be float32", "got float64")


def test_a_label_that_is_none(tmp_path):
    labels = ARRAYS.labels.copy()
    labels[2, 5, 5] = 895
    refuses(
        write_nyu(tmp_path / "labels.mat", replace(ARRAYS, labels=labels)), "labels[2] must lie in 0 to 894, got 895"
    )


def test_no_machine_path_in_what_is_written(source, mat):
    photo = source.load("train", "0002")
    assert not re.search(re.escape(str(mat.parent)), f"{photo.facts} {source.config()}")


# --- the job -------------------------------------------------------------------------------------------------------


def test_shards_hold_rgb_real_raw_pseudo_and_labels(source, random_teacher, tmp_path):
    from pipeline.teachers import open_teacher

    out = str(tmp_path / "out")
    options = job.Options(samples_per_shard=2, batch_size=2)
    job.run(source, open_teacher(str(random_teacher), "cpu"), out, options, console=Console(quiet=True))
    train, val = (shards.open_split(out, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 3)
    assert train.index.seg_names == MANIFEST["classes"]
    assert {train.key(k) for k in range(3)} == {"nyu-0002", "nyu-0003", "nyu-0004"}
    for split in (train, val):
        depth = split.index.depth
        assert depth["real"].standardisation == depth["raw"].standardisation != depth["pseudo"].standardisation
        assert depth["real"].max_error_z * depth["real"].std <= 0.000503  # half a millimetre, and float32's rounding
        for position in range(len(split)):
            sample = split[position]
            k = sample["json"]["nyu_index"]
            np.testing.assert_array_equal(sample["rgb"], ARRAYS.images[k])
            real = depth["real"].standardisation.invert(sample["real"])
            np.testing.assert_allclose(real, ARRAYS.depths[k], atol=0.00051)
            np.testing.assert_array_equal(np.isnan(sample["raw"]), ARRAYS.raw_depths[k] == 0)
            assert np.isfinite(sample["pseudo"]).all() and sample["pseudo"].std() > 0
            classes = np.array([0, *MANIFEST["class_of_label"]])[ARRAYS.labels[k]]
            np.testing.assert_array_equal(sample["seg"], np.where(classes == 0, VOID, classes - 1))
            assert "cls" not in sample
    assert command("precompute-depth", "verify", out).returncode == 0
    assert command("precompute-depth", "inspect", out).returncode == 0


def test_bad_files_end_in_one_line(mat, tmp_path):
    line = ("--teacher", "none")
    fails_in_one_line(
        command("precompute-depth", "nyu", tmp_path / "none.mat", tmp_path / "out", *line), "does not exist"
    )
    fails_in_one_line(command("precompute-depth", "nyu", mat, tmp_path / "out", *line), "1449")
    cut = tmp_path / "cut.mat"
    cut.write_bytes(mat.read_bytes()[:-2000])
    fails_in_one_line(command("precompute-depth", "nyu", cut, tmp_path / "out", *line), "cut.mat")
    assert not (tmp_path / "out").exists()
