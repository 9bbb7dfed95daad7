"""Table 3: every model fine-tuned with real and with pseudo-depth, each tested with both.

Intervals are over images: Student's, on mIoU with each image left out once. All cells leave out the same, so that
differences are paired. What one training run more would change, they do not tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from training.intervals import of_mean
from training.records import Matrix, MatrixCell, MatrixDifference, SegmentationEvaluation, SegmentationScores
from training.tasks.segmentation.scores import class_iou, commonest_miou

Depth = Literal["real", "pseudo"]
DEPTHS: tuple[Depth, ...] = get_args(Depth)


class MatrixError(UserError):
    """The runs given make no table; one line that names them and the fix."""


@dataclass(frozen=True)
class MatrixRow:
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


def matrix(rows: Sequence[MatrixRow], data: str, fields: Mapping[Depth, str] | None = None) -> Matrix:
    """The record of these rows, all of one test split; MatrixError where they are not.

    `fields`: which fields of the shards stand for real and for pseudo, by default those of that name.
    """
    first = next(iter(rows[0].cells.values()))
    for row in rows:
        for cell in row.cells.values():
            if (cell.fingerprint, cell.keys) != (first.fingerprint, first.keys):
                raise MatrixError(f"{row.name} was tested on other images than {rows[0].name}: evaluate both on {data}")
    multi = all(cell.multi is not None for row in rows for cell in row.cells.values())
    cells, differences = [], []
    for row in rows:
        values = {}
        for (trained, tested), cell in row.cells.items():
            scores = cell.multi if multi and cell.multi else cell.single
            values[trained, tested] = pseudo_values(scores, row.name)
            error, half = of_mean(values[trained, tested])
            cells.append(
                MatrixCell(
                    name=row.name,
                    model=row.model,
                    seed=row.seed,
                    trained=trained,
                    tested=tested,
                    miou=scores.miou,
                    low=max(0.0, scores.miou - half),
                    high=min(1.0, scores.miou + half),
                    error=error,
                    pseudo_values=values[trained, tested].tolist(),
                    single_miou=cell.single.miou,
                    commonest_miou=commonest_miou(np.array(scores.confusion)),
                    pixel_accuracy=scores.pixel_accuracy,
                    epoch=cell.epoch,
                    selection=cell.selection,
                )
            )
        for one, other in _COMPARED:
            if one in row.cells and other in row.cells:
                value = _miou(row.cells[one], multi) - _miou(row.cells[other], multi)
                error, half = of_mean(values[one] - values[other])
                differences.append(
                    MatrixDifference(
                        name=row.name,
                        model=row.model,
                        seed=row.seed,
                        of=one,
                        minus=other,
                        value=value,
                        low=value - half,
                        high=value + half,
                        error=error,
                    )
                )
    return Matrix(
        data=data,
        split=first.split,
        fingerprint=first.fingerprint,
        num_images=first.num_samples,
        num_classes=len(first.classes),
        multi_scale=multi,
        fields=dict(fields or {depth: depth for depth in DEPTHS}),
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


def pseudo_values(scores: SegmentationScores, name: str) -> NDArray[np.float64]:
    """(images,): n * mIoU - (n - 1) * mIoU without the image; MatrixError where fewer than two images have labels."""
    rows = counts(scores)
    if (labelled := int((rows.sum((1, 2)) > 0).sum())) < 2:
        raise MatrixError(f"{name} must be tested on two images with labels or more, got {labelled}: give other --data")
    without = np.nanmean(class_iou(rows.sum(0) - rows), 1)
    return len(rows) * scores.miou - (len(rows) - 1) * without
