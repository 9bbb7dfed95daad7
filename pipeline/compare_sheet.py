"""The images in which depth fields of one data set differ most, to look at."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline import sheets
from pipeline.colours import DEPTH_LEGEND, DIFFERENCE_LEGEND, depth_colours, difference_colours
from pipeline.compare import Agreement, Pair, aligned
from pipeline.shards import Split

_FULL_COLOUR = 2.0  # of a difference, in mean distances of the reference from its median


def sheet(split: Split, pairs: Sequence[Pair], chosen: Sequence[Sequence[Agreement]]) -> Image.Image:
    """A section a pair, a row each of its `chosen` images: RGB | reference | the other | their difference, aligned."""
    font = sheets.font()
    first = next(some[0] for some in chosen if some)
    tile = sheets.tile_of(split.read(first.position, ("rgb",))["rgb"])
    width = sheets.width_of(4, tile)
    parts = []
    for (reference, other), some in zip(pairs, chosen, strict=True):
        if some:
            parts.append(sheets.header(["RGB", reference, other, f"{other} - {reference}"], width, tile, font))
            parts += [_row(split, one, width, tile, font) for one in some]
    legend = [
        "the images of lowest rank correlation, a section a pair of depth fields",
        f"depth: {DEPTH_LEGEND}; each map by its own range",
        f"difference, after scale and shift: {DIFFERENCE_LEGEND}",
        f"its colours are full at {_FULL_COLOUR:g} times the mean distance of the first of the two from its median",
    ]
    return sheets.stacked([*parts, sheets.lines(legend, width, font)], width)


def _row(split: Split, one: Agreement, width: int, tile: int, font: sheets.Font) -> Image.Image:
    sample = split.read(one.position, ("rgb", *one.pair, *(("cls",) if split.index.class_names else ())))
    pictures = [sample["rgb"]]
    for name in one.pair:
        low, high = np.percentile(sample[name][np.isfinite(sample[name])], (2, 98))
        pictures.append(depth_colours(sample[name], float(low), float(high)))
    reference, other = (sample[name] for name in one.pair)
    both = np.isfinite(reference) & np.isfinite(other)
    fit = aligned(reference[both], other[both])
    assert fit is not None  # it has a rank correlation
    scale, shift, _, spread = fit
    pictures.append(difference_colours((scale * other + shift - reference) / spread, _FULL_COLOUR))
    name = split.index.class_names[sample["cls"]] if "cls" in sample else ""
    caption = f"Spearman {one.spearman:.2f}, error {one.error:.2f}, scale {one.scale:.2f}: {name} {one.key}"
    return sheets.row(caption, [sheets.resized(picture, tile) for picture in pictures], width, tile, font)
