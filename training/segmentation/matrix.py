"""Table 3: every model fine-tuned with real and with pseudo-depth, each tested with both.

Intervals resample images: the counts of an image move together, the same draws for every cell, so that differences are
paired. What one training run more would change, they do not tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from training.records import Matrix, MatrixCell, MatrixDifference, SegmentationEvaluation, SegmentationScores
from training.segmentation.scores import class_iou

NUM_RESAMPLES = 1000
_SEED = 20260
Depth = Literal["real", "pseudo"]
DEPTHS: tuple[Depth, ...] = get_args(Depth)


class MatrixError(UserError):
    """The runs given make no table; one line that names them and the fix."""


@dataclass(frozen=True)
class Row:
    """One model: its evaluations by the depth it was trained with and the depth it was tested with."""

    name: str
    model: str
    seed: int
    cells: Mapping[tuple[str, str], SegmentationEvaluation]  # (trained, tested)


# What is compared with what, (trained, tested) each: what a test with the other depth costs, what training gains.
_COMPARED = (
    (("real", "pseudo"), ("real", "real")),
    (("pseudo", "real"), ("pseudo", "pseudo")),
    (("pseudo", "pseudo"), ("real", "real")),
)


def matrix(rows: Sequence[Row], data: str) -> Matrix:
    """The record of these rows, all of one test split; MatrixError where they are not."""
    first = next(iter(rows[0].cells.values()))
    for row in rows:
        for cell in row.cells.values():
            if (cell.fingerprint, cell.keys) != (first.fingerprint, first.keys):
                raise MatrixError(f"{row.name} was tested on other images than {rows[0].name}: evaluate both on {data}")
    multi = all(cell.multi is not None for row in rows for cell in row.cells.values())
    cells, differences = [], []
    for row in rows:
        replicates = {}
        for (trained, tested), cell in row.cells.items():
            scores = cell.multi if multi and cell.multi else cell.single
            replicates[trained, tested] = resampled_miou(scores)
            low, high = _bounds(replicates[trained, tested])
            cells.append(
                MatrixCell(
                    name=row.name,
                    model=row.model,
                    seed=row.seed,
                    trained=trained,
                    tested=tested,
                    miou=scores.miou,
                    low=low,
                    high=high,
                    single_miou=cell.single.miou,
                    pixel_accuracy=scores.pixel_accuracy,
                    epoch=cell.epoch,
                    selection=cell.selection,
                )
            )
        for one, other in _COMPARED:
            if one in row.cells and other in row.cells:
                value = _miou(row.cells[one], multi) - _miou(row.cells[other], multi)
                low, high = _bounds(replicates[one] - replicates[other])
                differences.append(
                    MatrixDifference(
                        name=row.name,
                        model=row.model,
                        seed=row.seed,
                        of=one,
                        minus=other,
                        value=value,
                        low=low,
                        high=high,
                    )
                )
    return Matrix(
        data=data,
        split=first.split,
        fingerprint=first.fingerprint,
        num_images=first.num_samples,
        num_classes=len(first.classes),
        multi_scale=multi,
        num_resamples=NUM_RESAMPLES,
        cells=cells,
        differences=differences,
    )


def _miou(evaluation: SegmentationEvaluation, multi: bool) -> float:
    return (evaluation.multi if multi and evaluation.multi else evaluation.single).miou


def counts(scores: SegmentationScores) -> NDArray[np.int64]:
    """(images, classes, 3) of a record."""
    found = np.zeros((len(scores.per_image), len(scores.class_iou), 3), np.int64)
    for place, image in enumerate(scores.per_image):
        for number, three in image.items():
            found[place, number] = three
    return found


def resampled_miou(scores: SegmentationScores) -> NDArray[np.float64]:
    """mIoU of NUM_RESAMPLES resamples of the images; the same draws for every record of as many images."""
    rows = counts(scores)
    weights = np.random.default_rng(_SEED).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), NUM_RESAMPLES)
    sums = (weights @ rows.reshape(len(rows), -1)).reshape(NUM_RESAMPLES, *rows.shape[1:])
    return np.nanmean(class_iou(sums), 1)


def _bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
