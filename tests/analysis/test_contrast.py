"""Differences of models over images and seeds, against simple formulas and simulation."""

import numpy as np
import pytest
from scipy import stats

from analysis.contrast import Arm, Between, Measured, between, contrast, drawn_together
from training.intervals import Jackknife, without_each


def outcomes(seeds: int, generator: np.random.Generator, samples: int = 300, seed_sd: float = 0.0) -> np.ndarray:
    """(seeds, samples): a sample has a difficulty of its own, a seed a luck."""
    luck = generator.normal(0, seed_sd, (seeds, 1))
    return generator.normal(0, 1, (1, samples)) + generator.normal(0, 0.5, (seeds, samples)) + luck


def test_one_seed_an_arm_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    first, second = outcomes(1, generator), outcomes(1, generator)
    found = contrast([(1.0, Arm.of_samples("a", first)), (-1.0, Arm.of_samples("b", second))])
    theirs = stats.ttest_rel(first[0], second[0])
    within = theirs.confidence_interval()
    assert found.seeds_df == 0
    assert (found.estimate().low[0], found.estimate().high[0]) == pytest.approx((within.low, within.high))
    sign = found.above_zero if theirs.statistic > 0 else found.below_zero
    assert sign[0] == pytest.approx(theirs.pvalue / 2, rel=1e-3)


def test_parameters_are_the_two_sample_t_test() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(1, 1, (4, 1)), generator.normal(0, 1, (6, 1))
    found = contrast([(1.0, Arm.of_parameters("a", first)), (-1.0, Arm.of_parameters("b", second))])
    theirs = stats.ttest_ind(first[:, 0], second[:, 0])
    assert found.above_zero[0] == pytest.approx(theirs.pvalue / 2, rel=1e-3)
    assert found.seeds_df == 8
    within = theirs.confidence_interval()
    assert (found.estimate().low[0], found.estimate().high[0]) == pytest.approx((within.low, within.high))


def test_seeds_are_pooled_over_arms_about_their_own_means() -> None:
    generator = np.random.default_rng(2)
    arms = [
        Arm.of_samples(name, outcomes(n, generator, seed_sd=1) + 9 * n) for name, n in (("a", 1), ("b", 2), ("c", 4))
    ]
    found = between(arms)
    squares = sum(((arm.values - arm.values.mean(0)) ** 2).sum() for arm in arms)
    assert (found.df, found.of) == (4, ("b", "c"))
    assert found.variance[0] == pytest.approx(squares / 4)
    of_images = 0.25 / 300  # what seeds do to single samples is a part of what they do to their mean
    assert found.shared[0] == pytest.approx(of_images, rel=0.15)
    assert between(arms[:1]).df == 0


def test_an_arm_is_the_mean_of_all_its_seeds() -> None:
    generator = np.random.default_rng(3)
    first, second = outcomes(3, generator), outcomes(2, generator)
    found = contrast([(1.0, Arm.of_samples("a", first)), (-1.0, Arm.of_samples("b", second))])
    assert found.value[0] == pytest.approx(first.mean() - second.mean())
    assert found.factor == pytest.approx(1 / 3 + 1 / 2)


@pytest.mark.parametrize(("seed_sd", "seeds"), [(0.0, 2), (0.05, 2), (0.05, 3), (0.5, 2), (0.5, 4)])
def test_intervals_cover_images_and_seeds_together(seed_sd: float, seeds: int) -> None:
    """Two arms of equal truth on new images and new seeds each time; conservative, never less than it says."""
    generator = np.random.default_rng(4)
    held = []
    for _ in range(800):
        shared = generator.normal(0, 0.3, (1, 80))
        both = [
            shared + generator.normal(0, 0.6, (1, 80)) + generator.normal(0, 0.5, (seeds, 80))
            + generator.normal(0, seed_sd, (seeds, 1)) for _ in range(2)
        ]  # fmt: skip
        arms = [Arm.of_samples(name, each) for name, each in zip("ab", both, strict=True)]
        within = contrast([(1.0, arms[0]), (-1.0, arms[1])]).estimate()
        held.append(bool(within.low[0] <= 0 <= within.high[0]))
    assert np.mean(held) >= 0.94


