"""Depth maps in files: the array that a file holds, and what its numbers mean.

Read through Pillow (PNG, PFM, TIFF), numpy (npy, npz), h5py and OpenEXR; a 16-bit PGM by hand, because data sets write
its bytes in either order and its `maxval` is no scale. Nothing is turned, pasted or resized in Pillow's 16-bit mode.
"""

import io
import math
import re
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.images import MAX_PIXELS, UnreadableImage
from pipeline.sources.rgbd.description import Intrinsics, Values

_PILLOW = {"png16": ["PNG"], "png8": ["PNG"], "tiff": ["TIFF"], "pfm": ["PPM"]}
_GREY, _RGB = 0, 2  # kinds of colour in a PNG's header
_ORIENTATION, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 262, 339  # TIFF's tags
_PFM = re.compile(rb"Pf\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]+)\s")
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")


def read_values(data: bytes, file_format: str, byte_order: str = "big") -> NDArray[Any]:
    """The numbers of a file, (height, width), as stored; `file_format` as a description writes it.

    UnreadableImage where the file is damaged or holds something else.
    """
    kind, _, key = file_format.partition(":")
    try:
        if kind in _PILLOW:
            values = _of_picture(data, kind)
        elif kind == "pgm":
            values = _of_pgm(data, byte_order)
        elif kind == "npy":
            values = _of_npy(io.BytesIO(data))
        elif kind == "npz":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                _check_holds([name.removesuffix(".npy") for name in archive.namelist()], key)
                values = _of_npy(archive.open(f"{key}.npy"))
        elif kind == "h5":
            values = _of_hdf5(data, key)
        else:
            values = _of_exr(data, key)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # readers raise whatever damage leads them to
        told = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"does not decode as {kind}: {told[:200].encode('unicode_escape').decode()}") from error
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "uifb":
        raise UnreadableImage(f"must hold numbers of shape (height, width), got {values.dtype} {values.shape}")
    if values.size > MAX_PIXELS:
        raise UnreadableImage(f"{values.shape[1]}x{values.shape[0]} pixels, more than {MAX_PIXELS:,}")
    return values


def _of_picture(data: bytes, kind: str) -> NDArray[Any]:
    image = Image.open(io.BytesIO(_plain_pfm(data) if kind == "pfm" else data), formats=_PILLOW[kind])
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
    if kind == "png16" and image.mode not in (*_SIXTEEN, "I"):
        raise UnreadableImage(f"must be a grey PNG of 16 bits, got one of mode {image.mode}")
    if kind == "png8" and image.mode not in ("1", "L", "RGB"):
        raise UnreadableImage(f"must be a grey PNG of 8 bits, got one of mode {image.mode}")
    if kind == "pfm" and image.mode != "F":
        raise UnreadableImage(f"must be a grey PFM (it begins with Pf), got mode {image.mode}")
    if kind == "tiff" and image.mode not in (*_SIXTEEN, "I", "F", "L"):
        raise UnreadableImage(f"must be a grey TIFF, got one of mode {image.mode}")
    values = np.asarray(image)
    if kind.startswith("png"):
        values = _unstretched(values, data)
    if kind == "tiff":
        values = _of_tiff(values, image)
    if values.ndim == 3:
        if not (values[..., :1] == values).all():
            raise UnreadableImage("must be grey, got colours: was it drawn with a colour map?")
        values = values[..., 0]
    return values


def _plain_pfm(data: bytes) -> bytes:
    """A PFM whose header ends in one newline. Where Windows wrote two signs, Pillow takes one for a pixel's first byte.

    What Pillow would read though bytes are missing or left over is refused.
    """
    found = _PFM.match(data)
    if found is None:
        return data  # Pillow says what it is
    pixels = data[found.end() :]
    wanted = 4 * int(found[1]) * int(found[2])
    if found[0].endswith(b"\r") and len(pixels) == wanted + 1:
        pixels = pixels.removeprefix(b"\n")
    if len(pixels) != wanted:
        raise UnreadableImage(
            f"{int(found[1])}x{int(found[2])} pixels of 32 bits need {wanted:,} bytes, got {len(pixels):,}"
        )
    return b"Pf\n%s %s\n%s\n" % found.groups() + pixels


def _unstretched(values: NDArray[Any], data: bytes) -> NDArray[Any]:
    """A PNG's numbers as its file has them: Pillow stretches greys of 2 and 4 bits to 255, and cuts colours of 16."""
    bits, colour = data[24], data[25]  # of the header, which every PNG begins with
    if colour == _RGB and bits != 8:
        raise UnreadableImage(f"must be a grey PNG, got colours of {bits} bits")
    if colour == _GREY and bits in (2, 4):
        return values // (255 // (2**bits - 1))
    return values


def _of_tiff(values: NDArray[Any], image: Image.Image) -> NDArray[Any]:
    tags = getattr(image, "tag_v2", {})
    if tags.get(_ORIENTATION, 1) != 1 or tags.get(_PHOTOMETRIC, 1) == 0:
        raise UnreadableImage("is turned, or white where it is zero, by a tag of its TIFF: save it without")
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:  # Pillow reads unsigned ones as signed
        return values.astype(np.int32).view(np.uint32)
    return values


