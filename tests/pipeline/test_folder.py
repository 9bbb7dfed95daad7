import os
import re
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from running import jpeg

from pipeline.images import UnreadableImage
from pipeline.sources import SourceError, printable
from pipeline.sources.folder import Folder, hashed_key
from pipeline.sources.ledger import Ledger, told


def listed(source, split):
    """Sorted units of a split, each its only item."""
    units = sorted(unit for found, unit, *_ in source.listing(Ledger()) if found == split)
    assert all(source.samples(unit) == [unit] for unit in units)
    return units


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg((32, 24)))
    return root


def test_classes_are_sorted_folders(tmp_path):
    source = Folder(fill(tmp_path, "b/1.jpg", "a/2.JPEG", "b/deep/3.png"), 384, 0)
    assert source.class_names == ["a", "b"]
    assert source.splits == ["train"]
    assert [source.load("train", item).cls for item in listed(source, "train")] == [0, 1, 1]


def test_train_beside_val_is_taken_as_it_is_split(tmp_path):
    source = Folder(fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/b/3.jpg"), 384, 0.5)
    assert source.class_names == ["a", "b"]
    assert listed(source, "val") == ["val/b/3.jpg"]
    assert source.load("val", "val/b/3.jpg").cls == 1


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("train", "val", "test"), "test"),
        (("train", "val", "cat", "dog"), "cat, dog"),
        (("train", "cat"), "cat"),
        (("test", "validation"), "test"),
        (("Train", "train_set"), "Train, train_set"),
    ],
)
def test_splits_that_are_not_just_train_and_val_are_no_classes(tmp_path, folders, named):
    fill(tmp_path, *(f"{name}/a/1.jpg" for name in folders))
    with pytest.raises(SourceError, match=f"got {named} beside them: move or rename these$"):
        Folder(tmp_path, 384, 0.1)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train", "Val"), ("TRAIN", "VAL"), ("training", "validation"), ("train", "valid"), ("train", "dev"),
        ("train2017", "val2017"), ("Training", "Testing"), ("train", "test"),
    ],
)  # fmt: skip
def test_splits_in_any_spelling(tmp_path, train, val):
    (tmp_path / "test").mkdir()  # holds no image
    names = [f"{folder}/{name}/{number}.jpg" for folder in (train, val) for name in "ab" for number in range(2)]
    source = Folder(fill(tmp_path, *names), 384, 0.5)
    assert (source.class_names, source.splits) == (["a", "b"], ["train", "val"])
    assert listed(source, "val") == sorted(name for name in names if name.startswith(val))
    assert source.load("val", f"{val}/b/1.jpg").cls == 1
    assert source.notes == ([f"{val}/ is taken as val: there is no other"] if "est" in val else ())


def test_a_split_alone_is_no_class(tmp_path):
    with pytest.raises(SourceError, match=r"holds train/ alone, which is a split and no class: give \S+/train to set"):
        Folder(fill(tmp_path, "train/1.jpg"), 384, 0)


def test_trains_are_a_class_beside_others(tmp_path):
    source = Folder(fill(tmp_path, "train/1.jpg", "cat/1.jpg"), 384, 0)
    assert source.class_names == ["cat", "train"]
    assert source.notes == ["train/ is taken as a class, like the folders beside it"]


def test_hidden_names_are_left_out(tmp_path):
    hidden = (".thumbnails/1.jpg", ".git/a/2.jpg", "a/.cache/3.jpg", "a/._1.jpg", "._1.jpg", "train/.x/1.jpg")
    source = Folder(fill(tmp_path, "a/1.jpg", "b/1.jpg", *hidden), 384, 0)
    assert source.class_names == ["a", "b"]
    assert listed(source, "train") == ["a/1.jpg", "b/1.jpg"]
    assert source.expected == {}


def test_a_flat_folder_has_no_classes(tmp_path):
    source = Folder(fill(tmp_path, "1.jpg", "2.jpg"), 384, 0)
    assert list(source.class_names) == []
    assert source.load("train", "1.jpg").cls is None


