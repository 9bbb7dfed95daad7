"""Training samples from shards at a URL, streamed whole through webdataset: few long reads instead of many short ones.

Guarantees, weaker than those of local shards (`pieces`):
- Pass e of a worker reads its part of the shards' permutation by (seed, e), dealt out over ranks and workers, from
  beginning to end. Over all workers of all ranks pass e has every sample exactly once. Workers with fewer samples begin
  their next pass earlier, so a step near an epoch's end may hold samples of two passes, and "epoch" is exact for each
  worker alone.
- A buffer of BUFFER samples a worker shuffles each pass, by (seed, e, rank, worker), and runs empty at its end.
- The stream is deterministic for equal numbers of ranks and workers, resumed or not. Other numbers give another order:
  a resume that changes them repeats some samples of the pass it falls into and misses others. A sample's pixels depend
  on (seed, e, key) alone, mixing groups on their number.
- A resume decodes nothing of what was seen, and reads only the shards that the buffer held samples of or later ones.
- Every member is checked against its shard's JSON (key, length, CRC-32), and so is the number of samples: a cut tar,
  which tar readers take for a short one, is an error that names it.
"""

from collections.abc import Iterator
from itertools import islice
from typing import IO, Any, TypeVar

import numpy as np
import webdataset
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from pipeline import shards
from training.engine.share import DataError
from training.loading.order import Order
from training.loading.pieces import Pieces
from training.random_numbers import generator

_Made = TypeVar("_Made")
BUFFER = 1000  # samples a worker holds as they are stored, undecoded


class Streamed(IterableDataset[_Made]):
    """The pieces of these `numbers` (step * share.pieces + piece), dealt to `workers` in turn."""

    def __init__(self, pieces: Pieces[_Made], numbers: range, workers: int, buffer_size: int = BUFFER) -> None:
        self.pieces, self.split, self.numbers, self.buffer_size = pieces, pieces.split, numbers, buffer_size
        streams = pieces.share.world_size * max(1, workers)
        if streams > len(self.split.ends):
            raise DataError(
                f"{self.split.store} has {len(self.split.ends)} shards, too few to stream to {streams} workers: lower "
                "runtime.workers, copy the shards to a local folder, or make more with --samples-per-shard"
            )

    def __iter__(self) -> Iterator[_Made]:
        info, start, share = get_worker_info(), self.numbers.start, self.pieces.share
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        lane = (start + worker) % workers  # the worker that would make these batches had there been no resume
        seen = len(range(lane, start, workers)) * share.piece
        samples = self._samples(share.rank * workers + lane, share.world_size * workers, seen)
        for number in self.numbers[worker::workers]:
            first = share.first(*divmod(number, share.pieces))
            yield self.pieces.made(islice(samples, share.piece), first)

    def _samples(self, stream: int, streams: int, skip: int) -> Iterator[tuple[int, shards.Members]]:
        order, sizes = Order(self.split.ends, self.pieces.seed), np.diff(self.split.ends, prepend=0)
        epoch = 0
        while True:
            mine = order.shards_of(epoch)[0][stream::streams]
            count = int(sizes[mine].sum())
            if skip < count:
                rng = generator(self.pieces.seed, "buffer", epoch, stream, streams)
                for members in self._shuffled(mine, sizes[mine], rng, skip):
                    yield epoch, members
            skip, epoch = max(0, skip - count), epoch + 1

    def _shuffled(
        self, numbers: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator, skip: int
    ) -> Iterator[shards.Members]:
        """The samples of these shards through the buffer, from the `skip`-th that leaves it."""
        count = int(sizes.sum())
        held = min(self.buffer_size, count)
        exchanged = count - held  # so often a sample leaves and the next one takes its place; then all leave
        leaving = rng.integers(held, size=exchanged, dtype=np.uint32)
        last = rng.permutation(held)
        buffer = np.arange(held)  # samples by their number in this pass
        replayed = min(skip, exchanged)
        buffer[leaving[:replayed]] = np.arange(held, held + replayed)  # the last of equal places stays
        wanted = set(buffer[last[skip - replayed :]].tolist())
        reading = self._read(numbers, sizes, wanted, held + replayed)
        samples = dict(next(reading) for _ in range(len(wanted)))
        for turn in range(replayed, exchanged):
            place = leaving[turn]
            yield samples.pop(int(buffer[place]))
            number, members = next(reading)
            buffer[place], samples[number] = number, members
        for place in last[skip - replayed :]:
            yield samples.pop(int(buffer[place]))

    def _read(
        self, numbers: NDArray[np.int64], sizes: NDArray[np.int64], wanted: set[int], rest: int
    ) -> Iterator[tuple[int, shards.Members]]:
        """The `wanted` samples and all from `rest` on, in order; shards without any of them are not opened."""
        for shard, size, end in zip(numbers.tolist(), sizes.tolist(), np.cumsum(sizes).tolist(), strict=True):
            here = range(end - size, end)
            if end > rest or not wanted.isdisjoint(here):
                for number, members in zip(here, self._read_shard(shard, size), strict=True):
                    if number >= rest or number in wanted:
                        yield number, members

    def _read_shard(self, shard: int, size: int) -> Iterator[shards.Members]:
        """All `size` samples of a shard, each checked; tars of depth that was added are read side by side with it."""
        fields, split = self.pieces.fields, self.split
        table = split.rgb.tables[shard]
        streams = [(part, part.tar(shard), _tar_samples(part.tar(shard))) for part in split.parts(fields)]
        for place in range(size):
            key = table.key(place)
            members = shards.Members(key, split.rgb.tar(shard), index=split.index)
            for part, tar, samples in streams:
                found = next(samples, {})
                if found.get("__key__") != key:
                    raise shards.ShardError(
                        f"{tar} is damaged: it must hold {size} samples, but {key}, number {place}, "
                        f"{'is not where it should be' if found else 'is missing'}: run precompute-depth verify"
                    )
                for extension, (_, length, crc) in part.wanted(shard, place, key, fields).items():
                    members.add(extension, found.get(extension, b""), length, crc, tar)
            members.check_has(fields)
            yield members
        for _, tar, samples in streams:
            if next(samples, None) is not None:
                raise shards.ShardError(f"{tar} is damaged: it holds more than its {size} samples")


def _tar_samples(url: str) -> Iterator[dict[str, Any]]:
    """webdataset's reading of one tar; whatever it or the storage raises becomes one line that names the tar."""
    webdataset.gopen_schemes[url.split("://")[0]] = _open
    try:
        yield from webdataset.tarfile_samples([{"url": url}])
    except FileNotFoundError:
        raise shards.ShardError(f"{url} does not exist but the index lists it: run precompute-depth verify") from None
    except Exception as error:  # every protocol has its own
        reason = " ".join(str(error.args[0] if error.args else error).split()) or repr(error)
        raise shards.ShardError(f"{url} cannot be read: {reason}") from error


def _open(url: str, mode: str = "rb", bufsize: int = 8192, **kwargs: Any) -> IO[bytes]:
    import fsspec

    return fsspec.open(url, mode).open()
