"""Differences of models, with images and seeds together.

An arm is one model: a statistic of each of its trainings (seeds), as pseudo-values of the images, or groups of images,
it was measured on. Models share the images, so images are paired; seeds are not. The variance of a difference has two
parts, one from either way of clustering (Cameron, Gelbach and Miller 2011):

    V = s² Σ c²/n + V_images - V_seed×image

s² is the mean square between the seeds of an arm, pooled over the arms that have two or more (df = Σ(n - 1)); V_images the
variance over images of the arms' means; what a seed does to single images stands in both and is taken off once. V is
never less than either part. Intervals are Student's with Satterthwaite's degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from analysis.statistics import Estimate, Jackknife


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
    """Between seeds, (cells,): s², the part of it that is seed×image, and their degrees of freedom; 0: one seed each."""

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
    shared = sum(_shared(arm) for arm in several)
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
    """(cells,): a value, its standard error and degrees of freedom; `images` and `factor` say what these are made of.

    `error_above`, if any, is the error on the upper side, where an interval is not symmetric.
    """

    value: np.ndarray
    error: np.ndarray
    df: np.ndarray
    images: np.ndarray  # variance over images
    factor: float = 0.0  # Σ c²/n, times s² is the seeds' variance
    seeds_df: float = float("inf")  # 0: no seed was trained twice; inf: nothing was trained
    error_above: np.ndarray | None = None

    @classmethod
    def exactly(cls, value: np.ndarray) -> "Measured":
        """Known without error."""
        value = np.asarray(value, np.float64)
        return cls(value, np.zeros_like(value), np.full_like(value, np.inf), np.zeros_like(value))

    def shifted(self, by: "float | np.ndarray") -> "Measured":
        return replace(self, value=self.value + by)

    def turned(self) -> "Measured":
        """Minus it."""
        above = self.error if self.error_above is None else self.error_above
        return replace(
            self, value=-self.value, error=above, error_above=None if self.error_above is None else self.error
        )

    @property
    def above_zero(self) -> np.ndarray:
        """One-sided p of not being above 0."""
        return _tail(self.value, self.error, self.df)

    @property
    def below_zero(self) -> np.ndarray:
        """One-sided p of not being below 0."""
        return _tail(-self.value, self.error if self.error_above is None else self.error_above, self.df)

    def estimate(self, level: float = 0.95) -> Estimate:
        half = _quantile(self.df, level)
        above = self.error if self.error_above is None else self.error_above
        return Estimate(self.value, self.value - half * self.error, self.value + half * above)

    def seed_sd(self, level: float = 0.95) -> np.ndarray:
        """SD between seeds up to which the interval would stay on its side of 0; NaN where images alone do not settle
        it."""
        spare = (self.value / _quantile(np.full(self.value.shape, np.inf), level)) ** 2 - self.images
        return np.sqrt(np.where(spare > 0, spare, np.nan) / self.factor) if self.factor else np.full_like(spare, np.inf)


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
    of_source = {key: factor * sources[key].variance for key, factor in factors.items()}
    of_seeds = np.asarray(sum(of_source.values()))
    shared = np.asarray(sum(factor * sources[key].shared for key, factor in factors.items()))
    variance = np.maximum(of_seeds + images - shared, np.maximum(of_seeds, images))
    needed = [part**2 / sources[key].df for key, part in of_source.items() if sources[key].df]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = sum(needed) + (images**2 / (units - 1) if units > 1 else 0.0)
        df = np.where(spread > 0, variance**2 / spread, np.inf)
    least = min(sources[key].df for key, factor in factors.items() if factor)
    return Measured(value, np.sqrt(variance), df, images, sum(factors.values()), least)


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


def _tail(value: np.ndarray, error: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P(T > value / error); 0 or 1 where there is no error; NaN stays."""
    safe = np.where(error > 0, error, 1.0)
    exact = np.where(value > 0, 0.0, 1.0)
    finite = np.where(np.isfinite(df), df, 1e9)
    found = np.where(error > 0, stdtr(finite, -value / safe), exact)
    return np.where(np.isnan(value) | np.isnan(error), np.nan, found)


def _quantile(df: np.ndarray, level: float) -> np.ndarray:
    return np.asarray(stdtrit(np.where(np.isfinite(df), df, 1e9), (1 + level) / 2))
