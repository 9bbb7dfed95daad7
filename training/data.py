"""The loader: one endless stream of samples whose order is a pure function of (seed, epoch).

Position p of the stream is sample `order(p mod N)` of epoch p // N; step s takes positions s*B to (s+1)*B. So the
state of the loader is the step, a resume costs nothing, and workers never matter. The order of an epoch is an
indexable permutation (a Feistel network with cycle walking): no list of samples is ever built.
"""

import hashlib
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline import shards
from training import augment
from training.config import Config


class DataError(ValueError):
    """The shards do not have what the run needs; one line that names it and the fix."""


@dataclass(frozen=True)
class Batch:
    """rgb uint8 (batch, 3, size, size); depth z (batch, 1, size, size), NaN invalid; label int64 (batch,).

    `first` is the position of the first sample in the endless stream (in the split, for evaluation). `draws` are
    RandAugment's parameters where it has not been applied yet: (batch, operations, 2), operation and signed magnitude.
    """

    rgb: Tensor
    depth: Tensor
    label: Tensor
    keys: list[str]
    first: int = 0
    draws: Tensor | None = None

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        draws = None if self.draws is None else change(self.draws)
        return Batch(change(self.rgb), change(self.depth), change(self.label), self.keys, self.first, draws)

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._each(Tensor.pin_memory)


