"""What slopes on |Δ| come to when the depth is not the image's own.

Null regressors: |Δ| of another image, which keeps autocorrelation and what positions have in common and is the one to
judge by; of the mirrored depth map; of shuffled patches, a weak null, because it keeps neither (Guillot and Rousset
2013: tests that ignore spatial autocorrelation fail under it).
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from analysis.attention import Variant, moments, slope
from training.dumps.from_raw import bias_mode, biased, raw_bias, raw_depth, raw_scores
from training.dumps.pairs import NULLS, filled
from training.intervals import Estimate, over_units

if TYPE_CHECKING:
    from training.dumps.store import Dump

LEAST_IMAGES = 8  # of the raw tier, for a test
MOST_IMAGES = 128  # the test holds a layer's scores and |Δ| of all its images at once
NUM_DERANGEMENTS = 999
_IMAGES_AT_ONCE = 16  # a shard
_SEED = 20261


def null_slopes(dump: "Dump", part: str = "content") -> dict[str, Estimate]:
    """(layers,) gauge-fixed slopes on each of `pairs.NULLS` in place of |Δ|, with intervals over images."""
    return {name: null_slope(dump, name, "gauge_fixed", part) for name in NULLS}


def null_slope(dump: "Dump", name: str, variant: Variant, part: str = "content") -> Estimate:
    """(layers,) slope on one of `pairs.NULLS`."""
    rows = moments(dump, variant, (name,), part)
    return over_units(partners_together(rows) if name == "other" else rows, lambda sums: slope(sums, variant))


def partners_together(rows: np.ndarray) -> np.ndarray:
    """Additive rows of images (images, ...) as rows of an image and its partner.

    Image and partner read each other's depth, so what reads another image's leaves out the two together: apart, the
    interval would be up to √2 too narrow.
    """
    half = len(rows) // 2
    return np.concatenate([rows[:half] + rows[half : 2 * half], rows[2 * half :]])


_LEAST_GROUPS = 8


def partner_groups(dump: "Dump", sums: np.ndarray) -> np.ndarray:
    """Sums of the dump's groups of images (groups, ...), put together until every image is in one with its partner.

    Images and their partners, half of all images on, are in groups that far apart. Where too few would be left, groups
    stay as they are and differ from their mean √2 times as much, which is the most that partners can make of it.
    """
    groups = len(sums)
    left = math.gcd(dump.info.num_images // 2, groups)
    if left == groups:
        return sums
    if left >= _LEAST_GROUPS:
        return np.asarray(sums.reshape(groups // left, left, *sums.shape[1:]).sum(0))
    mean = sums.mean(0)
    return np.asarray(mean + math.sqrt(2) * (sums - mean))


def randomisation_p(dump: "Dump", part: str = "content", num_derangements: int = NUM_DERANGEMENTS) -> np.ndarray | None:
    """(layers,) two-sided p of the gauge-fixed slope over the raw tier's first MOST_IMAGES images.

    None below LEAST_IMAGES of them.

    The slope T is set against slopes T* with depth maps dealt out anew so that no image keeps its own:
    p = (1 + #{|T*| >= |T|}) / (B + 1) (Phipson and Smyth 2010).
    """
    count = num_tested(dump)
    if not count:
        return None
    depth = raw_depth(dump, dump.info.patch_depth, slice(count))
    delta, squares = _against_each(depth)
    orders = np.concatenate([np.arange(count)[None], derangements(count, num_derangements)])
    images = np.arange(count)
    spread = squares[images, orders].sum(1)
    found = []
    for layer in range(dump.info.num_attention_layers):
        products = _centred_scores(dump, part, layer, ~np.isnan(depth)) @ delta.T
        slopes = np.abs(products[images, orders].sum(1) / np.where(spread > 0, spread, np.nan))
        # What a sum in another order leaves must not decide a tie.
        found.append((1 + np.sum(slopes[1:] >= slopes[0] * (1 - 1e-9))) / (num_derangements + 1))
    return np.array(found)


def num_tested(dump: "Dump") -> int:
    """Images of the raw tier that the test reads; 0 where there are too few for one."""
    return min(dump.info.num_raw, MOST_IMAGES) if dump.info.num_raw >= LEAST_IMAGES else 0


def derangements(count: int, number: int, seed: int = _SEED) -> np.ndarray:
    """(number, count) permutations without a fixed point, each as likely as any other: drawn until one has none."""
    generator = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    while len(kept) < number:
        order = generator.permutation(count)
        if (order != np.arange(count)).all():
            kept.append(order)
    return np.stack(kept)


def _against_each(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|Δ| of each map, its gaps filled, (images, P * P); and [n, m]: Σ of map m's centred |Δ|² over the pairs of n."""
    z, seen = filled(depth), (~np.isnan(depth)).astype(np.float64)
    delta = np.abs(z[:, :, None] - z[:, None])
    square, found = delta**2, np.empty((len(z), len(z)))
    for image, valid in enumerate(seen):
        over_keys = delta @ valid  # (maps, P): of each query
        found[image] = square @ valid @ valid - over_keys**2 @ valid / max(1.0, valid.sum() - 1)
    return delta.reshape(len(z), -1), found


def _centred_scores(dump: "Dump", part: str, layer: int, seen: np.ndarray) -> np.ndarray:
    """(images, P * P): head-mean scores minus their row means over pairs, 0 where there is no pair."""
    info = dump.info
    blocks = []
    for first in range(0, len(seen), _IMAGES_AT_ONCE):
        images = slice(first, min(first + _IMAGES_AT_ONCE, len(seen)))
        scores = raw_scores(dump, layer, images)
        if part == "total":
            scores = biased(scores, raw_bias(dump, layer, raw_depth(dump, bias_mode(info), images), images))
        mean = scores[:, :, info.num_prefix :, info.num_prefix :].mean(1)
        valid = seen[images].astype(np.float64)
        weight = valid[:, :, None] * valid[:, None] * (1 - np.eye(valid.shape[1]))
        count = np.maximum(weight.sum(2), 1.0)
        blocks.append((mean - ((mean * weight).sum(2) / count)[..., None]) * weight)
    return np.concatenate(blocks).reshape(len(seen), -1)