def test_a_share_goes_to_val_whatever_else_is_there(tmp_path):
    names = [f"a/{number}.jpg" for number in range(300)]
    source = Folder(fill(tmp_path, *names), 384, 0.2)
    val = set(listed(source, "val"))
    assert 35 < len(val) < 85
    more = Folder(fill(tmp_path, "a/new.jpg"), 384, 0.2)
    assert val <= set(listed(more, "val"))
    assert not set(listed(more, "train")) & val


def test_keys_are_valid_and_unique(tmp_path):
    names = ["a/x.y.jpg", "a/x_y.jpg", "b/x.y.jpg", "a/ünïcode ☃.jpg", f"a/{'long' * 50}.jpg"]
    source = Folder(fill(tmp_path, *names), 384, 0)
    keys = [source.key("train", item) for item in listed(source, "train")]
    assert len(set(keys)) == 5
    assert all(len(key) <= 80 and "." not in key and "/" not in key and key.isascii() for key in keys)
    assert re.fullmatch(r"x-[0-9a-f]{16}", hashed_key("x", "a/x.jpg"))  # 64 bits: a billion files do not collide


def test_a_name_that_is_not_unicode_is_fine(tmp_path):
    fill(tmp_path, "a/1.jpg")
    with open(os.fsencode(tmp_path) + b"/a/\xff\xfe.jpg", "wb") as file:
        file.write(jpeg())
    source = Folder(tmp_path, 384, 0)
    assert len({source.key("train", item) for item in listed(source, "train")}) == 2
    assert {listed.num_bytes for listed in source.listing(Ledger())} == {len(jpeg((32, 24))), len(jpeg())}


def test_links_that_loop_are_walked_once(tmp_path):
    fill(tmp_path / "photos", "c/1.jpg", "c/2.jpg")
    (tmp_path / "photos" / "c" / "again").symlink_to(tmp_path / "photos" / "c")
    for name in ("c-1", "d"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "photos" / "c")
    source = Folder(tmp_path / "photos", 384, 0)
    assert source.class_names == ["c"]
    assert listed(source, "train") == ["c/1.jpg", "c/2.jpg"]


def test_dead_links_and_pipes_become_rejects(tmp_path):
    fill(tmp_path, "c/1.jpg")
    (tmp_path / "c" / "dead.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "c" / "pipe.jpg")
    source = Folder(tmp_path, 384, 0)
    for item, reason in (("c/dead.jpg", "cannot be read"), ("c/pipe.jpg", "no regular file")):
        with pytest.raises(UnreadableImage, match=reason):
            source.load("train", item)


@pytest.mark.parametrize(("name", "shown"), [(b"\xff", r"\xff"), (b"a\nb", r"a\nb")])
def test_a_class_folder_that_does_not_print_is_refused(tmp_path, name, shown):
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    with open(os.fsencode(tmp_path) + b"/" + name + b"/1.jpg", "wb") as file:
        file.write(jpeg())
    with pytest.raises(SourceError, match=f"class folder {re.escape(shown)} of .* not valid UTF-8 or holds control"):
        Folder(tmp_path, 384, 0)


def test_names_print_on_one_line_and_stay_readable():
    assert printable("ünïcode ☃ 日本 👩\u200d🚀.jpg") == "ünïcode ☃ 日本 👩\u200d🚀.jpg"
    assert printable("a\nb\r\x1b[2J\x85\u2028\u202e\x7f.jpg") == r"a\nb\r\x1b[2J\x85\u2028\u202e\x7f.jpg"
    assert printable(os.fsdecode(b"\xff\n")) == r"\xff\n"


@pytest.mark.parametrize(
    ("names", "val_fraction", "message"),
    [((), 0.1, "holds no image"), (("a/1.jpg", "2.jpg"), 0.1, "mixes images"), (("a/1.jpg",), 1.5, "--val-fraction")],
)
def test_refusals_name_the_folder_and_the_fix(tmp_path, names, val_fraction, message):
    with pytest.raises(SourceError, match=message):
        Folder(fill(tmp_path, *names), 384, val_fraction)


def test_changed_content_changes_the_listing(tmp_path):
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0)
    before = list(source.listing(Ledger()))
    (tmp_path / "a" / "1.jpg").write_bytes(jpeg((32, 25)))
    assert list(source.listing(Ledger())) != before
    assert not source.listing_in_config


