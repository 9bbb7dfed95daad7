import os

import pytest
from running import jpeg

from pipeline.images import UnreadableImage
from pipeline.sources import SourceError
from pipeline.sources.folder import Folder


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg((32, 24)))
    return root


def test_classes_are_sorted_folders(tmp_path):
    source = Folder(fill(tmp_path, "b/1.jpg", "a/2.JPEG", "b/deep/3.png"), 384, 0)
    assert source.class_names == ["a", "b"]
    assert source.splits == ["train"]
    assert [source.load("train", item).cls for item in source.listing("train")] == [0, 1, 1]


def test_train_beside_val_is_taken_as_it_is_split(tmp_path):
    source = Folder(fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/b/3.jpg"), 384, 0.5)
    assert source.class_names == ["a", "b"]
    assert source.listing("val") == ["val/b/3.jpg"]
    assert source.load("val", "val/b/3.jpg").cls == 1


def test_a_flat_folder_has_no_classes(tmp_path):
    source = Folder(fill(tmp_path, "1.jpg", "2.jpg"), 384, 0)
    assert list(source.class_names) == []
    assert source.load("train", "1.jpg").cls is None


def test_a_share_goes_to_val_whatever_else_is_there(tmp_path):
    names = [f"a/{number}.jpg" for number in range(300)]
    source = Folder(fill(tmp_path, *names), 384, 0.2)
    val = set(source.listing("val"))
    assert 35 < len(val) < 85
    more = Folder(fill(tmp_path, "a/new.jpg"), 384, 0.2)
    assert val <= set(more.listing("val"))
    assert not set(more.listing("train")) & val


def test_keys_are_valid_and_unique(tmp_path):
    names = ["a/x.y.jpg", "a/x_y.jpg", "b/x.y.jpg", "a/ünïcode ☃.jpg", f"a/{'long' * 50}.jpg"]
    source = Folder(fill(tmp_path, *names), 384, 0)
    keys = [source.key("train", item) for item in source.listing("train")]
    assert len(set(keys)) == 5
    assert all(len(key) <= 80 and "." not in key and "/" not in key and key.isascii() for key in keys)


def test_a_name_that_is_not_unicode_is_fine(tmp_path):
    fill(tmp_path, "a/1.jpg")
    with open(os.fsencode(tmp_path) + b"/a/\xff\xfe.jpg", "wb") as file:
        file.write(jpeg())
    source = Folder(tmp_path, 384, 0)
    assert len({source.key("train", item) for item in source.listing("train")}) == 2
    assert source.config()["listing_sha256"]


def test_links_that_loop_are_walked_once(tmp_path):
    fill(tmp_path / "photos", "c/1.jpg", "c/2.jpg")
    (tmp_path / "photos" / "c" / "again").symlink_to(tmp_path / "photos" / "c")
    (tmp_path / "photos" / "d").symlink_to(tmp_path / "photos" / "c")
    source = Folder(tmp_path / "photos", 384, 0)
    assert source.listing("train") == ["c/1.jpg", "c/2.jpg"]


def test_dead_links_and_pipes_become_rejects(tmp_path):
    fill(tmp_path, "c/1.jpg")
    (tmp_path / "c" / "dead.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "c" / "pipe.jpg")
    source = Folder(tmp_path, 384, 0)
    assert source.config()["listing_sha256"]
    for item, reason in (("c/dead.jpg", "cannot be read"), ("c/pipe.jpg", "not a regular file")):
        with pytest.raises(UnreadableImage, match=reason):
            source.load("train", item)


def test_a_class_folder_that_is_not_unicode_is_refused(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with open(os.fsencode(tmp_path) + b"/\xff/1.jpg", "wb") as file:
        file.write(jpeg())
    with pytest.raises(SourceError, match="not valid UTF-8"):
        Folder(tmp_path, 384, 0)


@pytest.mark.parametrize(
    ("names", "val_fraction", "message"),
    [((), 0.1, "holds no image"), (("a/1.jpg", "2.jpg"), 0.1, "mixes images"), (("a/1.jpg",), 1.5, "--val-fraction")],
)
def test_refusals_name_the_folder_and_the_fix(tmp_path, names, val_fraction, message):
    with pytest.raises(SourceError, match=message):
        Folder(fill(tmp_path, *names), 384, val_fraction)


def test_changed_content_changes_the_config(tmp_path):
    before = Folder(fill(tmp_path, "a/1.jpg"), 384, 0).config()
    (tmp_path / "a" / "1.jpg").write_bytes(jpeg((32, 25)))
    assert Folder(tmp_path, 384, 0).config() != before
