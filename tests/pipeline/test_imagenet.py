"""Small ImageNets in the structure of the real ones: four classes whose ILSVRC numbers are not in wnid order."""

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import shutil
import subprocess
import tarfile
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from fuzzing_sources import KINDS, mutations, whole, write_source
from PIL import Image
from running import ROOT, command, fails_in_one_line, jpeg

import data_manifests
from pipeline import shards
from pipeline.images import UnreadableImage
from pipeline.sources import SourceError
from pipeline.sources.imagenet import LAYOUTS, ImageNet, parquet_rows
from pipeline.sources.imagenet.tar_members import members
from pipeline.sources.ledger import Ledger

WNIDS = data_manifests.load("imagenet1k")["wnids"]
ILSVRC_ORDER = [
    "n02119789",
    "n02100735",
    "n01440764",
    "n15075141",
]  # numbers 1 to 4; as in the real devkit 1 is kit fox
CLASSES = sorted(ILSVRC_ORDER)


def picture(seed, mode="RGB", file_format="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


TRAIN = {wnid: {f"{wnid}_{10 * n + 7}.JPEG": picture(100 * c + n) for n in range(5)} for c, wnid in enumerate(CLASSES)}
TRAIN["n02100735"]["n02100735_7.JPEG"] = picture(1, "CMYK")
TRAIN["n02100735"]["n02100735_17.JPEG"] = picture(2, "RGB", "PNG")  # as train's one PNG
TRAIN["n02100735"]["n02100735_27.JPEG"] = picture(3, "L")
NUMBERS = [3, 1, 1, 4, 2, 1]  # of the val images, in ILSVRC order
VAL = {
    f"ILSVRC2012_val_{n:08d}.JPEG": (ILSVRC_ORDER[number - 1], picture(900 + n)) for n, number in enumerate(NUMBERS, 1)
}


def tar_bytes(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def meta_mat():
    """Struct array `synsets`: the classes, then the nodes above them, whose numbers go on after 1000."""
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(float(n), wnid, "a word", 0.0) for n, wnid in enumerate(ILSVRC_ORDER, 1)]
    rows += [(1001.0, "n00001740", "entity", 2.0), (1002.0, "n02119789", "misleading", 3.0)]
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": np.array(rows, kinds).reshape(-1, 1)})
    return buffer.getvalue()


def devkit(numbers=NUMBERS):
    lines = "".join(f"{number}\n" for number in numbers).encode()
    return {"data/meta.mat": meta_mat(), "data/ILSVRC2012_validation_ground_truth.txt": lines}


def write_devkit(root, numbers=NUMBERS):
    packed = tar_bytes({f"ILSVRC2012_devkit_t12/{name}": data for name, data in devkit(numbers).items()})
    with (
        tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as out,
        tarfile.open(fileobj=io.BytesIO(packed)) as tar,
    ):
        for member in tar:
            out.addfile(member, tar.extractfile(member))


def official(root):
    inner = {f"{wnid}.tar": tar_bytes(images) for wnid, images in reversed(TRAIN.items())}
    write(root, {"ILSVRC2012_img_train.tar": tar_bytes(inner)})
    write(root, {"ILSVRC2012_img_val.tar": tar_bytes({name: data for name, (_, data) in VAL.items()})})
    write_devkit(root)


def folders(root):
    write(root, {f"train/{wnid}/{name}": data for wnid, images in TRAIN.items() for name, data in images.items()})
    write(root, {f"val/{wnid}/{name}": data for name, (wnid, data) in VAL.items()})


def kaggle(root):
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    folders(base)
    shutil.rmtree(base / "val")
    write(base, {f"val/{name}": data for name, (_, data) in VAL.items()})
    with open(root / "LOC_val_solution.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        rows.writerows(
            [name.removesuffix(".JPEG"), f"{wnid} 1 2 3 4 {wnid} 5 6 7 8 "] for name, (wnid, _) in VAL.items()
        )


def everything(split):
    """(name, wnid, bytes), in an order that mixes the classes, as parquet and WebDataset are kept."""
    if split == "val":
        return [(name, wnid, data) for name, (wnid, data) in VAL.items()]
    return sorted(((name, wnid, data) for wnid in TRAIN for name, data in TRAIN[wnid].items()), key=lambda s: s[0][-7:])


def write_parquet(path, samples, row_group_size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": data, "path": f"{name[:-5]}_{wnid}.JPEG"} for name, wnid, data in samples]
    labels = pa.array([WNIDS.index(wnid) for _, wnid, _ in samples], pa.int64())
    pq.write_table(pa.table({"image": images, "label": labels}), path, row_group_size=row_group_size)


def parquet(root):
    train = everything("train")
    write_parquet(root / "data" / "train-00000-of-00002.parquet", train[:11])
    write_parquet(root / "data" / "train-00001-of-00002.parquet", train[11:])
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", everything("val"))


def webdataset(root):
    for split, name in (("train", "imagenet1k-train"), ("val", "imagenet1k-validation")):
        samples = everything(split)
        for number in range(2):
            files = {}
            for n, (_, wnid, data) in enumerate(samples[number::2]):
                cls = str(WNIDS.index(wnid)).encode()
                files |= {f"{n:05d}.cls": cls, f"{n:05d}.{'jpg' if n else 'jpeg'}": data, f"{n:05d}.json": b"{}"}
            write(root, {f"{name}-{number:04d}.tar": tar_bytes(files)})


BUILDERS = {"official": official, "folders": folders, "kaggle": kaggle, "parquet": parquet, "webdataset": webdataset}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One folder for each layout; tests only read them."""
    found = {name: tmp_path_factory.mktemp(name) for name in BUILDERS}
    for name, build in BUILDERS.items():
        build(found[name])
    return found


def source(root, split="train", layout="auto", rows_per_unit=3):
    return ImageNet(root, split, 0, rows_per_unit, layout)


def items(found):
    return sorted(item for _, unit, *_ in found.listing(Ledger()) for item in found.samples(unit))


def labelled(found, split):
    """(wnid, pixels) of all images."""
    photos = [found.load(split, item) for item in items(found)]
    return sorted((found.class_names[p.cls], hashlib.sha256(p.rgb.tobytes()).hexdigest()) for p in photos)


def test_the_manifest_holds_the_thousand_sorted_wnids():
    assert len(WNIDS) == 1000 and sorted(set(WNIDS)) == WNIDS
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in WNIDS)
    assert (WNIDS[0], WNIDS[281], WNIDS[999]) == ("n01440764", "n02123045", "n15075141")  # tench, tabby, toilet tissue


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", BUILDERS)
def test_every_layout_is_recognised_and_gives_the_same_labels_and_pixels(roots, layout, split):
    found = source(roots[layout], split)
    assert (found.layout, found.splits) == (layout, [split])
    expected = sorted(
        (wnid, hashlib.sha256(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()).hexdigest())
        for name, wnid, data in everything(split)
        if name != "n02100735_17.JPEG"  # the PNG becomes a JPEG: looked at below
    )
    got = labelled(found, split)
    assert len(got) == len(everything(split))
    assert len(set(got) - set(expected)) <= (split == "train") * 2  # ... and the CMYK image becomes RGB
    assert [wnid for wnid, _ in got] == sorted(wnid for _, wnid, _ in everything(split))
    assert {wnid for wnid, _ in got} == set(CLASSES)
    assert got == labelled(source(roots["folders"], split), split)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", BUILDERS)
def test_units_and_keys_are_unique_and_valid(roots, layout, split):
    found = source(roots[layout], split)
    listing = list(found.listing(Ledger()))
    assert {split for split, *_ in listing} == {split}
    units = [unit for _, unit, *_ in listing]
    assert len(set(units)) == len(units) and not any("\0" in unit for unit in units)
    assert max(len(found.samples(unit)) for unit in units) == found.samples_per_unit
    keys = [found.key(split, item) for item in items(found)]
    assert len(set(keys)) == len(everything(split))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) for key in keys)
    if layout in ("official", "folders", "kaggle"):
        assert sorted(keys) == sorted(name.removesuffix(".JPEG") for name, _, _ in everything(split))
    assert found.listing_in_config == (layout not in ("folders", "kaggle"))
    assert found.expected == {split: {"train": 1_281_167, "val": 50_000}[split]}


def test_a_unit_reads_well_in_a_reject(roots):
    unit = min(unit for _, unit, *_ in source(roots["official"]).listing(Ledger()))
    assert re.fullmatch(r"ILSVRC2012_img_train.tar!n01440764.tar!n01440764_17.JPEG@\d+\+\d+=0", unit)
    photo = source(roots["parquet"]).load("train", "data/train-00000-of-00002.parquet#1@0+2:1")
    assert re.match(r"data/train-00000-of-00002.parquet#1@0\+2:1 n\d+_\d+_n\d+.JPEG", photo.facts["source"])
    assert (photo.facts["original_width"], photo.facts["original_height"]) == (32, 24)


@pytest.mark.parametrize("layout", BUILDERS)
def test_many_threads_read_what_one_reads(roots, layout):
    found = source(roots[layout])
    listed = items(found) * 3
    with ThreadPoolExecutor(8) as pool:
        photos = list(pool.map(lambda item: found.load("train", item), listed))
    assert all((p.rgb == found.load("train", item).rgb).all() for p, item in zip(photos, listed, strict=True))


# --- labels --------------------------------------------------------------------------------------------------------


def test_val_alone_is_labelled_by_the_thousand(tmp_path):
    official(tmp_path)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    found = source(tmp_path, "val")
    assert found.class_names == WNIDS
    assert found.load("val", items(found)[1]).cls == WNIDS.index("n02119789") == 278  # number 1 of ILSVRC


@pytest.mark.parametrize("layout", ["official", "folders", "kaggle"])
def test_a_subset_counts_its_own_classes_in_train_and_val(roots, layout):
    for split in ("train", "val"):
        found = source(roots[layout], split)
        assert found.class_names == CLASSES
        assert {found.load(split, item).cls for item in items(found)} == {0, 1, 2, 3}


def test_a_flat_val_leaves_out_classes_that_train_lacks(tmp_path):
    kaggle(tmp_path)
    shutil.rmtree(tmp_path / "ILSVRC/Data/CLS-LOC/train/n02119789")
    found = source(tmp_path, "val")
    assert labelled(found, "val") == [pair for pair in labelled(found, "val") if pair[0] != "n02119789"]
    assert len(items(found)) == 3
    folders(tmp_path / "sorted")
    shutil.rmtree(tmp_path / "sorted/train/n02119789")
    with pytest.raises(SourceError, match="must hold classes of the train split beside it, got n02119789"):
        source(tmp_path / "sorted", "val")


@pytest.mark.parametrize("where", ["ILSVRC2012_devkit_t12", "."])
def test_the_devkit_may_be_unpacked(tmp_path, roots, where):
    official(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    write(tmp_path / where, devkit())
    assert labelled(source(tmp_path, "val"), "val") == labelled(source(roots["official"], "val"), "val")


def test_a_flat_val_folder_takes_its_labels_from_the_devkit(tmp_path, roots):
    kaggle(tmp_path)
    (tmp_path / "ILSVRC/Data/CLS-LOC").rename(tmp_path / "plain")
    write_devkit(tmp_path / "plain")
    found = source(tmp_path / "plain", "val")
    assert found.layout == "folders"
    assert labelled(found, "val") == labelled(source(roots["folders"], "val"), "val")


def test_other_places_for_the_same(tmp_path, roots):
    inside = roots["kaggle"] / "ILSVRC" / "Data" / "CLS-LOC"
    assert labelled(source(inside, "val"), "val") == labelled(source(roots["kaggle"], "val"), "val")
    write(tmp_path, {f"train/{wnid}.tar": tar_bytes(images) for wnid, images in TRAIN.items()})
    loose = source(tmp_path)
    assert loose.layout == "official" and loose.config()["num_containers"] == 4
    assert labelled(loose, "train") == labelled(source(roots["official"]), "train")


# --- refusals ------------------------------------------------------------------------------------------------------


def test_no_layout_two_layouts_and_a_wrong_one(tmp_path, roots):
    with pytest.raises(SourceError, match="must hold the train split of ImageNet, got nothing like it: official has"):
        source(tmp_path)
    with pytest.raises(SourceError, match=r"got nothing like it: parquet has data/val-"):
        source(roots["folders"], "val", "parquet")
    with pytest.raises(SourceError, match="--layout must be auto, official"):
        source(roots["folders"], "val", "zip")
    with pytest.raises(SourceError, match="--split must be train or val"):
        source(roots["folders"], "test")
    with pytest.raises(SourceError, match="is a file: give the folder"):
        source(roots["official"] / "ILSVRC2012_img_val.tar")
    official(tmp_path)
    folders(tmp_path)
    with pytest.raises(SourceError, match="holds train as official and as folders: choose one with --layout"):
        source(tmp_path)
    assert [source(tmp_path, "val", layout).layout for layout in ("official", "folders")] == ["official", "folders"]
    assert set(BUILDERS) == set(LAYOUTS)


def test_a_missing_or_damaged_devkit(tmp_path):
    official(tmp_path)
    packed = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    packed.write_bytes(packed.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"devkit_t12.tar.gz must hold data/meta.mat and .*: download it again"):
        source(tmp_path, "val")
    large = io.BytesIO()
    with tarfile.open(fileobj=large, mode="w:xz") as tar:
        member = tarfile.TarInfo("data/meta.mat")
        member.size = 1_000_000
        tar.addfile(member, io.BytesIO(random.Random(0).randbytes(member.size)))
    squeezed = bytearray(large.getvalue())
    squeezed[900_000:900_100] = bytes(100)  # tarfile takes any compression, and lzma's error is none of its own
    for damaged in (squeezed, b"neither", squeezed[:900_000]):
        packed.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"must hold data/meta.mat and .*: download it again"):
            source(tmp_path, "val")
    packed.unlink()
    with pytest.raises(SourceError, match=r"has no labels: put ILSVRC2012_devkit_t12.tar.gz"):
        source(tmp_path, "val")
    write(tmp_path, devkit() | {"data/meta.mat": b"no matrix at all" * 20})
    with pytest.raises(SourceError, match=r"must hold data/meta\.mat"):
        source(tmp_path, "val")
    write(tmp_path, devkit([*NUMBERS[:-1], 1002]))
    with pytest.raises(SourceError, match=r"must hold data/meta\.mat"):
        source(tmp_path, "val")


def test_labels_for_fewer_images_than_there_are(tmp_path):
    official(tmp_path)
    write_devkit(tmp_path, NUMBERS[:-1])
    with pytest.raises(SourceError, match=r"val_00000006.JPEG\S* is none of the 5 images of val that have a label"):
        list(source(tmp_path, "val").listing(Ledger()))
    kaggle(tmp_path / "kaggle")
    solution = tmp_path / "kaggle" / "LOC_val_solution.csv"
    solution.write_text("".join(solution.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(SourceError, match=r"val_00000006.JPEG is none of the 5 images"):
        list(source(tmp_path / "kaggle", "val").listing(Ledger()))
    solution.write_text("ImageId\nILSVRC2012_val_00000001\n")
    with pytest.raises(SourceError, match="must have the columns ImageId and PredictionString"):
        source(tmp_path / "kaggle", "val")


def rewrite(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("wnid", ["n0211978", "n02119780", "n021"])
def test_a_damaged_label_never_leaves_an_image_out(tmp_path, wnid):
    kaggle(tmp_path)
    rewrite(tmp_path / "LOC_val_solution.csv", b"n02119789 1", f"{wnid} 1".encode())
    with pytest.raises(SourceError, match=rf"csv labels 'ILSVRC2012_val_00000002' as '{wnid}', which is no class"):
        source(tmp_path, "val")
    official(tmp_path / "tars")
    (tmp_path / "tars" / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    damaged = meta_mat().replace(b"n02119789", wnid.ljust(9, "x").encode(), 1)
    write(tmp_path / "tars", devkit() | {"data/meta.mat": damaged})
    with pytest.raises(SourceError, match="which is no class of ImageNet-1k: download it again"):
        source(tmp_path / "tars", "val")


def test_a_row_that_comes_twice(tmp_path, roots):
    kaggle(tmp_path)
    solution = tmp_path / "LOC_val_solution.csv"
    whole = solution.read_text()
    solution.write_text(whole + "ILSVRC2012_val_00000002,n02119789 1 2 3 4\n")
    assert labelled(source(tmp_path, "val"), "val") == labelled(source(roots["kaggle"], "val"), "val")
    solution.write_text(whole + "ILSVRC2012_val_00000002,n01440764 1 2 3 4\n")
    with pytest.raises(SourceError, match="gives 'ILSVRC2012_val_00000002' two different labels"):
        source(tmp_path, "val")


def test_a_csv_with_a_byte_order_mark(tmp_path, roots):
    kaggle(tmp_path)
    rewrite(tmp_path / "LOC_val_solution.csv", b"ImageId", b"\xef\xbb\xbfImageId")
    assert labelled(source(tmp_path, "val"), "val") == labelled(source(roots["kaggle"], "val"), "val")


def test_the_checksum_of_the_devkit_is_read(tmp_path):
    official(tmp_path)
    packed = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    data = bytearray(packed.read_bytes())
    data[-8] ^= 1  # a gzip ends in CRC and length
    packed.write_bytes(data)
    with pytest.raises(SourceError, match=r"devkit_t12.tar.gz must hold .*CRC check failed.*: download it again"):
        source(tmp_path, "val")


def test_a_val_that_is_sorted_in_half(tmp_path):
    folders(tmp_path)
    write(tmp_path, {"val/ILSVRC2012_val_00000009.JPEG": jpeg()})
    with pytest.raises(SourceError, match="mixes <wnid>/ folders with images outside them"):
        source(tmp_path, "val")


def test_a_val_image_in_two_classes(tmp_path):
    folders(tmp_path)
    write(tmp_path, {"val/n15075141/ILSVRC2012_val_00000001.JPEG": jpeg()})
    with pytest.raises(SourceError, match="must hold ILSVRC2012_val_00000001 once, got it again as val/n15075141/"):
        list(source(tmp_path, "val").listing(Ledger()))


def test_own_names_within_a_class_get_their_own_keys(tmp_path):
    names = ("1.JPEG", "1.png", "deep/n01440764_7.JPEG", "n01440764_7.JPEG", "n01440764_7.jpg", "n02100735_7.JPEG")
    write(tmp_path, {f"train/{wnid}/{name}": jpeg() for wnid in CLASSES[:2] for name in names})
    found = source(tmp_path)
    keys = [found.key("train", item) for item in items(found)]
    assert len(set(keys)) == 12
    assert "n01440764_7" in keys


def test_a_split_without_images(tmp_path):
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(SourceError, match="holds no image"):
        list(source(tmp_path).listing(Ledger()))


# --- tars ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
def test_a_cut_tar_is_never_a_shorter_one(tmp_path, roots, name):
    whole = (roots["official"] / name).read_bytes()
    shutil.copy(roots["official"] / "ILSVRC2012_devkit_t12.tar.gz", tmp_path)
    content = len(whole.rstrip(b"\0"))
    for cut in [0, 100, 512, *range(600, content, content // 40), content - content % 512 + 512]:
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=rf"{name} is no complete tar .*: download it again"):
            list(source(tmp_path, "train" if "train" in name else "val").listing(Ledger()))


def test_a_broken_header_inside_is_never_the_end(tmp_path, roots):
    whole = bytearray((roots["official"] / "ILSVRC2012_img_train.tar").read_bytes())
    at = whole.index(b"n02100735_27.JPEG")
    whole[at] ^= 1
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(whole)
    with pytest.raises(SourceError, match=rf"no member and no end mark at byte {at:,}"):
        list(source(tmp_path).listing(Ledger()))


def test_a_zeroed_header_is_never_the_end(tmp_path, roots):
    whole = (roots["official"] / "ILSVRC2012_img_train.tar").read_bytes()
    for name in (b"n02100735.tar", b"n02100735_27.JPEG"):
        at = whole.index(name)
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
        with pytest.raises(SourceError, match=rf"no complete tar \(more than a little padding .* byte {at:,}\)"):
            list(source(tmp_path).listing(Ledger()))


def test_a_tar_that_was_preallocated_and_half_downloaded(tmp_path, roots):
    whole = (roots["official"] / "ILSVRC2012_img_train.tar").read_bytes()
    tar = tmp_path / "ILSVRC2012_img_train.tar"
    end = whole.index(b"n02100735.tar")
    tar.write_bytes(whole[:end])
    for padding, complete in (((1 << 20), True), ((1 << 20) + 512, False)):
        os.truncate(tar, end + padding)
        if complete:
            assert len(source(tmp_path).class_names) == 2
        else:
            with pytest.raises(SourceError, match=r"ILSVRC2012_img_train.tar is no complete tar"):
                source(tmp_path)


def test_headers_are_walked_as_a_stream(tmp_path):
    """Ten thousand remembered headers would take 15 MB."""
    with open(tmp_path / "many.tar", "wb") as file:
        member = tarfile.TarInfo("an image.jpg")
        member.size = 512
        file.write((member.tobuf() + bytes([7]) * 512) * 10_000 + bytes(1024))
    tracemalloc.start()
    try:
        assert sum(member.length for member in members(tmp_path / "many.tar")) == 5_120_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_long_names_and_names_with_odd_signs(tmp_path):
    files = {f"{'deep/' * 40}a!b@1+2=3 ü.{field}": data for field, data in (("jpg", jpeg()), ("cls", b" 7\n"))}
    write(tmp_path, {"train/odd!name.tar": tar_bytes(files)})
    found = source(tmp_path)
    (item,) = items(found)
    assert found.load("train", item).cls == 7
    assert re.fullmatch(r"b_1_2_3_-[0-9a-f]{16}", found.key("train", item))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.jpg": b"x", "2.jpg": b"x", "2.cls": b"1"}, "1.jpg must have a cls beside it"),
        ({"1.cls": b"1", "1.rgb.jpg": b"x"}, "1.cls must have a jpg, jpeg or png beside it"),
        ({"1.jpg": b"x", "1.cls": b"1000"}, "1.cls must hold a number from 0 to 999, got b'1000'"),
        ({"1.jpg": b"x", "1.cls": b"n01440764"}, "1.cls must hold a number"),
        ({"1.jpg": b"x", "1.cls": b"0" * 19 + b"37"}, "1.cls must hold a number from 0 to 999, got b'0000"),
        ({"1.jpg": b"x", "1.cls": b"3" + b" " * 30 + b"7"}, "1.cls must hold a number from 0 to 999, got b'3 "),
        ({"1.jpg": b"x", "1.cls": b"3" + b" " * 20}, "1.cls must hold a number from 0 to 999, got b'3"),
        ({"README": b"x"}, "holds no image"),
    ],
)
def test_webdataset_samples_must_be_whole(tmp_path, files, message):
    write(tmp_path, {"x-train-0.tar": tar_bytes(files)})
    with pytest.raises(SourceError, match=message):
        list(source(tmp_path).listing(Ledger()))


def test_a_dot_before_a_name_is_no_other_sample(tmp_path):
    write(
        tmp_path, {"x-train-0.tar": tar_bytes({"./a.jpg": jpeg(), "a.cls": b"7", "b.jpg": jpeg(), "././b.cls": b"8"})}
    )
    found = source(tmp_path)
    assert sorted(found.load("train", item).cls for item in items(found)) == [7, 8]


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("webdataset", ("._x-train-1.tar", ".x-train.tar", "._x-train.tar.gz", "train/._x.tar", "x-train.tar~")),
        ("official", ("._ILSVRC2012_img_train.tar.gz", "._ILSVRC2012_devkit_t12.tar.gz", "train/._n01440764.tar")),
        ("parquet", ("data/._train-00000-of-00001.parquet", "._train-00000-of-00001.parquet", ".cache/train-0-of-1.x")),
    ],
)
def test_litter_beside_containers_is_none(tmp_path, roots, layout, names):
    shutil.copytree(roots[layout], tmp_path / "src")
    for split in ("train", "val"):
        write(tmp_path / "src", {name.replace("train", split): b"\0\5\x16\7" for name in names})
        found, plain = source(tmp_path / "src", split), source(roots[layout], split)
        assert (found.layout, found.config(), items(found)) == (layout, plain.config(), items(plain))


def test_what_vanishes_ends_the_job_and_what_is_broken_is_a_reject(tmp_path):
    official(tmp_path / "tars")
    folders(tmp_path / "files")
    write(tmp_path / "files", {"train/n01440764/n01440764_999.JPEG": b"no image"})
    tars, files = source(tmp_path / "tars"), source(tmp_path / "files")
    with pytest.raises(UnreadableImage):
        files.load("train", "train/n01440764/n01440764_999.JPEG=0")
    last = items(tars)[0]  # its class is packed last
    with open(tmp_path / "tars" / "ILSVRC2012_img_train.tar", "r+b") as file:
        file.truncate(2000)
    with pytest.raises(SourceError, match="shorter than when it was listed"):
        tars.load("train", last)
    (tmp_path / "tars" / "ILSVRC2012_img_train.tar").unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        tars.load("train", last)
    (tmp_path / "files/train/n01440764/n01440764_7.JPEG").unlink()
    with pytest.raises(SourceError, match="is gone"):
        files.load("train", "train/n01440764/n01440764_7.JPEG=0")


@pytest.mark.parametrize("layout", ["official", "parquet", "webdataset"])
def test_a_changed_container_or_label_changes_the_config(tmp_path, layout):
    BUILDERS[layout](tmp_path)
    before = source(tmp_path, "val").config()
    assert source(tmp_path, "val").config() == before
    if layout == "official":
        write_devkit(tmp_path, NUMBERS[::-1])
        after = source(tmp_path, "val").config()
        assert {name for name in before if before[name] != after[name]} == {"labels_sha256"}
        before = after
    container = next(path for path in tmp_path.rglob("*val*") if path.is_file())
    container.write_bytes(container.read_bytes() + bytes(512) if layout != "parquet" else b"")
    if layout == "parquet":
        write_parquet(container, everything("val")[:5])
    assert source(tmp_path, "val").config() != before


def account(found):
    """(items, reason -> (count, names)); every member seen is in one of them."""
    ledger = Ledger()
    listed = []
    for item in found.listing(ledger):
        ledger.add(item)
        listed += found.samples(item.unit)
    ledger.settle()
    return sorted(listed), {entry.reason: (entry.count, entry.names) for entry in ledger.left_out()}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", BUILDERS)
def test_every_member_of_every_layout_is_accounted_for(roots, layout, split):
    listed, left_out = account(source(roots[layout], split))
    assert len(listed) == len(everything(split)) and left_out == {}


def test_what_lies_beside_images_is_left_out_by_reason(tmp_path):
    folders(tmp_path / "files")
    for name in ("train/README.txt", "train/n01440764/boxes.xml", "train/n01440764/._1.JPEG", "train/extra/1.JPEG"):
        write(tmp_path / "files", {name: jpeg()})
    listed, left_out = account(source(tmp_path / "files"))
    assert len(listed) == 20
    assert left_out == {
        "no image ending": (2, ["train/README.txt", "train/n01440764/boxes.xml"]),
        "a folder that is no wnid": (1, ["train/extra/"]),
        "hidden, or a system's file": (1, ["train/n01440764/._1.JPEG"]),
    }
    kaggle(tmp_path / "kaggle")
    shutil.rmtree(tmp_path / "kaggle/ILSVRC/Data/CLS-LOC/train/n02119789")
    assert account(source(tmp_path / "kaggle", "val"))[1]["of a class that train lacks"][0] == 3


def special(name, kind, linkname="", data=b""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, linkname, len(data)
    return member, data


def tar_of(*members, pax_headers=None):
    """A tar of (name, bytes) pairs and of `special` members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers=pax_headers) as tar:
        for member, data in members:
            if isinstance(member, str):
                member, data = special(member, tarfile.REGTYPE, "", data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


LNK, SYM = tarfile.LNKTYPE, tarfile.SYMTYPE


def test_links_and_litter_in_class_tars(tmp_path):
    one, three = picture(1), picture(3)
    inner = tar_of(
        special("./", tarfile.DIRTYPE),
        ("n01440764_1.JPEG", one),
        special("n01440764_2.JPEG", LNK, "./n01440764_1.JPEG"),
        special("n01440764_4.JPEG", LNK, "n01440764_2.JPEG"),  # a link to a link
        ("n01440764_3.JPEG", three),
        special("n01440764_5.JPEG", LNK, "n01440764_3.JPEG"),
        special("n01440764_6.JPEG", LNK, "nothing.JPEG"),
        special("n01440764_7.JPEG", SYM, "n01440764_1.JPEG"),
        special("pipe.JPEG", tarfile.FIFOTYPE),
        ("._n01440764_1.JPEG", b"x"), ("PaxHeaders.12/n01440764_1.JPEG", b"x"), (".DS_Store", b"x"),
        ("notes.txt", b"x"),
    )  # fmt: skip
    write(tmp_path / "loose", {"n01440764.tar": inner})
    write(tmp_path / "outer", {"ILSVRC2012_img_train.tar": tar_of(("README", b"x"), ("n01440764.tar", inner))})
    for root in (tmp_path / "loose", tmp_path / "outer"):
        found = source(root)
        listed, left_out = account(found)
        pixels = {found.key("train", item): found.load("train", item).rgb_bytes for item in listed}
        assert pixels == {f"n01440764_{n}": three if n in (3, 5) else one for n in range(1, 6)}
        assert {reason: count for reason, (count, _) in left_out.items()} == {
            "a folder in a tar": 1, "a hard link to nothing in its tar": 1, "a symbolic link in a tar": 1,
            "a device, a pipe, or unknown, in a tar": 1, "hidden, or a system's file": 3, "no image ending": 1,
        } | ({"no <wnid>.tar": 1} if root.name == "outer" else {})  # fmt: skip
        assert left_out["a hard link to nothing in its tar"][1][0].endswith("n01440764.tar!n01440764_6.JPEG")


def test_links_and_litter_in_a_flat_val(tmp_path):
    official(tmp_path)
    names = sorted(VAL)
    members = [(name, VAL[name][1]) for name in names[:-1]] + [special(names[-1], LNK, names[0]), ("._x.JPEG", b"x")]
    write(tmp_path, {"ILSVRC2012_img_val.tar": tar_of(*members)})
    found = source(tmp_path, "val")
    listed, left_out = account(found)
    assert len(listed) == 6 and left_out == {
        "hidden, or a system's file": (1, ["ILSVRC2012_img_val.tar!._x.JPEG"]),
    }  # fmt: skip
    last = found.load("val", next(item for item in listed if names[-1] in item))
    assert last.rgb_bytes == VAL[names[0]][1] and found.class_names[last.cls] == VAL[names[-1]][0]


@pytest.mark.parametrize("layout", ["official", "webdataset"])
def test_a_name_that_comes_twice_in_a_tar(tmp_path, layout):
    name, where = ("own.JPEG", "train/n01440764.tar") if layout == "official" else ("a.jpg", "x-train-0.tar")
    write(tmp_path, {where: tar_of((name, picture(1)), ("a.cls", b"1"), (name, picture(2)))})
    with pytest.raises(
        SourceError, match=rf"{os.path.basename(where)} must hold {name} once, got it twice: remove one"
    ):
        account(source(tmp_path))


def test_class_tars_that_come_twice(tmp_path):
    inner = tar_of(("n01440764_1.JPEG", picture(1)))
    write(tmp_path, {"ILSVRC2012_img_train.tar": tar_of(("n01440764.tar", inner), ("x/n01440764.tar", inner))})
    with pytest.raises(SourceError, match=r"must hold n01440764\.tar once, got it twice"):
        source(tmp_path)


def read(root, files):
    """(key without its hash -> label), left out, of one WebDataset tar of pairs and specials."""
    write(root, {"x-train-0.tar": tar_of(*(files.items() if isinstance(files, dict) else files))})
    found = source(root)
    listed, left_out = account(found)
    photos = {item: found.load("train", item) for item in listed}
    assert len({found.key("train", item) for item in listed}) == len(listed)
    return {p.facts["source"].partition("!")[2].partition("@")[0]: p.cls for p in photos.values()}, left_out


def test_dotted_names_are_samples_of_their_own(tmp_path):
    one = jpeg()
    files = {f"img.v{n}.{e}": d for n in range(3) for e, d in (("jpg", one), ("cls", b"%d" % n), ("json", b"{}"))}
    expected = {f"img.v{n}.jpg": n for n in range(3)}
    assert read(tmp_path, files) == (expected, {})
    labels, left_out = read(tmp_path, files | {"img.jpg": one, "img.cls": b"9", "img.txt": b"x", "img.a.b": b"x"})
    assert labels == expected | {"img.jpg": 9}
    assert left_out == {"beside several samples, of none": (1, ["x-train-0.tar!img.a.b"])}
    with pytest.raises(SourceError, match=r"img\.v3\.jpg must have a cls beside it"):
        read(tmp_path, files | {"img.v3.jpg": one})
    with pytest.raises(SourceError, match=r"img\.v3\.cls must have a jpg, jpeg or png beside it"):
        read(tmp_path, files | {"img.v3.cls": b"3"})


def test_fields_of_several_dots_belong_to_their_sample(tmp_path):
    """As webdataset reads them: up to the first dot."""
    files = {
        "0.jpg": jpeg(),
        "0.depth.png": b"x",
        "0.cls": b"4",
        "0.seg.v1.json": b"{}",
        "1.v2.jpg": jpeg(),
        "1.v2.cls": b"5",
    }
    assert read(tmp_path, files) == ({"0.jpg": 4, "1.v2.jpg": 5}, {})


def test_members_in_any_order(tmp_path):
    images, labels = ({f"{n}.{e}": d for n in range(3)} for e, d in (("jpg", jpeg()), ("cls", b"6")))
    expected = {f"{n}.jpg": 6 for n in range(3)}
    for files in (images | labels, labels | images, dict(sorted((images | labels).items(), key=lambda f: f[0][::-1]))):
        assert read(tmp_path, files) == (expected, {})


def test_links_and_litter_in_webdataset_tars(tmp_path):
    labels, left_out = read(tmp_path, [
        ("a.jpg", jpeg()), ("a.cls", b"1"), ("b.jpg", jpeg((32, 24))), special("b.cls", LNK, "a.cls"),
        special("c.jpg", LNK, "b.jpg"), ("c.cls", b"2"), ("._a.jpg", b"x"), ("._a.cls", b"x"),
        special("d.jpg", SYM, "a.jpg"), ("index.json", b"{}"), ("README", b"x"), special("sub", tarfile.DIRTYPE),
    ])  # fmt: skip
    assert labels == {"a.jpg": 1, "b.jpg": 1, "c.jpg": 2}
    assert {reason: names for reason, (_, names) in left_out.items()} == {
        "hidden, or a system's file": ["x-train-0.tar!._a.cls", "x-train-0.tar!._a.jpg"],
        "a symbolic link in a tar": ["x-train-0.tar!d.jpg"],
        "neither image nor cls, nor beside them": ["x-train-0.tar!README", "x-train-0.tar!index.json"],
        "a folder in a tar": ["x-train-0.tar!sub"],
    }
    with pytest.raises(SourceError, match=r"a\.JPG and a\.jpg are one field of one sample"):
        read(tmp_path, [("a.jpg", jpeg()), ("a.cls", b"1"), ("a.JPG", b"x")])


PACKED = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: b"\x28\xb5\x2f\xfd" + data,
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("where", ["ILSVRC2012_img_train.tar", "n01440764.tar", "train/n01440764.tar", "x-train-0.tar"])
def test_a_compressed_tar_by_the_name_of_tar(tmp_path, where, kind):
    inner = tar_of(("n01440764_1.JPEG", picture(1)))
    data = PACKED[kind](tar_of(("n01440764.tar", inner)) if "ILSVRC" in where else inner)
    write(tmp_path, {where: data})
    with pytest.raises(SourceError, match=rf"{where} is {kind}, not tar: \w+ it$"):
        account(source(tmp_path))


@pytest.mark.parametrize(
    "where",
    ["ILSVRC2012_img_train.tar.gz", "n01440764.tgz", "train/n01440764.tar.bz2", "x-train-0.tar.gz", "train/0.tgz"],
)
def test_a_compressed_tar_beside_others_or_alone(tmp_path, where):
    write(tmp_path, {where: gzip.compress(tar_of(("a.jpg", picture(1))))})
    with pytest.raises(SourceError, match=rf"{where} is compressed, not tar: unpack it to [\w-]+\.tar, or move it"):
        source(tmp_path)
    if "x-train" in where:
        webdataset(tmp_path)
        with pytest.raises(SourceError, match="is compressed, not tar"):
            source(tmp_path)
        write(tmp_path, {"x-train-0.tar": tar_of(("a.jpg", picture(1)), ("a.cls", b"1"))})
        assert len(account(source(tmp_path))[0]) == 21


def test_compressed_class_tars_inside_the_official_one(tmp_path):
    inner = gzip.compress(tar_of(("n01440764_1.JPEG", picture(1))))
    for name, message in (("n01440764.tar", "is gzip inside, not tar"), ("n01440764.tar.gz", "inside is compressed")):
        write(tmp_path, {"ILSVRC2012_img_train.tar": tar_of((name, inner))})
        with pytest.raises(SourceError, match=message):
            account(source(tmp_path))


def claiming(size, kind=b"0", name="n01440764_1.JPEG", tail=10240):
    """A tar of one header that claims `size` bytes, however many."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = bytes([0x80 if size >= 0 else 0xFF]) + (size % (1 << 88)).to_bytes(11, "big")
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(tail)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"7", b"X"])
@pytest.mark.parametrize("size", [10**14, 2**70, 10**6, -1, -512, -(10**9)])
@pytest.mark.parametrize("where", ["ILSVRC2012_img_train.tar", "n01440764.tar", "x-train-0.tar"])
def test_sizes_that_lie(tmp_path, where, size, kind):
    write(tmp_path, {where: claiming(size, kind)})
    start = time.perf_counter()
    with pytest.raises(SourceError, match=rf"{where} is no complete tar .*: download it again$"):
        account(source(tmp_path))
    assert time.perf_counter() - start < 5


def test_an_extended_header_of_any_size_is_no_memory_error(tmp_path):
    """A file as long as its header claims, of holes."""
    with open(tmp_path / "x-train-0.tar", "wb") as file:
        file.write(claiming(50 << 30, b"x"))
        file.truncate(51 << 30)
    with pytest.raises(SourceError, match=r"a header at byte 512 claims 53,687,091,200 bytes"):
        account(source(tmp_path))


def test_a_size_in_a_pax_record_that_leads_backwards(tmp_path):
    for size in ("-1024", "99999999999999"):
        member = tarfile.TarInfo("a.jpg")
        member.size, member.pax_headers = 4, {"size": size}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(member, io.BytesIO(b"1234"))
        write(tmp_path, {"x-train-0.tar": buffer.getvalue()})
        with pytest.raises(SourceError, match=r"is no complete tar \(a\.jpg claims .* bytes"):
            account(source(tmp_path))


@pytest.mark.skipif(not shutil.which("tar"), reason="GNU tar makes them")
@pytest.mark.parametrize("dialect", ["gnu", "posix"])
def test_sparse_members_are_refused_by_name(tmp_path, dialect):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.write(jpeg())
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    line = ["tar", "-cSf", "x-train-0.tar", f"--format={dialect}", "a.jpg"]
    subprocess.run(line, cwd=tmp_path, check=True)
    with pytest.raises(SourceError, match=r"a\.jpg is a sparse file, whose bytes do not lie together; pack it without"):
        account(source(tmp_path))


def test_a_member_of_any_size_is_rejected_unread(tmp_path):
    with open(tmp_path / "x-train-0.tar", "wb") as file:
        file.write(tar_of(("a.cls", b"1"))[:1024] + claiming(20 << 30, name="a.jpg", tail=0))
        file.truncate((20 << 30) + 1024 + 512 + 1024)
    found = source(tmp_path)
    ((item,), _) = account(found)
    with pytest.raises(UnreadableImage, match="21,474,836,480 bytes, more than"):
        found.load("train", item)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_tars_end_in_a_listing_or_in_one_line(tmp_path, kind):
    outcomes = Counter()
    for number, (what, data) in enumerate(mutations(kind, 0, 50)):
        write_source(kind, data, tmp_path / str(number))
        start = time.perf_counter()
        try:
            account(source(tmp_path / str(number)))
            outcomes["listed"] += 1
        except SourceError as error:
            outcomes["refused" if "\n" not in str(error) else what] += 1
        assert time.perf_counter() - start < 10, what
    assert set(outcomes) == {"listed", "refused"} and min(outcomes.values()) >= 3
    write_source(kind, whole(kind, 1), tmp_path / "whole")
    assert len(account(source(tmp_path / "whole"))[0]) == (4 if kind == "webdataset" else 6)


# --- parquet -------------------------------------------------------------------------------------------------------


@pytest.fixture
def group_reads(monkeypatch):
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group, **rest: reads.append(group) or read(self, group, **rest)
    )
    return reads


def test_a_row_group_is_read_once_for_its_unit_by_many_threads(roots, group_reads):
    found = source(roots["parquet"], rows_per_unit=100)
    assert found.samples_per_unit == 4
    units = [unit for _, unit, *_ in found.listing(Ledger())]
    assert sorted(len(found.samples(unit)) for unit in units) == [1, 3, 4, 4, 4, 4]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: found.load("train", item), [i for unit in units for i in found.samples(unit)] * 3))
    assert len(group_reads) == 6


def test_units_are_runs_of_one_length_and_few_stay_in_memory(roots, group_reads, monkeypatch):
    monkeypatch.setattr(parquet_rows, "RUNS_KEPT", 2)
    found = source(roots["parquet"], rows_per_unit=3)
    assert found.samples_per_unit == 3  # a group of three; groups of four are two runs of two
    units = [unit for _, unit, *_ in found.listing(Ledger())]
    assert sorted(len(found.samples(unit)) for unit in units) == [1, *[2] * 8, 3]
    for unit in [*units, *units]:
        for item in found.samples(unit):
            found.load("train", item)
    assert len(group_reads) == 20


def test_parquet_that_is_not_whole(tmp_path, roots):
    shutil.copytree(roots["parquet"], tmp_path, dirs_exist_ok=True)
    second = tmp_path / "data" / "train-00001-of-00002.parquet"
    found, whole = source(tmp_path), second.read_bytes()
    second.write_bytes(whole[:-9] + bytes([255]) + whole[-8:])
    with pytest.raises(SourceError, match=r"^.* is no complete parquet .*: download it again$"):  # in one line
        source(tmp_path)
    second.write_bytes(whole[:400])
    with pytest.raises(SourceError, match=r"train-00001-of-00002.parquet is no complete parquet .*: download it again"):
        source(tmp_path)
    with pytest.raises(SourceError, match=r"row group 0 cannot be read .*: download the file again"):
        found.load("train", "data/train-00001-of-00002.parquet#0@0+2:1")
    second.unlink()
    with pytest.raises(SourceError, match="is one of 2, got 1: download the rest"):
        source(tmp_path)
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), second)
    with pytest.raises(SourceError, match=r"must have the columns image \(bytes, path\) and label"):
        source(tmp_path)
    table = pa.table({"image": [{"bytes": b"x", "path": "x"}], "label": [1]})
    features = b'{"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}'
    pq.write_table(table.replace_schema_metadata({"huggingface": features}), second)
    with pytest.raises(SourceError, match="must hold 1000 classes, its labels name 2"):
        source(tmp_path)


def test_rows_without_image_or_label(tmp_path):
    images = [{"bytes": None, "path": "elsewhere.jpg"}, {"bytes": jpeg(), "path": None}]
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": images, "label": [1, -1]}), path)
    found = source(tmp_path)
    with pytest.raises(UnreadableImage, match="row without image bytes"):
        found.load("train", items(found)[0])
    with pytest.raises(SourceError, match="label must be 0 to 999, got -1"):
        found.load("train", items(found)[1])


def test_a_path_that_contradicts_its_label_or_is_no_text(tmp_path):
    names = [
        "n01440764_7_n01440764.JPEG", "ILSVRC2012_val_00000001_n01440764.JPEG", "own name.jpg", None,
        "n01443537_7_n01440764.JPEG", "n01440764_n01443537.JPEG", "x/n01443537_7.JPEG", "n0\0.JPEG",
    ]  # fmt: skip
    for kind in (pa.string(), pa.large_string()):
        fields = pa.struct([("bytes", pa.binary()), ("path", kind)])
        images = pa.array([{"bytes": picture(1), "path": name} for name in names], fields)
        path = tmp_path / "train-00000-of-00001.parquet"
        pq.write_table(pa.table({"image": images, "label": [0] * 8}), path, compression="none", use_dictionary=False)
        path.write_bytes(path.read_bytes().replace(b"n0\0.JPEG", b"n0\xff.JPEG"))
        found = source(tmp_path, rows_per_unit=8)
        listed = items(found)
        assert [found.load("train", item).cls for item in listed[:4]] == [0] * 4
        for item in listed[4:7]:
            with pytest.raises(UnreadableImage, match=r"^label 0 is wnid n01440764, its name says n01443537$"):
                found.load("train", item)
        with pytest.raises(UnreadableImage, match="path is not valid UTF-8"):
            found.load("train", listed[7])


def test_images_without_path_and_damaged_notes_of_the_hub(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    table = pa.table({"image": [{"bytes": picture(1)}, None], "label": [3, 3]})
    pq.write_table(table, path)
    found = source(tmp_path)
    assert found.load("train", items(found)[0]).cls == 3
    with pytest.raises(UnreadableImage, match="row without image bytes"):
        found.load("train", items(found)[1])
    for damaged in (b'{"info', b"[]", b"\xff"):
        pq.write_table(table.replace_schema_metadata({"huggingface": damaged}), path)
        with pytest.raises(SourceError, match="is no complete parquet"):
            source(tmp_path)


def test_listing_is_a_stream(roots):
    for root in roots.values():
        listing = source(root).listing(Ledger())
        assert iter(listing) is listing and next(listing)[0] == "train"
        listing.close()


def test_short_side(tmp_path):
    folders(tmp_path)
    photo = ImageNet(tmp_path, "val", 12, 1).load("val", "val/n01440764/ILSVRC2012_val_00000001.JPEG=0")
    assert photo.rgb.shape == (12, 16, 3)
    assert (photo.facts["original_width"], photo.facts["original_height"]) == (32, 24)


def test_odd_images_of_the_train_split(roots):
    found = source(roots["official"])
    of_key = {found.key("train", item): found.load("train", item) for item in items(found)}
    cmyk, png, grey = (of_key[f"n02100735_{number}"] for number in (7, 17, 27))
    for photo in (cmyk, png, grey):
        assert photo.rgb.shape == (24, 32, 3)
        assert photo.rgb_bytes[:3] == b"\xff\xd8\xff"
        assert (np.asarray(Image.open(io.BytesIO(photo.rgb_bytes)).convert("RGB")) == photo.rgb).all()
    assert grey.rgb_bytes == TRAIN["n02100735"]["n02100735_27.JPEG"]
    original = np.asarray(Image.open(io.BytesIO(TRAIN["n02100735"]["n02100735_17.JPEG"])), float)
    assert abs(original - png.rgb).mean() < 30
    assert Image.open(io.BytesIO(TRAIN["n02100735"]["n02100735_7.JPEG"])).mode == "CMYK"


SAMPLE = ROOT.parent / "shared" / "data" / "imagenet-sample"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the 200 photographs of ImageNet are not here")
def test_real_photographs_keep_their_names_and_bytes(tmp_path):
    (tmp_path / "train").symlink_to(SAMPLE)
    found = source(tmp_path)
    assert len(found.class_names) == 200 and set(found.class_names) < set(WNIDS)
    for item in items(found)[::40]:
        path = tmp_path / item.rpartition("=")[0]
        assert found.load("train", item).rgb_bytes == path.read_bytes()
        assert found.class_names[found.load("train", item).cls] == path.parent.name


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", BUILDERS)
def test_train_then_val_into_one_data_set(roots, layout, random_teacher, tmp_path):
    line = (
        "precompute-depth",
        "imagenet",
        roots[layout],
        tmp_path / "out",
        "--teacher",
        random_teacher,
        "--short-side",
        0,
    )
    for split in ("train", "val"):
        done = command(*line, "--split", split, "--samples-per-shard", 30, "--max-rejects", 1)
        assert done.returncode == 0, done.stderr
        assert "source: imagenet," in done.stdout and "n01440764" in done.stdout
        published = {"train": "1,281,167", "val": "50,000"}[split]
        assert f"note: {split} lists {len(everything(split))} images, published are {published}" in done.stdout
    train, val = (shards.open_split(tmp_path / "out", split) for split in ("train", "val"))
    assert train.index.class_names == val.index.class_names
    for split, opened in (("train", train), ("val", val)):
        assert len(opened) + opened.index.num_rejects == opened.index.num_listed == len(everything(split))
        found = sorted(opened.index.class_names[opened.read(k, ("cls",))["cls"]] for k in range(len(opened)))
        assert found == sorted(wnid for _, wnid, _ in everything(split))
    assert train.index.depth["pseudo"].standardisation == val.index.depth["pseudo"].standardisation
    assert "train images" in val.index.depth["pseudo"].constants_from
    assert command("precompute-depth", "verify", tmp_path / "out").returncode == 0


def test_a_container_that_changed_is_noticed(tmp_path, random_teacher):
    parquet(tmp_path / "src")
    line = ("precompute-depth", "imagenet", tmp_path / "src", tmp_path / "out", "--teacher", random_teacher)
    assert command(*line, "--split", "train", "--max-rejects", 1).returncode == 0
    (tmp_path / "src" / "data" / "validation-00000-of-00001.parquet").touch()
    assert command(*line, "--split", "train", "--max-rejects", 1).returncode == 0
    file = next((tmp_path / "src" / "data").glob("train-*.parquet"))
    write_parquet(file, everything("train")[:3])
    fails_in_one_line(
        command(*line, "--split", "train", "--max-rejects", 1), "begun with another configuration", "source"
    )


def test_classes_must_agree_between_splits(tmp_path, random_teacher):
    folders(tmp_path / "src")
    line = ("precompute-depth", "imagenet", tmp_path / "src", tmp_path / "out", "--teacher", random_teacher)
    assert command(*line, "--split", "train", "--max-rejects", 1).returncode == 0
    shutil.rmtree(tmp_path / "src" / "train")
    fails_in_one_line(command(*line, "--split", "val"), "labels_sha256")


def test_bad_words_on_the_command_line(roots, tmp_path, random_teacher):
    line = ("precompute-depth", "imagenet", roots["folders"], tmp_path / "out", "--teacher", random_teacher)
    for option, value in (("--split", "test"), ("--layout", "zip"), ("--dtype", "fp8"), ("--teacher-aspect", "crop")):
        refused = command(*line, "--split", "train", option, value)
        assert refused.returncode == 2 and value in refused.stderr and "Traceback" not in refused.stderr
    fails_in_one_line(
        command("precompute-depth", "imagenet", tmp_path / "none", tmp_path / "out", "--split", "train"),
        "does not exist",
    )
    assert not (tmp_path / "out").exists()
