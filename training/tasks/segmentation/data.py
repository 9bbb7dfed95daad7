"""Loaders of fine-tuning, and which scenes choose the checkpoint.

The order of training samples is pre-training's (training/loading/data.py). Shards at a URL are read by ranges, sample
by sample: sets for fine-tuning are small.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline import shards
from training.engine.share import DataError, Share
from training.loading.data import Pieces, load
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import FinetuneConfig
from training.tasks.segmentation.samples import eval_batch, fields_of, train_batch


class Part:
    """Some samples of a split, in its order; `positions` rise."""

    def __init__(self, split: shards.Split, positions: NDArray[np.int64]) -> None:
        self.split, self.positions = split, positions
        self.ends = np.searchsorted(positions, split.ends)  # of each shard, among the chosen

    def __len__(self) -> int:
        return len(self.positions)

    def members(self, position: int, fields: Collection[str]) -> shards.Members:
        return self.split.members(int(self.positions[position]), fields)

    def key(self, position: int) -> str:
        return self.split.key(int(self.positions[position]))

    def reopened(self) -> "Part":
        return Part(self.split.reopened(), self.positions)


def open_labelled(data: Path | str, split: str, depth_field: str | None = None) -> shards.Split:
    """Open a split for segmentation and check that it has pixel labels and the depth asked for, if any."""
    opened = shards.open_split(data, split)
    if not opened.index.seg_names:
        raise DataError(f"{data} has no pixel labels: give shards of precompute-depth nyu, toyrooms or digits")
    opened.check_depth(depth_field or "")
    if depth_field is not None and depth_field not in opened.index.depth:
        have = ", ".join(opened.index.depth)
        raise DataError(f"{data} has no '{depth_field}' depth, it has {have}: choose one with --depth")
    return opened


def labels_sha256(split: shards.Split) -> str:
    """Hash of the label names in their order: equal where pixel labels mean the same."""
    return hashlib.sha256("\0".join(split.index.seg_names).encode()).hexdigest()


def check_labels(split: shards.Split, expected_sha256: str) -> None:
    if labels_sha256(split) != expected_sha256:
        raise DataError(f"{split.store} has other labels than the run was trained on: give shards of the same labels")


def whole(split: shards.Split) -> Part:
    return Part(split, np.arange(len(split)))


def carved(split: shards.Split, share: float, seed: int) -> tuple[Part, Part]:
    """What is trained on, and about `share` of the samples to choose a checkpoint by.

    Whole scenes where samples name theirs (NYU's frames of one scene look alike), else single samples; by hash.
    """
    groups: dict[str, list[int]] = {}
    for position in range(len(split)):
        members = split.members(position, ("json",))
        groups.setdefault(str(members.decode("json").get("scene", members.key)), []).append(position)
    if len(groups) < 2:
        raise DataError(f"{split.store} has one scene, none to choose a checkpoint by: use --select best-on-test")
    aside: list[int] = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())[:-1]:
        if len(aside) >= share * len(split):
            break
        aside += groups[name]
    chosen = np.zeros(len(split), bool)
    chosen[aside] = True
    return Part(split, np.flatnonzero(~chosen)), Part(split, np.flatnonzero(chosen))


class TrainBatches(Pieces[SegBatch]):
    """Fine-tuning's pieces."""

    def __init__(self, part: Part, config: FinetuneConfig, share: Share) -> None:
        super().__init__(part, config.seed, share)
        self.config, self.fields = config, fields_of(config.data.depth)

    def made(self, samples: Iterator[tuple[int, shards.Members]], first: int) -> SegBatch:
        return train_batch(samples, self.share.piece, self.config, first)


class EvalBatches(Dataset[list[SegBatch]]):
    """Every sample once, in the split's order, in batches of one size each."""

    def __init__(self, part: Part, config: FinetuneConfig, depth_field: str, batch_size: int) -> None:
        self.split, self.config, self.depth_field, self.batch_size = part, config, depth_field, batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, number: int) -> list[SegBatch]:
        first, fields = number * self.batch_size, fields_of(self.depth_field)
        places = range(first, min(first + self.batch_size, len(self.split)))
        samples = (self.split.members(place, fields) for place in places)
        return eval_batch(samples, self.config, self.depth_field, first)


def train_loader(
    part: Part, config: FinetuneConfig, share: Share, first_step: int, num_steps: int
) -> Iterator[SegBatch]:
    """This rank's batches of steps first_step .. num_steps - 1."""
    numbers = range(first_step * share.pieces, num_steps * share.pieces)
    return load(TrainBatches(part, config, share), numbers, config.runtime)


def eval_loader(
    part: Part, config: FinetuneConfig, depth_field: str, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[list[SegBatch]]:
    """Every `world_size`-th lot of images, from the `rank`-th: over all ranks every image once."""
    batches = EvalBatches(part, config, depth_field, batch_size)
    return load(batches, range(rank, len(batches), world_size), config.runtime)
