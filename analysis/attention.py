"""Figure 1: how attention scores change with the depth difference |Δ|, from a dump's per-image sums.

Slopes are in score per 1 z. Two variants, two scales of trust:
`literal`      S as it is, one intercept for all pairs of all images: the paper's figure.
`gauge_fixed`  S and |Δ| minus their means over the keys of a query row: what softmax can see, since
               softmax(S + c_i) = softmax(S).
All are those of the mean over heads; images count by their pairs. Layers are counted from 1.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from analysis.statistics import Estimate, cluster_bootstrap, ratio
from training.dumps.sums import BIN_WIDTH, NUM_BINS, PAIR_ROWS, ROWS

if TYPE_CHECKING:
    from training.dumps.store import Dump

Variant = Literal["literal", "gauge_fixed"]
VARIANTS: tuple[Variant, ...] = ("literal", "gauge_fixed")
_COLUMN = {name: index for index, name in enumerate((*ROWS, *PAIR_ROWS))}
_MIN_PAIRS, _MIN_IMAGES, _FULL_SIZE = 1000, 50, 500  # a bin's pairs and images, asked of dumps of 500 images or more


def moments(dump: "Dump", part: str = "content") -> np.ndarray:
    """(images, layers, heads, len(ROWS) + len(PAIR_ROWS)): everything slopes need, additive over images."""
    rows = dump[f"statistics/{part}/rows"]
    pairs = dump["statistics/pair_rows"]
    return np.concatenate([rows, np.broadcast_to(pairs[:, None, None], (*rows.shape[:3], pairs.shape[1]))], -1)


def _cross(sums: np.ndarray, name: str, a: str, b: str) -> np.ndarray:
    """Σab - ΣaΣb/n over pairs."""
    n = sums[..., _COLUMN["n"]]
    product = sums[..., _COLUMN[a]] * sums[..., _COLUMN[b]]
    return sums[..., _COLUMN[name]] - product / np.where(n > 0, n, 1.0)


def _normal_equations(sums: np.ndarray, variant: Variant) -> tuple[np.ndarray, ...]:
    """Σ of S·|Δ|, S·r, |Δ|², r², |Δ|·r and S², each about its mean (literal) or its row mean (gauge_fixed)."""
    if variant == "gauge_fixed":
        names = ("c_delta", "c_r", "delta_c_sq", "r_c_sq", "delta_c_r_c", "cc")
        return tuple(sums[..., _COLUMN[name]] for name in names)
    return (
        _cross(sums, "s_delta", "s", "delta"),
        _cross(sums, "s_r", "s", "r"),
        _cross(sums, "delta_sq", "delta", "delta"),
        _cross(sums, "r_sq", "r", "r"),
        _cross(sums, "delta_r", "delta", "r"),
        _cross(sums, "ss", "s", "s"),
    )


def slope(sums: np.ndarray, variant: Variant) -> np.ndarray:
    """(..., moments) -> (...): ordinary least squares of the score on |Δ| over pairs."""
    s_delta, _, delta_sq, _, _, _ = _normal_equations(sums, variant)
    return ratio(s_delta, delta_sq)


def partial_slope(sums: np.ndarray, variant: Variant) -> np.ndarray:
    """Slope on |Δ| with the patches' distance r in the regression as well."""
    s_delta, s_r, delta_sq, r_sq, delta_r, _ = _normal_equations(sums, variant)
    return ratio(s_delta * r_sq - s_r * delta_r, delta_sq * r_sq - delta_r**2)


def standardised_slope(sums: np.ndarray, variant: Variant) -> np.ndarray:
    """Slope times SD(|Δ|) / SD(S): a head's correlation of score and |Δ|."""
    s_delta, _, delta_sq, _, _, ss = _normal_equations(sums, variant)
    return ratio(s_delta, np.sqrt(np.maximum(delta_sq * ss, 0)))


