"""Slopes of the score on |Δ| within distances, or within pairs of positions: fixed effects, from a dump's sums.

Scores and |Δ| are row-centred throughout, so what a query row adds to its scores (softmax's gauge) is gone as well.
`by_distance`  every distance that patches can have adds what it likes: S = β |Δ| + a_ni + f(r_ij) + e.
`two_way`      every ordered pair of positions does: S = β |Δ| + a_ni + b_ij + e. The strongest; over images without
               gaps, which makes the panel of images and pairs a balanced one.
What photograph and depth have in common beyond position stays in β: `causal` takes that out. Intervals leave out one
group of images at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.nulls import partner_groups
from training.dumps.arrays import unpacked
from training.dumps.pairs import DISTANCE_PAIRS, REGRESSORS
from training.dumps.scores import DISTANCE_ROWS, ROWS
from training.intervals import Estimate, Jackknife, jackknife, ratio

if TYPE_CHECKING:
    from training.dumps.store import Dump

_NULL = 1e-10  # of the largest: below it a direction, or what is left of |Δ|, is rounding
_ROWS_AT_ONCE = 512  # images


def by_distance(dump: "Dump", part: str = "content") -> Estimate:
    """(layers,) slopes of the head mean, with intervals."""
    return _distance_slopes(dump, part, "delta", lambda sums: sums).estimate()


def distance_slopes(dump: "Dump", part: str = "content") -> Jackknife:
    """(2, layers) slopes on an image's own |Δ|, and on another's; images and their partners left out together."""
    found = [_distance_slopes(dump, part, name, partial(partner_groups, dump)) for name in ("delta", "other")]
    return Jackknife(np.stack([each.value for each in found]), np.stack([each.without for each in found], 1))


def _distance_slopes(
    dump: "Dump", part: str, regressor: str, together: Callable[[np.ndarray], np.ndarray]
) -> Jackknife:
    product = dump[f"statistics/{part}/head_rows"][..., ROWS.index(f"c_{regressor}")].mean(2)  # (groups, layers)
    across = dump[f"statistics/{part}/distance"][..., DISTANCE_ROWS.index("c")]  # (groups, layers, distances)
    delta = dump["statistics/distance/pairs"][..., DISTANCE_PAIRS.index(f"{regressor}_c")]
    sums = [product, across, _squares(dump, regressor), delta, dump["statistics/distance/gram"]]
    sums = [together(each) for each in sums]
    total = [each.sum(0) for each in sums]
    without = _within_distances(*(whole - each for whole, each in zip(total, sums, strict=True)))
    return Jackknife(_within_distances(*total), without)


def _squares(dump: "Dump", regressor: str) -> np.ndarray:
    """(groups,) Σ of a centred regressor squared."""
    squares = np.zeros(dump.info.num_groups)
    place = REGRESSORS.index(regressor)
    for first in range(0, dump.info.num_images, _ROWS_AT_ONCE):
        rows = unpacked(dump.read("statistics/pairs/centred", slice(first, first + _ROWS_AT_ONCE)))[:, place, place]
        np.add.at(squares, (first + np.arange(len(rows))) % len(squares), rows)
    return squares


def _within_distances(
    product: np.ndarray, across: np.ndarray, squares: np.ndarray, delta: np.ndarray, gram: np.ndarray
) -> np.ndarray:
    """(..., layers) from S'|Δ| (..., layers), D'S (..., layers, R), |Δ|'|Δ| (...), D'|Δ| (..., R) and D'D (..., R, R).

    Regression of what D leaves of one on what it leaves of the other. The centred dummies add up to 0, so D'D is
    singular: its pseudo-inverse is taken.
    """
    fitted = np.linalg.pinv(gram, rcond=_NULL, hermitian=True) @ delta[..., None]
    left = squares - (delta[..., None, :] @ fitted)[..., 0, 0]
    usable = np.where(left > _NULL * squares, left, 0.0)[..., None]
    return ratio(product - (across @ fitted)[..., 0], np.broadcast_to(usable, product.shape))


def two_way(dump: "Dump", part: str = "content") -> Estimate:
    """(layers,) slopes of the head mean, with intervals; NaN with fewer than two images without gaps.

    One group's sums over pairs of positions are held at a time.
    """
    images, squares, delta = _pairs(dump)
    product = dump[f"statistics/{part}/two_way/head_sum_delta"].mean(2)  # (groups, layers)
    layers = range(dump.info.num_attention_layers)
    scores = np.stack([dump.read(f"statistics/{part}/two_way/sum", layer).mean(0).ravel() for layer in layers])
    value = _within_pairs(product.sum(0), scores @ delta, squares.sum(), delta @ delta, images.sum())
    replicates = []
    for group in np.flatnonzero(images):
        own = dump.read(f"statistics/{part}/two_way/group_sum", int(group)).reshape(scores.shape)
        rest = delta - dump.read("statistics/two_way/delta_sum", int(group)).ravel()
        others = np.arange(len(images)) != group
        replicates.append(
            _within_pairs(
                product[others].sum(0), (scores - own) @ rest, squares[others].sum(), rest @ rest, images[others].sum()
            )
        )
    return jackknife(value, np.array(replicates))


def two_way_heads(dump: "Dump", part: str = "content") -> np.ndarray:
    """(layers, heads) slopes."""
    images, squares, delta = _pairs(dump)
    product = dump[f"statistics/{part}/two_way/head_sum_delta"].sum(0)
    layers = range(dump.info.num_attention_layers)
    sums = (dump.read(f"statistics/{part}/two_way/sum", layer) for layer in layers)
    scores = np.stack([each.reshape(len(each), -1) @ delta for each in sums])
    return _within_pairs(product, scores, squares.sum(), delta @ delta, images.sum())


def _pairs(dump: "Dump") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and Σ|Δ|² by group, and the sum of |Δ| over images for every ordered pair of positions."""
    delta = np.zeros(dump.info.num_patches**2)
    for group in range(dump.info.num_groups):
        delta += dump.read("statistics/two_way/delta_sum", group).ravel()
    return dump["statistics/two_way/images"], dump["statistics/two_way/delta_sq"], delta


def _within_pairs(
    product: np.ndarray, across: np.ndarray, squares: float, delta_sq: float, num_images: float
) -> np.ndarray:
    """Σ_ij [Σ_n S|Δ| - Σ_n S Σ_n |Δ| / N] / Σ_ij [Σ_n |Δ|² - (Σ_n |Δ|)² / N]."""
    if num_images < 2:
        return np.full(product.shape, np.nan)
    left = squares - delta_sq / num_images
    return ratio(product - across / num_images, np.array(left if left > _NULL * squares else 0.0))
