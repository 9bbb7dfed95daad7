"""Differences of models, with images and seeds together.

An arm is one model: a statistic of each of its trainings (seeds), as pseudo-values of the images, or groups of images,
it was measured on. Models share the images, so images are paired; seeds are not. The variance of a difference has two
parts, one from either way of clustering (Cameron, Gelbach and Miller 2011):

    V = s² Σ c²/n + V_images - V_seed×image

s² is the mean square between the seeds of an arm, pooled over the arms that have two or more (df = Σ(n - 1)); V_images
the variance over images of the arms' means; what a seed does to single images stands in both and is taken off once. V
is never less than either part.

Intervals take each part with the quantile of its own degrees of freedom, value ± sqrt(Σ t² V) (Banerjee 1961), which
covers at least as often as it says. Satterthwaite's degrees of freedom do not: two seeds that happen to agree give a
small s², for which they are many, and in worlds of nothing but luck 13 to 22 % of claims of several models were found
in part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from training.intervals import Estimate, Jackknife


@dataclass(frozen=True)
class Arm:
    """A statistic with `cells` values: of each seed, and its pseudo-values, without units where no image is in it."""

    name: str
    values: np.ndarray  # (seeds, cells)
    pseudo: np.ndarray  # (seeds, units, cells)

    @classmethod
    def of(cls, name: str, seeds: Sequence[Jackknife]) -> "Arm":
        """Statistics of any shape, made flat."""
        values = np.stack([each.value.reshape(-1) for each in seeds])
        return cls(name, values, np.stack([each.pseudo.reshape(len(each.without), -1) for each in seeds]))

    @classmethod
    def of_samples(cls, name: str, outcomes: np.ndarray) -> "Arm":
        """Means of (seeds, samples) or (seeds, samples, cells)."""
        outcomes = outcomes.reshape(*outcomes.shape[:2], -1).astype(np.float64)
        return cls(name, outcomes.mean(1), outcomes)

    @classmethod
    def of_parameters(cls, name: str, values: np.ndarray) -> "Arm":
        """(seeds, cells): nothing to do with images."""
        return cls(name, values, np.empty((len(values), 0, values.shape[1])))

    def __len__(self) -> int:
        return len(self.values)

    def cells(self, chosen: "slice | np.ndarray") -> "Arm":
        return Arm(self.name, self.values[:, chosen], self.pseudo[..., chosen])

    def minus(self, other: "Arm") -> "Arm":
        """Within each seed: of two statistics of the same networks."""
        return Arm(self.name, self.values - other.values, self.pseudo - other.pseudo)


@dataclass(frozen=True)
class Between:
    """Between seeds, (cells,): s², the part of it that is seed×image, and their degrees of freedom; 0: one seed
    each.
    """

    variance: np.ndarray
    shared: np.ndarray
    df: float
    of: tuple[str, ...]  # names of the arms


def between(arms: Sequence[Arm]) -> Between:
    """Pooled over the arms of two seeds or more; arms are fixed, so that each has a mean of its own."""
    several = [arm for arm in arms if len(arm) > 1]
    if not several:
        zero = np.zeros(arms[0].values.shape[1])
        return Between(zero, zero, 0.0, ())
    df = sum(len(arm) - 1 for arm in several)
    squares = sum(((arm.values - arm.values.mean(0)) ** 2).sum(0) for arm in several)
    shared = np.asarray(sum(_shared(arm) for arm in several))
    return Between(squares / df, shared / df, float(df), tuple(dict.fromkeys(arm.name for arm in several)))


def _shared(arm: Arm) -> np.ndarray:
    """(cells,) sum of squares between seeds of what the seeds' means owe to images that other seeds see otherwise."""
    units = arm.pseudo.shape[1]
    if units < 2:
        return np.zeros(arm.values.shape[1])
    left = arm.pseudo - arm.pseudo.mean(0) - arm.pseudo.mean(1, keepdims=True) + arm.pseudo.mean((0, 1))
    return np.asarray((left**2).sum((0, 1)) / (units - 1) / units)


