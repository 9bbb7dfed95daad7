"""CONTRACT: the affine map that takes all linear information on one scalar out of a representation. No torch.

LEACE (Belrose et al. 2023, arXiv 2306.03819) for a scalar concept z. With Σ the covariance of h, σ that
of h with z and w = Σ⁺σ the direction of least squares, it is of rank one:

    h  ->  h - σ (w'h - w'μ) / (w'σ)

Afterwards no affine predictor of z beats z's mean, and of all affine maps of which that is true it moves h least, in
the mean square of any norm.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Erasure:
    """h -> h - (h @ weights - offset) * direction; zero weights where h holds nothing on z."""

    weights: np.ndarray  # (width,)
    direction: np.ndarray  # (width,)
    offset: float

    def __call__(self, h: np.ndarray) -> np.ndarray:
        """(..., width) -> the same without z."""
        return h - (h @ self.weights - self.offset)[..., None] * self.direction


def erasure(moments: np.ndarray) -> Erasure:
    """From the sums [h, z, 1]'[h, z, 1] over tokens, (width + 2, width + 2).

    Directions in which h varies by less than rounding (as `numpy.linalg.pinv` has it) are left alone.
    """
    mean = moments[-1, :-1] / moments[-1, -1]
    covariance = moments[:-1, :-1] / moments[-1, -1] - np.outer(mean, mean)
    sigma = covariance[:-1, -1]
    weights = np.linalg.pinv(covariance[:-1, :-1], rcond=len(mean) * np.finfo(np.float64).eps, hermitian=True) @ sigma
    explained = float(weights @ sigma)  # z's variance that h explains
    if explained <= 1e-12 * covariance[-1, -1]:
        return Erasure(np.zeros_like(sigma), sigma, 0.0)
    return Erasure(weights, sigma / explained, float(weights @ mean[:-1]))
