import numpy as np
import pytest

from pipeline import depth_codec
from pipeline.depth_codec import CodecError, decode, encode, error_bound


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("shape", [(1, 1), (48, 64), (255, 3)])
def test_round_trip_stays_within_the_stated_bound(bits, shape):
    z = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    error = np.abs(decode(encode(z, bits)) - z).max()
    # float32 rounding of the decoded value comes on top of half a step
    assert error <= error_bound(z.min(), z.max(), bits) + 1e-6
    if z.size > 1:
        assert error > 0.1 * error_bound(z.min(), z.max(), bits)


def test_invalid_pixels_come_back_as_nan_and_nothing_else_does():
    z = np.linspace(-3, 3, 64, dtype=np.float32).reshape(8, 8)
    z[2, 3:6] = np.nan
    assert (np.isnan(decode(encode(z, 12))) == np.isnan(z)).all()
    assert np.isnan(decode(encode(np.full((4, 4), np.nan, np.float32), 12))).all()


def test_constant_maps_are_exact():
    assert (decode(encode(np.full((5, 7), 1.25, np.float32), 12)) == 1.25).all()


def test_metric_depth_keeps_a_millimetre_over_ten_metres():
    assert error_bound(0, 10, depth_codec.METRIC_BITS) < 0.0005


def test_refuses_what_it_cannot_store_or_read():
    with pytest.raises(CodecError, match="finite"):
        encode(np.array([[np.inf]], np.float32), 12)
    with pytest.raises(CodecError, match="2-D"):
        encode(np.zeros((2, 2, 2), np.float32), 12)
    with pytest.raises(CodecError, match="PDZ1"):
        decode(b"not a depth map at all")
    data = encode(np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32), 12)
    with pytest.raises(CodecError):
        decode(data[:40])


def test_bytes_do_not_depend_on_the_call():
    z = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    assert encode(z, 12) == encode(z.copy(order="F"), 12)
