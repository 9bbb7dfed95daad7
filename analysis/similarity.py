"""Figure 5: cosine similarity of the head-mean score matrix with |Δ| and with the patches' distance r.

`literal` takes all valid entries as they are, which depends on a constant that softmax ignores: a score matrix that
is -1 everywhere has cosine -0.90 with r on a 14x14 grid. `gauge_fixed` takes row-centred pairs i != j.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.attention import Variant
from analysis.statistics import mean_over_images
from training.dumps.sums import COSINES

if TYPE_CHECKING:
    from training.dumps.store import Dump

QUANTITIES = ("delta", "r")


def image_cosines(dump: "Dump", variant: Variant, part: str = "content") -> np.ndarray:
    """(images, layers, 2): cosine with |Δ| and with r; NaN where one side is zero everywhere."""
    from analysis.load import AnalysisError

    values = dump[f"statistics/{part}/cosines"]
    rows = dump[f"statistics/{part}/rows"]
    # The store cannot tell an undefined cosine from a lost chunk; scores that are not all zero have a literal one.
    lost = np.isnan(values[..., COSINES.index("literal_r")]) & (rows[..., 1].sum(-1) > 0)
    if lost.any():
        raise AnalysisError(
            f"{dump.path}: array statistics/{part}/cosines has missing values: make it again with train dump"
        )
    return values[..., [COSINES.index(f"{variant}_{quantity}") for quantity in QUANTITIES]]


def cosines(dump: "Dump", variant: Variant, part: str = "content") -> pd.DataFrame:
    """One row a layer and quantity: mean over images, image-bootstrap interval, images where it is undefined."""
    values = image_cosines(dump, variant, part)
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
                    "layer": np.arange(1, dump.info.num_layers + 1),
                    "cosine": mean.value[:, index],
                    "low": mean.low[:, index],
                    "high": mean.high[:, index],
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
