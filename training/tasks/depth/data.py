"""Rendered scenes as a teacher learns from them: RGB and inverse depth, every epoch mirrored anew."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import shards
from training.engine.share import Share
from training.loading.data import load, load_pieces
from training.loading.pieces import Pieces
from training.random_numbers import generator
from training.tasks.depth.config import DepthConfig

EVAL_BATCH = 64
_NEAREST_M = 0.1


@dataclass(frozen=True)
class DepthBatch:
    """rgb uint8 (batch, height, width, 3); inverse_depth 1/m (batch, height, width), NaN unknown; seg uint8, alike."""

    rgb: Tensor
    inverse_depth: Tensor
    seg: Tensor
    keys: list[str]
    first: int = 0

    def _each(self, change: Callable[[Tensor], Tensor]) -> "DepthBatch":
        return DepthBatch(change(self.rgb), change(self.inverse_depth), change(self.seg), self.keys, self.first)

    def to(self, device: torch.device) -> "DepthBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "DepthBatch":
        return self._each(Tensor.pin_memory)


def fields_of(split: shards.Split, field: str) -> tuple[str, ...]:
    return ("rgb", field, *(("seg",) if split.index.seg_names else ()))


def scene(split: shards.Split, members: shards.Members, field: str) -> tuple[NDArray[Any], ...]:
    """rgb (height, width, 3), inverse depth float32 (height, width), seg; all labels 0 where the shards have none."""
    sample = {name: members.decode(name) for name in fields_of(split, field)}
    members.check_sizes(sample)
    metres = split.index.depth[field].standardisation.invert(sample[field])
    inverse = (1 / np.maximum(metres, _NEAREST_M)).astype(np.float32)
    return sample["rgb"], inverse, sample.get("seg", np.zeros(inverse.shape, np.uint8))


def batch_of(scenes: list[tuple[NDArray[Any], ...]], keys: list[str], first: int) -> DepthBatch:
    if len({each[0].shape for each in scenes}) > 1:
        sizes = " and ".join(sorted({"x".join(map(str, each[0].shape[:2])) for each in scenes}))
        raise shards.ShardError(f"scenes must be of one size, got {sizes} in one batch ({keys[0]}, ...)")
    rgb, inverse, seg = (torch.from_numpy(np.stack(part)) for part in zip(*scenes, strict=True))
    return DepthBatch(rgb, inverse, seg, keys, first)


class TrainBatches(Pieces[DepthBatch]):
    def __init__(self, split: shards.Split, config: DepthConfig, share: Share) -> None:
        super().__init__(split, config.seed, share)
        self.config, self.fields = config, fields_of(split, config.data.depth)

    def made(self, samples: Iterator[tuple[int, shards.Members]], first: int) -> DepthBatch:
        scenes, keys = [], []
        for epoch, members in samples:
            one = scene(self.split, members, self.config.data.depth)
            if generator(self.config.seed, epoch, members.key).random() < self.config.augment.flip:
                one = tuple(np.ascontiguousarray(plane[:, ::-1]) for plane in one)
            scenes.append(one)
            keys.append(members.key)
        return batch_of(scenes, keys, first)


class EvalBatches(Dataset[DepthBatch]):
    """The split in its own order, every scene once."""

    def __init__(self, split: shards.Split, field: str) -> None:
        self.split, self.field, self.fields = split, field, fields_of(split, field)

    def __len__(self) -> int:
        return -(-len(self.split) // EVAL_BATCH)

    def __getitem__(self, number: int) -> DepthBatch:
        first = number * EVAL_BATCH
        members = [
            self.split.members(place, self.fields) for place in range(first, min(first + EVAL_BATCH, len(self.split)))
        ]
        return batch_of([scene(self.split, m, self.field) for m in members], [m.key for m in members], first)


def train_loader(
    split: shards.Split, config: DepthConfig, share: Share, first_step: int, num_steps: int
) -> Iterator[DepthBatch]:
    """This rank's batches of steps first_step .. num_steps - 1."""
    return load_pieces(TrainBatches(split, config, share), first_step, num_steps, config.runtime)


def eval_loader(split: shards.Split, config: DepthConfig, rank: int, world_size: int) -> Iterator[DepthBatch]:
    """Every `world_size`-th batch, from the `rank`-th."""
    batches = EvalBatches(split, config.data.depth)
    return load(batches, range(rank, len(batches), world_size), config.runtime)


def position_mean(split: shards.Split, field: str, most: int = 4096) -> NDArray[np.float64]:
    """Mean inverse depth of each pixel position, 1/m: what can be said without looking at the picture.

    Over `most` scenes at most, spread over the split.
    """
    chosen = np.linspace(0, len(split) - 1, min(len(split), most)).astype(int)
    fields = fields_of(split, field)
    return np.nanmean([scene(split, split.members(int(place), fields), field)[1] for place in chosen], axis=0)
