"""Errors of metric depth: of an image, over images, at drawn pixels, and near depth edges. Numpy only."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.records.depth import DepthErrors, DepthSpread

EDGE_PX = 3  # what is nearer than that to a depth edge, beside, above or across
MAX_DRAWS = 100
_EDGE = 0.1  # of its depth is what a neighbour differs by (pipeline/scenes.py)
_NAMES = ("abs_rel", "rmse_m", "log10", "delta1", "delta2", "delta3")

Map = NDArray[np.floating]


def errors(estimated: Map, true: Map) -> NDArray[np.float64]:
    """Of pixels (pixels,), all with depth in metres above 0: (6, pixels).

    Relative error, squared error, log10, and whether the ratio is below 1.25, 1.25^2, 1.25^3.
    """
    estimated, true = estimated.astype(np.float64), true.astype(np.float64)
    ratio = np.maximum(estimated / true, true / estimated)
    return np.stack(
        [
            np.abs(estimated - true) / true, (estimated - true) ** 2, np.abs(np.log10(estimated / true)),
            *(ratio < 1.25**power for power in (1, 2, 3)),
        ]
    )  # fmt: skip


@dataclass(frozen=True)
class ImageErrors:
    """Of one image's pixels in one region, answered in one way: their number, and the mean of `errors` (6,).

    `draws` (draws, 6): means of as many pixels as are asked, drawn anew from those at hand; the first is `mean`.
    """

    count: int
    mean: NDArray[np.float64]
    draws: NDArray[np.float64] | None = None


def image_errors(of_pixels: NDArray[np.float64]) -> ImageErrors | None:
    """Of all pixels (6, pixels), None of none."""
    return ImageErrors(of_pixels.shape[1], of_pixels.mean(1)) if of_pixels.shape[1] else None


def drawn_errors(of_pixels: NDArray[np.float64], asked: int, random: np.random.Generator) -> ImageErrors | None:
    """What asking `asked` pixels would find, by the errors of many (6, pixels); of fewer all are asked in every draw.

    A draw takes the next pixels of an order drawn at random, as far as they go. The expectation of a mean is the same
    whatever the number that is asked; its spread is not. (RMSE is a root of a mean: it grows with the number.)
    """
    pixels = of_pixels.shape[1]
    if not pixels:
        return None
    size = min(asked, pixels)
    lots = random.permutation(pixels)[: pixels // size * size].reshape(-1, size)[:MAX_DRAWS]
    draws = of_pixels[:, lots].mean(2).T
    return ImageErrors(size, draws[0], draws)


def over_images(found: Sequence[ImageErrors | None]) -> DepthErrors:
    """Mean of the images' errors; each image has an RMSE of its own."""
    means = np.stack([each.mean for each in found if each])
    means[:, 1] = np.sqrt(means[:, 1])
    return DepthErrors(**dict(zip(_NAMES, means.mean(0).tolist(), strict=True)))


def pooled(found: Sequence[ImageErrors | None]) -> DepthErrors:
    """Over the pixels of all images."""
    known = [each for each in found if each]
    values = np.average([each.mean for each in known], axis=0, weights=[each.count for each in known])
    values[1] = np.sqrt(values[1])
    return DepthErrors(**dict(zip(_NAMES, values.tolist(), strict=True)))


def spread(found: Sequence[ImageErrors | None]) -> DepthSpread | None:
    """Between draws, each of pixels of all images; None where some image has pixels for one draw only."""
    draws = [each.draws for each in found if each and each.draws is not None]
    num = min(map(len, draws), default=0)
    if num < 2:
        return None
    means = np.mean([each[:num] for each in draws], axis=0)
    return DepthSpread(abs_rel=means[:, 0].std(ddof=1), delta1=means[:, 3].std(ddof=1), num_draws=num)


def edges(depth_m: Map) -> NDArray[np.bool_]:
    """Where a map (height, width) jumps: a pixel differs from the one before or above by a tenth of its depth."""
    found = np.zeros(depth_m.shape, bool)
    found[:, 1:] |= np.abs(np.diff(depth_m, axis=1)) > _EDGE * depth_m[:, 1:]  # False beside NaN
    found[1:] |= np.abs(np.diff(depth_m, axis=0)) > _EDGE * depth_m[1:]
    return found


def near_edges(depth_m: Map) -> NDArray[np.bool_]:
    """Pixels within EDGE_PX of an edge, on either side of it."""
    height, width = depth_m.shape
    reach = EDGE_PX
    bordered = np.pad(edges(depth_m), reach)
    rows = np.any([bordered[y : y + height] for y in range(2 * reach + 1)], axis=0)
    return np.any([rows[:, x : x + width] for x in range(2 * reach + 1)], axis=0)


def aligned(estimated: Map, true: Map, kind: str, inverse: bool) -> NDArray[np.float64]:
    """Metres from an estimate (height, width) that lacks scale: `affine` in inverse depth, or `median` of scale alone.

    `inverse`: it is inverse depth already. NaN in `true` (metres) takes no part. Nothing is farther than 10 m, or than
    what is farthest in truth: an inverse depth near 0 would be anywhere.
    """
    known = np.isfinite(true) & np.isfinite(estimated)
    wanted = 1 / true[known].astype(np.float64)
    values = estimated.astype(np.float64) if inverse else 1 / np.maximum(estimated.astype(np.float64), 1e-3)
    if kind == "affine":
        basis = np.stack([values[known], np.ones(len(wanted))], axis=1)
        scale, shift = np.linalg.lstsq(basis, wanted, rcond=None)[0]
        values = scale * values + shift
    else:
        middle = np.median(values[known])
        values = values * (np.median(wanted) / middle) if middle > 0 else np.full_like(values, np.median(wanted))
    return 1 / np.maximum(values, min(0.1, wanted.min()))


def position_median(maps: Iterable[Map]) -> NDArray[np.float64]:
    """Each position's median metres over maps of one size: what can be said without looking. NaN where none has any."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # numpy tells of positions without depth, which sensors have
        return np.nanmedian(np.stack(list(maps)), axis=0).astype(np.float64)
