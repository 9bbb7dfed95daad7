"""A mask as a few numbers in a sample's json."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def runs_of(mask: NDArray[np.bool_]) -> list[int]:
    """First pixel and length of every run of True, pixels counted row by row: [first, length, first, length, ...]."""
    steps = np.diff(mask.ravel().astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return np.stack([starts, ends - starts], 1).ravel().tolist()


def mask_of(runs: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (height, width) that `runs_of` was given."""
    mask = np.zeros(shape[0] * shape[1], dtype=np.bool_)
    for first, length in zip(runs[::2], runs[1::2], strict=True):
        mask[first : first + length] = True
    return mask.reshape(shape)
