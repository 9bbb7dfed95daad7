"""What an evaluation leaves of a task that has no record of its own: numbers by name."""

from typing import Literal

from pydantic import FiniteFloat

from pipeline.shards import DepthName
from training.records.fields import (
    SCHEMA_VERSION,
    Amount,
    CheckpointName,
    Count,
    Hash,
    OtherDepth,
    Place,
    Record,
    ScoreName,
    Some,
    SplitName,
    Step,
    Word,
)


class ScoresLine(Record):
    """Named numbers of the part that chooses the checkpoint; `loss` is what training lowers, on that part."""

    kind: Literal["scores"] = "scores"
    step: Step
    epoch: Count
    scores: dict[ScoreName, FiniteFloat]
    loss: FiniteFloat
    num_samples: Some
    seconds: Amount


class ScoresEvaluation(Record):
    """Named numbers of one checkpoint of any task on one split."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["scores"] = "scores"
    task: Word
    model: Word
    checkpoint: CheckpointName
    epoch: Count
    checkpoint_sha256: Hash = ""
    data: Place
    split: SplitName
    fingerprint: Hash
    depth_field: DepthName
    num_samples: Some
    scores: dict[ScoreName, FiniteFloat]
    loss: FiniteFloat
    other_depth: OtherDepth = []
