"""Figure 5: cosine similarity of score matrices with |Δ|, with the patches' distance r, and with another image's |Δ|.

The last is the null: it has what positions have in common in all images.
`literal` takes all entries as they are, which depends on a constant that softmax ignores: a score matrix that is -1
everywhere has cosine -0.90 with r on a 14x14 grid. `gauge_fixed` takes row-centred pairs i != j.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.attention import Variant
from analysis.nulls import partners_together
from training.dumps.arrays import unpacked
from training.dumps.pairs import REGRESSORS
from training.dumps.scores import COSINES, ROWS, cosines
from training.intervals import Jackknife, mean_of_sums, mean_over_images, over_units, ratio, rows_of_mean, without_each

if TYPE_CHECKING:
    from training.dumps.store import Dump

QUANTITIES = ("delta", "r", "other")
_ROWS_AT_ONCE = 512  # images
_ROUNDING = 1e-12  # of Σ S²: what centring a constant in fp32 leaves; and of a regressor that is 0


def image_cosines(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(images, layers, 3): of the head mean, with QUANTITIES; NaN where one side is zero everywhere."""
    chosen = [COSINES.index(f"{variant}_{quantity}") for quantity in ("delta", "r")]
    blocks = []
    for first in range(0, dump.info.num_images, _ROWS_AT_ONCE):
        images = slice(first, first + _ROWS_AT_ONCE)
        literal, centred = (dump.read(f"statistics/pairs/{kind}", images)[:, None] for kind in ("literal", "centred"))
        rows = dump.read(f"statistics/{part}/rows", images)
        found = cosines(rows, literal, centred)[..., chosen]
        blocks.append(np.concatenate([found, _with_other(rows, literal, centred, variant)[..., None]], -1))
    return np.concatenate(blocks)


def _with_other(rows: np.ndarray, literal: np.ndarray, centred: np.ndarray, variant: Variant) -> np.ndarray:
    """(images, layers): what `training.dumps.scores.cosines` is for an image's own |Δ|."""
    place = REGRESSORS.index("other")
    score, with_other, packed = ("ss_all", "s_other", literal) if variant == "literal" else ("cc", "c_other", centred)
    square = unpacked(packed)[..., place + (variant == "literal"), place + (variant == "literal")]
    own, all_entries = rows[..., ROWS.index(score)], rows[..., ROWS.index("ss_all")]
    own = np.where(own > (_ROUNDING * all_entries if variant == "gauge_fixed" else 0.0), own, 0.0)
    return ratio(rows[..., ROWS.index(with_other)], np.sqrt(own * np.where(square > _ROUNDING, square, 0.0)))


def constant_cosines(dump: "Dump") -> np.ndarray:
    """(3,) literal cosines, with QUANTITIES, of scores that are -1 everywhere: mean over images."""
    square = unpacked(dump["statistics/pairs/literal"])
    patches = (1 + np.sqrt(1 + 4 * square[:, 0, 0])) / 2  # that have a depth: square[0, 0] counts pairs
    places = [1 + REGRESSORS.index(quantity) for quantity in QUANTITIES]
    sums, squares = square[:, 0, places], square[:, places, places]
    return -mean_over_images(ratio(sums, patches[:, None] * np.sqrt(squares))).value


def cosine_jackknife(dump: "Dump") -> Jackknife:
    """(3 x layers,) gauge-fixed mean cosines with each of QUANTITIES; images and their partners left out together.

    Images where one of them is undefined are left out of that layer.
    """
    values = image_cosines(dump, "gauge_fixed").swapaxes(1, 2)
    paired = np.isfinite(values).all(1, keepdims=True)
    rows = partners_together(rows_of_mean(np.where(paired, values, np.nan)))
    return without_each(rows.reshape(len(rows), -1, 2), mean_of_sums)


def head_cosines(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(layers, heads, 2): mean over images of each head's own cosine with |Δ| and with r."""
    chosen = [COSINES.index(f"{variant}_{quantity}") for quantity in ("delta", "r")]
    sums = dump[f"statistics/{part}/head_cosines"].sum(0)[..., chosen, :]
    return ratio(sums[..., 0], sums[..., 1])


def cosine_frame(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """One row a layer and quantity: mean over images with its interval, images where it is undefined.

    low_head and high_head are the least and the greatest mean of a single head (NaN for `other`); constant the literal
    cosine of scores that are -1 everywhere.
    """
    values = image_cosines(dump, variant, part)
    heads = head_cosines(dump, variant, part)
    heads = np.concatenate([heads, np.full((*heads.shape[:2], 1), np.nan)], -1)
    rows = rows_of_mean(values)
    alone, together = (over_units(each, mean_of_sums) for each in (rows, partners_together(rows)))
    constant = constant_cosines(dump) if variant == "literal" else np.full(len(QUANTITIES), np.nan)
    frames = []
    for index, quantity in enumerate(QUANTITIES):
        mean = together if quantity == "other" else alone
        frames.append(
            pd.DataFrame(
                {
                    "model": dump.info.model,
                    "depth_field": dump.info.depth_field,
                    "epoch": dump.info.epoch,
                    "part": part,
                    "variant": variant,
                    "quantity": quantity,
                    "layer": dump.info.attention_layers,
                    "cosine": mean.value[:, index],
                    "low": mean.low[:, index],
                    "high": mean.high[:, index],
                    "constant": constant[index],
                    "low_head": heads[..., index].min(1),
                    "high_head": heads[..., index].max(1),
                    "num_images": dump.info.num_images,
                    "num_undefined": np.isnan(values[..., index]).sum(0),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def over_epochs(dumps: "list[Dump]", variant: Variant, part: str = "content") -> pd.DataFrame:
    """`cosine_frame` of several checkpoints of one run, in order of epochs."""
    ordered = sorted(dumps, key=lambda dump: dump.info.epoch)
    return pd.concat([cosine_frame(dump, variant, part) for dump in ordered], ignore_index=True)
