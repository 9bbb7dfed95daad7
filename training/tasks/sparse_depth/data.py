"""Photographs with depth in metres: cut and changed anew every epoch to learn from, the largest centre to look at.

A pixel of no depth, of 0 m or of less is unknown: NaN.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import shards
from pipeline.teachers.sparse import Size
from training.engine.share import Share
from training.loading.augment.geometry import Box, crop
from training.loading.data import load, load_pieces
from training.loading.decode import decode_rgb
from training.loading.pieces import Pieces
from training.random_numbers import generator
from training.tasks.sparse_depth import metrics
from training.tasks.sparse_depth.augment import TooSmall, augmented
from training.tasks.sparse_depth.config import SparseDepthConfig

EVAL_BATCH = 8  # images read together, whatever the number of ranks; those of one size go through the model together
EVAL_QUERIES = 256


@dataclass(frozen=True)
class SparseBatch:
    """rgb uint8 (batch, 3, height, width); depth in metres, NaN unknown.

    `queries` (batch, k, 2) are (u, v) in pixels, and depth is (batch, k); without any it is (batch, height, width).
    """

    rgb: Tensor
    depth: Tensor
    queries: Tensor | None
    keys: list[str]
    first: int = 0

    def _each(self, change: Callable[[Tensor], Tensor]) -> "SparseBatch":
        queries = None if self.queries is None else change(self.queries)
        return SparseBatch(change(self.rgb), change(self.depth), queries, self.keys, self.first)

    def to(self, device: torch.device) -> "SparseBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "SparseBatch":
        return self._each(Tensor.pin_memory)


def fields_of(field: str) -> tuple[str, str]:
    return "rgb", field


def decode(split: shards.Split, members: shards.Members, field: str) -> tuple[Tensor, Tensor]:
    """RGB uint8 (3, height, width) and metres (1, height, width), NaN unknown; ShardError names a fault."""
    rgb = members.decode("rgb", decode_rgb)
    z: NDArray[np.float32] = members.decode(field)
    members.check_sizes({"rgb": rgb.permute(1, 2, 0).numpy(), field: z})
    metres = split.index.depth[field].standardisation.invert(z)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return rgb, torch.from_numpy(metres)[None]


def asked(depth: Tensor, count: int, edge_share: float, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """`count` pixels with depth of a map (height, width), evenly drawn: (u, v) (count, 2), metres (count,).

    `edge_share` of them lie where depth jumps, as far as it does. A pixel comes twice only where there are fewer than
    `count`. Of a map without any the metres are NaN.
    """
    metres = depth.numpy()
    valid = np.flatnonzero(np.isfinite(metres))
    if not valid.size:
        return torch.zeros(count, 2), torch.full((count,), torch.nan)
    edges = np.flatnonzero(metrics.edges(metres)) if edge_share else valid[:0]
    at_edge = min(round(edge_share * count), edges.size)
    chosen = random.choice(edges, at_edge, replace=False) if at_edge else edges[:0]
    rest = count - at_edge
    chosen = np.concatenate([chosen, random.choice(valid, rest, replace=valid.size < rest)])
    v, u = np.unravel_index(chosen, metres.shape)
    return torch.from_numpy(np.stack([u, v], 1).astype(np.float32)), torch.from_numpy(metres.ravel()[chosen])


class TrainBatches(Pieces[SparseBatch]):
    def __init__(self, split: shards.Split, config: SparseDepthConfig, share: Share) -> None:
        super().__init__(split, config.seed, share)
        self.config, self.fields = config, fields_of(config.data.depth)

    def made(self, samples: Iterator[tuple[int, shards.Members]], first: int) -> SparseBatch:
        config, made, keys = self.config.data, [], []
        for epoch, members in samples:
            rgb, depth = decode(self.split, members, config.depth)
            try:
                rgb, depth = augmented(rgb, depth, self.config.augment, generator(self.config.seed, epoch, members.key))
            except TooSmall as error:
                raise shards.ShardError(f"{members.tar}, key {members.key}: {error}") from None
            queries = None
            depth = depth[0]
            if config.queries:
                random = generator(self.config.seed, epoch, members.key, "queries")
                queries, depth = asked(depth, config.queries, config.edge_share, random)
            made.append((rgb, depth, queries))
            keys.append(members.key)
        return batch_of(made, keys, first)


def batch_of(made: Sequence[tuple[Tensor, Tensor, Tensor | None]], keys: list[str], first: int) -> SparseBatch:
    rgb, depth = (torch.stack([one[part] for one in made]) for part in range(2))  # type: ignore[misc]
    queries = [one[2] for one in made if one[2] is not None]
    return SparseBatch(rgb, depth, torch.stack(queries) if queries else None, keys, first)


class EvalBatches(Dataset[list[SparseBatch]]):
    """The split in its own order, every image once, asked at the same pixels every time; a batch each size."""

    def __init__(self, split: shards.Split, field: str, multiple: int) -> None:
        self.split, self.field, self.multiple, self.fields = split, field, multiple, fields_of(field)

    def __len__(self) -> int:
        return -(-len(self.split) // EVAL_BATCH)

    def __getitem__(self, number: int) -> list[SparseBatch]:
        first = number * EVAL_BATCH
        groups: list[list[tuple[tuple[Tensor, Tensor, Tensor], str]]] = []
        for place in range(first, min(first + EVAL_BATCH, len(self.split))):
            members = self.split.members(place, self.fields)
            one = self._centre(members)
            if not groups or groups[-1][0][0][0].shape != one[0].shape:
                groups.append([])
            groups[-1].append((one, members.key))
        batches, start = [], first
        for group in groups:
            batches.append(batch_of([one for one, _ in group], [key for _, key in group], start))
            start += len(group)
        return batches

    def _centre(self, members: shards.Members) -> tuple[Tensor, Tensor, Tensor]:
        """The largest centre that the network takes, never resized: depth in metres belongs to a focal length."""
        rgb, depth = decode(self.split, members, self.field)
        have, size = (rgb.shape[1], rgb.shape[2]), seen_of(members, rgb, self.multiple)
        box = Box((have[0] - size[0]) // 2, (have[1] - size[1]) // 2, *size)
        queries, metres = asked(crop(depth, box)[0], EVAL_QUERIES, 0.0, generator(0, "val", members.key))
        return crop(rgb, box), metres, queries


def seen_of(members: shards.Members, rgb: Tensor, multiple: int) -> Size:
    """Height and width of what a network takes of an image; ShardError where that is nothing."""
    height, width = rgb.shape[1:]
    if min(height, width) < multiple:
        raise shards.ShardError(
            f"{members.tar}, key {members.key}: an image must be {multiple} px or more a side, got {height}x{width} "
            "(height x width): make the shards with larger images"
        )
    return floored((height, width), multiple)


def floored(size: Size, multiple: int) -> Size:
    return size[0] // multiple * multiple, size[1] // multiple * multiple


def train_loader(
    split: shards.Split, config: SparseDepthConfig, share: Share, first_step: int, num_steps: int
) -> Iterator[SparseBatch]:
    """This rank's batches of steps first_step .. num_steps - 1."""
    return load_pieces(TrainBatches(split, config, share), first_step, num_steps, config.runtime)


def eval_loader(
    split: shards.Split, config: SparseDepthConfig, multiple: int, rank: int, world_size: int
) -> Iterator[list[SparseBatch]]:
    """Every `world_size`-th lot of images, from the `rank`-th: over all ranks every image once."""
    batches = EvalBatches(split, config.data.depth, multiple)
    return load(batches, range(rank, len(batches), world_size), config.runtime)
