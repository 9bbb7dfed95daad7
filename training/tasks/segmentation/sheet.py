"""A contact sheet of predictions: what the model saw, what it should say and what it says."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline import files, shards
from pipeline.colours import class_colours, depth_colours
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.scores import confusion, counts_of, mean_iou

_TITLES = ("RGB", "depth, near is bright", "labels", "prediction")

_Row = tuple[str, NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]


@dataclass
class Sheet:
    """Collects `count` evenly spaced images of `total` while an evaluation goes by; `write` draws them."""

    classes: list[str]
    total: int
    count: int = 6
    rows: dict[int, _Row] = field(default_factory=dict)  # by position in the split

    def look(self, batch: SegBatch, predicted: Tensor) -> None:
        """One batch with its prediction (batch, height, width)."""
        wanted = set(np.linspace(0, self.total - 1, min(self.count, self.total)).round().astype(int).tolist())
        for place, key in enumerate(batch.keys):
            if batch.first + place in wanted:
                rgb, depth = batch.rgb[place].permute(1, 2, 0).numpy(), batch.depth[place, 0].numpy()
                label, guess = batch.label[place].numpy(), predicted[place].numpy().astype(np.uint8)
                self.rows[batch.first + place] = (key, rgb.copy(), depth.copy(), label.copy(), guess)

    def write(self, path: Path, title: str) -> None:
        """A PNG; names of the classes that occur on it are its legend."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        colours = class_colours(len(self.classes)) / 255
        rows = [self.rows[place] for place in sorted(self.rows)]
        ratio = rows[0][1].shape[0] / rows[0][1].shape[1]
        figure = Figure(figsize=(10, len(rows) * (2.45 * ratio + 0.25) + 1.2), layout="constrained", dpi=110)
        axes = figure.subplots(len(rows), 4, squeeze=False)
        for row, (key, rgb, depth, label, guess) in zip(axes, rows, strict=True):
            guess = np.where(label == shards.VOID, shards.VOID, guess)
            row[0].imshow(rgb)
            row[1].imshow(_depth_picture(depth))
            row[2].imshow(colours[label], interpolation="nearest")
            row[3].imshow(colours[guess], interpolation="nearest")
            row[0].set_ylabel(key, fontsize=7)
            row[3].set_xlabel(f"mIoU {_own_iou(label, guess, len(self.classes)):.0%}", fontsize=7)
            for axis in row:
                axis.set_xticks([])
                axis.set_yticks([])
        for axis, name in zip(axes[0], _TITLES, strict=True):
            axis.set_title(name, fontsize=9)
        there = sorted({int(c) for *_, label, guess in rows for c in np.union1d(label, guess)} - {shards.VOID})
        handles = [Patch(facecolor=colours[c], label=self.classes[c]) for c in there]
        handles.append(Patch(facecolor=colours[shards.VOID], edgecolor="0.6", label="void"))
        figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=7, frameon=False)
        figure.suptitle(title, fontsize=10)
        with files.writing(path) as file:
            figure.savefig(file, format="png")


def _own_iou(label: NDArray[np.uint8], guess: NDArray[np.uint8], num_classes: int) -> float:
    import torch

    return mean_iou(counts_of(confusion(torch.from_numpy(guess), torch.from_numpy(label), num_classes)))


def _depth_picture(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    valid = depth[np.isfinite(depth)]
    low, high = np.percentile(valid, (2, 98)) if valid.size else (0.0, 1.0)
    return depth_colours(depth, float(low), float(high))
