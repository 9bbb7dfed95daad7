"""Some images of an evaluation, to look at: a picture for people, and the numbers for the page of teachers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import files
from pipeline.colours import depth_colours
from training.tasks.sparse_depth.evaluate import Example

_WORST = 0.25  # of relative error: the end of the colours
_TITLES = ("RGB", "depth, near is bright", "dense map", "relative error, to 25 %")


def store(examples: Sequence[Example], path: Path) -> None:
    """An npz: of each image by its number rgb-N uint8, true-N and dense-N in metres (NaN unknown), routed-N, grid-N."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, example in enumerate(examples):
        arrays |= {f"rgb-{number}": example.rgb, f"true-{number}": example.true, f"dense-{number}": example.dense}
        if example.routed is not None and example.grid is not None:
            arrays |= {f"routed-{number}": example.routed, f"grid-{number}": np.array(example.grid)}
    with files.writing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def draw(examples: Sequence[Example], path: Path, title: str) -> None:
    """A PNG; depth in one range of colours a row."""
    from matplotlib.figure import Figure

    ratio = examples[0].rgb.shape[0] / examples[0].rgb.shape[1]
    figure = Figure(figsize=(10, len(examples) * (2.45 * ratio + 0.25) + 0.6), layout="constrained", dpi=110)
    axes = figure.subplots(len(examples), 4, squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        known = example.true[np.isfinite(example.true)]
        low, high = np.percentile(known, (2, 98)) if known.size else (0.0, 1.0)
        error = np.abs(example.dense - example.true) / example.true
        row[0].imshow(example.rgb)
        row[1].imshow(depth_colours(example.true, float(low), float(high)))
        row[2].imshow(depth_colours(example.dense, float(low), float(high)))
        row[3].imshow(np.where(np.isfinite(error), error, np.nan), vmin=0, vmax=_WORST, cmap="magma")
        row[0].set_ylabel(example.key, fontsize=7)
        if known.size:
            row[3].set_xlabel(f"AbsRel {np.nanmean(error):.3f}", fontsize=7)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], _TITLES, strict=True):
        axis.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=10)
    with files.writing(path) as file:
        figure.savefig(file, format="png")
