"""Accuracy under noise on depth."""

from typing import Literal

from pydantic import Field, FiniteFloat

from pipeline.shards import DepthName
from training.records.fields import (
    SCHEMA_VERSION,
    Amount,
    Bits,
    CheckpointName,
    Count,
    Fraction,
    Hash,
    OtherDepth,
    Place,
    Record,
    Seed,
    Sides,
    Some,
    SplitName,
    Word,
)


class NoiseSweep(Record):
    """Accuracy of one checkpoint on one split at several strengths of noise on depth, z + sigma * eps.

    The lists have an entry a sigma. The eps of a sample are the same for every sigma and every model.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["noise"] = "noise"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    data: Place
    split: SplitName
    fingerprint: Hash  # of the split's shards
    depth_field: DepthName
    noise: Literal["pixel", "patch"]  # one Gaussian a pixel of the model's view, or a patch
    noise_seed: Seed
    image_size: Sides
    patch_size: Sides
    num_samples: Some
    sigmas: list[Amount] = Field(min_length=1)  # rising, in units of z
    top1: list[Fraction]
    top5: list[Fraction]
    loss: list[FiniteFloat]
    correct1: list[Bits]  # one '0' or '1' a sample
    largest_class: Fraction | None = None  # as in Evaluation
    other_depth: OtherDepth = []