def test_empty_folders_are_no_classes(tmp_path):
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    source = Folder(fill(tmp_path, "full/deep/1.jpg", "full/notes.txt"), 384, 0.1)
    assert source.class_names == ["full"]


def test_a_class_that_appears_while_listing_ends_the_job(tmp_path):
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0.1)
    fill(tmp_path, "b/1.jpg")
    with pytest.raises(SourceError, match=r"changed while it was listed \(b/1.jpg\)"):
        list(source.listing(Ledger()))
    presplit = Folder(fill(tmp_path / "split", "train/1.jpg", "val/1.jpg"), 384, 0.1)
    fill(tmp_path / "split", "2.jpg")
    with pytest.raises(SourceError, match=r"changed while it was listed \(2.jpg\)"):
        list(presplit.listing(Ledger()))


def test_a_folder_that_cannot_be_listed_ends_the_job(tmp_path, monkeypatch):
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0.1)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(SourceError, match=r"cannot be listed \(Permission denied\): make it readable"):
        list(source.listing(Ledger()))


def test_a_vanished_image_ends_the_job(tmp_path):
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0.1)
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(SourceError, match="is gone"):
        source.load("train", "a/1.jpg")


def test_listing_takes_no_memory_per_image(monkeypatch, tmp_path):
    """A million names would take 100 MB as a list; a fake folder serves a hundred thousand."""
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0.1)
    entry = SimpleNamespace(is_dir=lambda: False, stat=lambda: SimpleNamespace(st_size=7))

    @contextmanager
    def crowded(path):
        yield (SimpleNamespace(**vars(entry), name=f"{number:08d}.jpg") for number in range(100_000))

    source.class_names = []
    monkeypatch.setattr(os, "scandir", crowded)
    tracemalloc.start()
    try:
        assert sum(1 for _ in source.listing(Ledger())) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- what is no class, and what is left out -------------------------------------------------------------------------


def account(source):
    """(units, reason -> (count, names)); every member seen is in one of them."""
    ledger = Ledger()
    units = []
    for item in source.listing(ledger):
        ledger.add(item)
        units.append(item.unit)
    ledger.settle()
    return sorted(units), {entry.reason: (entry.count, entry.names) for entry in ledger.left_out()}


def test_every_file_is_listed_or_left_out_for_a_reason(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/2.JFIF", "a/3.jpe", "a/4.avif", "a/5.j2k", "a/6.pnm", "a/7.pbm", "b/#1.jpg", "b/1.jp2")
    caches = ("a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/1.jpg", "b/Thumbs/1.jpg", "x Previews.lrdata/1.jpg")
    fill(tmp_path, *caches, "#recycle/1.jpg", "lost+found/1.jpg", "a/.picasaoriginals/1.jpg")
    (tmp_path / "lost+found").chmod(0)  # nobody looks into it
    for name in ("a/notes.txt", "a/film.mp4", "README", "a/raw.CR2", "b/._1.jpg", "b/Thumbs.db", "a/1.jpg~"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "b")
    source = Folder(tmp_path, 384, 0)
    units, left_out = account(source)
    assert source.class_names == ["a", "b"]
    names = ("1.jpg", "2.JFIF", "3.jpe", "4.avif", "5.j2k", "6.pnm", "7.pbm")
    assert units == [*(f"a/{name}" for name in names), "b/#1.jpg", "b/1.jp2"]
    assert left_out["thumbnails, cache or trash"] == (
        6, ["#recycle/", "__MACOSX/", "a/@eaDir/", "b/Thumbs/", "lost+found/", "x Previews.lrdata/"],
    )  # fmt: skip
    assert left_out["no image ending"] == (3, ["README", "a/film.mp4", "a/notes.txt"])
    assert left_out["a raw photograph: develop it to .tif or .jpg"] == (1, ["a/raw.CR2"])
    assert left_out["hidden, or a system's file"][0] == 4
    assert left_out["a folder that another name leads to as well"] == (1, ["a/again/"])


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "#recycle", ".thumbnails", ".cache", "$RECYCLE.BIN", "__MACOSX", "x.lrdata", ".picasaoriginals"],
)
def test_what_systems_keep_is_no_class(tmp_path, folder):
    source = Folder(fill(tmp_path, "a/1.jpg", "b/1.jpg", f"{folder}/1.jpg"), 384, 0)
    assert source.class_names == ["a", "b"]
    assert account(source)[1].popitem()[1] == (1, [f"{folder}/"])
    ledger = Ledger()
    assert len(list(source.listing(ledger))) == 2
    assert told(ledger.left_out())[0].startswith("left out 1 folder: ")


