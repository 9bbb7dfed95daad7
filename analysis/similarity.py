"""Figure 5: cosine similarity of score matrices with |Δ| and with the patches' distance r.

`literal` takes all entries as they are, which depends on a constant that softmax ignores: a score matrix that is -1
everywhere has cosine -0.90 with r on a 14x14 grid. `gauge_fixed` takes row-centred pairs i != j.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.attention import Variant
from analysis.statistics import mean_over_images, ratio
from training.dumps.scores import COSINES
from training.dumps.scores import cosines as of_rows

if TYPE_CHECKING:
    from training.dumps.store import Dump

QUANTITIES = ("delta", "r")
_ROWS_AT_ONCE = 512  # images


def image_cosines(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(images, layers, 2): of the head mean, with |Δ| and with r; NaN where one side is zero everywhere."""
    chosen = [COSINES.index(f"{variant}_{quantity}") for quantity in QUANTITIES]
    blocks = []
    for first in range(0, dump.info.num_images, _ROWS_AT_ONCE):
        images = slice(first, first + _ROWS_AT_ONCE)
        literal, centred = (dump.read(f"statistics/pairs/{kind}", images)[:, None] for kind in ("literal", "centred"))
        blocks.append(of_rows(dump.read(f"statistics/{part}/rows", images), literal, centred)[..., chosen])
    return np.concatenate(blocks)


def head_cosines(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(layers, heads, 2): mean over images of each head's own cosine."""
    chosen = [COSINES.index(f"{variant}_{quantity}") for quantity in QUANTITIES]
    sums = dump[f"statistics/{part}/head_cosines"].sum(0)[..., chosen, :]
    return ratio(sums[..., 0], sums[..., 1])


def cosines(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """One row a layer and quantity: mean over images, image-bootstrap interval, images where it is undefined.

    low_head and high_head are the least and the greatest mean of a single head.
    """
    values = image_cosines(dump, variant, part)
    heads = head_cosines(dump, variant, part)
    mean = mean_over_images(values)
    frames = []
    for index, quantity in enumerate(QUANTITIES):
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
                    "low_head": heads[..., index].min(1),
                    "high_head": heads[..., index].max(1),
                    "num_images": dump.info.num_images,
                    "num_undefined": np.isnan(values[..., index]).sum(0),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def over_epochs(dumps: "list[Dump]", variant: Variant, part: str = "content") -> pd.DataFrame:
    """`cosines` of several checkpoints of one run, in order of epochs."""
    ordered = sorted(dumps, key=lambda dump: dump.info.epoch)
    return pd.concat([cosines(dump, variant, part) for dump in ordered], ignore_index=True)
