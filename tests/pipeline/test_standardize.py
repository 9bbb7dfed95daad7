import numpy as np
import pytest

from pipeline.standardize import Moments, Standardisation


def test_merging_moments_equals_one_pass():
    values = np.random.default_rng(0).normal(3, 2, 1000)
    merged = Moments()
    for part in np.array_split(values, 7):
        merged = merged.merge(Moments.of(part))
    assert merged.count == 1000
    assert merged.mean == pytest.approx(values.mean(), abs=1e-12)
    assert merged.std == pytest.approx(values.std(), abs=1e-12)


def test_moments_leave_out_what_was_not_measured():
    assert Moments.of(np.array([1.0, np.nan, 3.0])) == Moments(2, 2.0, 2.0)
    assert Moments.of(np.array([np.nan])) == Moments()


def test_every_map_becomes_farther_is_larger():
    near, far = 1.0, 4.0
    metres = Standardisation(2.0, 1.5, "farther_is_larger")
    inverse = Standardisation(0.6, 0.3, "closer_is_larger")
    assert metres.apply(np.array([near]))[0] < metres.apply(np.array([far]))[0]
    assert inverse.apply(np.array([1 / near]))[0] < inverse.apply(np.array([1 / far]))[0]


@pytest.mark.parametrize("polarity", ["closer_is_larger", "farther_is_larger"])
def test_inverse(polarity):
    depth = np.linspace(0.5, 9, 50)
    constants = Standardisation(2.5785, 1.6296, polarity)
    np.testing.assert_allclose(constants.invert(constants.apply(depth)), depth, rtol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (float("nan"), 1.0), (0.0, -1.0)])
def test_refuses_impossible_constants(mean, std):
    with pytest.raises(ValueError, match="std > 0"):
        Standardisation(mean, std, "farther_is_larger")
