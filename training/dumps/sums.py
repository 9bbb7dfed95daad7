"""CONTRACT: the statistics of a dump, written once for numpy and torch arrays; imports no torch.

Notation: patches i, j of one image; S_ij a head's score (query i, key j); |Δ_ij| the absolute difference of their
patch depths in z; r_ij the distance of their centres in patch units. Sums run over ordered pairs i != j whose patches
both have a depth. "Centred" means: minus its mean over the keys of the same query row, which removes the freedom of
softmax(S + c_i) = softmax(S).
"""

import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or torch.Tensor

BIN_WIDTH = 0.1  # z
NUM_BINS = 41  # [0, 4) in steps of 0.1 and one overflow bin

# Per image, layer and head (ROWS) and per image alone (PAIR_ROWS); together they give every slope and cosine.
ROWS = ("s", "ss", "s_delta", "s_r", "cc", "c_delta", "c_r")
PAIR_ROWS = ("n", "delta", "delta_sq", "r", "r_sq", "delta_r", "delta_c_sq", "r_c_sq", "delta_c_r_c")
COSINES = ("literal_delta", "literal_r", "gauge_fixed_delta", "gauge_fixed_r")


def _namespace(array: Array) -> Any:
    return sys.modules["torch"] if type(array).__module__.startswith("torch") else np


def _float64(array: Array) -> Array:
    return array.double() if type(array).__module__.startswith("torch") else array.astype(np.float64)


def patch_distance(grid: tuple[int, int]) -> np.ndarray:
    """Float64[patches, patches]: Euclidean distance of patch centres in patch units."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return np.hypot(rows[:, None] - rows[None], columns[:, None] - columns[None]).astype(np.float64)


@dataclass(frozen=True)
class Pairs:
    """What a batch's pairs are, apart from any model. Shapes: (batch, patches, patches)."""

    weight: Array  # 1 for i != j with depth at both, else 0
    valid: Array  # the same with the diagonal
    delta: Array  # |Δ|, 0 where not valid
    r: Array
    delta_c: Array  # centred, 0 where weight is 0
    r_c: Array

    @classmethod
    def of(cls, patch_depth: Array, grid: tuple[int, int]) -> "Pairs":
        """From patch depth (batch, patches) in z, NaN where a patch has no valid pixel."""
        xp = _namespace(patch_depth)
        depth = _float64(patch_depth)
        seen = _float64(~xp.isnan(depth))
        depth = xp.where(seen > 0, depth, xp.zeros_like(depth))
        valid = seen[:, :, None] * seen[:, None, :]
        distance = patch_distance(grid)
        off_diagonal = 1.0 - np.eye(len(distance))
        if xp is not np:
            distance, off_diagonal = (xp.from_numpy(a).to(depth.device) for a in (distance, off_diagonal))
        weight = valid * off_diagonal
        delta = abs(depth[:, :, None] - depth[:, None, :]) * valid
        r = distance + xp.zeros_like(delta)
        return cls(weight, valid, delta, r, centre_rows(delta, weight), centre_rows(r, weight))

    def rows(self) -> Array:
        """(batch, len(PAIR_ROWS)) sums, in that order."""
        w, d, r = self.weight, self.delta, self.r
        terms = (w, w * d, w * d**2, w * r, w * r**2, w * d * r, self.delta_c**2, self.r_c**2, self.delta_c * self.r_c)
        return _namespace(w).stack([term.sum((1, 2)) for term in terms], 1)


def centre_rows(values: Array, weight: Array) -> Array:
    """Subtract each row's weighted mean over the last axis and zero what has no weight."""
    count = weight.sum(-1)[..., None]
    mean = (values * weight).sum(-1)[..., None] / (count + (count == 0))
    return (values - mean) * weight


def score_rows(scores: Array, pairs: Pairs) -> tuple[Array, Array]:
    """(batch, heads, len(ROWS)) sums and (batch, len(COSINES)) cosines of one layer.

    `scores`: (batch, heads, patches, patches), without the class token. Cosines are those of the head mean:
    `literal` over all valid entries as they are (Figure 5 as printed), `gauge_fixed` over centred pairs i != j; NaN
    where one side is zero everywhere.
    """
    xp = _namespace(scores)
    s = _float64(scores)
    w, d, r = pairs.weight[:, None], pairs.delta[:, None], pairs.r[:, None]
    c = centre_rows(s, w)
    terms = (s * w, s**2 * w, s * w * d, s * w * r, c**2, c * d, c * r)
    rows = xp.stack([term.sum((2, 3)) for term in terms], 2)
    mean = s.mean(1)
    centred = centre_rows(mean, pairs.weight)
    literal = mean * pairs.valid
    cosines = [
        _cosine(literal, pairs.delta),
        _cosine(literal, pairs.r * pairs.valid),
        _cosine(centred, pairs.delta_c),
        _cosine(centred, pairs.r_c),
    ]
    return rows, xp.stack(cosines, 1)


def _cosine(a: Array, b: Array) -> Array:
    xp = _namespace(a)
    norm = (a**2).sum((1, 2)) ** 0.5 * (b**2).sum((1, 2)) ** 0.5
    # A head that adds a constant to each row is centred to rounding noise, not to zero: its direction means nothing.
    empty = norm <= 1e-12 * a.shape[1]
    return xp.where(empty, xp.full_like(norm, float("nan")), (a * b).sum((1, 2)) / xp.where(empty, norm + 1, norm))


@dataclass
class ScoreBins:
    """Scores by bin of |Δ|, for one layer: `update(batch)`, `merge(other)`; arrays are float64.

    sum, sum_sq, sum_centred: (heads, NUM_BINS); count, images: (NUM_BINS,), pairs and images in each bin.
    """

    sum: Array
    sum_sq: Array
    sum_centred: Array
    count: Array
    images: Array

    @classmethod
    def zeros(cls, num_heads: int) -> "ScoreBins":
        total, squares, centred = np.zeros((3, num_heads, NUM_BINS))
        return cls(total, squares, centred, np.zeros(NUM_BINS), np.zeros(NUM_BINS))

    def update(self, scores: Array, pairs: Pairs) -> None:
        """Add a batch of (batch, heads, patches, patches) scores."""
        xp = _namespace(scores)
        s = _float64(scores)
        batch, heads = s.shape[:2]
        c = centre_rows(s, pairs.weight[:, None])
        edges = xp.arange(NUM_BINS) if xp is np else xp.arange(NUM_BINS, device=s.device)
        for image in range(batch):
            flat = pairs.delta[image].reshape(-1)
            number = xp.clip(xp.floor(flat / BIN_WIDTH + 1e-9), 0, NUM_BINS - 1)
            indicator = _float64(number[:, None] == edges[None]) * pairs.weight[image].reshape(-1)[:, None]
            planes = s[image].reshape(heads, -1)
            count = indicator.sum(0)
            self.sum = self.sum + _numpy(planes @ indicator)
            self.sum_sq = self.sum_sq + _numpy(planes**2 @ indicator)
            self.sum_centred = self.sum_centred + _numpy(c[image].reshape(heads, -1) @ indicator)
            self.count = self.count + _numpy(count)
            self.images = self.images + _numpy(_float64(count > 0))

    def merge(self, other: "ScoreBins") -> "ScoreBins":
        return ScoreBins(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(ScoreBins)})


def _numpy(array: Array) -> np.ndarray:
    return np.asarray(array.cpu() if type(array).__module__.startswith("torch") else array)
