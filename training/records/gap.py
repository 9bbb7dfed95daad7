"""What the difference between pseudo and real depth is worth as noise."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.shards import DepthName
from training.records.fields import (
    SCHEMA_VERSION,
    CheckpointName,
    Count,
    OtherDepth,
    Place,
    Record,
    Seed,
    Sides,
    Some,
    Word,
)


class GapCurve(Record):
    """e(sigma): mean over images and classes of |f(rgb, pseudo + sigma * eps) - f(rgb, pseudo)|, an entry a sigma."""

    noise: Literal["pixel", "patch"]
    output: Literal["logits", "softmax"]  # what f is
    e: list[float]


class GapCrossing(Record):
    """The strength of noise that moves f as far as real depth does: e(sigma_star) = e_star.

    `low` and `high` bound 95 % of resamples of the images. A sigma that is None lies above the grid, or, where
    `undefined`, nowhere: f does not change with depth.
    """

    noise: Literal["pixel", "patch"]
    output: Literal["logits", "softmax"]
    reading: Literal["z", "inverse"]  # real depth as stored; as -1/d, standardised over these images
    e_star: float  # mean of |f(rgb, real) - f(rgb, pseudo)|
    sigma_star: float | None
    low: float | None
    high: float | None
    share_above: float  # of the resamples
    undefined: bool


class Gap(Record):
    """What the difference between pseudo and real depth is worth as noise, for one checkpoint. Whole images, squashed.

    Noise is that of NoiseSweep: one draw an image for every sigma and every model.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["gap"] = "gap"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    data: Place
    fingerprints: dict[str, str]  # split -> of its shards; all splits are used
    real_field: DepthName
    pseudo_field: DepthName = "pseudo"
    num_images: Some
    noise_seed: Seed
    image_size: Sides
    patch_size: Sides
    sigmas: list[float] = Field(min_length=1)  # rising from 0, in units of z
    num_resamples: Count
    inverse_mean: float  # of 1/d, in 1/m
    inverse_std: float
    curves: list[GapCurve] = Field(min_length=1)
    crossings: list[GapCrossing]
    other_depth: OtherDepth = []

    @model_validator(mode="after")
    def _crosses_with_both_outputs(self) -> "Gap":
        if {crossing.output for crossing in self.crossings} != {"logits", "softmax"}:
            raise ValueError("crossings must be of logits and of softmax")
        return self
