"""The loader: one endless stream of samples whose order is a pure function of (seed, epoch).

Position p of the stream is sample `order(p mod N)` of epoch p // N; step s takes positions s*B to (s+1)*B. So the
state of the loader is the step, a resume costs nothing, and neither workers nor ranks matter: every epoch has every
sample once, and a sample's pixels depend on (seed, epoch, key) alone. The order (`order`) is computed where it is asked
for. Shards at a URL are streamed instead (`stream`), with weaker guarantees.
"""

import hashlib
import re
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipeline import shards
from training.config import Config, RuntimeConfig
from training.engine.share import DataError, Share
from training.loading.batch import Batch
from training.loading.order import Order
from training.loading.stream import StreamedBatches
from training.tasks.classification.samples import eval_batch, fields_of, leaves_draws, train_batch

_Made = TypeVar("_Made")
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Pieces(Dataset[_Made]):
    """`self[step * share.pieces + piece]` is what `made` makes of the samples of that piece of that step."""

    fields: tuple[str, ...]  # members that a sample needs

    def __init__(self, split: Any, seed: int, share: Share) -> None:
        self.split, self.share, self.order = split, share, Order(split.ends, seed)

    def made(self, samples: Iterator[tuple[int, shards.Members]], first: int) -> _Made:
        raise NotImplementedError

    def __getitem__(self, number: int) -> _Made:
        first = self.share.first(*divmod(number, self.share.pieces))
        return self.made(self._samples(first), first)

    def _samples(self, first: int) -> Iterator[tuple[int, shards.Members]]:
        count = len(self.split)
        positions = np.arange(first, first + self.share.piece)
        for epoch in range(int(positions[0]) // count, int(positions[-1]) // count + 1):
            inside = positions[positions // count == epoch] % count
            for index in self.order(inside, epoch).tolist():
                yield epoch, self.split.members(index, self.fields)


class TrainBatches(Pieces[Batch]):
    """Pre-training's."""

    def __init__(self, split: shards.Split, config: Config, share: Share) -> None:
        super().__init__(split, config.seed, share)
        self.config, self.fields, self.leaves_draws = config, fields_of(config.data.depth), leaves_draws(config)

    def made(self, samples: Iterator[tuple[int, shards.Members]], first: int) -> Batch:
        return train_batch(samples, self.share.piece, self.config, first, self.leaves_draws)


class EvalBatches(Dataset[Batch]):
    """The split in its own order, every sample once; the last batch may be smaller."""

    def __init__(self, split: shards.Split, config: Config, depth_field: str, batch_size: int) -> None:
        self.split, self.config, self.depth_field, self.batch_size = split, config, depth_field, batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        first, fields = number * self.batch_size, fields_of(self.depth_field)
        places = range(first, min(first + self.batch_size, len(self.split)))
        samples = (self.split.members(place, fields) for place in places)
        return eval_batch(samples, len(places), self.config, self.depth_field, first)


def classes_sha256(split: shards.Split) -> str:
    """Hash of the class names in their order: equal where labels mean the same."""
    return hashlib.sha256("\0".join(split.index.class_names).encode()).hexdigest()


def check_classes(split: shards.Split, expected_sha256: str) -> None:
    """Refuse shards whose labels are not those a run was trained on."""
    if classes_sha256(split) != expected_sha256:
        raise DataError(f"{split.store} has other classes than the run was trained on: give shards of the same classes")


def open_shards(data: Path | str, split: str, depth_field: str, labelled: bool = True) -> shards.Split:
    """Open a split and check that it has the depth asked for and, where `labelled`, classes."""
    opened = shards.open_split(data, split)
    if labelled and not opened.index.class_names:
        raise DataError(f"{data} has no classes: label a folder of class folders (SRC/<class>/*.jpg) to train on it")
    if depth_field != "online" and depth_field not in opened.index.depth:
        have = ", ".join(opened.index.depth)
        raise DataError(
            f"{data} has no '{depth_field}' depth, it has {have}: choose with --set data.depth=FIELD (pretrain) or "
            "--depth FIELD"
        )
    return opened


def train_loader(split: shards.Split, config: Config, share: Share, first_step: int, num_steps: int) -> Iterator[Batch]:
    """This rank's batches of steps first_step .. num_steps - 1, made by `runtime.workers` processes."""
    numbers = range(first_step * share.pieces, num_steps * share.pieces)
    if split.store.local is None:
        return load(StreamedBatches(split, config, share, numbers), None, config.runtime)
    return load(TrainBatches(split, config, share), numbers, config.runtime)


def eval_loader(
    split: shards.Split, config: Config, depth_field: str, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Every `world_size`-th batch of the split, from the `rank`-th: over all ranks every sample once."""
    batches = EvalBatches(split, config, depth_field, batch_size)
    return load(batches, range(rank, len(batches), world_size), config.runtime)


def load(dataset: Dataset[_Made], order: range | None, runtime: RuntimeConfig) -> Iterator[_Made]:
    """What `runtime.workers` processes make of a data set, in this order.

    Damaged shards and lost workers are told of in one line.
    """
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=runtime.workers,
        pin_memory=runtime.device != "cpu" and torch.cuda.is_available(),
        generator=torch.Generator(),  # iter() would draw a base seed from the global generator
        worker_init_fn=_start_worker,
    )
    # Workers begin with these signals blocked: one that comes before `_start_worker` has run would end them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as asked
            batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _unwrapped(batches)


def _unwrapped(batches: Iterator[_Made]) -> Iterator[_Made]:
    """A worker's error arrives wrapped in that process's traceback; damaged shards shall say one line."""
    try:
        yield from batches
    except shards.ShardError as error:
        raise shards.ShardError(str(error).strip().rsplit("ShardError: ", 1)[-1]) from None
    except RuntimeError as error:
        raise worker_died(error) or error from None
    except (ConnectionError, EOFError):  # a worker that ends while it hands a batch over
        raise _lost("which was handing a batch over, is gone") from None


def worker_died(error: RuntimeError) -> DataError | None:
    """What to tell of a RuntimeError by which torch says that a worker is gone; None for any other.

    torch raises it in the main thread wherever that is when the worker ends, not only while it waits for a batch.
    """
    found = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
    if not found:
        return None
    signalled = re.search(r"killed by signal: ([^.]+)", str(error))
    how = f"was killed ({signalled[1].strip()})" if signalled else "is gone"
    return _lost(f"process {found[1].strip()}, {how}")


def _lost(which: str) -> DataError:
    return DataError(
        f"a loader worker, {which}: where memory ran out, free some or lower runtime.workers. The same line again does "
        "it; a run goes on from its last checkpoint with --resume"
    )


def _start_worker(worker: int) -> None:
    """One thread; the main process alone answers signals that reach the whole group (Ctrl-C, a scheduler's stop).

    A worker whose parent is gone ends by itself (torch's loop watches it); `training.cli.main` ends the others.
    """
    torch.set_num_threads(1)
    for name in _NOT_FOR_WORKERS:
        signal.signal(name, signal.SIG_IGN)
    dataset: Any = get_worker_info().dataset  # type: ignore[union-attr]
    dataset.split = dataset.split.reopened()
