import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from running import jpeg

from pipeline.images import UnreadableImage, open_rgb, stored_jpeg


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_a_small_jpeg_keeps_its_bytes_and_a_large_one_shrinks():
    data = jpeg((64, 48))
    stored, rgb, size = stored_jpeg(data, 48)
    assert stored == data
    assert rgb.shape == (48, 64, 3)
    assert size == (64, 48)
    stored, rgb, _ = stored_jpeg(data, 24)
    assert stored != data
    assert rgb.shape == (24, 32, 3)
    np.testing.assert_array_equal(rgb, np.asarray(Image.open(io.BytesIO(stored))))


def test_never_enlarges_and_zero_means_untouched():
    data = jpeg((64, 48))
    assert stored_jpeg(data, 1000)[0] == data
    assert stored_jpeg(data, 0)[0] == data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(jpeg(mode="CMYK"), id="cmyk"),
        pytest.param(jpeg(mode="L"), id="grey"),
        pytest.param(jpeg(mode="P", format="PNG"), id="palette"),
        pytest.param(jpeg(mode="RGBA", format="PNG"), id="rgba"),
        pytest.param(jpeg(format="PNG"), id="png-named-jpeg"),
        pytest.param(encoded(Image.fromarray(np.full((8, 9), 40000, np.uint16)), format="PNG"), id="16-bit"),
    ],
)
def test_every_mode_becomes_rgb(data):
    stored, rgb, _ = stored_jpeg(data, 384)
    assert rgb.dtype == np.uint8
    assert rgb.shape[2] == 3
    assert Image.open(io.BytesIO(stored)).format == "JPEG"


def test_16_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    image, keepable = open_rgb(encoded(Image.fromarray(ramp), format="PNG"))
    assert not keepable
    values = np.asarray(image)[..., 0]
    assert values.min() == 0
    assert values.max() == 255
    assert 120 < values.mean() < 135


def test_exif_rotation_is_applied():
    image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored, rgb, _ = stored_jpeg(encoded(image, format="JPEG", exif=exif), 384)
    assert rgb.shape == (40, 20, 3)
    assert Image.open(io.BytesIO(stored)).getexif().get(0x0112, 1) == 1


def test_transparency_lands_on_white():
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert (np.asarray(open_rgb(encoded(image, format="PNG"))[0]) == 255).all()


def test_wide_images_pass_and_strips_do_not():
    wide = encoded(Image.new("RGB", (20_000, 1_200), "red"), format="JPEG")
    assert stored_jpeg(wide, 96)[1].shape == (96, 1600, 3)
    with pytest.raises(UnreadableImage, match="longer than 20:1"):
        open_rgb(encoded(Image.new("RGB", (2000, 20)), format="PNG"))


def test_decompression_bomb_is_refused_before_it_is_decoded():
    small = bytearray(encoded(Image.new("1", (64, 64)), format="PNG"))
    for side, reason in ((60_000, "bomb"), (13_000, "13000x13000 pixels")):
        small[16:24] = struct.pack(">II", side, side)  # the header's width and height, and its checksum
        small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
        with pytest.raises(UnreadableImage, match=reason):
            open_rgb(bytes(small))


@pytest.mark.parametrize("data", [b"", b"no image", jpeg()[:300], jpeg()[:-200]], ids=["empty", "text", "cut", "tail"])
def test_damage_is_an_unreadable_image_with_a_reason(data):
    with pytest.raises(UnreadableImage) as caught:
        stored_jpeg(data, 384)
    assert str(caught.value)


@pytest.mark.parametrize("file_format", ["EPS", "DDS", "ICO"])
def test_only_the_listed_formats_are_opened_and_the_reason_is_always_the_same(file_format):
    data = encoded(Image.new("RGB", (16, 16)), format=file_format)
    reasons = set()
    for bad in (data, b"no image"):
        with pytest.raises(UnreadableImage) as caught:
            open_rgb(bad)
        reasons.add(str(caught.value))
    assert reasons == {"does not decode: not an image (JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM)"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("YUV\nfailed: \x1b[2J"), r"YUV\nfailed: \x1b[2J"),
        (TypeError("no good: <_io.BytesIO object at 0x7f0b>"), "no good: file"),
        (IndexError(), "IndexError"),
    ],
)
def test_whatever_a_plugin_raises_is_an_unreadable_image(monkeypatch, error, reason):
    def load(self):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UnreadableImage, match=f"^does not decode: {re.escape(reason)}$"):
        open_rgb(jpeg())


def test_a_tiff_whose_pixels_lie_at_no_number():
    data = bytearray(encoded(Image.new("RGB", (16, 16)), format="TIFF"))
    entry = data.index(struct.pack("<HH", 273, 4))  # StripOffsets, a number of 32 bits ...
    struct.pack_into("<H", data, entry + 2, 2)  # ... now a text
    with pytest.raises(UnreadableImage, match="'str' object cannot be interpreted as an integer"):
        open_rgb(bytes(data))


def test_out_of_memory_is_no_reject(monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        open_rgb(jpeg())


def test_a_damaged_exif_does_not_spoil_the_image():
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0" + b"\xff" * 40):
        data = jpeg(exif=exif)
        assert stored_jpeg(data, 384)[0] == data
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N"}  # GPS: text where tag 17 has a number, so that Pillow cannot write it again
    data = jpeg((40, 20), exif=exif)
    broken = data.replace(b"\0\1\0\2\0\0\0\2N", b"\0\x11\0\2\0\0\0\2N")
    assert broken != data
    assert (stored_jpeg(broken, 384)[1] == stored_jpeg(data, 384)[1]).all()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_what_pillow_makes_of_it(file_format):
    image = Image.open(io.BytesIO(jpeg((40, 20))))
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(image, format=file_format, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        got, keepable = open_rgb(data)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(upright))
        assert keepable == (file_format == "JPEG" and orientation == 1)


def test_a_comment_too_long_for_a_jpeg():
    data = encoded(Image.new("RGB", (64, 48)), format="GIF", comment=b"x" * 70_000)
    assert len(stored_jpeg(data, 384)[0]) < 2000