@pytest.mark.parametrize(
    "name",
    [
        "trash",
        "Thumbnails",
        "_thumbs",
        "thumb",
        "cache",
        "recycler",
        "@home",
        "e.tmp",
        "f.bak",
        "g.orig",
        "h~",
        "i.cache",
    ],
)
def test_a_class_is_never_lost_by_its_name_alone(tmp_path, name):
    for start, others in (("", ("glass", "metal")), ("train/", ("glass",)), ("", ())):
        root = tmp_path / f"{len(others)}"
        fill(root, *(f"{start}{other}/1.jpg" for other in others), f"{start}{name}/1.jpg")
        if start:
            fill(root, "val/glass/1.jpg")
        with pytest.raises(SourceError, match=rf"holds {re.escape(name)}/, with images.* rename it \(class_\w+/\) to"):
            Folder(root, 384, 0)
    inside = fill(tmp_path / "inside", "a/1.jpg", f"a/{name}/1.jpg", "b/1.jpg")
    (inside / name).mkdir()  # holds nothing
    assert account(Folder(inside, 384, 0))[1] == {"thumbnails, cache or trash": (2, sorted([f"a/{name}/", f"{name}/"]))}
    flat = fill(tmp_path / "flat", "1.jpg", f"{name}/1.jpg")
    assert account(Folder(flat, 384, 0))[0] == ["1.jpg"]


def test_a_ledger_keeps_the_first_names_and_counts_endings_whatever_the_order(tmp_path):
    found = []
    for step in (1, -1):
        ledger = Ledger()
        for number in range(500)[::step]:
            ledger.seen += 1
            ledger.leave_out("no image ending", f"{number:03d}.{'txt' if number % 2 else number}")
        ledger.settle()
        found.append(ledger.left_out())
    (entry,) = found[0]
    assert found[0] == found[1]
    assert (entry.count, entry.endings) == (500, {".txt": 250, "others": 250})
    assert entry.names == sorted(entry.names) and len(entry.names) == 100 and entry.names[1] == "001.txt"
    assert told(found[0]) == [
        "left out 500: no image ending (.txt 250, others 250): 000.0, 001.txt, 002.2, ..."
    ]  # fmt: skip
    ledger.seen += 1
    with pytest.raises(AssertionError, match="501 members seen, 0 in samples, 500 left out"):
        ledger.settle()


@pytest.mark.parametrize(
    ("folders", "shown", "fix"),
    [
        (("RGB", "Depth", "Label"), "Depth, Label, RGB", "RGB"),
        (("images", "masks"), "images, masks", "images"),
        (("color", "depth_raw", "normals"), "color, depth_raw, normals", "color"),
        (("image", "disparity"), "disparity, image", "image"),
        (("rgb", "SegmentationClass"), "SegmentationClass, rgb", "rgb"),
        (("a/rgb", "a/depth", "b/rgb", "b/depth"), "depth, rgb", "a/rgb"),
        (("train/rgb", "train/depth", "val/rgb", "val/depth"), "depth, rgb", "train/rgb"),
        (("a/train/good", "a/test/bad", "a/ground_truth/bad"), "ground_truth, test, train", "the photographs"),
        (("left", "disparity"), "disparity, left", "left"),
        (("image_2", "image_3", "velodyne"), "image_2, image_3, velodyne", "image_2"),
        (("imagesTr", "labelsTr"), "imagesTr, labelsTr", "imagesTr"),
        (("color", "grayscale", "segmented"), "color, grayscale, segmented", "color"),
        (("image", "depth_bfx"), "depth_bfx, image", "image"),
        (("lowres_wide", "lowres_depth", "confidence"), "confidence, lowres_depth, lowres_wide", "lowres_wide"),
        (("final_preview", "geometry_preview"), "final_preview, geometry_preview", "final_preview"),
        (("a/face_mask", "a/photo"), "face_mask, photo", "a/photo"),
    ],
)
def test_modalities_are_no_classes(tmp_path, folders, shown, fix):
    fill(tmp_path, *(f"{folder}/1.png" for folder in folders))
    with pytest.raises(
        SourceError, match=f"RGB-D data set, with {shown} beside .* alone .*{fix} instead of it, or ren"
    ):
        account(Folder(tmp_path, 384, 0.1))


