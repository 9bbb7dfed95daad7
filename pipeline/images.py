"""Opening any photograph safely, and the stored form of its RGB."""

import errno
import io
import os
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL.Image import Transpose

from pipeline.files import ReadError, read_bytes
from pipeline.sources import SourceError, printable

MAX_FILE_BYTES = 1 << 30  # no photograph has more; a sparse file may claim any number
MAX_PIXELS = 150_000_000  # above it a file is taken for a decompression bomb; Pillow itself stops at 179 million
MAX_ASPECT = 20  # teachers keep the aspect: a longer strip makes a token sequence that fits no memory
JPEG_QUALITY = 95
_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"]  # JPEG opens MPO too; no EPS
EXTENSIONS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".pbm",
    ".jp2", ".j2k", ".avif", ".heic", ".heif",
}  # fmt: skip
# What a build of Pillow may lack.
_NEEDS = {".webp": "webp", ".jp2": "jpg_2000", ".j2k": "jpg_2000", ".avif": "avif"}
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


class UnreadableImage(ValueError):
    """The file cannot become an RGB image; the message says why and becomes the reject's reason."""


def is_image(name: str) -> bool:
    """Whether a name ends like an image that is read: by name alone, so that all machines plan alike.

    SourceError where this machine could not read it: it must be mended, not plan without it.
    """
    ending = os.path.splitext(name)[1].lower()
    if ending in (".heic", ".heif") and not _reads_heif():
        raise SourceError(
            f"{printable(name)}: HEIC needs pillow-heif: pip install 'pseudodepth[heic]', or move such files away"
        )
    if ending in _NEEDS and not features.check(_NEEDS[ending]):
        raise SourceError(f"{printable(name)}: this build of Pillow reads no {ending}: install Pillow's own wheel")
    return ending in EXTENSIONS


@cache
def _reads_heif() -> bool:
    """Teach Pillow HEIC, where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def open_rgb(data: bytes, beside_depth: bool = False) -> tuple[Image.Image, bool]:
    """Decode any image to upright 8-bit RGB; also tell whether `data` is a JPEG that can be stored as it is.

    `beside_depth`: refuse one that EXIF says is to be turned, as nothing says whether its depth is.
    """
    if not data:
        raise UnreadableImage("empty file")
    formats = [*_FORMATS, "HEIF"] if _reads_heif() else _FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; we check the size below
            image = Image.open(io.BytesIO(data), formats=formats)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise UnreadableImage(f"{image.width}x{image.height} pixels, longer than {MAX_ASPECT}:1")
            bits = _bits(image, data)
            image.load()
            orientation = _orientation(image)
            if beside_depth and orientation in _UPRIGHT:
                raise UnreadableImage(
                    "says by EXIF that it is to be turned, and its depth does not say whether it is: save both upright"
                )
            keepable = image.format == "JPEG" and image.mode in ("RGB", "L") and orientation == 1
            rgb = _to_rgb(image, bits)
            return (rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb), keepable
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"does not decode: not an image ({', '.join(formats)})") from error
    except Exception as error:  # Pillow's plugins raise whatever damage leads them to
        what = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "file", str(error)) or type(error).__name__
        raise UnreadableImage(f"does not decode: {what.encode('unicode_escape').decode()}") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where the EXIF is damaged: the pixels may well be whole."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1


# --- grey values ---------------------------------------------------------------------------------------------------

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF's tags
_SIGNED, _WHITE_IS_ZERO = 2, 0
_FLOAT_MARGIN = 0.1  # beyond 0 and 1: what sharpening overshoots
_DARK = 16  # a deep image that reaches no more than 1/16 of its range: 12 bits or fewer in 16, or lost in darkness


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a sample as the file declares them, before Pillow makes 8 of them."""
    if image.format == "TIFF":
        return max(_tag(image, _BITS_PER_SAMPLE, (8,)))
    if image.format == "PNG":
        return data[24]
    if image.format == "PPM":
        arguments = [tile.args for tile in getattr(image, "tile", ()) if isinstance(tile.args, tuple)]
        return max((n for each in arguments for n in each if isinstance(n, int)), default=255).bit_length()
    return 8


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    return getattr(image, "tag_v2", {}).get(number, default)


