"""What an evaluation of pixel labels leaves."""

from typing import Literal

from pydantic import FiniteFloat, model_validator

from pipeline.shards import DepthName
from training.records.fields import (
    SCHEMA_VERSION,
    Amount,
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


class SegmentationLine(Record):
    kind: Literal["segmentation"] = "segmentation"
    step: Step
    epoch: Count
    miou: Fraction  # of the part that chooses the checkpoint
    pixel_accuracy: Fraction
    loss: FiniteFloat
    num_samples: Count
    seconds: Amount


class SegmentationScores(Record):
    """Of one way to predict. `per_image`: per image {class: [true positive, false positive, false negative] pixels}."""

    miou: Fraction
    pixel_accuracy: Fraction
    class_iou: list[Fraction | None]  # None for a class that is neither there nor found
    confusion: list[list[Count]]  # [label][prediction], pixels; void left out
    per_image: list[dict[Count, tuple[Count, Count, Count]]]

    @model_validator(mode="after")
    def _is_of_its_classes(self) -> "SegmentationScores":
        classes = len(self.class_iou)
        if len(self.confusion) != classes or any(len(row) != classes for row in self.confusion):
            raise ValueError(f"confusion must be {classes} x {classes}, as class_iou has classes")
        if wrong := [number for image in self.per_image for number in image if number >= classes]:
            raise ValueError(f"per_image must be of the {classes} classes of class_iou, got one numbered {wrong[0]}")
        return self


class SegmentationEvaluation(Record):
    """One checkpoint on one split with one depth field; every labelled pixel counted once."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["segmentation"] = "segmentation"
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    checkpoint_sha256: Hash
    selection: Word  # best-on-val: by scenes set aside from training; best-on-test: by the test split; none: not chosen
    data: Place
    split: SplitName
    fingerprint: Hash
    depth_field: DepthName
    depth_fingerprint: Hash = ""  # of the depth, where it lies in tars of its own beside the shards'
    inputs: Word | None = (
        None  # how RGB and depth were prepared: z, dformer-greys, dformer-linear; None: an older record
    )
    num_samples: Some
    keys: list[str]
    classes: list[str]
    loss: FiniteFloat
    single: SegmentationScores  # as the images are
    multi: SegmentationScores | None  # summed over `scales`, each also mirrored
    scales: list[float]
    commonest_miou: Fraction | None = None  # of answering the commonest label everywhere; None: an older record
    other_depth: OtherDepth = []

    @model_validator(mode="after")
    def _is_of_its_images(self) -> "SegmentationEvaluation":
        for scores in filter(None, (self.single, self.multi)):
            found = (len(self.keys), len(scores.per_image), len(scores.class_iou))
            if found != (wanted := (self.num_samples, self.num_samples, len(self.classes))):
                raise ValueError(f"keys, images and classes must be {wanted} in number, got {found}")
        return self
