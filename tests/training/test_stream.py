"""Shards at URLs are streamed: every sample once a pass, resumed exactly, and never fewer than the index says."""

import socket
import urllib.request
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from running import command

from pipeline import shards
from training.engine.share import DataError, Share
from training.loading.stream import Streamed
from training.tasks.classification.config import resolve
from training.tasks.classification.data import TrainBatches, eval_loader, open_shards, train_loader


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Small rooms in eight training shards of 20 samples, the last of 10."""
    out = tmp_path_factory.mktemp("rooms") / "shards"
    done = command(
        "precompute-depth", "toyrooms", out, "--teacher", "none", "--samples", 150, "--val-samples", 10, "--size", 48,
        "--samples-per-shard", 20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def put(fs, root: str, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture
def memory(many):
    import fsspec

    fs = fsspec.filesystem("memory")
    put(fs, "/rooms", many)
    yield fs
    fs.store.clear()


def config(*settings):
    base = ["data.depth=raw", "optim.batch_size=8", "model.image_size=40", "runtime.workers=0"]
    return resolve("tiny", "m4ch", [*base, *settings], 6)


def streamed(split, settings, first=0, last=10_000, rank=0, world_size=1, buffer_size=30):
    share = Share.of(settings, rank, world_size)
    numbers = range(first * share.pieces, last * share.pieces)
    return Streamed(TrainBatches(split, settings, share), numbers, settings.runtime.workers, buffer_size)


def keys_of(batches) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_every_pass_has_every_sample_once_shuffled(memory):
    split = open_shards("memory://rooms", "train", "raw")
    everything = [split.key(i) for i in range(150)]
    found = keys_of(islice(streamed(split, config()), 60))
    passes = [found[150 * number : 150 * (number + 1)] for number in range(3)]
    for one in passes:
        assert sorted(one) == sorted(everything)
        places = [everything.index(key) for key in one]
        assert abs(np.corrcoef(places, np.arange(150))[0, 1]) < 0.8
        assert len({place // 20 for place in places[:16]}) > 1, "the buffer mixes shards"
    assert passes[0] != passes[1]
    assert found != keys_of(islice(streamed(split, config("seed=1")), 60))


def test_ranks_share_a_pass(memory):
    split = open_shards("memory://rooms", "train", "raw")
    seen = []
    for rank in range(2):
        stream = streamed(split, config("optim.batch_size=4"), rank=rank, world_size=2)
        with patch.object(stream, "_read_shard", side_effect=stream._read_shard) as reads:
            first_pass = []
            for key in keys_of(islice(stream, 75)):
                if key in first_pass:
                    break
                first_pass.append(key)
        assert reads.called
        seen += first_pass
    assert len(set(seen)) >= 145, "a pass ends inside a batch: the last few may come after a repeat"


@pytest.mark.parametrize("first", [1, 5, 17, 18, 19, 40])
def test_a_resume_goes_on_where_the_stream_was(memory, first):
    split = open_shards("memory://rooms", "train", "raw")
    settings = config("augment.rand_augment_ops=2")
    whole = list(islice(streamed(split, settings), first + 3))
    with patch.object(shards.Members, "decode", autospec=True, side_effect=shards.Members.decode) as decoded:
        resumed = list(streamed(split, settings, first, first + 3))
    assert decoded.call_count == 3 * 8 * 3, "nothing is decoded to get there"
    for one, other in zip(whole[first:], resumed, strict=True):
        assert (one.keys, one.first) == (other.keys, other.first)
        torch.testing.assert_close(one.rgb, other.rgb, rtol=0, atol=0)
        torch.testing.assert_close(one.depth, other.depth, rtol=0, atol=0, equal_nan=True)


def test_a_resume_opens_only_the_shards_it_needs(memory):
    split = open_shards("memory://rooms", "train", "raw")
    opened = []
    truth = Streamed._read_shard

    def reading(self, shard, size):
        opened.append(shard)
        return truth(self, shard, size)

    with patch.object(Streamed, "_read_shard", reading):
        next(iter(streamed(split, config(), 14, 15, buffer_size=10)))
    assert len(opened) <= 4, "of eight"


def test_a_streamed_sample_is_the_one_that_is_read(memory, many):
    settings = config("augment.rand_augment_ops=2")
    split, local = open_shards("memory://rooms", "train", "raw"), open_shards(many, "train", "raw")
    everything = {}
    for batch in islice(TrainBatches(local, settings, Share.of(settings)), 18):  # within the first epoch
        everything |= dict(zip(batch.keys, zip(batch.rgb, batch.depth, batch.label, strict=True), strict=True))
    compared = 0
    for batch in islice(streamed(split, settings), 18):
        for place, key in enumerate(batch.keys):
            if key in everything:
                compared += 1
                for one, other in zip((batch.rgb, batch.depth, batch.label), everything[key], strict=True):
                    torch.testing.assert_close(one[place], other, rtol=0, atol=0, equal_nan=True)
    assert compared > 130


def test_the_trainer_streams_urls_and_evaluates_them_exactly(memory):
    split = open_shards("memory://rooms", "train", "raw")
    batches = list(train_loader(split, config(), Share.of(config()), 0, 3))
    assert [len(batch.keys) for batch in batches] == [8, 8, 8]
    val = open_shards("memory://rooms", "val", "raw")
    assert keys_of(eval_loader(val, config(), "raw", 4)) == [val.key(i) for i in range(10)]
    with pytest.raises(DataError, match="has 8 shards, too few to stream to 9 workers"):
        train_loader(split, config("runtime.workers=9"), Share.of(config()), 0, 3)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_cut_tar_is_an_error_that_names_it(memory, share):
    """Also where it is cut between members, which tar readers take for the end."""
    name = "/rooms/train/shard-000003.tar"
    whole = memory.cat_file(name)
    for length in {int(len(whole) * share), int(len(whole) * share) // 512 * 512}:
        memory.pipe_file(name, whole[:length])
        split = open_shards("memory://rooms", "train", "raw")
        if share < 0.99:  # the zeros that end a tar may be missing
            with pytest.raises(shards.ShardError, match=r"shard-000003\.tar"):
                keys_of(islice(streamed(split, config()), 30))
        else:
            assert len(set(keys_of(islice(streamed(split, config()), 19)))) == 150


def test_cuts_at_member_ends_are_noticed(memory):
    split = open_shards("memory://rooms", "train", "raw")
    _, table, _ = split.locate(65)
    name = "/rooms/train/shard-000003.tar"
    whole = memory.cat_file(name)
    for offset, _, _ in table.extents(5).values():
        memory.pipe_file(name, whole[: offset - 512])
        with pytest.raises(shards.ShardError, match=r"shard-000003\.tar"):
            keys_of(islice(streamed(split, config()), 30))


def test_flipped_bits_and_missing_tars_are_named(memory):
    split = open_shards("memory://rooms", "train", "raw")
    number, table, place = split.locate(65)
    name = f"/rooms/train/{split.index.shards[number].name}.tar"
    whole = bytearray(memory.cat_file(name))
    whole[table.extents(place)["raw.pdz"][0] + 30] ^= 4
    memory.pipe_file(name, bytes(whole))
    with pytest.raises(
        shards.ShardError, match=rf"shard-000003\.tar, key {table.key(place)}, member raw\.pdz is damaged"
    ):
        keys_of(islice(streamed(split, config()), 30))
    memory.rm_file(name)
    with pytest.raises(shards.ShardError, match=r"shard-000003\.tar does not exist but the index lists it"):
        keys_of(islice(streamed(split, config()), 30))


@pytest.fixture
def bucket(monkeypatch, many):
    """A bucket on a free port of this machine that holds the rooms."""
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
    urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/reset", b"").close()
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("rooms")
    put(fs, "rooms", many)
    yield "s3://rooms"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_two_workers_stream_from_an_object_store(bucket):
    split = open_shards(bucket, "train", "raw")
    settings = config("runtime.workers=2", "optim.batch_size=10")
    share = Share.of(settings)
    found = [batch.keys for batch in train_loader(split, settings, share, 0, 14)]
    # each worker streams every other shard of the permutation
    halves = [{key for keys in found[worker::2] for key in keys} for worker in range(2)]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 140
    resumed = [batch.keys for batch in train_loader(split, settings, share, 5, 9)]
    assert resumed == found[5:9]
    val = open_shards(bucket, "val", "raw")
    assert keys_of(eval_loader(val, settings, "raw", 4)) == [val.key(i) for i in range(10)]
