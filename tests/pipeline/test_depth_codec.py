import struct
import zlib

import numpy as np
import pytest
import torch
from numcodecs import Zstd

from pipeline.depth_codec import METRIC_STEP_M, PSEUDO_STEP, CodecError, decode, encode, error_bound

SHAPES = [(1, 1), (1, 7), (255, 3), (256, 1), (2, 128), (48, 64), (257, 342), (1, 40_000)]
HEADER_BYTES = 16


def rough(shape, scale=2.0, seed=0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def smooth(height=64, width=80):
    down, right = np.mgrid[0:height, 0:width]
    return (np.sin(down / 9) + np.cos(right / 13)).astype(np.float32)


def file_of(shape, step, frame):
    """A map's bytes with a header that is whole, whatever it claims."""
    header = struct.pack("<4sHHf", b"PDZ2", *shape, step)
    return header + struct.pack("<I", zlib.crc32(header)) + frame


@pytest.mark.parametrize("step", [2.0**-6, PSEUDO_STEP, 2.0**-9, METRIC_STEP_M / 1.37, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_stays_within_the_bound(shape, step):
    z = rough(shape)
    decoded = decode(encode(z, step))
    error = np.abs(decoded.astype(np.float64) - z).max()
    assert decoded.dtype == np.float32 and decoded.shape == shape
    assert error <= error_bound(step)
    if z.size > 100:
        assert error > 0.9 * error_bound(step)  # the bound is no looser than it must be


@pytest.mark.parametrize("step", [PSEUDO_STEP, METRIC_STEP_M / 1.37, 1 / 3, 2**40 / 3, 2**-60 / 3])
def test_bound_holds_up_to_the_largest_value_that_can_be_stored(step):
    levels = np.linspace(-32767, 32767, 40_001).reshape(1, -1)
    z = np.clip(levels, -32766.99, 32766.99) * step
    assert np.abs(decode(encode(z, step)).astype(np.float64) - z).max() <= error_bound(step)
    with pytest.raises(CodecError, match="must lie within"):
        encode(np.array([[1.0, 32768 * step]]), step)


def test_a_step_that_is_a_power_of_two_decodes_exactly():
    z = np.arange(-32767, 32768, dtype=np.float32).reshape(5, -1) * np.float32(PSEUDO_STEP)
    assert (decode(encode(z, PSEUDO_STEP)) == z).all()
    z = rough((200, 300))
    assert np.abs(decode(encode(z, PSEUDO_STEP)) - z).max() <= PSEUDO_STEP / 2


def test_pseudo_step_is_within_the_projects_limit_and_half_of_bfloat16s_rounding():
    assert error_bound(PSEUDO_STEP) <= 0.005
    rounding = torch.finfo(torch.bfloat16).eps / 2  # of a z just above 1, at most
    assert rounding == 2 * (PSEUDO_STEP / 2)


def test_metric_step_keeps_a_millimetre_over_ten_metres():
    mean_m, std_m = 2.7, 1.1
    depth_m = np.linspace(0, 10, 100_000).reshape(250, 400)
    z = ((depth_m - mean_m) / std_m).astype(np.float32)
    step = METRIC_STEP_M / std_m
    assert error_bound(step) * std_m < 0.001
    assert np.abs(decode(encode(z, step)) * std_m + mean_m - depth_m).max() < 0.001


@pytest.mark.parametrize("fraction", [0.001, 0.5, 1.0])
def test_invalid_pixels_come_back_as_nan_and_nothing_else_does(fraction):
    z = rough((60, 70))
    z[np.random.default_rng(1).random(z.shape) < fraction] = np.nan
    z[0, 0], z[-1, -1] = np.nan, -128 * PSEUDO_STEP if fraction < 1 else np.nan
    decoded = decode(encode(z, PSEUDO_STEP))
    assert (np.isnan(decoded) == np.isnan(z)).all()
    valid = ~np.isnan(z)
    assert np.abs(decoded[valid] - z[valid]).max(initial=0) <= error_bound(PSEUDO_STEP)


def test_lowest_value_beside_holes_is_not_a_hole():
    z = np.array([[-32767, np.nan, 32767], [np.nan, -32767, np.nan]]) * PSEUDO_STEP
    np.testing.assert_array_equal(decode(encode(z, PSEUDO_STEP)), z)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_constant_maps_of_any_precision(dtype):
    assert (decode(encode(np.full((500, 700), 1.25, dtype), PSEUDO_STEP)) == 1.25).all()


def test_bytes_depend_on_values_alone():
    z = rough((64, 64))
    data = encode(z, PSEUDO_STEP)
    assert data == encode(z.copy(order="F"), PSEUDO_STEP) == encode(z.astype(np.float64), PSEUDO_STEP)
    assert data == encode(np.repeat(z, 2, axis=1)[:, ::2], PSEUDO_STEP)


def test_layout_is_the_documented_one():
    z = np.array([[0.5, np.nan], [0.75, -1.0]])
    data = encode(z, 0.25)
    magic, height, width, step, crc = struct.unpack_from("<4sHHfI", data)
    assert (magic, height, width, step) == (b"PDZ2", 2, 2, 0.25) and crc == zlib.crc32(data[:12])
    planes = np.frombuffer(Zstd().decode(data[HEADER_BYTES:]), np.uint8)
    codes = [2 + 128, -32768 + 128, 1 + 128, -4 + 32768 + 128]
    assert planes.tolist() == [code % 2**16 // 256 for code in codes] + [code % 256 for code in codes]


@pytest.mark.parametrize(
    ("z", "step", "message"),
    [
        (np.array([[np.inf]]), 0.1, "finite"),
        (np.array([[np.nan, -np.inf]]), 0.1, "finite"),
        (np.zeros((2, 2, 2)), 0.1, r"2-D .* got shape \(2, 2, 2\)"),
        (np.zeros((0, 4)), 0.1, "from 1 to 65535"),
        (np.zeros((1, 65536)), 0.1, "from 1 to 65535"),
        (np.array([[-4000.0]]), 0.1, r"steps of 0\.1 must lie within ±3\.28e\+03, got 4000"),
        (np.array([[1e300]]), 0.1, "must lie within"),
        (np.zeros((2, 2)), 0.0, "step .* must be positive"),
        (np.zeros((2, 2)), -0.1, "step .* must be positive"),
        (np.zeros((2, 2)), np.nan, "step .* must be positive"),
        (np.zeros((2, 2)), 1e-30, "step .* must be positive"),
    ],
)
def test_refuses_what_it_cannot_store(z, step, message):
    with pytest.raises(CodecError, match=message) as caught:
        encode(z, step)
    assert "\n" not in str(caught.value)


FRAME = bytes(Zstd(checksum=True).encode(np.zeros(32, np.uint8)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must start with b'PDZ2'"),
        (b"not a depth map at all", "must start with b'PDZ2'"),
        (b"PDZ1" + bytes(30), "earlier version .* make the shards again"),
        (b"PDZ2" + bytes(30), "header is damaged"),
        (file_of((4, 5), 0.1, FRAME), "4x5 must hold 40 bytes"),
        (file_of((4, 3), 0.1, FRAME), "4x3 must hold 24 bytes"),
        (file_of((4, 4), 0.1, FRAME + FRAME), "does not decode|must hold 32 bytes"),
        (file_of((4, 4), 0.1, FRAME[:-1]), "does not decode"),
        (file_of((4, 4), 0.1, b""), "must hold 32 bytes"),
        (file_of((0, 0), 0.1, b""), "must hold 0 bytes"),
        # a frame that claims the gigabytes its header does, in 40 bytes
        (file_of((65535, 65535), 0.1, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2 * 65535**2) + bytes(27)), "hold"),
    ],
)
def test_refuses_what_it_cannot_read(data, message):
    with pytest.raises(CodecError, match=message) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("z", [rough((40, 50)), smooth(), np.full((30, 30), np.nan), rough((300, 300))])
def test_every_cut_and_any_garbled_bit_is_noticed_or_harmless(z):
    data = encode(z, PSEUDO_STEP)
    intact = decode(data)
    rng = np.random.default_rng(0)
    for length in {*range(60), *rng.integers(0, len(data), 200), len(data) - 1}:
        if length < len(data):
            with pytest.raises(CodecError):
                decode(data[:length])
    bits = {bit for bit in {*range(8 * 40), *rng.integers(0, 8 * len(data), 500)} if bit < 8 * len(data)}
    noticed = 0
    for bit in bits:
        garbled = bytearray(data)
        garbled[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(bytes(garbled))
        except CodecError:
            noticed += 1
        else:  # a bit that Zstandard does not use
            np.testing.assert_array_equal(decoded, intact)
    assert noticed > 0.9 * len(bits)
