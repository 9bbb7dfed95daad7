"""What an evaluation of images and classes leaves."""

from typing import Literal

from pydantic import FiniteFloat, model_validator

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
    Text,
    Word,
)


class EvalLine(Record):
    kind: Literal["eval"] = "eval"
    step: Step
    epoch: Count
    top1: Fraction  # of validation samples
    top5: Fraction
    mean_class: Fraction | None = None  # mean of the classes' top-1, of those that have samples; None: an older line
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
    mean_class: Fraction | None = None  # mean of class_recall, classes without samples left out; None: an older record
    classes: list[Text] | None = None
    class_recall: list[Fraction | None] | None = None  # top-1 of each class's samples; None for one that has none
    other_depth: OtherDepth = []

    @model_validator(mode="after")
    def _is_of_its_classes(self) -> "Evaluation":
        recall, classes = self.class_recall, self.classes
        if recall is None or classes is None:
            return self
        if len(recall) != len(classes):
            raise ValueError(f"class_recall must be of the {len(classes)} classes, got {len(recall)}")
        known = [each for each in recall if each is not None]
        if not known or self.mean_class is None or abs(sum(known) / len(known) - self.mean_class) > 1e-6:
            raise ValueError(f"mean_class must be the mean of class_recall, got {self.mean_class}")
        return self