def _to_rgb(image: Image.Image, bits: int) -> Image.Image:
    """8-bit RGB on white, by one rule: black is 0, white is what the *file* says, never the image's own maximum.

    White is 2^bits - 1 for integers of `bits` bits (also 12 in a TIFF; Pillow scales a PGM's maxval to 65,535), and 1
    for floating point, TIFF's usual range. Where TIFF says that white is zero, values are turned over. What declares
    no such range is rejected: signed integers, floats clearly outside 0 to 1, NaN and infinity; and deep images that
    hold nothing above 1/16 of their range, which are 12-bit values in 16, or would be black.
    """
    if max(_tag(image, _SAMPLE_FORMAT, (1,))) == _SIGNED:
        raise UnreadableImage("signed integers declare no black and white: save it as 8 or 16 bit")
    if image.mode.startswith("I") or image.mode == "F":  # convert('RGB') would clip these to black or white
        image = _deep_grey(image, bits)
    elif bits > 8 and np.asarray(image.convert("RGB")).max() < 256 // _DARK:
        raise _too_dark(bits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image, bits: int) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise UnreadableImage("holds NaN or infinite values")
        low, high = float(values.min()), float(values.max())
        if low < -_FLOAT_MARGIN or high > 1 + _FLOAT_MARGIN:
            raise UnreadableImage(
                f"floating point from {low:g} to {high:g}, where 0 is black and 1 is white: save it as 8 or 16 bit"
            )
        share = values.astype(np.float64)
    else:
        if bits == 32:  # Pillow reads them as signed
            values = values.astype(np.int32).view(np.uint32)
        white = 2.0**bits - 1 if image.format == "TIFF" else 65535.0
        if values.max() <= white / _DARK:
            raise _too_dark(bits)
        share = values / white
    if _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:  # Pillow turns 8 bits and fewer over by itself
        share = 1 - share
    grey = (share * 255).round().clip(0, 255).astype(np.uint8)
    see_through = image.info.get("transparency")
    if isinstance(see_through, int):  # PNG's one transparent grey
        grey[values == see_through] = 255
    return Image.fromarray(grey)


def _too_dark(bits: int) -> UnreadableImage:
    return UnreadableImage(
        f"declares {bits} bits a sample and fills less than 1/{_DARK} of them: it would be black; scale its values"
    )


# --- the stored form -----------------------------------------------------------------------------------------------


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Antialiased resize so that the short side is `short_side` px; never enlarges, 0 leaves the size alone."""
    if short_side == 0 or min(image.size) <= short_side:
        return image
    scale = short_side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def stored_jpeg(data: bytes, short_side: int, beside_depth: bool = False) -> tuple[bytes, Image.Image, tuple[int, int]]:
    """JPEG bytes to store, the RGB image a reader will decode from them, and the original (width, height).

    Pillow decodes that image when its pixels are asked for: without a teacher nobody asks. `beside_depth` is as in
    `open_rgb`.
    """
    image, keepable = open_rgb(data, beside_depth)
    small = shrink(image, short_side)
    if small is image and keepable:
        return data, image, image.size
    return *as_jpeg(small), image.size


def as_jpeg(image: Image.Image) -> tuple[bytes, Image.Image]:
    """An RGB image as JPEG, and what a reader will decode from that, RGB too."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=b"")  # a GIF's may be too long for a JPEG
    return buffer.getvalue(), Image.open(buffer)


# The storage, not the file: writing on would turn an outage into rejects.
_OUTAGES = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EMFILE, errno.ENFILE}


def read_file(path: Path) -> bytes:
    """The file's bytes; UnreadableImage where it cannot be read, SourceError where it is gone or the storage fails."""
    try:
        return read_bytes(path, MAX_FILE_BYTES)
    except ReadError as error:
        raise UnreadableImage(f"not read: {error}") from error
    except OSError as error:
        if error.errno in _OUTAGES:
            raise SourceError(f"{path} cannot be read ({error.strerror}): run the job again when it can") from error
        if not os.path.lexists(path):
            raise SourceError(f"{path} was listed and is gone: put it back, or choose a new folder to write") from error
        raise UnreadableImage(f"cannot be read: {error.strerror}") from error
