"""Rows of pictures with a line of text above: what contact sheets and comparisons are put together from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MARGIN = 6  # px
LINE = 20
MIN_WIDTH = 720
_SMALL_TILE, _LARGE_TILE = 160, 240  # the longer side; large where the images themselves are larger than that

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def font() -> Font:
    return ImageFont.load_default(13)


def tile_of(rgb: NDArray[np.uint8]) -> int:
    """The longer side of a sheet's tiles, by its first photograph (height, width, 3)."""
    return _LARGE_TILE if max(rgb.shape) > _LARGE_TILE else _SMALL_TILE


def width_of(num_columns: int, tile: int) -> int:
    return max(num_columns * (tile + MARGIN) + MARGIN, MIN_WIDTH)


def resized(pixels: NDArray[np.uint8], tile: int, exact: bool = False) -> Image.Image:
    """A picture (height, width, 3) whose longer side is `tile` px; `exact` makes no colours that were not there."""
    image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 or exact else Image.Resampling.BOX
    return image.resize(size, resample)


def header(titles: Sequence[str], width: int, tile: int, font: Font) -> Image.Image:
    """The columns' titles."""
    part = Image.new("RGB", (width, LINE + 2), "white")
    draw = ImageDraw.Draw(part)
    for number, title in enumerate(titles):
        draw.text((MARGIN + number * (tile + MARGIN), 4), shortened(draw, title, tile, font), "black", font)
    return part


def row(caption: str, tiles: Sequence[Image.Image], width: int, tile: int, font: Font) -> Image.Image:
    """A caption over one tile a column."""
    part = Image.new("RGB", (width, LINE + max(image.height for image in tiles) + MARGIN), "white")
    draw = ImageDraw.Draw(part)
    draw.text((MARGIN, 3), shortened(draw, caption, width - 2 * MARGIN, font), "black", font)
    for number, image in enumerate(tiles):
        part.paste(image, (MARGIN + number * (tile + MARGIN), LINE))
    return part


def lines(texts: Sequence[str], width: int, font: Font) -> Image.Image:
    part = Image.new("RGB", (width, LINE * len(texts) + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(part)
    for number, text in enumerate(texts):
        draw.text((MARGIN, 2 + number * LINE), shortened(draw, text, width - 2 * MARGIN, font), "black", font)
    return part


def stacked(parts: Sequence[Image.Image], width: int) -> Image.Image:
    whole = Image.new("RGB", (width, sum(part.height for part in parts) + MARGIN), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def shortened(draw: ImageDraw.ImageDraw, text: str, width: int, font: Font) -> str:
    """`text` on one line, cut with an ellipsis where it is wider than `width` px; it may be a stranger's."""
    text = " ".join(text[:1000].split()).encode("utf-8", "replace").decode()
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
