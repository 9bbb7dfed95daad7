"""Shards at fsspec URLs: an object store played by moto, fsspec's memory, and this machine's folders."""

import os
import socket
import urllib.request

import pytest
from running import command, contents, fails_in_one_line, label

from pipeline import shards
from pipeline.shards.storage import LocalStore


@pytest.fixture
def memory():
    import fsspec

    yield fsspec.filesystem("memory")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on a free port of this machine; yields s3fs's file system."""
    import s3fs
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", b"").close()  # another test's bucket
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("bucket")
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def stored(fs, root: str) -> dict[str, bytes]:
    fs.invalidate_cache()
    names = [name for name in fs.find(root) if name.endswith((".tar", ".json")) and "/plan/" not in name]
    return {name.removeprefix(root).lstrip("/"): fs.cat_file(name) for name in names}


def test_memory_holds_the_same_bytes(memory, photos, random_teacher, labelled_once):
    done = label(photos, "memory://shards", random_teacher)
    assert done.returncode == 0, done.stderr
    assert stored(memory, "/shards") == contents(labelled_once)
    ours, local = (shards.open_split(where, "train") for where in ("memory://shards", labelled_once))
    assert [ours.key(i) for i in range(len(ours))] == [local.key(i) for i in range(len(local))]
    assert (ours[3]["rgb"] == local[3]["rgb"]).all()
    assert "all as the index says" in command("precompute-depth", "verify", "memory://shards").stdout


def test_s3_holds_the_same_bytes_from_two_ranks_one_interrupted(
    bucket, photos, random_teacher, labelled_once, tmp_path
):
    url = "s3://bucket/sets/photos"
    for rank in (1, 0):
        done = label(photos, url, random_teacher, "--rank", rank, "--world-size", 2)
        assert done.returncode == 0, done.stderr
    assert stored(bucket, "bucket/sets/photos") == contents(labelled_once)
    bucket.rm_file("bucket/sets/photos/train/shard-000001.json")  # as if killed after the tar
    bucket.rm_file("bucket/sets/photos/train/index.json")
    assert label(photos, url, random_teacher).returncode == 0
    assert stored(bucket, "bucket/sets/photos") == contents(labelled_once)
    fails_in_one_line(label(photos, url, random_teacher, "--seed", 3), "options.seed was 0, now 3")
    bucket.pipe_file("bucket/sets/photos/val/shard-000000.tar", b"spoiled")
    assert command("precompute-depth", "verify", url).returncode == 1
    done = command("precompute-depth", "verify", url, "--repair", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(bucket, "bucket/sets/photos") == contents(labelled_once)
    done = command("precompute-depth", "inspect", url, "--out", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its streams open
def test_plain_webdataset_reads_a_bucket_through_fsspec(bucket, photos, random_teacher):
    import fsspec
    import webdataset as wds

    assert label(photos, "s3://bucket/photos", random_teacher).returncode == 0
    wds.gopen_schemes["s3"] = lambda url, mode="rb", bufsize=8192, **_: fsspec.open(url, mode).open()
    split = shards.open_split("s3://bucket/photos", "train")
    urls = [f"{split.store}/{shard.name}.tar" for shard in split.index.shards]
    seen = [sample["__key__"] for sample in wds.WebDataset(urls, shardshuffle=False)]
    assert seen == [split.key(i) for i in range(len(split))]


def test_bad_urls_end_in_one_line(bucket, photos, random_teacher):
    fails_in_one_line(label(photos, "nosuch://out", random_teacher), "nosuch://out cannot be opened")
    fails_in_one_line(label(photos, "s3://no-such-bucket/out", random_teacher), "s3://no-such-bucket/out")
    fails_in_one_line(command("precompute-depth", "verify", "s3://bucket/nothing"), "no finished split")
    bucket.pipe_file("bucket/mine/thesis.pdf", b"mine")
    fails_in_one_line(label(photos, "s3://bucket/mine", random_teacher), "is not empty (thesis.pdf)")
    assert bucket.cat_file("bucket/mine/thesis.pdf") == b"mine"


def test_a_local_file_appears_whole_or_not_at_all(tmp_path):
    store = LocalStore(tmp_path / "new")
    shards.publish(store, "a", b"old")

    def fail_half_way():
        with store.writing("a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert store.read("a") == b"old"
    assert os.listdir(store.folder) == ["a"]
    assert store.read_range("a", 1, 5) == b"ld"
    store.delete("a")
    store.delete("a")
    assert store.sizes() == {}


def test_a_writer_whose_file_was_swept_away_finds_it_published(tmp_path):
    store = LocalStore(tmp_path)
    with store.writing("a") as file:
        file.write(b"same")
        shards.publish(store, "a", b"same")
        store.sweep()
    assert store.read("a") == b"same"
