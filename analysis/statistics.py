"""Intervals and tests. Images are the clusters of everything measured inside images; samples are paired across models.

Pairs of patches of one image are not independent: an interval that counts pairs is several times too narrow. So every
interval over dumps resamples whole images (Cameron, Gelbach and Miller 2008), with a fixed seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

NUM_RESAMPLES = 1000
_SEED = 20260
_BLOCK_CELLS = 5_000_000  # resampling weights held at once


@dataclass(frozen=True)
class Estimate:
    """A statistic with the bounds of its interval; arrays of one shape (or scalars), NaN where undefined."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def resampled_sums(rows: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = _SEED) -> np.ndarray:
    """Sums over images drawn with replacement: (images, ...) -> (resamples, ...), the same draws for the same seed."""
    num_images = len(rows)
    flat = rows.reshape(num_images, -1)
    generator = np.random.default_rng(seed)
    share = np.full(num_images, 1 / num_images)
    block = max(1, _BLOCK_CELLS // num_images)
    sums = []
    for first in range(0, num_resamples, block):
        weights = generator.multinomial(num_images, share, size=min(block, num_resamples - first))
        sums.append(weights.astype(np.float64) @ flat)
    return np.concatenate(sums).reshape(num_resamples, *rows.shape[1:])


def cluster_bootstrap(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = _SEED,
) -> Estimate:
    """Percentile interval of a statistic of per-image sums.

    `rows`: (images, ...) additive terms, finite; `statistic`: sums (...) -> values, and
    (resamples, ...) -> (resamples, values). With fewer than two images the bounds are NaN.
    """
    value = np.asarray(statistic(rows.sum(0)))
    if len(rows) < 2:
        missing = np.full(value.shape, np.nan)
        return Estimate(value, missing, missing)
    return Estimate(value, *percentile_bounds(statistic(resampled_sums(rows, num_resamples, seed)), level))


def percentile_bounds(replicates: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Bounds over the first axis; NaN where any replicate is undefined."""
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def mean_over_images(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over images (axis 0) of values that may be NaN for some images, with the image bootstrap's interval.

    All NaN gives NaN.
    """
    return cluster_bootstrap(rows_of_mean(values), mean_of_sums, level)


def rows_of_mean(values: np.ndarray) -> np.ndarray:
    """(images, ...) -> (images, ..., 2), additive: the value and 1, or 0 and 0 where it is NaN."""
    defined = np.isfinite(values)
    return np.stack([np.where(defined, values, 0.0), defined.astype(np.float64)], -1)


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """Of sums of `rows_of_mean`: (..., 2) -> (...)."""
    return ratio(sums[..., 0], sums[..., 1])


def jackknife(value: np.ndarray, replicates: np.ndarray, level: float = 0.95) -> Estimate:
    """Student's interval from replicates (groups, ...), each of all groups but one (Tukey 1958).

    Groups are whole clusters: images, minibatches or folds. With fewer than two the bounds are NaN.
    """
    value, groups = np.asarray(value), len(replicates)
    if groups < 2:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    error = np.sqrt((groups - 1) * replicates.var(0))
    half = stdtrit(groups - 1, (1 + level) / 2) * error
    return Estimate(value, value - half, value + half)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, NaN where the denominator is not positive."""
    usable = denominator > 0
    return np.where(usable, numerator / np.where(usable, denominator, 1.0), np.nan)


def grouped_jackknife(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95) -> Estimate:
    """`jackknife` of a statistic of sums (groups, ...) that are additive over groups of images."""
    total = sums.sum(0)
    return jackknife(statistic(total), statistic(total - sums), level)


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927): (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mcnemar(only_first: int, only_second: int, mid_p: bool = True) -> float:
    """Two-sided p of equal accuracy, from samples that only one of two models gets right.

    Exact: 2 P(X <= min), X ~ Binomial(both, 1/2) (McNemar 1947); mid-p takes P(X = min) off once, which is close to
    nominal where the exact test is conservative (Fagerland, Lydersen and Laake 2013).
    """
    total, smaller = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    log_half = total * math.log(0.5)
    terms = [
        math.exp(math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + log_half)
        for k in range(smaller + 1)
    ]
    return min(1.0, 2 * math.fsum(terms) - (terms[-1] if mid_p else 0.0))


def paired_difference(
    first: np.ndarray, second: np.ndarray, level: float = 0.95, num_resamples: int = 10_000, seed: int = _SEED
) -> Estimate:
    """Accuracy of `first` minus that of `second` on the same samples, with a paired bootstrap interval over samples.

    (samples,) of 0/1, or shares where several seeds were averaged. Resampling samples only changes how often each value
    of the per-sample difference is drawn, so the counts of the distinct values are drawn at once.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    values, counts = np.unique(difference, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(difference), counts / counts.sum(), size=num_resamples)
    low, high = percentile_bounds(draws @ values / len(difference), level)
    return Estimate(np.asarray(difference.mean()), low, high)
