import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from running import ROOT, jpeg

from pipeline import images
from pipeline.images import UnreadableImage, is_image, open_rgb, read_file, stored_jpeg
from pipeline.sources import SourceError


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_a_small_jpeg_keeps_its_bytes_and_a_large_one_shrinks():
    data = jpeg((64, 48))
    stored, image, size = stored_jpeg(data, 48)
    assert stored == data
    assert image.size == size == (64, 48)
    stored, image, size = stored_jpeg(data, 24)
    assert stored != data
    assert (image.size, size) == ((32, 24), (64, 48))
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(stored))))


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
    stored, image, _ = stored_jpeg(data, 384)
    assert image.mode == "RGB"
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
    stored, upright, _ = stored_jpeg(encoded(image, format="JPEG", exif=exif), 384)
    assert upright.size == (20, 40)
    assert Image.open(io.BytesIO(stored)).getexif().get(0x0112, 1) == 1


def test_transparency_lands_on_white():
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert (np.asarray(open_rgb(encoded(image, format="PNG"))[0]) == 255).all()


def test_wide_images_pass_and_strips_do_not():
    wide = encoded(Image.new("RGB", (20_000, 1_200), "red"), format="JPEG")
    assert stored_jpeg(wide, 96)[1].size == (1600, 96)
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
    (reason,) = reasons
    assert reason.startswith("does not decode: not an image (JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM, JPEG2000, AVIF")


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
    np.testing.assert_array_equal(stored_jpeg(broken, 384)[1], np.asarray(stored_jpeg(data, 384)[1]))


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


# --- grey values ---------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)


def tiff(values, *, bits=None, kind=1, photometric=1, order="<"):
    """An uncompressed TIFF of one sample a pixel; `kind` 1 unsigned, 2 signed, 3 floating point; 12 bits are packed."""
    height, width = values.shape
    bits = bits or values.dtype.itemsize * 8
    if bits == 12:
        flat = values.astype(np.uint16).reshape(-1, 2)
        packed = [flat[:, 0] >> 4, (flat[:, 0] & 15) << 4 | flat[:, 1] >> 8, flat[:, 1] & 255]
        data = np.stack(packed, 1).astype(np.uint8).tobytes()
    else:
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    short, long = 3, 4
    tags = [
        (256, short, width), (257, short, height), (258, short, bits), (259, short, 1), (262, short, photometric),
        (273, long, 8), (277, short, 1), (278, short, height), (279, long, len(data)), (339, short, kind),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, size, 1)
        + struct.pack(f"{order}HH" if size == short else f"{order}I", value, *[0] * (size == short))
        for tag, size, value in tags
    )
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)


def pgm(top):
    values = np.round(RAMP * top).astype(">u2" if top > 255 else np.uint8)
    return b"P5 64 48 %d\n" % top + values.tobytes()