def _of_npy(stream: IO[bytes]) -> NDArray[Any]:
    """What its header claims is looked at before memory is given to it; pickles are not opened."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.kind not in "uifb":
        raise UnreadableImage(f"must hold numbers, got {dtype}")
    if math.prod(shape) > MAX_PIXELS:
        raise UnreadableImage(f"has {math.prod(shape):,} values, more than {MAX_PIXELS:,}")
    wanted = math.prod(shape) * dtype.itemsize
    data = stream.read(wanted)
    if len(data) != wanted:
        raise UnreadableImage(f"is cut off: {len(data):,} of {wanted:,} bytes are there")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _of_pgm(data: bytes, byte_order: str) -> NDArray[np.uint16]:
    """The three numbers of the header may be parted by any blanks and comments (netpbm's rule)."""
    words: list[bytes] = []
    place = 0
    while len(words) < 4:
        while data[place : place + 1].isspace():
            place += 1
        if data[place : place + 1] == b"#":
            place = data.index(b"\n", place)
            continue
        end = place
        while end < len(data) and not data[end : end + 1].isspace():
            end += 1
        words.append(data[place:end])
        if end == place or end - place > 10:
            raise UnreadableImage("must begin with P5, width, height and maxval")
        place = end
    if words[0] != b"P5":
        raise UnreadableImage(f"must begin with P5, got {words[0]!r}")
    width, height, most = (int(word) for word in words[1:])
    if most < 256:
        raise UnreadableImage(f"must hold 16-bit values, its maxval is {most}")
    pixels = data[place + 1 :]
    if len(pixels) != 2 * width * height:
        raise UnreadableImage(f"{width}x{height} pixels of 16 bits need {2 * width * height} bytes, got {len(pixels)}")
    return np.frombuffer(pixels, "<u2" if byte_order == "little" else ">u2").reshape(height, width).astype(np.uint16)


def _of_hdf5(data: bytes, key: str) -> NDArray[Any]:
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        found = file.get(key)
        if not isinstance(found, h5py.Dataset):
            raise UnreadableImage(f"must hold the array {key!r}, it has {', '.join(file) or 'none'}")
        if found.size > MAX_PIXELS:
            raise UnreadableImage(f"{key!r} has {found.size:,} values, more than {MAX_PIXELS:,}")
        return found[()]


def _of_exr(data: bytes, key: str) -> NDArray[Any]:
    import tempfile

    try:
        import OpenEXR
    except ImportError:
        from pipeline.sources import SourceError

        raise SourceError("OpenEXR files need a package of that name: pip install 'pseudodepth[exr]'") from None
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:  # it opens names alone
        file.write(data)
        file.flush()
        with OpenEXR.File(file.name, separate_channels=True) as opened:
            header = opened.header()
            windows = [np.asarray(header[name]).ravel().tolist() for name in ("dataWindow", "displayWindow")]
            if windows[0] != windows[1]:
                raise UnreadableImage("its data window is not its display window: save the whole image")
            channels = opened.channels()
            _check_holds(list(channels), key)
            return np.array(channels[key].pixels)


def _check_holds(names: list[str], key: str) -> None:
    if key not in names:
        raise UnreadableImage(f"must hold {key!r}, it has {', '.join(names) or 'nothing'}")


# --- meaning -------------------------------------------------------------------------------------------------------


def to_depth(
    stored: NDArray[Any],
    says: Values,
    valid: NDArray[np.bool_] | None = None,
    size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Stored numbers as depth in the field's unit, float32 (height, width); NaN where nothing was measured.

    `valid`: where depth is valid, besides what `says.invalid` tells. `size`: the (height, width) wanted, where it is
    another; each pixel takes the nearest one's value, and nothing is ever mixed.
    """
    rays = None
    if says.along == "ray":
        assert says.intrinsics is not None
        rays = _ray_lengths(stored.shape[0], stored.shape[1], says.intrinsics)
    if size is not None and size != stored.shape:
        stored = nearest_pixels(stored, *size)
        valid = None if valid is None else nearest_pixels(valid, *size)
        rays = None if rays is None else nearest_pixels(rays, *size)
    values = stored
    if says.bits == "rotated3":
        whole = stored.astype(np.uint16)
        values = (whole >> np.uint16(3)) | (whole << np.uint16(13))
    numbers = values.astype(np.float64)
    holes = ~np.isfinite(numbers) if stored.dtype.kind == "f" else np.zeros(stored.shape, bool)
    for value in says.invalid:
        holes |= stored == value
    if valid is not None:
        holes |= ~valid
    if says.reciprocal is not None:
        below = says.reciprocal.offset - numbers
        holes |= (below == 0) | (np.sign(below) != np.sign(says.reciprocal.numerator))  # behind the camera
        numbers = says.reciprocal.numerator / np.where(holes, 1.0, below)
    depth = numbers * says.scale
    if says.kind == "metres":
        holes |= depth <= 0
        if rays is not None:
            depth = depth / rays
        if says.clip_m is not None:
            depth = np.minimum(depth, says.clip_m)
    depth[holes] = np.nan
    return depth.astype(np.float32)


def _ray_lengths(height: int, width: int, camera: Intrinsics) -> NDArray[np.float64]:
    """Length of the ray to z = 1 through the middle of each pixel."""
    cx = (width - 1) / 2 if camera.cx is None else camera.cx
    cy = (height - 1) / 2 if camera.cy is None else camera.cy
    x = (np.arange(width) - cx) / camera.fx
    y = (np.arange(height) - cy) / camera.fy
    return np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)


def nearest_pixels(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The same view in (height, width) pixels: each takes the value of the pixel that its middle lies in."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.intp)
    return values[rows][:, columns]  # a third of the time that both at once take