def test_a_modality_alone_is_no_class_and_a_word_among_classes_is_one(tmp_path):
    for name in ("RGB", "images"):
        with pytest.raises(SourceError, match=f"holds {name}/, which is a modality .*/{name} instead of it$"):
            Folder(fill(tmp_path / name, f"{name}/1.jpg"), 384, 0)
    with pytest.raises(SourceError, match=r"holds images/, which is .* give \S+/train/images instead"):
        Folder(fill(tmp_path / "yolo", "train/images/1.jpg", "val/images/1.jpg"), 384, 0)
    many = fill(tmp_path / "many", "mask/1.jpg", "cat/1.jpg", "dog/1.jpg", "label/1.jpg", "owl/1.jpg", "ant/1.jpg")
    assert Folder(many, 384, 0).class_names == ["ant", "cat", "dog", "label", "mask", "owl"]
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances.json").write_bytes(b"{}")
    coco = Folder(fill(tmp_path / "coco", "train2017/1.jpg", "val2017/1.jpg"), 384, 0)
    assert (list(coco.class_names), account(coco)[1]) == (
        [], {"no image ending": (1, ["annotations/instances.json"])},
    )  # fmt: skip


def test_maps_and_masks_among_photographs_are_refused(tmp_path):
    for name, own in (("_mask.png", ".jpg"), (".depth.png", ".color.png"), ("-labelIds.tif", ".png")):
        root = fill(tmp_path / own, *(f"a/{n}{ending}" for n in range(3) for ending in (name, own)), "b/1.jpg")
        with pytest.raises(
            SourceError, match=f"looks like an RGB-D data set, with 0{re.escape(name)} among photographs"
        ):
            account(Folder(root, 384, 0))
    masked = fill(
        tmp_path / "faces", *(f"{c}/{n}_{c}.png" for c in ("mask", "plain") for n in range(5)), "plain/_mask.png"
    )
    assert len(account(Folder(masked, 384, 0))[0]) == 11


@pytest.mark.parametrize(
    ("folders", "shown"),
    [
        (("train_images", "test_images"), "test_images, train_images"),
        (("seg_train/seg_train/a", "seg_test/seg_test/a", "seg_pred"), "seg_test, seg_train"),
        (("asl_alphabet_train/A", "asl_alphabet_test"), "asl_alphabet_test, asl_alphabet_train"),
        (("trainA", "trainB", "testA", "testB"), "testA, trainA"),
        (("imagesTr", "imagesTs", "x"), "imagesTr, imagesTs"),
        (("x/myTrainSet/a", "x/myValSet/a"), "myTrainSet, myValSet"),
    ],
)
def test_a_split_by_a_word_is_no_class(tmp_path, folders, shown):
    fill(tmp_path, *(f"{folder}/1.jpg" for folder in folders))
    with pytest.raises(SourceError, match=rf"holds {shown}, which are splits and no classes: rename them"):
        account(Folder(tmp_path, 384, 0))


def test_a_split_within_a_split_is_named(tmp_path):
    kinds = ("training_set/training_set", "test_set/test_set")
    fill(tmp_path / "cats", *(f"{split}/{c}/1.jpg" for split in kinds for c in ("cats", "dogs")))
    fill(tmp_path / "asl", "asl_alphabet_train/A/1.jpg", "asl_alphabet_train/B/1.jpg")
    for name, inner in (("cats", "training_set/training_set"), ("asl", "asl_alphabet_train")):
        with pytest.raises(SourceError, match=rf"alone, which is a split and no class: give \S+/{inner}(, or|$)"):
            Folder(tmp_path / name, 384, 0)


