"""Opening any photograph safely, and the stored form of its RGB."""

import errno
import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from pipeline.sources import SourceError

MAX_PIXELS = 150_000_000  # above it a file is taken for a decompression bomb; Pillow itself stops at 179 million
MAX_ASPECT = 20  # teachers keep the aspect: a longer strip makes a token sequence that fits no memory
JPEG_QUALITY = 95
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # JPEG opens MPO too; EPS would run Ghostscript
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


class UnreadableImage(ValueError):
    """The file cannot become an RGB image; the message says why and becomes the reject's reason."""


def open_rgb(data: bytes) -> tuple[Image.Image, bool]:
    """Decode any image to upright 8-bit RGB; also tell whether `data` is a JPEG that can be stored as it is."""
    if not data:
        raise UnreadableImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; we check the size below
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise UnreadableImage(f"{image.width}x{image.height} pixels, longer than {MAX_ASPECT}:1")
            image.load()
            orientation = _orientation(image)
            keepable = image.format == "JPEG" and image.mode in ("RGB", "L") and orientation == 1
            upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
            return _to_rgb(upright), keepable
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"does not decode: not an image ({', '.join(_FORMATS)})") from error
    except Exception as error:  # Pillow's plugins raise whatever damage leads them to
        what = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "file", str(error)) or type(error).__name__
        raise UnreadableImage(f"does not decode: {what.encode('unicode_escape').decode()}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where the EXIF is damaged: the pixels may well be whole."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit greyscale: convert('RGB') would clip it to white
        values = np.asarray(image, np.float64)
        peak = 65535.0 if values.max() > 255 else 255.0
        image = Image.fromarray((values / peak * 255).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Antialiased resize so that the short side is `short_side` px; never enlarges, 0 leaves the size alone."""
    if short_side == 0 or min(image.size) <= short_side:
        return image
    scale = short_side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def stored_jpeg(data: bytes, short_side: int) -> tuple[bytes, NDArray[np.uint8], tuple[int, int]]:
    """JPEG bytes to store, the pixels a reader will decode from them, and the original (width, height)."""
    image, keepable = open_rgb(data)
    small = shrink(image, short_side)
    if small is image and keepable:
        return data, np.asarray(image), image.size
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=b"")  # a GIF's may be too long for a JPEG
    stored = buffer.getvalue()
    return stored, np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")), image.size


# The storage, not the file: writing on would turn an outage into rejects.
_OUTAGES = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EMFILE, errno.ENFILE}


def read_file(path: Path) -> bytes:
    """The file's bytes; UnreadableImage where it cannot be read, SourceError where it is gone or the storage fails."""
    try:
        if path.exists() and not path.is_file():
            raise UnreadableImage("not a regular file")
        return path.read_bytes()
    except OSError as error:
        if error.errno in _OUTAGES:
            raise SourceError(f"{path} cannot be read ({error.strerror}): run the job again when it can") from error
        if not os.path.lexists(path):
            raise SourceError(f"{path} was listed and is gone: put it back, or choose a new folder to write") from error
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error
