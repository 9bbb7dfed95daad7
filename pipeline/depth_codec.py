"""A z-standardised depth map as bytes (`.pdz`), with an error bound known before anything is written.

Layout, little endian: `magic 'PDZ2' | height u16 | width u16 | step f32 | CRC-32 of these 12 bytes, u32`, then one
Zstandard frame (with its own checksum) of 2 * height * width bytes, made so:
1. each pixel becomes the whole number `level` nearest to z / step, from -32767 to 32767; -32768 is an invalid pixel;
2. each row but the first is replaced by its difference to the row above, modulo 2**16;
3. 128 is added, so that every small difference, of either sign, has a high byte of 0;
4. all high bytes come first, then all low bytes, both in reading order.
Decoding undoes this and gives level * step in float32, exactly so where the step is a power of two; NaN where invalid.

Why: a fixed step gives every map the same bound, and differences down the columns are summed whole rows at a time.
tests/benchmarks/codec.py measures this against the alternatives; codec.json beside it is what it found.
"""

import struct
import zlib

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from pipeline.errors import UserError

EXTENSION = "pdz"
PSEUDO_STEP = 2.0**-8  # in z; bfloat16 autocast rounds a z just above 1 by up to twice as much as this does
METRIC_STEP_M = 0.001  # in metres: divide by the standard deviation that z was made with

_MAGIC = b"PDZ2"
_HEADER = struct.Struct("<4sHHf")
_CRC = struct.Struct("<I")
_INVALID, _MAX_LEVEL = -32768, 32767
_ZSTD = Zstd(level=3, checksum=True)


class CodecError(UserError):
    """A map that cannot be stored, or bytes that are not a depth map this version can read."""


def error_bound(step: float) -> float:
    """Largest |decoded - original| in z: half a step, and float32's rounding of the largest level times the step.

    The second term is never needed where the step is a power of two.
    """
    return step * (0.5 + 2**-9)


def encode(z: NDArray[np.floating], step: float) -> bytes:
    """Encode a map of shape (height, width); NaN marks invalid pixels, other values must be finite."""
    if z.ndim != 2 or not 1 <= min(z.shape) <= max(z.shape) <= 0xFFFF:
        raise CodecError(f"a depth map must be 2-D with sides from 1 to 65535, got shape {z.shape}")
    if not 2**-64 <= step <= 2**64:
        raise CodecError(f"the step of a depth map must be positive, from 2**-64 to 2**64, got {step}")
    step = float(np.float32(step))  # as decoding will see it
    largest = float(np.fmax.reduce(np.abs(z), axis=None, initial=0))
    if largest > _MAX_LEVEL * step:
        if np.isinf(largest):
            raise CodecError("a depth map must be finite (NaN marks invalid pixels), got infinity")
        raise CodecError(
            f"a depth map stored in steps of {step:.3g} must lie within ±{_MAX_LEVEL * step:.3g}, got {largest:.6g}"
        )
    nearest = np.rint(np.asarray(z, np.float64) / step)
    levels = np.where(np.isnan(nearest), _INVALID, nearest).astype(np.int16)
    differences = np.diff(levels, axis=0, prepend=np.int16(0)) + np.int16(128)  # wrap, and are unwrapped by the sum
    planes = np.empty((2, *z.shape), np.uint8)
    planes[0], planes[1] = differences.view(np.uint16) >> 8, differences.view(np.uint16) & 0xFF
    header = _HEADER.pack(_MAGIC, *z.shape, step)
    return header + _CRC.pack(zlib.crc32(header)) + bytes(_ZSTD.encode(planes))


def decode(
    data: bytes,
    window: tuple[slice, slice] = (slice(None), slice(None)),
    size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Decode to float32 of shape (height, width); invalid pixels are NaN.

    `window`, slices of rows (step 1) and columns (any step), gives what decoding all and slicing gives, for less.
    `size`: CodecError where the whole map is of another, as a window would not tell.
    """
    start = _HEADER.size + _CRC.size
    if data[:4] == b"PDZ1":
        raise CodecError("a depth map was written by an earlier version of this codec ('PDZ1'): make the shards again")
    if len(data) < start or data[:4] != _MAGIC:
        raise CodecError(f"a depth map must start with {_MAGIC!r} and {start - 4} more bytes, got {data[:start]!r}")
    if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
        raise CodecError("a depth map's header is damaged: its checksum does not match")
    _, height, width, step = _HEADER.unpack_from(data)
    if size not in (None, (height, width)):
        raise CodecError(
            f"depth must be of the RGB's size {size[0]}x{size[1]}, got {height}x{width}: make the shards again"
        )
    frame = data[start:]
    num_bytes = 2 * height * width
    # Before anything of that size is allocated; a Zstandard block of 2**17 bytes takes at least 4.
    if _frame_content_size(frame) != num_bytes or num_bytes > len(frame) << 15:
        raise CodecError(f"a depth map of {height}x{width} must hold {num_bytes} bytes; its Zstandard frame does not")
    if not (2**-64 <= step <= 2**64 and num_bytes):  # as `encode` writes it: whatever it holds is finite
        raise CodecError(f"a depth map must have sides and a step from 2**-64 to 2**64, got {height}x{width}, {step}")
    try:
        planes = np.frombuffer(_ZSTD.decode(frame), np.uint8)
    except (RuntimeError, ValueError) as error:
        raise CodecError(f"a depth map of {height}x{width} does not decode: {error}") from error
    if planes.size != num_bytes:
        raise CodecError(f"a depth map of {height}x{width} must hold {num_bytes} bytes, got {planes.size}")
    rows, columns = window
    high, low = planes.reshape(2, height, width)[:, : rows.indices(height)[1], columns]
    differences = high.astype(np.int16)
    differences <<= 8
    differences |= low
    differences -= np.int16(128)
    levels = _sum_down(differences)[rows]
    z = levels.astype(np.float32)
    z *= np.float32(step)
    invalid = levels == _INVALID
    if invalid.any():
        z[invalid] = np.nan
    return z


def _sum_down(rows: NDArray[np.int16]) -> NDArray[np.int16]:
    """Cumulative sum down the columns, modulo 2**16; uses `rows` up. By doubling, as np.cumsum is slower."""
    other = np.empty_like(rows)
    reach = 1
    while reach < len(rows):  # each row holds the sum of the `reach` rows that end in it
        other[:reach] = rows[:reach]
        np.add(rows[reach:], rows[:-reach], out=other[reach:])
        rows, other = other, rows
        reach *= 2
    return rows


def _frame_content_size(frame: bytes) -> int:
    """What a Zstandard frame says it decodes to, in bytes (RFC 8878, section 3.1.1.1); -1 where it does not say."""
    if len(frame) < 18:  # the longest frame header
        frame = frame.ljust(18, b"\0")
    single_segment, width_flag = frame[4] >> 5 & 1, frame[4] >> 6
    if frame[4] & 3 or not (single_segment or width_flag):  # a dictionary, or no size
        return -1
    width, start = 1 << width_flag, 6 - single_segment
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
