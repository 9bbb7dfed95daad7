"""z = sign * (depth - mean) / std, so that every stored map is farther-is-larger, and its running constants."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGN = {"closer_is_larger": -1.0, "farther_is_larger": 1.0}


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of everything seen; `merge` is Chan's parallel update."""

    count: int = 0
    mean: float = 0.0
    sum_sq_dev: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> "Moments":
        """Moments of the finite entries of an array of any shape."""
        finite = values[np.isfinite(values)].astype(np.float64)
        if finite.size == 0:
            return cls()
        mean = float(finite.mean())
        finite -= mean  # in place, as memory is what this costs
        finite *= finite
        return cls(int(finite.size), mean, float(finite.sum()))

    def merge(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * other.count / count
        return Moments(count, mean, self.sum_sq_dev + other.sum_sq_dev + delta**2 * self.count * other.count / count)

    @property
    def std(self) -> float:
        """Population standard deviation; 0 where nothing was seen."""
        return float((self.sum_sq_dev / self.count) ** 0.5) if self.count else 0.0


@dataclass(frozen=True)
class Standardisation:
    """Data-set constants in the teacher's or sensor's native unit and polarity."""

    mean: float
    std: float
    polarity: str

    def __post_init__(self) -> None:
        if self.polarity not in SIGN:
            raise ValueError(f"polarity must be one of {', '.join(SIGN)}, got {self.polarity!r}")
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"standardisation needs a finite mean and a std > 0, got mean={self.mean} std={self.std}; "
                "give them with --stats MEAN,STD"
            )

    @property
    def sign(self) -> float:
        return SIGN[self.polarity]

    def apply(self, depth: NDArray[Any]) -> NDArray[np.float32]:
        """Native depth to z, any shape; NaN stays NaN."""
        z = depth.astype(np.float64)
        z -= self.mean  # in place, as memory is what this costs
        z *= self.sign
        z /= self.std
        return z.astype(np.float32)

    def invert(self, z: NDArray[Any]) -> NDArray[np.float32]:
        """z back to the native unit and polarity."""
        return (self.mean + self.sign * self.std * z.astype(np.float64)).astype(np.float32)
