"""What an evaluation of images and classes leaves."""

from typing import Literal

from pydantic import FiniteFloat

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
    Some,
    SplitName,
    Step,
    Word,
)


class EvalLine(Record):
    kind: Literal["eval"] = "eval"
    step: Step
    epoch: Count
    top1: Fraction  # of validation samples
    top5: Fraction
    loss: FiniteFloat
    num_samples: Some
    seconds: Amount


class Evaluation(Record):
    """Accuracy of one checkpoint on one split, with the outcome of every sample in the split's own order."""

    schema_version: int = SCHEMA_VERSION
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    data: Place
    split: SplitName
    fingerprint: Hash  # of the split's shards
    depth_field: DepthName
    num_samples: Some
    top1: Fraction
    top5: Fraction
    loss: FiniteFloat
    correct1: Bits  # one '0' or '1' a sample
    correct5: Bits
    largest_class: Fraction | None = None  # of the samples, are of the most frequent class; None: an older record
    other_depth: OtherDepth = []
