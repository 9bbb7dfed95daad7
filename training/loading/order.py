"""The order of an epoch: a permutation that is computed where it is asked for, a function of (seed, epoch) alone.

Up to 2,048 shards, as many as a process keeps the tables of, it is one permutation of all samples. With more it has
two levels: the shards are permuted, and all samples of each 2,048 consecutive shards of that permutation are permuted
among themselves. So a process opens no table twice in an epoch, memory is O(shards), and a batch still draws evenly
from 2,048 shards. Whatever their number, windows are drawn anew every epoch: two shards of 100,000 share one in 2 % of
epochs.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline import shards
from training.random_numbers import generator

WINDOW = shards.TABLES


class Order:
    """`ends[k]` is the number of samples in the shards up to and with the k-th."""

    def __init__(self, ends: NDArray[np.int64], seed: int, window: int = WINDOW) -> None:
        self.ends, self.seed, self.window = ends, seed, window
        self.count = int(ends[-1])
        self._shards: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __call__(self, positions: NDArray[np.integer], epoch: int) -> NDArray[np.int64]:
        """The samples at these positions of the epoch, as numbers of the split's own order."""
        if len(self.ends) <= self.window:
            return self._permuted(positions, self.count, epoch)
        order, ends = self.shards_of(epoch)
        window_ends = np.append(ends[self.window - 1 :: self.window], ends[-1:])
        windows = np.searchsorted(window_ends, positions, side="right")
        samples = np.empty(len(positions), np.int64)
        for number in np.unique(windows):
            here = windows == number
            start = int(window_ends[number - 1]) if number else 0
            size = int(window_ends[number]) - start
            places = start + self._permuted(positions[here] - start, size, epoch, int(number))
            shard = np.searchsorted(ends, places, side="right")
            samples[here] = self.ends[order[shard]] - (ends[shard] - places)
        return samples

    def _permuted(self, positions: NDArray[np.integer], count: int, *names: int) -> NDArray[np.int64]:
        keys = generator(self.seed, "order", *names).integers(0, 2**63, shards.ORDER_ROUNDS, dtype=np.uint64)
        return shards.permuted(positions, count, keys)

    def shards_of(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's permutation of the shards, and the number of samples up to and with each."""
        if epoch not in self._shards:
            order = generator(self.seed, "shards", epoch).permutation(len(self.ends))
            latest = list(self._shards.items())[-1:]  # a batch may lie in two epochs
            self._shards = dict(latest) | {epoch: (order, np.cumsum(np.diff(self.ends, prepend=0)[order]))}
        return self._shards[epoch]
