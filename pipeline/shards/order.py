"""A permutation that is computed where it is asked for: no list of positions is ever built, whatever their number."""

import numpy as np
from numpy.typing import NDArray

ORDER_ROUNDS = 8


def permuted(positions: NDArray[np.integer], count: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where the permutation of range(count) that `keys` (ORDER_ROUNDS of them) choose sends each position.

    A Feistel network over the next power of four, walked until it is back inside range(count) (Black and Rogaway 2002).
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ key) & mask)
        values[outside] = (left << half) | right
        outside = values >= count
    return values.astype(np.int64)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