@pytest.mark.parametrize(
    "classes",
    [
        ("with_mask", "without_mask"), ("bullet_train", "freight_train", "test_tube"),
        ("low_confidence", "high_confidence"),
        ("left", "right", "straight"), ("face_mask", "ski_mask", "oxygen_mask"),
        ("passenger_train",), ("normal", "covid"),
        ("train_station", "test_track", "mask", "label", "depth_charge", "cat", "dog"),
    ],
)  # fmt: skip
def test_words_of_ordinary_classes_stay(tmp_path, classes):
    source = Folder(fill(tmp_path, *(f"{name}/{n}.jpg" for name in classes for n in range(2))), 384, 0)
    assert source.class_names == sorted(classes) and len(account(source)[0]) == 2 * len(classes)


@pytest.mark.parametrize(
    "names",
    [
        ("r-1-2.jpg", "d-1-2.pgm"), ("rgb_0.jpg", "depth_0.png"), ("x_crop.png", "x_depthcrop.png", "x_maskcrop.png"),
        ("f.0.color.jpg", "f.0.depth_meters.png"), ("f.0.depth_meters.png", "f.1.depth_meters.png"), ("depth_0.png",),
        ("d-1.pgm", "d-2.pgm"), ("1.jpg", "mask_1.png"),
    ],
)  # fmt: skip
def test_maps_by_the_names_of_files(tmp_path, names):
    fill(tmp_path, *(f"a/{name}" for name in names), "b/1.jpg")
    with pytest.raises(SourceError, match=r"a/? (looks like an RGB-D data set|holds maps alone, such as)"):
        account(Folder(tmp_path, 384, 0))


def test_normal_is_a_finding_as_well(tmp_path):
    names = [f"{c}/{c}-{n}.png" for c in ("COVID", "Normal") for n in range(3)]
    assert account(Folder(fill(tmp_path, *names, "très/train_猫.jpg", "test_狗/1.jpg", "train_猫/1.jpg"), 384, 0))


def test_splits_below_a_class_are_no_folders_of_it(tmp_path):
    source = Folder(fill(tmp_path, "data/train/a/1.jpg", "data/test/a/1.jpg"), 384, 0)
    with pytest.raises(SourceError, match=r"holds the splits test, train inside what was taken for a class"):
        account(source)


def test_a_class_without_readable_images_never_shifts_the_others(tmp_path):
    fill(tmp_path, "bee/1.jpg", "cat/1.jpg")
    for name in ("ant/1.xyz", "ant/2.xyz", "ant/README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=r"class ant of \S+ holds no readable image \(2 \.xyz\): convert them, or mo"):
        Folder(tmp_path, 384, 0)
    for name in ("1.xyz", "2.xyz"):
        (tmp_path / "ant" / name).rename(tmp_path / "ant" / f"{name[0]}.dng")
    with pytest.raises(SourceError, match=r"class ant .* \(2 \.dng\)"):
        Folder(tmp_path, 384, 0)
    for name in ("1.dng", "2.dng"):
        (tmp_path / "ant" / name).rename(tmp_path / "ant" / f"{name[0]}.txt")
    assert Folder(tmp_path, 384, 0).class_names == ["bee", "cat"]  # notes, no lost class
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "1.xyz").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"holds no image .*, got 1 \.xyz"):
        Folder(tmp_path / "none", 384, 0)


def tiny_imagenet(root, wnids=("n01443537", "n01440764", "n01484850")):
    train = [f"train/{wnid}/images/{wnid}_{n}.JPEG" for wnid in wnids for n in range(2)]
    fill(
        root, *train, *(f"val/images/val_{n}.JPEG" for n in range(4)), *(f"test/images/test_{n}.JPEG" for n in range(3))
    )
    lines = [f"val_{n}.JPEG\t{wnids[n % 3]}\t0\t0\t9\t9\n" for n in range(4)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (root / "train" / wnids[0] / f"{wnids[0]}_boxes.txt").write_text("x")
    return root


def test_tiny_imagenet_as_it_comes(tmp_path):
    source = Folder(tiny_imagenet(tmp_path), 384, 0.1)
    assert source.class_names == ["n01440764", "n01443537", "n01484850"]
    assert source.notes == ["the labels of val/images/ are those of val_annotations.txt"]
    units, left_out = account(source)
    labels = {unit: source.load("val", unit).cls for unit in units if unit.startswith("val/")}
    assert labels == {f"val/images/val_{n}.JPEG": (1, 0, 2, 1)[n] for n in range(4)}
    assert source.load("train", "train/n01484850/images/n01484850_0.JPEG").cls == 2
    assert left_out["an unlabelled test image"] == (3, [f"test/images/test_{n}.JPEG" for n in range(3)])
    assert left_out["no image ending"][0] == 3
    before = source.config()
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("val_0.JPEG\tn01443537", "val_0.JPEG\tn01440764"))
    assert Folder(tmp_path, 384, 0.1).config() != before


