"""Figure 1: how attention scores change with the depth difference |Δ|, from a dump's per-image sums.

Slopes are in score per 1 z, of the head mean; images count by their pairs; layers are counted from 1. Two variants, two
scales of trust:
`literal`      S as it is, one intercept for all pairs of all images: the paper's figure.
`gauge_fixed`  S and regressors minus their means over the keys of a query row: what softmax can see, since
               softmax(S + c_i) = softmax(S).
Stronger controls are in `fixed_effects`, nulls in `nulls`, what happens when depth is changed in `causal`.
"""

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from training.dumps.arrays import unpacked
from training.dumps.pairs import BIN_WIDTH, NUM_BINS, REGRESSORS
from training.dumps.scores import ROWS
from training.intervals import Estimate, Jackknife, over_units, ratio, without_each

if TYPE_CHECKING:
    from training.dumps.store import Dump

Variant = Literal["literal", "gauge_fixed"]
_MIN_PAIRS, _MIN_IMAGES, _FULL_SIZE = 1000, 50, 500  # a bin's pairs and images, asked of dumps of 500 images or more
_ROWS_AT_ONCE = 512  # images


def moments(dump: "Dump", variant: Variant, names: tuple[str, ...] = ("delta",), part: str = "content") -> np.ndarray:
    """(images, layers, 1 + q + q q): S'S, S'X and X'X of these regressors, additive over images; read in blocks.

    q counts the regressors, and in `literal` the intercept before them. The score is the head mean.
    """
    blocks = []
    for first in range(0, dump.info.num_images, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        own = _of_scores(dump.read(f"statistics/{part}/rows", rows), variant, names)
        pairs = _of_pairs(dump, variant, names, rows)
        blocks.append(np.concatenate([own, np.broadcast_to(pairs[:, None], (*own.shape[:2], pairs.shape[-1]))], -1))
    return np.concatenate(blocks)


def head_moments(
    dump: "Dump", variant: Variant, names: tuple[str, ...] = ("delta",), part: str = "content"
) -> np.ndarray:
    """(groups, layers, heads, 1 + q + q q): the same per head, summed over the images of each group."""
    own = _of_scores(dump[f"statistics/{part}/head_rows"], variant, names)
    size = own.shape[-1] - 1
    pairs = np.zeros((dump.info.num_groups, size * size))
    for first in range(0, dump.info.num_images, _ROWS_AT_ONCE):
        rows = _of_pairs(dump, variant, names, slice(first, first + _ROWS_AT_ONCE))
        np.add.at(pairs, (first + np.arange(len(rows))) % dump.info.num_groups, rows)
    return np.concatenate([own, np.broadcast_to(pairs[:, None, None], (*own.shape[:3], size * size))], -1)


def _of_scores(rows: np.ndarray, variant: Variant, names: tuple[str, ...]) -> np.ndarray:
    columns = ["ss", "s", *(f"s_{n}" for n in names)] if variant == "literal" else ["cc", *(f"c_{n}" for n in names)]
    return rows[..., [ROWS.index(column) for column in columns]]


def _of_pairs(dump: "Dump", variant: Variant, names: tuple[str, ...], rows: slice) -> np.ndarray:
    kind = "literal" if variant == "literal" else "centred"
    square = unpacked(dump.read(f"statistics/pairs/{kind}", rows))
    places = [REGRESSORS.index(name) for name in names]
    if variant == "literal":
        places = [0, *(place + 1 for place in places)]
    return square[:, places][:, :, places].reshape(len(square), -1)


def coefficients(sums: np.ndarray, variant: Variant) -> np.ndarray:
    """(..., 1 + q + q q) -> (..., number of regressors): ordinary least squares over pairs; NaN where undefined."""
    size = int((math.sqrt(4 * sums.shape[-1] - 3) - 1) / 2)
    product, square = sums[..., 1 : 1 + size], sums[..., 1 + size :].reshape(*sums.shape[:-1], size, size)
    scale = np.sqrt(np.maximum(square.diagonal(0, -2, -1), 0))
    scale = np.where(scale > 0, scale, np.nan)
    correlation = square / scale[..., :, None] / scale[..., None, :]
    defined = np.asarray(np.isfinite(correlation).all((-2, -1)))
    safe = np.where(defined[..., None, None], correlation, np.eye(size))
    singular = np.linalg.eigvalsh(safe)[..., 0] < 1e-10
    safe = np.where(singular[..., None, None], np.eye(size), safe)
    found = np.linalg.solve(safe, np.nan_to_num(product / scale)[..., None])[..., 0] / scale
    found = np.where((defined & ~singular)[..., None], found, np.nan)
    return found[..., 1:] if variant == "literal" else found


def slope(sums: np.ndarray, variant: Variant) -> np.ndarray:
    """The first regressor's coefficient."""
    return coefficients(sums, variant)[..., 0]


def standardised(sums: np.ndarray, variant: Variant) -> np.ndarray:
    """Slope times SD(|Δ|) / SD(S) for one regressor: the correlation of score and |Δ|, signed."""
    if variant == "literal":
        n, delta, delta_sq = sums[..., 3], sums[..., 4], sums[..., 6]
        across = sums[..., 2] - sums[..., 1] * ratio(delta, n)
        own, other = sums[..., 0] - ratio(sums[..., 1] ** 2, n), delta_sq - ratio(delta**2, n)
    else:
        own, across, other = sums[..., 0], sums[..., 1], sums[..., 2]
    return ratio(across, np.sqrt(np.maximum(own * other, 0)))


def layer_slopes(
    dump: "Dump", variant: Variant, part: str = "content", names: tuple[str, ...] = ("delta",)
) -> Estimate:
    """(layers,) slopes of the head mean on the first of `names`, given the others, with intervals over images."""
    return over_units(moments(dump, variant, names, part), lambda sums: slope(sums, variant))


def head_slopes(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(layers, heads) slopes."""
    return slope(head_moments(dump, variant, part=part).sum(0), variant)


def partial_correlation(dump: "Dump", variant: Variant, part: str = "content") -> Estimate:
    """(layers,) correlation of score and |Δ| without what distance explains of either, of the head mean."""

    def partial(sums: np.ndarray) -> np.ndarray:
        own, product, square = _about_means(sums, variant)
        s_d, s_r = product[..., 0], product[..., 1]
        d, r, d_r = square[..., 0, 0], square[..., 1, 1], square[..., 0, 1]
        correlation = [ratio(a, np.sqrt(np.maximum(b, 0))) for a, b in ((s_d, own * d), (s_r, own * r), (d_r, d * r))]
        sd, sr, dr = correlation
        return ratio(sd - sr * dr, np.sqrt(np.maximum((1 - sr**2) * (1 - dr**2), 0)))

    return over_units(moments(dump, variant, ("delta", "r"), part), partial)


def _about_means(sums: np.ndarray, variant: Variant) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S'S, S'X, X'X about means over pairs (literal) or as they are (already centred)."""
    size = int((math.sqrt(4 * sums.shape[-1] - 3) - 1) / 2)
    own, product, square = sums[..., 0], sums[..., 1 : 1 + size], sums[..., 1 + size :]
    square = square.reshape(*sums.shape[:-1], size, size)
    if variant == "gauge_fixed":
        return own, product, square
    n, total, means = square[..., 0, 0], product[..., 0], square[..., 0, 1:]
    return (
        own - ratio(total**2, n),
        product[..., 1:] - total[..., None] * ratio(means, n[..., None]),
        square[..., 1:, 1:] - means[..., :, None] * ratio(means, n[..., None])[..., None, :],
    )


def slopes(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """One row a layer: slope, interval, slope after distance (and colour), fit through bins, effect sizes.

    odds_ratio = exp(slope), the factor by which 1 z more multiplies the odds of attending; bin_slope is the line
    through the shown bins with equal weights; linearity the r² of their count-weighted line; standardised is slope
    times SD(|Δ|)/SD(S); nearer_keys and farther_keys are the slopes where the key is nearer and farther than the query,
    asymmetry the first minus the second.
    """
    raw = layer_slopes(dump, variant, part)
    after = layer_slopes(dump, variant, part, ("delta", "r"))
    colour = layer_slopes(dump, variant, part, ("delta", "r", "colour"))
    correlation = partial_correlation(dump, variant, part)
    sums = moments(dump, variant, ("delta",), part).sum(0)
    of_signs = moments(dump, variant, ("delta", "signed"), part)
    both = coefficients(of_signs.sum(0), variant)
    asymmetry = over_units(of_signs, lambda sums: 2 * coefficients(sums, variant)[..., 1])
    per_head = head_slopes(dump, variant, part)
    fits = bin_fits(score_curve(dump, variant, part))
    fits = fits.set_index("layer").reindex(dump.info.attention_layers)
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "part": part,
            "variant": variant,
            "layer": dump.info.attention_layers,
            "slope": raw.value,
            "low": raw.low,
            "high": raw.high,
            "odds_ratio": np.exp(raw.value),
            "partial_slope": after.value,
            "partial_low": after.low,
            "partial_high": after.high,
            "colour_slope": colour.value,
            "colour_low": colour.low,
            "colour_high": colour.high,
            "partial_correlation": correlation.value,
            "nearer_keys": both[:, 0] + both[:, 1],
            "farther_keys": both[:, 0] - both[:, 1],
            "asymmetry": asymmetry.value,
            "asymmetry_low": asymmetry.low,
            "asymmetry_high": asymmetry.high,
            "bin_slope": fits["bin_slope"].to_numpy(),
            "linearity": fits["linearity"].to_numpy(),
            "standardised": standardised(sums, variant),
            "heads_below_zero": (per_head < 0).mean(1),
            "num_images": dump.info.num_images,
            "num_pairs": dump["statistics/bins/count"].sum(),
        }
    )


def bin_rule(num_images: int) -> tuple[int, int]:
    """Pairs and images a bin must hold to be shown: 1,000 and 50, in proportion for dumps under 500 images."""
    scale = min(1.0, num_images / _FULL_SIZE)
    return math.ceil(_MIN_PAIRS * scale), max(min(2, num_images), math.ceil(_MIN_IMAGES * scale))


def score_curve(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """Mean score by bin of |Δ|, one row a layer and bin with any pair; `shown` is False where data are too few.

    A bin's images are those of its fullest cell, a lower bound. The last bin, all |Δ| >= 4, has no centre and is never
    shown.
    """
    name = "sum" if variant == "literal" else "sum_centred"
    sums = np.stack(
        [dump.read(f"statistics/{part}/bins/{name}", layer).mean(0) for layer in range(len(dump.info.attention_layers))]
    ).sum(-1)
    count, images = dump["statistics/bins/count"].sum(-1), dump["statistics/bins/images"].max(-1)
    layers, bins = np.nonzero(np.broadcast_to(count > 0, sums.shape))
    min_pairs, min_images = bin_rule(dump.info.num_images)
    pairs, seen = count[bins], images[bins]
    last = bins == NUM_BINS - 1
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "part": part,
            "variant": variant,
            "layer": dump.info.attention_layers[layers],
            "delta_low": bins * BIN_WIDTH,
            "delta_high": np.where(last, np.inf, (bins + 1) * BIN_WIDTH),
            "score": sums[layers, bins] / pairs,
            "pairs": pairs.astype(int),
            "images": seen.astype(int),
            "shown": (pairs >= min_pairs) & (seen >= min_images) & ~last,
        }
    )


