"""One endless stream of samples whose order is a pure function of (seed, epoch).

Position p of the stream is sample `order(p mod N)` of epoch p // N; step s takes positions s*B to (s+1)*B. So the
state of the loader is the step, a resume costs nothing, and neither workers nor ranks matter: every epoch has every
sample once, and a sample's pixels depend on (seed, epoch, key) alone. The order (`order`) is computed where it is asked
for. Shards at a URL are streamed instead (`stream`), with weaker guarantees.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset

from pipeline import shards
from training.engine.share import Share
from training.loading.order import Order

_Made = TypeVar("_Made")


class Pieces(Dataset[_Made]):
    """`self[step * share.pieces + piece]` is what `made` makes of the samples of that piece of that step."""

    fields: tuple[str, ...]  # members that a sample needs

    def __init__(self, split: Any, seed: int, share: Share) -> None:
        self.split, self.seed, self.share, self.order = split, seed, share, Order(split.ends, seed)

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