@dataclass(frozen=True)
class Measured:
    """(cells,): a value and what its variance is made of.

    `seeds`: variances between seeds with their degrees of freedom, one for each source of luck; `shared`: the part of
    them that is in `images` too, the variance over images. `above`: that of the upper side, where an interval is not
    symmetric.
    """

    value: np.ndarray
    images: np.ndarray
    images_df: float = float("inf")
    seeds: tuple[tuple[np.ndarray, float], ...] = ()
    shared: "np.ndarray | float" = 0.0
    factor: float = 0.0  # Σ c²/n, times s² is the seeds' variance
    seeds_df: float = float("inf")  # 0: nothing was trained twice; inf: no seed is in it
    above: np.ndarray | None = None
    choices: int = 1  # the best of so many was picked

    @classmethod
    def exactly(cls, value: np.ndarray) -> "Measured":
        """Known without error."""
        value = np.asarray(value, np.float64)
        return cls(value, np.zeros_like(value))

    def shifted(self, by: "float | np.ndarray") -> "Measured":
        return replace(self, value=self.value + by)

    def turned(self) -> "Measured":
        """Minus it."""
        above = self.images if self.above is None else self.above
        return replace(self, value=-self.value, images=above, above=None if self.above is None else self.images)

    @property
    def above_zero(self) -> np.ndarray:
        """One-sided p of not being above 0: the level at which the lower bound is 0."""
        return self._tail(self.value, self.images)

    @property
    def below_zero(self) -> np.ndarray:
        """One-sided p of not being below 0."""
        return self._tail(-self.value, self.images if self.above is None else self.above)

    def estimate(self, level: float = 0.95) -> Estimate:
        tail = (1 - level) / 2 / self.choices
        above = self.images if self.above is None else self.above
        return Estimate(self.value, self.value - self._half(tail, self.images), self.value + self._half(tail, above))

    def seed_sd(self, level: float = 0.95) -> np.ndarray:
        """SD between seeds up to which the interval would stay on its side of 0; NaN where images alone do not settle
        it."""
        spare = (self.value / stdtrit(_LARGE, (1 + level) / 2)) ** 2 - self.images
        return np.sqrt(np.where(spare > 0, spare, np.nan) / self.factor) if self.factor else np.full_like(spare, np.inf)

    def _half(self, tail: "float | np.ndarray", images: np.ndarray) -> np.ndarray:
        of_images = stdtrit(min(self.images_df, _LARGE), 1 - tail) ** 2
        of_seeds = sum(stdtrit(df, 1 - tail) ** 2 * variance for variance, df in self.seeds)
        whole = of_seeds + of_images * np.maximum(images - self.shared, 0.0)
        return np.sqrt(np.maximum(whole, of_images * images))

    def _tail(self, value: np.ndarray, images: np.ndarray) -> np.ndarray:
        """By bisection of log p, to a thousandth; 1/2 to 1 is told as 1."""
        low, high = np.full(value.shape, np.log(1e-12)), np.full(value.shape, np.log(0.5))
        for _ in range(24):
            middle = (low + high) / 2
            smaller = self._half(np.exp(middle), images) < value
            low, high = np.where(smaller, low, middle), np.where(smaller, middle, high)
        p = np.where(value > 0, np.exp(high), 1.0)
        undefined = np.isnan(value) | np.isnan(self._half(0.025, images))
        return np.where(undefined, np.nan, np.minimum(1.0, self.choices * p))


_LARGE = 1e9  # degrees of freedom


def contrast(
    terms: Sequence[tuple[float, Arm]],
    seeds: Between | Sequence[Between] | None = None,
    least_images: np.ndarray | float = 0.0,
) -> Measured:
    """Σ c times the mean over an arm's seeds, (cells,).

    `seeds`: between the seeds of all arms, or of each; None: pooled over these arms. `least_images`: the least that the
    variance over images may be.
    """
    each = seeds if isinstance(seeds, Sequence) else [seeds or between([arm for _, arm in terms])] * len(terms)
    value = np.asarray(sum(c * arm.values.mean(0) for c, arm in terms))
    units = terms[0][1].pseudo.shape[1]
    images = np.zeros_like(value)
    if units > 1:
        images = np.asarray(sum(c * arm.pseudo.mean(0) for c, arm in terms)).var(0, ddof=1) / units
    elif units == 1:
        images = np.full_like(value, np.nan)
    images = np.maximum(images, least_images)
    sources = {id(b): b for b in each}
    factors = dict.fromkeys(sources, 0.0)
    for b, (c, arm) in zip(each, terms, strict=True):
        factors[id(b)] += c**2 / len(arm)
    of_seeds = tuple(
        (factor * sources[key].variance, sources[key].df) for key, factor in factors.items() if sources[key].df
    )
    shared = np.asarray(sum(factor * sources[key].shared for key, factor in factors.items()))
    least = min(sources[key].df for key, factor in factors.items() if factor)
    images_df = float(units - 1) if units > 1 else float("inf")
    return Measured(value, images, images_df, of_seeds, shared, sum(factors.values()), least)


def drawn_together(terms: Sequence[tuple[float, Arm]], draws: int = 4000, seed: int = 20260) -> np.ndarray:
    """(draws, cells) of a contrast's cells together, as if measured anew: for what depends on all, as a peak does.

    Images move the cells as their pseudo-values covary, Student's; seeds move each cell by itself, with the mean square
    pooled over cells too, for a few seeds show no covariance.
    """
    generator = np.random.default_rng(seed)
    value = np.asarray(sum(c * arm.values.mean(0) for c, arm in terms))
    rows = np.asarray(sum(c * arm.pseudo.mean(0) for c, arm in terms))
    units, found = len(rows), np.tile(value, (draws, 1))
    if units > 1:
        centred = rows - rows.mean(0)
        scale = np.sqrt((units - 1) / generator.chisquare(units - 1, draws))[:, None]
        found += scale * (generator.normal(size=(draws, units)) @ centred) / np.sqrt(units * (units - 1))
    known = between([arm for _, arm in terms])
    if known.df:
        factor = sum(c**2 / len(arm) for c, arm in terms)
        error = np.sqrt(factor * known.variance.mean())
        found += error * generator.standard_t(known.df * len(value), (draws, len(value)))
    return found