def bin_fits(curve: pd.DataFrame) -> pd.DataFrame:
    """Per layer the equal-weight slope through the shown bins and r² of the count-weighted line; NaN below 3 bins."""
    rows = []
    for layer, group in curve.groupby("layer"):
        shown = group[group["shown"]]
        x = ((shown["delta_low"] + shown["delta_high"]) / 2).to_numpy()
        y, weight = shown["score"].to_numpy(), shown["pairs"].to_numpy(float)
        equal, linearity = math.nan, math.nan
        if len(shown) >= 3:
            equal = float(np.polyfit(x, y, 1)[0])
            weight = weight / weight.sum()
            dx, dy = x - weight @ x, y - weight @ y
            spread = (weight @ dx**2) * (weight @ dy**2)
            linearity = float((weight @ (dx * dy)) ** 2 / spread) if spread > 0 else math.nan
        rows.append({"layer": layer, "bin_slope": equal, "linearity": linearity})
    return pd.DataFrame(rows)


def line_r2(count: np.ndarray, total: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(...) r² of the count-weighted line through the shown bins' means, from pairs and Σ score by bin (..., bins).

    NaN where fewer than three bins are shown, or where they are level.
    """
    weight = np.where(shown, np.maximum(count, 0.0), 0.0)
    weight = weight / np.maximum(weight.sum(-1, keepdims=True), np.finfo(float).tiny)
    x = (np.arange(count.shape[-1]) + 0.5) * BIN_WIDTH
    y = np.where(weight > 0, total / np.where(weight > 0, count, 1.0), 0.0)
    size = (weight * y**2).sum(-1)
    x = x - (weight * x).sum(-1, keepdims=True)
    y = y - (weight * y).sum(-1, keepdims=True)
    level, rise = (weight * y**2).sum(-1), (weight * x**2).sum(-1)
    level = np.where(level > 1e-12 * size, level, 0.0)
    found = ratio((weight * x * y).sum(-1) ** 2, rise * level)
    return np.where((weight > 0).sum(-1) >= 3, found, np.nan)


def linearity(dump: "Dump") -> Jackknife:
    """(layers,) r² of the count-weighted line through the shown bins, literal scores; groups of images left out."""
    frame = score_curve(dump, "literal", dump.info.parts[-1])
    shown = np.zeros(NUM_BINS, bool)
    of_bin = (frame.loc[frame["shown"], "delta_low"] / BIN_WIDTH).round().astype(int)
    shown[of_bin] = True
    count = dump["statistics/bins/group_count"].sum(-1)
    total = dump[f"statistics/{dump.info.parts[-1]}/curve"]
    sums = np.stack([np.broadcast_to(count[:, None], total.shape), total], -1)
    return without_each(sums, lambda each: line_r2(each[..., 0], each[..., 1], shown))


def line_through_means(dump: "Dump", part: str = "content") -> tuple[np.ndarray, np.ndarray]:
    """(layers,) mean |Δ| and mean score over pairs: the point every literal regression line passes."""
    sums = moments(dump, "literal", part=part).sum(0)
    n = sums[..., 3]
    return ratio(sums[..., 4], n), ratio(sums[..., 1], n)


def bias_slopes(dump: "Dump") -> np.ndarray:
    """(layers, heads) slope on |Δ| that mlin's bias adds, α_l s_h, from the dump's parameters.

    total minus content must equal it, which checks a dump.
    """
    alpha, scale = dump["parameters/alpha"], dump["parameters/head_scale"]
    return np.asarray(alpha, np.float64)[:, None] * np.asarray(scale, np.float64)
