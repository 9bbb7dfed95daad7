"""How good depth estimates are: rank and relative error over all pixels, without position, and inside objects."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

_VOID = 255


def collected(
    maps: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], position_mean: NDArray[np.float64]
) -> dict[str, list[float]]:
    """A number an image (a box), for the estimates and, under `position_`, for `position_mean` in their place.

    `maps`: batches of estimated inverse depth, true inverse depth in 1/m (NaN = unknown) and seg, each (batch, height,
    width). Every map is first aligned to the truth by per-image least squares (scale and shift) in inverse depth.

    - spearman, abs_rel: all pixels; abs_rel = mean |d - true| / true in metres, d = 1 / aligned, at most 10 m.
    - residual_spearman: both maps less `position_mean`. residual_error: sum |aligned - true| / sum |position_mean -
      true| in 1/m, so that 1 = knows no more than the unaligned position mean; it takes AbsRel's place because a
      residual may be 0.
    - box_spearman, box_abs_rel: inside the bounding box of each object label of at least 16 pixels; alignment as above.
    """
    scores: dict[str, list[float]] = {}
    for estimated, inverse_depth, seg in maps:
        for name, batch in (("", estimated), ("position_", np.broadcast_to(position_mean, estimated.shape))):
            for one_map, true, labels in zip(batch, inverse_depth, seg, strict=True):
                if not np.isfinite(true).any():
                    continue
                for measured, value in _score(one_map, true.astype(np.float64), labels, position_mean):
                    scores.setdefault(name + measured, []).append(value)
    return scores


def means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(float(np.mean(values)), 4) for name, values in scores.items()}


def _score(
    estimated: np.ndarray, true: np.ndarray, labels: np.ndarray, mean: np.ndarray
) -> Iterator[tuple[str, float]]:
    known = np.isfinite(true)
    basis = np.stack([estimated[known], np.ones(known.sum())], axis=1)
    scale, shift = np.linalg.lstsq(basis, true[known], rcond=None)[0]
    aligned = np.where(known, scale * estimated + shift, np.nan)
    relative = np.abs(1 / np.maximum(aligned, 0.1) - 1 / true) * true
    yield "spearman", _spearman(aligned[known], true[known])
    yield "abs_rel", float(relative[known].mean())
    yield "residual_spearman", _spearman((aligned - mean)[known], (true - mean)[known])
    yield "residual_error", float(np.abs(aligned - true)[known].sum() / np.abs(mean - true)[known].sum())
    for label in np.setdiff1d(labels, [0, _VOID]):
        rows, columns = np.nonzero(labels == label)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        if known[box].sum() >= 16:
            yield "box_spearman", _spearman(aligned[box][known[box]], true[box][known[box]])
            yield "box_abs_rel", float(relative[box][known[box]].mean())


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation; 0 where one side is constant."""
    ranks = []
    for values in (first, second):
        _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
        rank = (np.cumsum(ties) - (ties - 1) / 2)[place]  # ties share their mean rank
        ranks.append(rank - rank.mean())
    spread = ranks[0].std() * ranks[1].std()
    return float(np.mean(ranks[0] * ranks[1]) / spread) if spread else 0.0
