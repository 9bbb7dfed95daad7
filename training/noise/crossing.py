"""Where a measured curve that should only rise reaches a level."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from sklearn.isotonic import isotonic_regression

Floats = NDArray[np.float64]


def crossing(x: Sequence[float], curves: Floats, levels: Floats) -> Floats:
    """The least x at which each of `curves` (count, points) reaches its level (count,); inf where it ends below.

    Each curve is first made monotone (least squares), then joined by PCHIP, which does not overshoot. Nothing is
    extrapolated: a level below the curve's beginning is reached at x[0].
    """
    rising = np.array([c if (np.diff(c) >= 0).all() else isotonic_regression(c) for c in curves]).T  # (points, count)
    grid, pieces = np.asarray(x, np.float64), PchipInterpolator(x, rising).c  # (4, points - 1, count)
    reached = rising >= levels
    right = np.maximum(reached.argmax(0), 1)
    mine = pieces[:, right - 1, np.arange(len(levels))]
    low, high = np.zeros(len(levels)), grid[right] - grid[right - 1]
    for _ in range(60):
        middle = (low + high) / 2
        below = ((mine[0] * middle + mine[1]) * middle + mine[2]) * middle + mine[3] < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(reached[0], grid[0], np.where(reached[-1], grid[right - 1] + high, np.inf))