def test_tiny_imagenet_damaged(tmp_path):
    tiny_imagenet(tmp_path)
    annotations, whole = (
        tmp_path / "val" / "val_annotations.txt",
        (tmp_path / "val" / "val_annotations.txt").read_text(),
    )
    for damaged, message in (
        (whole.replace("n01484850", "n99"), r"line 3 must be an image, a tab and a class of train/, got 'val_2.JPEG"),
        (whole + "val_0.JPEG\tn01484850\n", r"gives 'val_0\.JPEG' two labels"),
        ("", "it is empty"),
        ("\udcff", "cannot be read as text"),
    ):
        annotations.write_bytes(damaged.encode("utf-8", "surrogateescape"))
        with pytest.raises(SourceError, match=message):
            Folder(tmp_path, 384, 0.1)
    annotations.write_text(whole.replace("val_3.JPEG", "val_9.JPEG"))
    with pytest.raises(SourceError, match=r"val/images/val_3\.JPEG has no label in val_annotations\.txt"):
        account(Folder(tmp_path, 384, 0.1))
    annotations.write_text(whole)
    (tmp_path / "wnids.txt").write_text("n01440764\n")
    with pytest.raises(SourceError, match=r"wnids\.txt must name every class of train/, n01443537 is missing"):
        Folder(tmp_path, 384, 0.1)
    annotations.unlink()
    with pytest.raises(SourceError, match="got test beside them"):
        Folder(tmp_path, 384, 0.1)


def test_classes_of_one_split_alone_are_named(tmp_path):
    names = ("train/a/1.jpg", "train/b/1.jpg", "val/b/1.jpg", "val/c/1.jpg")
    assert Folder(fill(tmp_path, *names), 384, 0).class_names == ["a", "b", "c"]
    lines = tree(tmp_path)
    assert "classes in one split alone" in lines[0]
    assert lines[-2:] == ["note: 1 class is in train alone: a", "note: 1 class is in val alone: c"]
    shared = fill(tmp_path / "shared", *(f"{c}/{n}.jpg" for c in "abcdefgh" for n in range(3)))
    val = {unit.partition("/")[0] for unit in listed(Folder(shared, 384, 0.1), "val")}
    lines = tree(shared, 0.1)
    assert 0 < len(val) < 5 and len(lines) == 2
    assert (
        lines[-1]
        == f"note: {8 - len(val)} classes are in train alone: {', '.join(sorted({*'abcdefgh'} - val)[:3])}, ..."
    )


def tree(root, val_fraction=0.0):
    ledger = Ledger()
    for item in Folder(root, 384, val_fraction).listing(ledger):
        ledger.add(item)
    return ledger.tree()


def test_an_ordinary_tree_takes_a_line_and_an_unusual_one_a_table(tmp_path):
    assert tree(fill(tmp_path / "flat", "1.jpg")) == []
    plain = fill(tmp_path / "plain", *(f"{c}/{n}.jpg" for c in "abc" for n in range(2)), "a/3.jpg")
    assert tree(plain) == ["3 classes, 2 to 3 images each"]
    assert tree(fill(tmp_path / "one", "a/1.jpg", "a/2.jpg")) == [
        "1 class, 2 images each; unusual: a single class", "  a  train 2, first 1.jpg",
    ]  # fmt: skip
    many = [f"{c:02d}/{n}.jpg" for c in range(20) for n in range(2)]
    lines = tree(
        fill(tmp_path / "many", *many, "19/deep/3.jpg", "00/images/9.jpg", *(f"07/{n}.png" for n in range(300)))
    )
    assert lines[0] == (
        "20 classes, 2 to 302 images each; unusual: classes that differ over 100 times in size, folders inside classes"
    )
    assert lines[1] == "  00  train 3, first 0.jpg"
    assert len(lines) == 14 and lines[-1] == "  ... and 8 more"