def layer_slopes(dump: "Dump", variant: Variant, part: str = "content") -> Estimate:
    """(layers,) slopes of the head mean with image-bootstrap intervals."""
    return cluster_bootstrap(moments(dump, part).mean(2), lambda sums: slope(sums, variant))


def head_slopes(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(layers, heads) slopes."""
    return slope(moments(dump, part).sum(0), variant)


def slopes(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """One row a layer: slope, interval, slope after distance, fit through bins, effect sizes.

    odds_ratio = exp(slope), the factor by which 1 z more multiplies the odds of attending; bin_slope is the line
    through the shown bins with equal weights; linearity the r² of their count-weighted line; standardised is a mean
    over heads (a head mean's variance is not among the sums).
    """
    per_head = moments(dump, part)
    pooled = per_head.mean(2)
    raw = cluster_bootstrap(pooled, lambda sums: slope(sums, variant))
    after = cluster_bootstrap(pooled, lambda sums: partial_slope(sums, variant))
    total = per_head.sum(0)
    fits = bin_fits(score_curve(dump, variant, part))
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "part": part,
            "variant": variant,
            "layer": np.arange(1, dump.info.num_layers + 1),
            "slope": raw.value,
            "low": raw.low,
            "high": raw.high,
            "odds_ratio": np.exp(raw.value),
            "partial_slope": after.value,
            "partial_low": after.low,
            "partial_high": after.high,
            "bin_slope": fits["bin_slope"].to_numpy(),
            "linearity": fits["linearity"].to_numpy(),
            "standardised": standardised_slope(total, variant).mean(1),
            "heads_below_zero": (slope(total, variant) < 0).mean(1),
            "num_images": dump.info.num_images,
            "num_pairs": pooled[:, 0, _COLUMN["n"]].sum(),
        }
    )


def bin_rule(num_images: int) -> tuple[int, int]:
    """Pairs and images a bin must hold to be shown: 1,000 and 50, in proportion for dumps under 500 images."""
    scale = min(1.0, num_images / _FULL_SIZE)
    return math.ceil(_MIN_PAIRS * scale), max(min(2, num_images), math.ceil(_MIN_IMAGES * scale))


def score_curve(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """Mean score by bin of |Δ|, one row a layer and bin with any pair; `shown` is False where data are too few.

    The last bin, all |Δ| >= 4, has no centre and is never shown.
    """
    name = "sum" if variant == "literal" else "sum_centred"
    sums = dump[f"statistics/{part}/bins/{name}"].mean(1)
    count, images = dump[f"statistics/{part}/bins/count"], dump[f"statistics/{part}/bins/images"]
    layers, bins = np.nonzero(count > 0)
    min_pairs, min_images = bin_rule(dump.info.num_images)
    pairs, seen = count[layers, bins], images[layers, bins]
    last = bins == NUM_BINS - 1
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "part": part,
            "variant": variant,
            "layer": layers + 1,
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


def line_through_means(dump: "Dump", part: str = "content") -> tuple[np.ndarray, np.ndarray]:
    """(layers,) mean |Δ| and mean score over pairs: the point every literal regression line passes."""
    sums = moments(dump, part).mean(2).sum(0)
    n = sums[..., _COLUMN["n"]]
    return ratio(sums[..., _COLUMN["delta"]], n), ratio(sums[..., _COLUMN["s"]], n)


def mlin_bias_slope(config: dict[str, Any], alpha: list[float]) -> np.ndarray:
    """(layers,) slope that mlin's bias adds to the head-mean score: alpha_l * mean over heads of s_h.

    s_h = log(1 - 2^(-initial_value - decay_range h / heads)). total minus content must equal it, which checks a dump.
    """
    model = config["model"]
    heads = np.arange(model["heads"])
    scale = np.log(1 - 2.0 ** (-model["initial_value"] - model["decay_range"] * heads / model["heads"]))
    return np.asarray(alpha) * scale.mean()
