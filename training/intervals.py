"""Intervals and tests. Images are the clusters of everything measured inside images; samples are paired across models.

Pairs of patches of one image are not independent: an interval that counts pairs is several times too narrow. So every
interval over dumps leaves out whole images, or groups of them, in turn, and is Student's (Tukey 1958): on planted
slopes it covers 94.5 to 95.1 %, where the percentile bootstrap covers 91.4 % of 12 images. Images are drawn anew only
for where curves cross, which is not smooth (`resampled_means`); the seed is that of the noise on the depth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 1000
_AT_ONCE = 100  # resamples, so that memory does not grow with their number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic with the bounds of its interval; arrays of one shape (or scalars), NaN where undefined."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """As a frame holds it: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Jackknife:
    """A statistic (...) and what it is without each unit in turn (units, ...): an image, a group of images, a fold."""

    value: np.ndarray
    without: np.ndarray

    @property
    def pseudo(self) -> np.ndarray:
        """(units, ...) pseudo-values: nearly independent, and the variance of their mean is the statistic's."""
        units = len(self.without)
        return np.asarray(units * self.value - (units - 1) * self.without)

    def estimate(self, level: float = 0.95) -> Estimate:
        return jackknife(self.value, self.without, level)


def without_each(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Jackknife:
    """Of a statistic of sums: `sums` (units, ...) are finite and additive; `statistic`: (..., terms) -> (...,
    values).
    """
    total = sums.sum(0)
    return Jackknife(np.asarray(statistic(total)), np.asarray(statistic(total - sums)))


def over_units(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95) -> Estimate:
    """Student's interval of a statistic of sums that are additive over units, such as images: `without_each`."""
    return without_each(sums, statistic).estimate(level)


def mean_over_images(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over images (axis 0) of values that may be NaN for some images; all NaN gives NaN."""
    return over_units(rows_of_mean(values), mean_of_sums, level)


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


def tango(only_first: float, only_second: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a difference of paired shares (Tango 1998), from samples that one of two models gets right.

    The bounds are the differences d at which (b - c - n d)² = z² n (2 q + d (1 - d)), q the likeliest share of `c`
    given d. Equal outcomes on all of n samples give ±z² / (n + z²), not [0, 0]. Counts may be means over seeds.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    b, c, n = float(only_first), float(only_second), float(total)

    def beyond(difference: float) -> float:
        linear = -b - c + (2 * n - b + c) * difference
        share = (math.sqrt(max(0.0, linear**2 + 8 * n * c * difference * (1 - difference))) - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return abs(b - c - n * difference) - z * math.sqrt(max(0.0, variance))

    def bound(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if beyond(middle) < 0 else (inside, middle)
        return (inside + outside) / 2

    value = (b - c) / n
    return bound(value, -1.0), bound(value, 1.0)


def paired_difference(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Estimate:
    """Accuracy of `first` minus that of `second` on the same samples, (samples,) of 0/1 each: Tango's interval.

    Of shares (several seeds averaged, or several sigmas) Student's interval of the mean difference.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = first - second
    value, count = np.asarray(difference.mean()), len(difference)
    if np.isin(np.concatenate([first, second]), (0, 1)).all():
        low, high = tango(np.sum(difference > 0), np.sum(difference < 0), count, level)
        return Estimate(value, np.asarray(low), np.asarray(high))
    _, half = of_mean(difference, level)
    return Estimate(value, np.asarray(value - half), np.asarray(value + half))


def of_mean(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Standard error of the mean of values that are independent, such as pseudo-values, and half of its interval.

    Student's; NaN where there are fewer than two.
    """
    count = len(values)
    error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return error, float(stdtrit(max(1, count - 1), (1 + level) / 2)) * error


def resampled_means(values: Floats, rng: np.random.Generator, count: int = RESAMPLES) -> Floats:
    """Means over images of `values` (images, columns) in `count` draws of as many images with replacement."""
    images = len(values)
    means = []
    for first in range(0, count, _AT_ONCE):
        often = rng.multinomial(images, np.full(images, 1 / images), size=min(_AT_ONCE, count - first))
        means.append(often @ values / images)
    return np.concatenate(means)


def central_interval(samples: Floats, share: float = 0.95) -> tuple[float, float]:
    """The central `share` of the samples, which may be inf; its ends are samples."""
    tail = (1 - share) / 2
    low, high = np.quantile(samples, (tail, 1 - tail), method="inverted_cdf")
    return float(low), float(high)
