"""Intervals and tests against scipy, statsmodels and simulation."""

import numpy as np
import pytest
from statsmodels.stats import contingency_tables as contingency
from statsmodels.stats import proportion

from training.intervals import mcnemar, mean_over_images, over_units, paired_difference, tango, wilson


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (7, 10), (10, 10), (613, 1000), (35_500, 50_000)])
def test_wilson_is_scipys(hits: int, trials: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (9, 2), (2, 9), (60, 40), (700, 640)])
def test_mcnemar_is_scipys_binomial_test(first: int, second: int) -> None:
    from scipy.stats import binom, binomtest

    exact = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second, mid_p=False) == pytest.approx(exact, abs=1e-9)
    smaller, total = min(first, second), first + second
    mid = 2 * (binom.cdf(smaller, total, 0.5) - 0.5 * binom.pmf(smaller, total, 0.5)) if total else 1.0
    assert mcnemar(first, second) == pytest.approx(min(1.0, mid), abs=1e-9)


def test_mcnemar_and_wilson_are_statsmodels() -> None:
    """Where it is installed; scipy covers the same ground."""
    assert mcnemar(13, 5, mid_p=False) == pytest.approx(contingency.mcnemar([[50, 13], [5, 32]]).pvalue)
    assert wilson(63, 100) == pytest.approx(proportion.proportion_confint(63, 100, method="wilson"))


def test_paired_interval_is_near_the_normal_one_and_narrower_than_unpaired() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.uniform(size=2000)
    first = (difficulty + generator.normal(0, 0.1, 2000) < 0.7).astype(int)
    second = (difficulty + generator.normal(0, 0.1, 2000) < 0.65).astype(int)
    estimate = paired_difference(first, second)
    difference = first - second
    half = 1.96 * difference.std(ddof=1) / np.sqrt(2000)
    assert float(estimate.value) == pytest.approx(difference.mean())
    assert float(estimate.high - estimate.low) == pytest.approx(2 * half, rel=0.05)
    unpaired = 1.96 * np.sqrt((first.var() + second.var()) / 2000)
    assert half < 0.8 * unpaired


def test_equal_outcomes_do_not_say_that_models_are_equal() -> None:
    """0 of 104: ±z² / (n + z²)."""
    estimate = paired_difference(np.zeros(104), np.zeros(104))
    bound = 1.959964**2 / (104 + 1.959964**2)
    assert (float(estimate.value), float(estimate.low), float(estimate.high)) == pytest.approx((0, -bound, bound))


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 30), (7, 2, 50), (2, 7, 50), (60, 40, 1000), (9, 0, 20)])
def test_tangos_bounds_are_where_his_score_test_turns(b: int, c: int, n: int) -> None:
    """The likelihood under a difference is maximised by brute force: P(only second) = q, P(only first) = q + d."""
    low, high = tango(b, c, n)
    assert low < (b - c) / n < high and (low, high) == pytest.approx(tuple(-x for x in reversed(tango(c, b, n))))
    for d in (low, high):
        q = np.linspace(max(0.0, -d), (1 - d) / 2, 400_001)[1:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = c * np.log(q) + b * np.log(q + d) + (n - b - c) * np.log(1 - 2 * q - d)
        best = q[np.nanargmax(likelihood)]
        score = (b - c - n * d) ** 2 / (n * (2 * best + d * (1 - d)))
        assert score == pytest.approx(1.959964**2, rel=2e-3)


def test_tangos_interval_covers() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(4000):
        b, c, _ = generator.multinomial(100, (0.08, 0.02, 0.9))
        low, high = tango(b, c, 100)
        held += low <= 0.06 <= high
    assert 0.935 < held / 4000 < 0.97


def test_intervals_over_images_are_wider_than_naive_and_right() -> None:
    generator = np.random.default_rng(1)
    images, per_image = 200, 50
    values = generator.normal(size=(images, 1)) + 0.3 * generator.normal(size=(images, per_image))
    rows = np.stack([values.sum(1), np.full(images, per_image)], 1)
    clustered = over_units(rows, lambda sums: sums[..., 0] / sums[..., 1])
    naive = 2 * 1.96 * values.std() / np.sqrt(values.size)
    true = 2 * 1.96 * np.sqrt((1 + 0.09 / per_image) / images)
    width = float(clustered.high - clustered.low)
    assert width > 5 * naive
    assert width == pytest.approx(true, rel=0.15)


def test_a_slope_of_twelve_images_is_covered() -> None:
    """Where the percentile bootstrap covers 91 %."""
    generator = np.random.default_rng(2)
    held = []
    for _ in range(2000):
        slope = generator.normal(-0.3, 0.2, 12)
        x = generator.normal(size=(12, 60))
        y = slope[:, None] * x + generator.normal(size=x.shape)
        found = over_units(np.stack([(x * y).sum(1), (x**2).sum(1)], -1), lambda sums: sums[..., 0] / sums[..., 1])
        held.append(found.low < -0.3 < found.high)
    assert 0.93 < np.mean(held) < 0.97


def test_mean_leaves_undefined_images_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    estimate = mean_over_images(values)
    assert estimate.value[0] == 2
    assert np.isnan(estimate.value[1])