def png16(values, colour_type=0):
    """Grey (0) or RGB (2) of 16 bits, with an sBIT chunk that says 12."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(
        ">IIBBBBB", values.shape[1] // (3 if colour_type else 1), values.shape[0], 16, colour_type, 0, 0, 0
    )
    significant = chunk(b"sBIT", b"\x0c" * (3 if colour_type else 1))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + significant
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def upto(top, dtype=np.uint16):
    return np.round(RAMP * top).astype(dtype)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(Image.fromarray(upto(255, np.uint8)), format="PNG"), id="8 bits"),
        pytest.param(tiff(RAMP.astype(np.float32), kind=3), id="float"),
        pytest.param(tiff(RAMP.astype(np.float32), kind=3, order=">"), id="float, big end first"),
        pytest.param(tiff(1 - RAMP.astype(np.float32), kind=3, photometric=0), id="float, white is zero"),
        pytest.param(tiff(RAMP.astype(np.float32) * 1.1 - 0.05, kind=3), id="float, sharpened"),
        pytest.param(tiff(upto(65535)), id="16 bits"),
        pytest.param(tiff(upto(65535), order=">"), id="16 bits, big end first"),
        pytest.param(tiff(65535 - upto(65535), photometric=0), id="16 bits, white is zero"),
        pytest.param(tiff(upto(2**32 - 1, np.uint32)), id="32 bits"),
        pytest.param(tiff(upto(4095), bits=12), id="12 bits"),
        pytest.param(tiff(255 - upto(255, np.uint8), photometric=0), id="8 bits, white is zero"),
        *(pytest.param(pgm(top), id=f"pgm to {top}") for top in (15, 100, 255, 256, 1000, 1023, 4095, 65535)),
        pytest.param(png16(upto(65535)), id="png of 16 bits, significant 12"),
        pytest.param(encoded(Image.fromarray(upto(65535)), format="JPEG2000", irreversible=False), id="jp2 of 16 bits"),
        pytest.param(png16(np.repeat(upto(65535), 3, axis=1), 2), id="png of 16 bits, rgb"),
    ],
)  # fmt: skip
def test_greys_are_scaled_by_what_the_file_declares(data):
    """Black is 0 and white 255 whatever the number type, and never the other way round."""
    grey = np.asarray(open_rgb(data)[0], float)
    assert np.abs(grey - RAMP[..., None] * 255).max() <= 13.5
    assert np.abs(grey.mean() - 127.5) < 1.5


def test_the_scale_is_the_declared_one_not_the_image_s_own():
    """An image of half its range stays at half."""
    for data in (
        tiff(upto(32768)),
        tiff(RAMP.astype(np.float32) / 2, kind=3),
        tiff(upto(2048), bits=12),
        png16(upto(32768)),
    ):
        assert 126 <= np.asarray(open_rgb(data)[0]).max() <= 129


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff((RAMP * 255).astype(np.float32), kind=3), "floating point from 0 to 255, where 0 is black"),
        (tiff((RAMP * 40 - 20).astype(np.float32), kind=3), "floating point from -20 to 20"),
        (tiff(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), kind=3), "NaN or infinite"),
        (tiff(np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32), kind=3), "NaN or infinite"),
        (tiff(upto(65535).astype(np.int32).astype(np.int16), kind=2), "signed integers"),
        (tiff(upto(100, np.int8), kind=2), "signed integers"),
        (tiff(upto(60000, np.int32), kind=2), "signed integers"),
        (tiff(upto(4095)), "declares 16 bits a sample and fills less than 1/16 of them"),
        (tiff(upto(1023)), "declares 16 bits"),
        (tiff(upto(255)), "declares 16 bits"),
        (png16(upto(4095)), "declares 16 bits"),
        (png16(np.repeat(upto(4000), 3, axis=1), 2), "declares 16 bits"),
        (tiff(upto(65535, np.uint32)), "declares 32 bits"),
        (tiff(RAMP.astype(np.float16), kind=3), "does not decode"),
        (tiff(RAMP.astype(np.float64), kind=3), "does not decode"),
        (tiff(65535 - upto(65535), photometric=0, order=">"), "does not decode"),
    ],
)  # fmt: skip
def test_greys_of_no_declared_range_are_rejected(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        open_rgb(data)


def test_a_dark_photograph_of_8_bits_stays_dark():
    assert np.asarray(open_rgb(encoded(Image.fromarray(upto(9, np.uint8)), format="PNG"))[0]).max() == 9


def test_one_transparent_grey_of_16_bits_lands_on_white():
    data = encoded(Image.fromarray(upto(65535)), format="PNG", transparency=0)
    grey = np.asarray(open_rgb(data)[0])
    assert (grey[0, 0] == 255).all() and grey[0, 60, 0] < 10


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "YCbCr", "LAB", "RGBA"])
def test_colours_of_every_kind_are_what_they_were(mode):
    image = Image.open(io.BytesIO(jpeg((64, 48)))).resize((8, 6)).resize((64, 48), Image.Resampling.BICUBIC)
    image = image.convert("L").convert(mode) if mode == "1" else image.convert(mode)
    got = np.asarray(open_rgb(encoded(image, format="TIFF"))[0], float)
    wanted = np.asarray(image.convert("RGB"), float)
    assert np.abs(got - wanted).mean() < 4


@pytest.mark.parametrize("file_format", ["JPEG2000", "AVIF", "WEBP", "HEIF"])
def test_newer_formats_are_read(file_format):
    if file_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.fromarray(np.repeat(upto(255, np.uint8)[..., None], 3, -1))
    data = (
        encoded(image, format=file_format, quality=95)
        if file_format != "JPEG2000"
        else encoded(image, format=file_format)
    )
    got, keepable = open_rgb(data)
    assert not keepable
    assert np.abs(np.asarray(got, float)[..., 0] - RAMP * 255).mean() < 3


def test_endings_that_this_machine_cannot_read_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(images, "_reads_heif", lambda: True)
    assert [is_image(name) for name in ("a.JFIF", "a.j2k", "a.heic", "a.txt", "jpg", ".avif")] == [True] * 3 + [
        False
    ] * 3
    monkeypatch.setattr(images, "_reads_heif", lambda: False)
    with pytest.raises(SourceError, match=r"IMG_1\.HEIC: HEIC needs pillow-heif: pip install 'pseudodepth\[heic\]'"):
        is_image("IMG_1.HEIC")
    monkeypatch.setattr(images.features, "check", lambda feature: False)
    with pytest.raises(SourceError, match=r"a\.avif: this build of Pillow reads no \.avif"):
        is_image("a.avif")
    assert is_image("a.jpg") and not is_image("a.txt")


def test_the_docs_list_every_ending():
    text = (ROOT / "docs" / "label.md").read_text().partition("- Read are")[2].partition("after `pip")[0]
    assert set(re.findall(r"\.[a-z0-9]+", text)) == images.EXTENSIONS


def test_files_of_any_size_are_rejected_unread(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(300 << 30)
    with pytest.raises(UnreadableImage, match="322,122,547,200 bytes, more than"):
        read_file(tmp_path / "sparse.jpg")
