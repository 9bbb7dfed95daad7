"""Colours: one rule for every sheet, figure and page of all three stages. Imports neither torch nor matplotlib.

Depth is drawn near bright, far dark, as Depth Anything's pictures are; z is farther-is-larger, so the colour map is a
reversed one. What was not measured is red, which the map has not. A class has the same colour wherever it is drawn, and
so has a depth field in a plot.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.shards import VOID

DEPTH_MAP = "cividis_r"  # matplotlib's name, for z or metres: the larger, the farther, the darker
NOT_MEASURED = (200, 30, 30)  # sRGB
_DIFFERENCE_MAP = "PuOr"  # it has no red, and those who see no red or green tell its ends apart
DIFFERENCE_LEGEND = "orange = the second is nearer, purple = farther, white = alike; red = not measured"
DEPTH_LEGEND = "bright = near, dark = far; red = not measured"
_VOID_COLOUR = 255  # white
_MANY_CLASSES = 12  # above it colours are spread for contrast
_LINES = {"pseudo": ("#0072B2", "-"), "real": ("#E69F00", "-"), "raw": ("#009E73", "--"), "exact": ("#CC79A7", ":")}
_OTHER_LINE = ("#56B4E9", "-.")


def depth_colours(depth: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """sRGB (..., 3) of z or metres of any shape (...): brightest at `low` and nearer, darkest at `high` and farther."""
    from matplotlib import colormaps  # takes a fifth of a second

    place = np.clip((np.nan_to_num(depth) - low) / max(high - low, 1e-6), 0, 1)
    pixels = (colormaps[DEPTH_MAP](place)[..., :3] * 255).round().astype(np.uint8)
    pixels[~np.isfinite(depth)] = NOT_MEASURED
    return pixels


def difference_colours(difference: NDArray[np.floating], full: float) -> NDArray[np.uint8]:
    """sRGB (..., 3) of differences of z of any shape (...): white at 0, the map's ends at -`full` and `full`."""
    from matplotlib import colormaps

    place = np.clip((np.nan_to_num(difference) / full + 1) / 2, 0, 1)
    pixels = (colormaps[_DIFFERENCE_MAP](place)[..., :3] * 255).round().astype(np.uint8)
    pixels[~np.isfinite(difference)] = NOT_MEASURED
    return pixels


def class_colours(count: int) -> NDArray[np.uint8]:
    """sRGB (256, 3) of the labels of a data set with `count` classes; void is white."""
    if count > _MANY_CLASSES:
        colours = _spread(count)
    else:
        hues = (np.arange(256) * 0.618034) % 1.0
        lightness = np.where(np.arange(256) % 2, 200, 140)
        channels = [np.abs(((hues * 6 + shift) % 6) - 3) - 1 for shift in (0, 4, 2)]
        colours = np.stack([np.clip(c, 0, 1) for c in channels], 1) * lightness[:, None] + 40
        colours[0] = 70
    colours[VOID] = _VOID_COLOUR
    return colours.round().astype(np.uint8)


def _spread(count: int) -> NDArray[np.float64]:
    """(256, 3), the first `count` each as far in OKLab (Ottosson 2020) from white and all before it as sRGB allows."""
    levels = np.arange(16, 256, 30) / 255
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    linear = np.vstack([np.ones(3), np.where(candidates > 0.04045, ((candidates + 0.055) / 1.055) ** 2.4, 0)])
    to_lms = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
    to_lab = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
    white, *lab = np.cbrt(linear @ to_lms.T) @ to_lab.T
    distance = np.linalg.norm(np.array(lab) - white, axis=1)
    colours = np.zeros((256, 3))
    for number in range(min(count, VOID)):
        farthest = int(distance.argmax())
        colours[number] = candidates[farthest] * 255
        distance = np.minimum(distance, np.linalg.norm(np.array(lab) - lab[farthest], axis=1))
    return colours


def field_line(name: str) -> tuple[str, str]:
    """Colour and dash, as matplotlib takes them, of a depth field in a plot."""
    return _LINES.get(name, _OTHER_LINE)
