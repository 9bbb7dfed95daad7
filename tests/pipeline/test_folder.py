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


def listed(source, split):
    """Sorted units of a split, each its only item."""
    units = sorted(unit for found, unit, _ in source.listing() if found == split)
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
        (("train", "validation"), "validation"),
        (("test", "validation"), "test, validation"),
        (("test", "val"), "test"),
    ],
)
def test_splits_that_are_not_just_train_and_val_are_no_classes(tmp_path, folders, named):
    fill(tmp_path, *(f"{name}/a/1.jpg" for name in folders))
    with pytest.raises(SourceError, match=f"got {named} beside them: rename validation to val, move others away$"):
        Folder(tmp_path, 384, 0.1)


def test_one_folder_named_like_a_split_is_a_class(tmp_path):
    (tmp_path / "test").mkdir()  # holds no image
    assert Folder(fill(tmp_path, "train/1.jpg"), 384, 0).class_names == ["train"]
    assert Folder(fill(tmp_path, "cat/1.jpg"), 384, 0).class_names == ["cat", "train"]


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
    assert {size for _, _, size in source.listing()} == {len(jpeg((32, 24))), len(jpeg())}


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
    before = list(source.listing())
    (tmp_path / "a" / "1.jpg").write_bytes(jpeg((32, 25)))
    assert list(source.listing()) != before
    assert not source.listing_in_config


def test_empty_folders_are_no_classes(tmp_path):
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    source = Folder(fill(tmp_path, "full/deep/1.jpg", "full/notes.txt"), 384, 0.1)
    assert source.class_names == ["full"]


def test_a_class_that_appears_while_listing_ends_the_job(tmp_path):
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0.1)
    fill(tmp_path, "b/1.jpg")
    with pytest.raises(SourceError, match=r"changed while it was listed \(b/1.jpg\)"):
        list(source.listing())
    presplit = Folder(fill(tmp_path / "split", "train/1.jpg", "val/1.jpg"), 384, 0.1)
    fill(tmp_path / "split", "2.jpg")
    with pytest.raises(SourceError, match=r"changed while it was listed \(2.jpg\)"):
        list(presplit.listing())


def test_a_folder_that_cannot_be_listed_ends_the_job(tmp_path, monkeypatch):
    source = Folder(fill(tmp_path, "a/1.jpg"), 384, 0.1)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(SourceError, match=r"cannot be listed \(Permission denied\): make it readable"):
        list(source.listing())


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
        assert sum(1 for _ in source.listing()) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