@dataclass(frozen=True)
class Share:
    """One rank's part of every global batch: consecutive samples, delivered in `pieces` batches a step.

    Mixing groups are never cut: `piece` is a multiple of `mix_group` where there is mixing.
    """

    rank: int
    world_size: int
    piece: int  # samples a batch
    pieces: int  # batches a step

    @classmethod
    def of(cls, config: Config, rank: int = 0, world_size: int = 1) -> "Share":
        total, group = config.optim.batch_size, config.augment.mix_group if config.augment.mixes else 1
        if total % (world_size * group):
            whole = f"whole mixing groups of {group} " if group > 1 else ""
            raise DataError(
                f"optim.batch_size {total} must divide into {whole}for each of {world_size} ranks: change it, "
                "augment.mix_group or the number of ranks"
            )
        mine = total // world_size
        piece = math.lcm(config.runtime.micro_batch or mine, group)
        if mine % piece:
            raise DataError(
                f"runtime.micro_batch {config.runtime.micro_batch} must divide a rank's {mine} samples of a batch, "
                f"together with augment.mix_group {group}"
            )
        return cls(rank, world_size, piece, mine // piece)

    def first(self, step: int, piece: int) -> int:
        """Position in the stream of the first sample of a piece of a step."""
        return (step * self.world_size + self.rank) * self.piece * self.pieces + piece * self.piece


def shuffled(positions: NDArray[np.integer], count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where the permutation of range(count) that belongs to (seed, epoch) sends each position."""
    keys = augment.generator(seed, "order", epoch).integers(0, 2**63, shards.ORDER_ROUNDS, dtype=np.uint64)
    return shards.permuted(positions, count, keys)


class TrainBatches(Dataset[Batch]):
    """`self[step * share.pieces + piece]` is that piece of that step."""

    def __init__(self, split: shards.Split, config: Config, share: Share) -> None:
        self.split, self.config, self.share = split, config, share

    def __getitem__(self, number: int) -> Batch:
        size, count = self.config.model.image_size, len(self.split)
        first = self.share.first(*divmod(number, self.share.pieces))
        positions = np.arange(first, first + self.share.piece)
        depth_field = self.config.data.depth
        views, labels, keys = [], [], []
        for epoch in range(int(positions[0]) // count, int(positions[-1]) // count + 1):
            inside = positions[positions // count == epoch] % count
            for index in shuffled(inside, count, self.config.seed, epoch):
                sample = self.split.read(int(index), ("rgb", depth_field, "cls"))
                rng = augment.generator(self.config.seed, epoch, sample["key"])
                joint = augment.join(sample["rgb"], sample[depth_field])
                views.append(augment.train_view(joint, size, self.config.augment, rng))
                labels.append(sample["cls"])
                keys.append(sample["key"])
        return _collate(views, labels, keys, first)


class EvalBatches(Dataset[Batch]):
    """The split in its own order, every sample once; the last batch may be smaller."""

    def __init__(self, split: shards.Split, config: Config, depth_field: str, batch_size: int) -> None:
        self.split, self.config, self.depth_field, self.batch_size = split, config, depth_field, batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        size, crop = self.config.model.image_size, self.config.augment.eval_crop
        views, labels, keys = [], [], []
        for index in range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.split))):
            sample = self.split.read(index, ("rgb", self.depth_field, "cls"))
            views.append(augment.eval_view(augment.join(sample["rgb"], sample[self.depth_field]), size, crop))
            labels.append(sample["cls"])
            keys.append(sample["key"])
        return _collate(views, labels, keys, number * self.batch_size)


def _collate(views: list[tuple[Tensor, Tensor]], labels: list[int], keys: list[str], first: int) -> Batch:
    rgb, depth = (torch.stack(list(parts)) for parts in zip(*views, strict=True))
    return Batch(rgb, depth, torch.tensor(labels), keys, first)


def classes_sha256(split: shards.Split) -> str:
    """Hash of the class names in their order: equal where labels mean the same."""
    return hashlib.sha256("\0".join(split.index.class_names).encode()).hexdigest()


def check_classes(split: shards.Split, expected_sha256: str) -> None:
    """Refuse shards whose labels are not those a run was trained on."""
    if classes_sha256(split) != expected_sha256:
        raise DataError(f"{split.store} has other classes than the run was trained on: give shards of the same classes")


def open_shards(data: Path, split: str, depth_field: str) -> shards.Split:
    """Open a split for classification and check that it has labels and the depth asked for."""
    opened = shards.open_split(data, split)
    if not opened.index.class_names:
        raise DataError(f"{data} has no classes: label a folder of class folders (SRC/<class>/*.jpg) to train on it")
    if depth_field not in opened.index.depth:
        have = ", ".join(opened.index.depth)
        raise DataError(
            f"{data} has no '{depth_field}' depth, it has {have}: choose with --set data.depth=FIELD (pretrain) or "
            "--depth FIELD (evaluate)"
        )
    return opened


def train_loader(split: shards.Split, config: Config, share: Share, first_step: int, num_steps: int) -> Iterator[Batch]:
    """This rank's batches of steps first_step .. num_steps - 1, made by `runtime.workers` processes."""
    numbers = range(first_step * share.pieces, num_steps * share.pieces)
    return _load(TrainBatches(split, config, share), numbers, config.runtime.workers)


def eval_loader(
    split: shards.Split, config: Config, depth_field: str, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Every `world_size`-th batch of the split, from the `rank`-th: over all ranks every sample once."""
    batches = EvalBatches(split, config, depth_field, batch_size)
    return _load(batches, range(rank, len(batches), world_size), config.runtime.workers)


def _load(dataset: Dataset[Batch], order: range, workers: int) -> Iterator[Batch]:
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # iter() would draw a base seed from the global generator
        worker_init_fn=_start_worker,
    )
    return _unwrapped(iter(loader))


def _unwrapped(batches: Iterator[Batch]) -> Iterator[Batch]:
    """A worker's error arrives wrapped in that process's traceback; damaged shards shall say one line."""
    try:
        yield from batches
    except shards.ShardError as error:
        raise shards.ShardError(str(error).strip().rsplit("ShardError: ", 1)[-1]) from None


def _start_worker(worker: int) -> None:
    """One thread; the main process alone answers signals that reach the whole group (Ctrl-C, a scheduler's stop).

    A worker whose parent is gone ends by itself (torch's loop watches it); `training.cli.main` ends the others.
    """
    torch.set_num_threads(1)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
