"""A z-standardised depth map as bytes (`.pdz`), with a stated error bound.

Layout: a 20-byte header `magic 'PDZ1' | bits u8 | 3 zero bytes | height u16 | width u16 | lo f32 | hi f32`
(little endian), then a Blosc frame holding uint16 codes, differenced along each row. Code 0 is an invalid pixel (NaN
after decoding); code c > 0 is the value `lo + (c - 1) * (hi - lo) / (2**bits - 2)`. So the error of a decoded value is
at most `error_bound(lo, hi, bits)`, half a quantisation step.
"""

import struct

import numpy as np
from numcodecs import Blosc, blosc
from numpy.typing import NDArray

EXTENSION = "pdz"
PSEUDO_BITS = 12  # half a step over a range of 10 z is 0.0012 z
METRIC_BITS = 16  # over 10 m half a step is 0.08 mm; 12 bits would be 1.2 mm

_HEADER = struct.Struct("<4sB3xHHff")
_MAGIC = b"PDZ1"
_BLOSC = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)
blosc.use_threads = False  # one thread per sample: bytes must not depend on the machine's core count


class CodecError(ValueError):
    """The bytes are not a depth map this version can read."""


def error_bound(lo: float, hi: float, bits: int) -> float:
    """Largest |decoded - original| in z for a map whose values span [lo, hi]."""
    return (hi - lo) / (2 * (2**bits - 2))


def encode(z: NDArray[np.floating], bits: int) -> bytes:
    """Encode a map of shape (height, width); NaN marks invalid pixels, other values must be finite."""
    valid = ~np.isnan(z)
    if z.ndim != 2 or max(z.shape) > 0xFFFF:
        raise CodecError(f"a depth map must be 2-D with sides up to 65535, got shape {z.shape}")
    if np.isinf(z).any():
        raise CodecError("a depth map must be finite (NaN marks invalid pixels), got infinity")
    lo, hi = (np.float32(z[valid].min()), np.float32(z[valid].max())) if valid.any() else (np.float32(0), np.float32(0))
    step = (float(hi) - float(lo)) / (2**bits - 2)
    codes = np.zeros(z.shape, np.uint16)
    if step > 0:
        levels = np.rint((z.astype(np.float64) - float(lo)) / step)
        codes[valid] = (np.clip(levels[valid], 0, 2**bits - 2) + 1).astype(np.uint16)
    else:
        codes[valid] = 1
    differences = np.diff(codes, axis=1, prepend=np.uint16(0))  # wraps modulo 2**16, undone by the wrapping sum
    header = _HEADER.pack(_MAGIC, bits, z.shape[0], z.shape[1], lo, hi)
    return header + bytes(_BLOSC.encode(np.ascontiguousarray(differences)))


def decode(data: bytes) -> NDArray[np.float32]:
    """Decode to float32 of shape (height, width); invalid pixels are NaN."""
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise CodecError(f"a depth map must start with {_MAGIC!r}, got {data[:4]!r}")
    _, bits, height, width, lo, hi = _HEADER.unpack_from(data)
    try:
        differences = np.frombuffer(_BLOSC.decode(data[_HEADER.size :]), np.uint16).reshape(height, width)
    except (RuntimeError, ValueError) as error:
        raise CodecError(f"a depth map of {height}x{width} does not decode: {error}") from error
    codes = np.add.accumulate(differences, axis=1, dtype=np.uint16)
    z = (codes.astype(np.float32) - 1) * np.float32((hi - lo) / (2**bits - 2)) + np.float32(lo)
    z[codes == 0] = np.nan
    return z
