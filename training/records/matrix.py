"""Table 3 of some models: matrix.json."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from pipeline.shards import DepthName
from training.records.fields import (
    SCHEMA_VERSION,
    Amount,
    Count,
    Fraction,
    Hash,
    Name,
    Place,
    Record,
    Seed,
    Some,
    SplitName,
    Word,
)


class MatrixCell(Record):
    """mIoU of one fine-tuned model on the test split, with Student's 95 % interval over images.

    `error` is its delete-one-image jackknife's standard error (Tukey 1958): of n images, that of the mean of
    `pseudo_values`, n * mIoU - (n - 1) * mIoU without the image, in the images' order. Cells of one matrix are of the
    same images, so what compares them takes the error of the same combination of their pseudo-values.
    """

    name: Name  # of what it was fine-tuned from
    model: Word
    seed: Seed
    trained: Literal["real", "pseudo"]
    tested: Literal["real", "pseudo"]
    miou: Fraction  # summed over scales where the matrix is `multi_scale`
    low: Fraction
    high: Fraction
    error: Amount
    pseudo_values: list[FiniteFloat]
    single_miou: Fraction
    commonest_miou: Fraction  # of answering the commonest label everywhere
    pixel_accuracy: Fraction
    epoch: Count
    selection: Word

    @model_validator(mode="after")
    def _lies_in_its_interval(self) -> "MatrixCell":
        _check_order(self.low, self.miou, self.high)
        return self


class MatrixDifference(Record):
    """`of` minus `minus`, (trained, tested) each, of one model on the same images; `error` as a cell's, paired."""

    name: Name
    model: Word
    seed: Seed
    of: tuple[str, str]
    minus: tuple[str, str]
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    error: Amount

    @model_validator(mode="after")
    def _lies_in_its_interval(self) -> "MatrixDifference":
        _check_order(self.low, self.value, self.high)
        return self


def _check_order(low: float, value: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{value:g} must lie in its interval, from {low:g} to {high:g}")


class Matrix(Record):
    """Table 3 of some models: matrix.json."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["matrix"] = "matrix"
    data: Place
    split: SplitName
    fingerprint: Hash
    num_images: Annotated[int, Field(ge=2, le=10**12)]
    num_classes: Some
    multi_scale: bool
    # which fields of the shards stood for them; a matrix of version 5 knew no others
    fields: dict[Literal["real", "pseudo"], DepthName] = {"real": "real", "pseudo": "pseudo"}
    cells: list[MatrixCell] = Field(min_length=1)
    differences: list[MatrixDifference]

    @model_validator(mode="after")
    def _is_of_one_set_of_images(self) -> "Matrix":
        miou: dict[tuple[str, str, int, tuple[str, str]], float] = {}
        for cell in self.cells:
            place = (cell.name, cell.model, cell.seed, (cell.trained, cell.tested))
            if place in miou:
                raise ValueError(f"a cell must be there once, {_told(place)} is there twice")
            if len(cell.pseudo_values) != self.num_images:
                raise ValueError(
                    f"{_told(place)} must have a pseudo-value for each of {self.num_images} images, "
                    f"it has {len(cell.pseudo_values)}"
                )
            if max(map(abs, cell.pseudo_values)) > self.num_images:
                raise ValueError(f"pseudo-values of {_told(place)} must lie within the number of images")
            miou[place] = cell.miou
        for difference in self.differences:
            sides = [
                (difference.name, difference.model, difference.seed, side) for side in (difference.of, difference.minus)
            ]
            if missing := [side for side in sides if side not in miou]:
                raise ValueError(f"a difference needs its two cells, {_told(missing[0])} is not there")
            if abs(difference.value - (miou[sides[0]] - miou[sides[1]])) > 1e-9:
                raise ValueError(
                    f"the difference of {_told(sides[0])} must be that of its cells, got {difference.value:g}"
                )
        return self


def _told(place: tuple[str, str, int, tuple[str, str]]) -> str:
    name, model, seed, (trained, tested) = place
    return f"{model} from {name:.60}, seed {seed}, {trained:.20} to {tested:.20},"
