"""Intervals and tests against scipy, statsmodels and simulation."""

import numpy as np
import pytest
from statsmodels.stats import contingency_tables as contingency
from statsmodels.stats import proportion

from analysis.statistics import cluster_bootstrap, mcnemar, mean_over_images, paired_difference, wilson


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


def test_equal_models_differ_by_exactly_nothing() -> None:
    estimate = paired_difference(np.array([1, 0, 1]), np.array([1, 0, 1]))
    assert (float(estimate.value), float(estimate.low), float(estimate.high)) == (0.0, 0.0, 0.0)


def test_cluster_bootstrap_is_wider_than_naive_and_right() -> None:
    generator = np.random.default_rng(1)
    images, per_image = 200, 50
    values = generator.normal(size=(images, 1)) + 0.3 * generator.normal(size=(images, per_image))
    rows = np.stack([values.sum(1), np.full(images, per_image)], 1)
    clustered = cluster_bootstrap(rows, lambda sums: sums[..., 0] / sums[..., 1])
    naive = 2 * 1.96 * values.std() / np.sqrt(values.size)
    true = 2 * 1.96 * np.sqrt((1 + 0.09 / per_image) / images)
    width = float(clustered.high - clustered.low)
    assert width > 5 * naive
    assert width == pytest.approx(true, rel=0.15)
    again = cluster_bootstrap(rows, lambda sums: sums[..., 0] / sums[..., 1])
    assert (again.low, again.high) == (clustered.low, clustered.high)


def test_mean_leaves_undefined_images_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    estimate = mean_over_images(values)
    assert estimate.value[0] == 2
    assert np.isnan(estimate.value[1])
