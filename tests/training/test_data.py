"""The loader's promises: exact epochs, one order, the same pixels whatever the workers and ranks."""

import os
import re
import signal
import time
import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
import torch

from pipeline import depth_codec, shards
from training.engine.share import DataError, Share
from training.loading import data
from training.loading.data import worker_died
from training.loading.order import Order
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import resolve
from training.tasks.classification.data import EvalBatches, TrainBatches, eval_loader, open_shards, train_loader
from training.tasks.classification.inputs import model_inputs


def orders(ends, *positions, seed=0, epoch=0, **window):
    return Order(np.array(ends), seed, **window)(np.array(positions), epoch)


# --- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 97, 1000])
@pytest.mark.parametrize("window", [2, 2048])
def test_order_is_a_permutation(count, window):
    ends = np.unique(np.minimum(np.arange(7, count + 13, 13), count))
    for epoch in range(3):
        order = orders(ends, *range(count), epoch=epoch, window=window)
        assert sorted(order) == list(range(count))


def test_order_depends_on_seed_and_epoch_and_mixes_well():
    one = [orders([400, 1000], *range(1000), seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in one:
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.12
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.12
    assert (one[0] == one[1]).mean() < 0.02
    assert (one[0] == one[2]).mean() < 0.02
    np.testing.assert_array_equal(orders([400, 1000], 17, 3), one[0][[17, 3]])


def test_order_over_windows_mixes_as_stated():
    """Scaled down: windows of 20 of 400 shards, 30 samples each."""
    ends = np.arange(30, 12_001, 30)
    epochs = [Order(ends, 0, window=20)(np.arange(12_000), epoch) for epoch in range(40)]
    shards_of = [order // 30 for order in epochs]
    for shard in shards_of:
        in_windows = shard.reshape(20, 600)
        assert all(len(np.unique(window)) == 20 for window in in_windows), "no shard is opened twice"
        # a batch of 60 of a window's 20 shards meets as many as evenly drawn samples do: 20 (1 - 0.95**60) = 19
        batches = in_windows[:, :60]
        assert 18.3 < np.mean([len(np.unique(batch)) for batch in batches]) < 19.7
        assert abs(np.corrcoef(shard, np.arange(12_000))[0, 1]) < 0.25, "five standard errors of 400 shards"
    shared = np.mean([np.ptp(np.flatnonzero(np.isin(shard, (3, 4))) // 600) == 0 for shard in shards_of])
    assert shared < 0.2, "19 of 399, about 5 %, of epochs hold two given shards in one window"


def test_order_of_a_hundred_thousand_shards_is_cheap():
    ends = np.cumsum(np.random.default_rng(0).integers(9_000, 11_000, 100_000))
    tracemalloc.start()
    start = time.perf_counter()
    order = Order(ends, 0)
    found = order(np.arange(10**9 - 10_000_000, 10**9 - 10_000_000 + 192) % int(ends[-1]), 5)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(np.searchsorted(ends, found, side="right"))) > 150, "of 2,048 shards"
    assert found.min() >= 0 and found.max() < ends[-1]
    assert seconds < 1 and peak < 20e6, (seconds, peak)


# --- stream --------------------------------------------------------------------------------------------------------


def config(*settings):
    return resolve("tiny", "m4ch", ["data.depth=raw", "optim.batch_size=32", "model.image_size=40", *settings], 6)


def same(one: ImageBatch, other: ImageBatch) -> None:
    assert one.keys == other.keys
    assert one.first == other.first
    for name in ("rgb", "depth", "label"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)


def test_every_epoch_sees_every_sample_once(rooms):
    split = open_shards(rooms, "train", "raw")
    batches = TrainBatches(split, config(), Share.of(config()))
    stream = [key for step in range(3 * 150 // 32 + 1) for key in batches[step].keys]
    everything = sorted(split.key(i) for i in range(150))
    for epoch in range(3):
        assert sorted(stream[150 * epoch : 150 * (epoch + 1)]) == everything
    assert stream[:150] != stream[150:300]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_stream_does_not_depend_on_workers_or_on_where_it_starts(rooms, workers):
    split = open_shards(rooms, "train", "raw")
    settings = config("augment.rand_augment_ops=2")
    reference = TrainBatches(split, settings, Share.of(settings))
    wanted = config("augment.rand_augment_ops=2", f"runtime.workers={workers}")
    for step, batch in zip(range(3, 7), train_loader(split, wanted, Share.of(wanted), 3, 7), strict=True):
        same(batch, reference[step])


MIXED = ("augment.rand_augment_ops=2", "augment.mixup_alpha=0.8", "augment.cutmix_alpha=1.0", "augment.mix_group=4")


@pytest.mark.parametrize("where", ["worker", "device"])
def test_ranks_and_pieces_see_the_same_pixels(rooms, where):
    """Augmented and mixed, bit by bit, over an epoch's end."""
    split = open_shards(rooms, "train", "raw")
    settings = config(*MIXED, f"runtime.augment={where}")
    whole = TrainBatches(split, settings, Share.of(settings))
    for step in (0, 4):
        batch = whole[step]
        assert (batch.draws is not None) == (where == "device")
        expected = model_inputs(batch, settings)
        for world_size, micro_batch in ((1, 16), (2, 16), (2, 8), (4, 8), (4, 4)):
            cut = config(*MIXED, f"runtime.augment={where}", f"runtime.micro_batch={micro_batch}")
            parts, keys = [], []
            for rank in range(world_size):
                share = Share.of(cut, rank, world_size)
                assert share.pieces == 32 // world_size // micro_batch
                batches = TrainBatches(split, cut, share)
                for piece in range(share.pieces):
                    parts.append(model_inputs(batches[step * share.pieces + piece], cut))
                    keys += batches[step * share.pieces + piece].keys
            assert keys == batch.keys
            for one, several in zip(expected, zip(*parts, strict=True), strict=True):
                torch.testing.assert_close(torch.cat(several), one, rtol=0, atol=0, equal_nan=True)


def test_the_device_finishes_what_a_worker_would(rooms):
    split = open_shards(rooms, "train", "raw")
    inputs = []
    for where in ("worker", "device"):
        settings = config(*MIXED, f"runtime.augment={where}")
        batch = TrainBatches(split, settings, Share.of(settings))[2]
        before = batch.rgb.clone()
        inputs.append(model_inputs(batch, settings))
        assert torch.equal(batch.rgb, before), "a batch is not changed"
    for one, other in zip(*inputs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_late_start_costs_no_more_than_an_early_one(rooms):
    split = open_shards(rooms, "train", "raw")
    settings = config("runtime.workers=0")
    seconds: dict[int, list[float]] = {0: [], 10**6: []}
    for _ in range(5):
        for step, found in seconds.items():
            with patch.object(shards.Split, "members", autospec=True, side_effect=shards.Split.members) as reads:
                start = time.perf_counter()
                next(train_loader(split, settings, Share.of(settings), step, step + 2))
                found.append(time.perf_counter() - start)
            assert reads.call_count == 32
    assert min(seconds[10**6]) < 2 * min(seconds[0])


def test_making_a_loader_leaves_the_global_generator_alone(rooms):
    split = open_shards(rooms, "train", "raw")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(train_loader(split, config("runtime.workers=0"), Share.of(config()), 0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_counts_every_sample_once(rooms):
    split = open_shards(rooms, "val", "raw")
    keys = [key for batch in eval_loader(split, config(), "raw", 32) for key in batch.keys]
    assert keys == [split.key(i) for i in range(70)]
    assert len(EvalBatches(split, config(), "raw", 32)[2].keys) == 6


def test_online_reads_no_depth(rooms):
    split = open_shards(rooms, "train", "online")
    settings = config(*MIXED, "data.depth=online", "runtime.augment=device")
    with patch.object(shards.Members, "decode", autospec=True, side_effect=shards.Members.decode) as decoded:
        [batch] = train_loader(
            split, config(*MIXED, "data.depth=online", "runtime.workers=0"), Share.of(settings), 0, 1
        )
    assert {call.args[1] for call in decoded.call_args_list} == {"rgb", "cls"}
    [batch] = train_loader(split, settings, Share.of(settings), 0, 1)
    for there in (batch, batch.to(torch.device("cpu"))):
        rgb, depth, _ = model_inputs(there, settings)
        assert depth.shape == (32, 1, 40, 40) and depth.isnan().all()
        assert depth.untyped_storage().size() == 4, "one number for all"
    with_depth = config(*MIXED, "runtime.augment=device", "runtime.workers=0")
    [other] = train_loader(open_shards(rooms, "train", "raw"), with_depth, Share.of(settings), 0, 1)
    torch.testing.assert_close(model_inputs(other, with_depth)[0], rgb, rtol=0, atol=0)
    assert next(eval_loader(split, settings, "online", 8)).depth.isnan().all()


def test_missing_fields_are_named(rooms):
    with pytest.raises(DataError, match="no 'pseudo' depth, it has exact, real, raw"):
        open_shards(rooms, "train", "pseudo")
    with pytest.raises(shards.ShardError, match="does not exist"):
        open_shards(rooms / "no", "train", "raw")


def test_a_photograph_that_does_not_decode_is_named(labelled):
    """Its checksum is right: it was damaged before it was stored."""
    split = open_shards(labelled, "train", "pseudo")
    broken = resolve("tiny", "m4ch", ["optim.batch_size=4", "runtime.workers=0"], 2)
    truth = shards.Split.members

    def members(self, position, fields=None):
        found = truth(self, position, fields)
        found.data["rgb"] = ("rgb.jpg", b"\xff\xd8\xff" + bytes(40))
        return found

    with (
        patch.object(shards.Split, "members", members),
        pytest.raises(shards.ShardError, match=r"rgb\.jpg does not decode"),
    ):
        next(train_loader(split, broken, Share.of(broken), 0, 1))


def test_depth_of_another_size_than_its_photograph_is_refused(rooms):
    split = open_shards(rooms, "train", "raw")
    small = config("runtime.workers=0", "augment.crop_scale=[0.08,0.1]")  # boxes that lie in any of them
    truth = shards.Split.members
    for shape in ((40, 40), (47, 48), (48, 47), (96, 96)):

        def members(self, position, fields=None, shape=shape):
            found = truth(self, position, fields)
            found.data["raw"] = ("raw.pdz", depth_codec.encode(np.zeros(shape, np.float32), 2**-8))
            return found

        for loader in (train_loader(split, small, Share.of(small), 0, 1), eval_loader(split, small, "raw", 8)):
            with (
                patch.object(shards.Split, "members", members),
                pytest.raises(shards.ShardError, match=f"RGB's size 48x48, got {shape[0]}x{shape[1]}"),
            ):
                next(loader)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_stored_kind_of_photograph_decodes(mode, kind):
    from running import jpeg

    from training.loading import decode

    data = jpeg((30, 20), mode, format=kind)
    extension = "rgb.jpg" if kind == "JPEG" else "rgb.png"
    contract = torch.from_numpy(np.array(shards.decode_member(extension, data))).permute(2, 0, 1)
    assert torch.equal(decode.decode_rgb(extension, data), contract)
    with patch.object(decode, "_decode_jpeg", None):
        assert torch.equal(decode.decode_rgb(extension, data), contract)


def test_a_killed_worker_is_named_in_one_line(rooms):
    split = open_shards(rooms, "train", "raw")
    settings = config("runtime.workers=2")
    start, others = time.monotonic(), set(children())

    def use_up() -> None:
        for number, _ in enumerate(train_loader(split, settings, Share.of(settings), 0, 10_000)):
            if number == 2:
                os.kill(min(set(children()) - others), signal.SIGKILL)

    with pytest.raises((DataError, RuntimeError)) as caught:
        use_up()
    told = caught.value if isinstance(caught.value, DataError) else worker_died(caught.value)
    assert re.fullmatch(r"a loader worker, process \d+, (was killed \(Killed\)|is gone): .*", str(told))
    assert time.monotonic() - start < 60
    assert worker_died(RuntimeError("CUDA error: out of memory")) is None


def children() -> list[int]:
    own = f"/proc/self/task/{os.getpid()}/children"
    with open(own) as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.parametrize("broken", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_connection_that_broke_is_told_as_a_lost_worker(broken):
    def batches():
        yield 1
        raise broken

    received = data._unwrapped(batches())
    assert next(received) == 1
    with pytest.raises(DataError, match="a loader worker, which was handing a batch over, is gone"):
        next(received)
