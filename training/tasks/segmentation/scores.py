"""What a segmentation is worth: counts of pixels, and mean intersection over union from them.

Counts are kept for every image and class, so that intervals can leave images out in turn; the rest follows from sums.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import shards

# Of an image and a class: pixels of the class found, found where it is not, and missed.
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = range(3)


@dataclass(frozen=True)
class Counts:
    """`confusion[label, prediction]` counts the pixels of all images; `per_image` (images, classes, 3) as above."""

    confusion: NDArray[np.int64]
    per_image: NDArray[np.int64]

    @property
    def miou(self) -> float:
        return mean_iou(self.per_image.sum(0))

    @property
    def pixel_accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))


def confusion(predicted: Tensor, label: Tensor, num_classes: int) -> NDArray[np.int64]:
    """(classes, classes) of one image: rows are labels, columns predictions; void pixels are left out."""
    valid = label != shards.VOID
    cells = label[valid].long() * num_classes + predicted[valid]
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes).cpu().numpy()


def counts_of(image: NDArray[np.int64]) -> NDArray[np.int64]:
    """(classes, 3) of one image's confusion."""
    found = np.diag(image)
    return np.stack([found, image.sum(0) - found, image.sum(1) - found], 1)


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., classes) of (..., classes, 3); NaN for a class that is neither there nor found anywhere."""
    union = counts.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, counts[..., TRUE_POSITIVE] / union, np.nan)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Over the classes that are there or were found; NaN where every pixel is void."""
    iou = class_iou(counts)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def commonest_miou(confusion: NDArray[np.int64]) -> float:
    """mIoU of answering the commonest label everywhere: what nothing learned is worth on these images."""
    labels = confusion.sum(1)
    answered = np.zeros_like(confusion)
    answered[:, labels.argmax()] = labels
    return mean_iou(counts_of(answered))
