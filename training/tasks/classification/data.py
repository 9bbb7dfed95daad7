"""Loaders of pre-training, and what its shards must have."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import Dataset

from pipeline import shards
from training.config import ONLINE
from training.engine.share import DataError, Share
from training.loading.data import load, load_pieces
from training.loading.pieces import Pieces
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import Config
from training.tasks.classification.samples import eval_batch, fields_of, leaves_draws, train_batch


class TrainBatches(Pieces[ImageBatch]):
    """Pre-training's."""

    def __init__(self, split: shards.Split, config: Config, share: Share) -> None:
        super().__init__(split, config.seed, share)
        self.config, self.fields, self.leaves_draws = config, fields_of(config.data.depth), leaves_draws(config)

    def made(self, samples: Iterator[tuple[int, shards.Members]], first: int) -> ImageBatch:
        return train_batch(samples, self.share.piece, self.config, first, self.leaves_draws)


class EvalBatches(Dataset[ImageBatch]):
    """The split in its own order, every sample once; the last batch may be smaller."""

    def __init__(self, split: shards.Split, config: Config, depth_field: str, batch_size: int) -> None:
        self.split, self.config, self.depth_field, self.batch_size = split, config, depth_field, batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, number: int) -> ImageBatch:
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


def check_labelled(index: shards.ShardIndex, data: Path | str) -> None:
    if not index.class_names:
        raise DataError(
            f"{data} has no classes, so nothing to classify: give shards whose samples have a cls, such as those of "
            "precompute-depth imagenet, or of a folder of class folders (SRC/<class>/*.jpg)"
        )


def open_shards(data: Path | str, split: str, depth_field: str, labelled: bool = True) -> shards.Split:
    """Open a split and check that it has the depth asked for and, where `labelled`, classes."""
    opened = shards.open_split(data, split)
    if labelled:
        check_labelled(opened.index, data)
    opened.check_depth(depth_field)
    if depth_field != ONLINE and depth_field not in opened.index.depth:
        have = ", ".join(opened.index.depth)
        raise DataError(
            f"{data} has no '{depth_field}' depth, it has {have}: choose with --set data.depth=FIELD (pretrain) or "
            "--depth FIELD"
        )
    return opened


def train_loader(
    split: shards.Split, config: Config, share: Share, first_step: int, num_steps: int
) -> Iterator[ImageBatch]:
    """This rank's batches of steps first_step .. num_steps - 1, made by `runtime.workers` processes."""
    return load_pieces(TrainBatches(split, config, share), first_step, num_steps, config.runtime)


def eval_loader(
    split: shards.Split, config: Config, depth_field: str, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[ImageBatch]:
    """Every `world_size`-th batch of the split, from the `rank`-th: over all ranks every sample once."""
    batches = EvalBatches(split, config, depth_field, batch_size)
    return load(batches, range(rank, len(batches), world_size), config.runtime)
