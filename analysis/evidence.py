"""All that speaks for or against an effect of |Δ| on attention, a row a layer: controls, nulls, tests, effect sizes."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import fixed_effects
from analysis.attention import bias_slopes, layer_slopes, moments, slope
from analysis.causal import swap_slopes
from analysis.nulls import null_slopes, num_tested, randomisation_p
from training.dumps.from_raw import bias_mode
from training.dumps.scores import PATTERN_ROWS
from training.intervals import Estimate, over_units, ratio

if TYPE_CHECKING:
    from training.dumps.store import Dump

_ROWS_AT_ONCE = 64  # images


def attended_depth(dump: "Dump") -> Estimate:
    """(layers,) mean |Δ| under an image's own attention over mean |Δ| under the mean pattern laid on the same image.

    Head mean, after softmax, over pairs; 1 where attention is the same in every image, below 1 where it seeks patches
    at the same depth. The mean pattern is taken as known: intervals leave out images of all else.
    """
    info = dump.info
    pattern = dump["statistics/pattern/pair_sum"].reshape(info.num_attention_layers, -1)
    pattern = pattern * (1 - np.eye(info.num_patches)).ravel()
    pattern /= np.maximum(pattern.sum(1, keepdims=True), np.finfo(float).tiny)
    blocks = []
    for first in range(0, info.num_images, _ROWS_AT_ONCE):
        images = slice(first, first + _ROWS_AT_ONCE)
        own = dump.read("statistics/pattern/rows", images)
        z = dump.read("statistics/patch_depth", images).astype(np.float64)
        seen = np.isfinite(z)
        z = np.where(seen, z, 0.0)
        pairs = (seen[:, :, None] & seen[:, None]).reshape(len(z), -1).astype(np.float64)
        delta = np.abs(z[:, :, None] - z[:, None]).reshape(len(z), -1) * pairs
        expected = [delta @ pattern.T, pairs @ pattern.T]
        blocks.append(
            np.stack([own[..., PATTERN_ROWS.index("delta")], own[..., PATTERN_ROWS.index("pairs")], *expected], -1)
        )
    return over_units(
        np.concatenate(blocks), lambda sums: ratio(ratio(sums[..., 0], sums[..., 1]), ratio(sums[..., 2], sums[..., 3]))
    )


def decomposition(dump: "Dump") -> pd.DataFrame:
    """Of a model that biases its scores by depth, a row a layer: gauge-fixed slopes of the total, the bias, the rest.

    mlin's bias is α_l times the mean of s_h, known from the parameters where the model reads the dump's patch depth;
    else it is total minus content. `content_is`: the learned scores add to what the bias does, offset it, or neither
    (their interval holds 0).
    """
    both = np.concatenate([moments(dump, "gauge_fixed", part=part) for part in ("total", "content")], -1)

    def terms(sums: np.ndarray) -> np.ndarray:
        total, content = (slope(sums[..., first : first + 3], "gauge_fixed") for first in (0, 3))
        return np.stack([total, content, total - content], -1)

    found = over_units(both, terms)
    bias = found.value[:, 2]
    if dump.info.bias == "linear" and bias_mode(dump.info) == dump.info.patch_depth:
        bias = bias_slopes(dump).mean(1)
    settled = (found.low[:, 1] > 0) | (found.high[:, 1] < 0)
    same = np.sign(found.value[:, 1]) == np.sign(bias)
    return pd.DataFrame(
        {
            "layer": dump.info.attention_layers,
            "total": found.value[:, 0],
            "total_low": found.low[:, 0],
            "total_high": found.high[:, 0],
            "bias": bias,
            "content": found.value[:, 1],
            "content_low": found.low[:, 1],
            "content_high": found.high[:, 1],
            "content_is": np.where(settled, np.where(same, "adding", "offsetting"), "neither"),
        }
    )


def evidence(dump: "Dump", part: str = "content") -> pd.DataFrame:
    """One row a layer: gauge-fixed slopes of the head mean (score per 1 z), in rising strictness, then nulls.

    `slope`: over pairs; `distance`, `colour`: given distance, and colour too; `distance_effects`, `two_way`: within
    distances, within pairs of positions; `causal`: when depth is swapped (scores with their bias); `other`, `flipped`,
    `shuffled`: on nulls; each with `_low` and `_high`, 95 %. `p`: of `slope` against other images' depth, over the raw
    tier's first `p_images` images alone, where all else is of `num_images`. `odds_ratio`: exp(two_way), the factor 1 z
    puts on the odds of attending. `heads_below_zero`: share of heads whose own two_way is.
    `attended_depth`: of attention, bias included. NaN where a dump does not hold what is needed. Of a biased model's
    `total`, what is bias and what content (`decomposition`).
    """
    info = dump.info
    missing = np.full(info.num_attention_layers, np.nan)
    absent = Estimate(missing, missing, missing)
    whole = part == info.parts[-1]
    estimates = {
        "slope": layer_slopes(dump, "gauge_fixed", part),
        "distance": layer_slopes(dump, "gauge_fixed", part, ("delta", "r")),
        "colour": layer_slopes(dump, "gauge_fixed", part, ("delta", "r", "colour")),
        "distance_effects": fixed_effects.by_distance(dump, part),
        "two_way": fixed_effects.two_way(dump, part),
        "causal": swap_slopes(dump) if info.num_causal and whole else absent,
        **null_slopes(dump, part),
        "attended_depth": attended_depth(dump) if whole else absent,
    }
    p = randomisation_p(dump, part)
    frame = pd.DataFrame(
        {
            "model": info.model,
            "depth_field": info.depth_field,
            "epoch": info.epoch,
            "part": part,
            "layer": info.attention_layers,
        }
    )
    for name, estimate in estimates.items():
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = estimate.value, estimate.low, estimate.high
    heads = fixed_effects.two_way_heads(dump, part)
    frame = frame.assign(
        odds_ratio=np.exp(estimates["two_way"].value),
        heads_below_zero=np.where(np.isnan(heads).any(1), np.nan, (heads < 0).mean(1)),
        p=missing if p is None else p,
        p_images=num_tested(dump),
        num_images=info.num_images,
    )
    if part == "total":
        frame = frame.merge(decomposition(dump).drop(columns=["total", "total_low", "total_high"]), on="layer")
    return frame
