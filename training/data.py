"""The loader: one endless stream of samples whose order is a pure function of (seed, epoch).

Position p of the stream is sample `order(p mod N)` of epoch p // N; step s takes positions s*B to (s+1)*B. So the
state of the loader is the step, a resume costs nothing, and workers never matter. The order of an epoch is an
indexable permutation (a Feistel network with cycle walking): no list of samples is ever built.
"""

import hashlib
import signal
from collections.abc import Iterator
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
    """rgb uint8 (batch, 3, size, size); depth z (batch, 1, size, size), NaN invalid; label int64 (batch,)."""

    rgb: Tensor
    depth: Tensor
    label: Tensor
    keys: list[str]

    def to(self, device: torch.device) -> "Batch":
        rgb, depth, label = (tensor.to(device, non_blocking=True) for tensor in (self.rgb, self.depth, self.label))
        return Batch(rgb, depth, label, self.keys)

    def pin_memory(self) -> "Batch":
        return Batch(self.rgb.pin_memory(), self.depth.pin_memory(), self.label.pin_memory(), self.keys)


def shuffled(positions: NDArray[np.integer], count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where the permutation of range(count) that belongs to (seed, epoch) sends each position."""
    keys = augment.generator(seed, "order", epoch).integers(0, 2**63, shards.ORDER_ROUNDS, dtype=np.uint64)
    return shards.permuted(positions, count, keys)


class TrainBatches(Dataset[Batch]):
    """`self[step]` is the whole batch of a step."""

    def __init__(self, split: shards.Split, config: Config) -> None:
        self.split, self.config = split, config

    def __getitem__(self, step: int) -> Batch:
        size, batch, count = self.config.model.image_size, self.config.optim.batch_size, len(self.split)
        positions = np.arange(step * batch, (step + 1) * batch)
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
        return _collate(views, labels, keys)


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
        return _collate(views, labels, keys)


def _collate(views: list[tuple[Tensor, Tensor]], labels: list[int], keys: list[str]) -> Batch:
    rgb, depth = (torch.stack(list(parts)) for parts in zip(*views, strict=True))
    return Batch(rgb, depth, torch.tensor(labels), keys)


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


def train_loader(split: shards.Split, config: Config, first_step: int, num_steps: int) -> Iterator[Batch]:
    """Batches of steps first_step .. num_steps - 1, made by `runtime.workers` processes."""
    return _load(TrainBatches(split, config), range(first_step, num_steps), config.runtime.workers)


def eval_loader(split: shards.Split, config: Config, depth_field: str, batch_size: int) -> Iterator[Batch]:
    batches = EvalBatches(split, config, depth_field, batch_size)
    return _load(batches, range(len(batches)), config.runtime.workers)


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