def test_never_less_than_either_part() -> None:
    """Seeds that happen to agree leave the images' interval; images that agree leave the seeds'."""
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(1, 60))
    agreeing = contrast([(1.0, Arm.of_samples("a", np.repeat(rows, 3, 0)))])
    alone = contrast([(1.0, Arm.of_samples("a", rows))])
    assert agreeing.estimate().low[0] == pytest.approx(alone.estimate().low[0])
    level = contrast([(1.0, Arm.of_samples("a", np.array([[1.0], [2.0], [4.0]]) + np.zeros((3, 60))))])
    theirs = stats.t.interval(0.95, 2, 7 / 3, stats.sem([1.0, 2.0, 4.0]))
    assert (level.estimate().low[0], level.estimate().high[0]) == pytest.approx(theirs)


def test_each_arm_may_have_the_luck_of_its_own_seeds() -> None:
    generator = np.random.default_rng(6)
    arms = [Arm.of_parameters("still", np.zeros((5, 1))), Arm.of_parameters("wild", generator.normal(0, 1, (3, 1)))]
    own = contrast([(1.0, arms[0]), (-1.0, arms[1])], [between([arms[0]]), between([arms[1]])])
    theirs = stats.t.interval(0.95, 2, -arms[1].values.mean(), stats.sem(arms[1].values[:, 0]))
    assert (own.estimate().low[0], own.estimate().high[0]) == pytest.approx(theirs)
    assert own.seeds_df == 2
    one = contrast(
        [(1.0, arms[0]), (-1.0, arms[1])], [between([arms[0]]), between([Arm.of_parameters("x", np.ones((1, 1)))])]
    )
    assert one.seeds_df == 0


def test_jackknifed_statistics_are_arms_too() -> None:
    generator = np.random.default_rng(7)
    sums = np.stack([generator.uniform(1, 2, (40, 3)), generator.uniform(1, 2, (40, 3))], -1)
    found = without_each(sums, lambda each: each[..., 0] / each[..., 1])
    arm = Arm.of("a", [found, Jackknife(found.value + 1, found.without + 1)])
    assert arm.pseudo.shape == (2, 40, 3) and len(arm) == 2
    own, theirs = contrast([(1.0, Arm.of("a", [found]))]).estimate(), found.estimate()
    np.testing.assert_allclose([own.low, own.high], [theirs.low, theirs.high])
    apart = arm.cells(slice(2)).minus(arm.cells(slice(1, 3)))
    np.testing.assert_allclose(apart.values[0], found.value[:2] - found.value[1:])


def test_a_difference_that_is_turned_or_shifted() -> None:
    found = Measured(np.array([1.0]), np.array([0.04]), above=np.array([0.09]))
    within, turned = found.estimate(), found.turned().estimate()
    assert (turned.low[0], turned.high[0]) == pytest.approx((-within.high[0], -within.low[0]))
    assert found.turned().above_zero == pytest.approx(found.below_zero)
    assert found.shifted(-1).above_zero[0] == 1.0
    picked = Measured(np.array([1.0]), np.array([0.2]), choices=2)
    assert picked.above_zero[0] == pytest.approx(2 * Measured(np.array([1.0]), np.array([0.2])).above_zero[0], rel=1e-3)
    assert np.isnan(Measured(np.array([np.nan]), np.array([0.2])).above_zero[0])
    assert Measured.exactly(np.array([-1.0, 0.0, 2.0])).above_zero.tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("gap", [0.0, 3.0])
def test_cells_drawn_together_vary_as_measured(gap: float) -> None:
    """Cells that move together over images keep their order, cells that do not seldom do."""
    generator = np.random.default_rng(8)
    common = generator.normal(size=(200, 1))
    rows = np.concatenate([common, common + 0.01 * generator.normal(size=(200, 1)), generator.normal(size=(200, 1))], 1)
    rows = rows - rows.mean(0) + [0.1, 0.0, gap]
    draws = drawn_together([(1.0, Arm("a", rows.mean(0)[None], rows[None]))])
    assert (draws[:, 0] > draws[:, 1]).mean() > 0.99
    np.testing.assert_allclose(draws.std(0), rows.std(0, ddof=1) / np.sqrt(200), rtol=0.1)
    assert (
        abs((draws[:, 2] > draws[:, 0]).mean() - (1.0 if gap else stats.norm.cdf(-0.1 / np.hypot(1, 1) * 200**0.5)))
        < 0.05
    )
    seeds = Arm.of_parameters("a", np.array([[1.0, 5.0], [2.0, 3.0], [3.0, 4.0]]))
    wide = drawn_together([(1.0, seeds)])
    assert np.quantile(wide[:, 0] - 2, 0.975) == pytest.approx(stats.t.ppf(0.975, 4) / np.sqrt(3), rel=0.1)
    assert isinstance(between([seeds]), Between)
