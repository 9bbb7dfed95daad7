"""run.json, and the lines of metrics.jsonl that every task has."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from pipeline.shards import DepthName, Provenance
from training.records.fields import (
    SCHEMA_VERSION,
    Amount,
    Count,
    Hash,
    Name,
    Place,
    Record,
    Seed,
    SplitName,
    Stamp,
    Step,
    Text,
    Word,
)


class _Constants(Record):
    mean: FiniteFloat
    std: Annotated[FiniteFloat, Field(gt=0)]
    polarity: Literal["closer_is_larger", "farther_is_larger"]
    unit: Annotated[str, Field(max_length=64)]


class ShardsSeen(Record):
    """The data a run reads. `standardisation` is that of its depth field: mean, std, polarity, unit.

    With `online` depth it is that of the teacher in the loop, which `teacher` then names.
    """

    path: Place
    source: Word
    train_fingerprint: Hash
    val_fingerprint: Hash
    depth_fingerprints: dict[SplitName, Hash] = {}  # where the depth lies in tars of its own, beside the shards'
    num_train: Count
    num_val: Count
    num_classes: Count
    classes_sha256: Hash
    depth_field: DepthName
    standardisation: dict[str, Any]
    teacher: Place | None
    teacher_sha256: Hash | None = None  # of its weights
    provenance: Provenance | None = None  # what the depth field is; None: not known, or `online`

    @field_validator("standardisation")
    @classmethod
    def _has_constants(cls, value: dict[str, Any]) -> dict[str, Any]:
        _Constants.model_validate(value)
        return value


class RunRecord(Record):
    """run.json. `config` is the resolved configuration; `study_hash` covers all of it but `runtime`."""

    schema_version: int = SCHEMA_VERSION
    name: Name
    created: Stamp  # ISO 8601, UTC
    preset: Word
    task: Word = "classification"  # a name of training.tasks.registry
    model: Word  # moniker
    seed: Seed
    config: dict[str, Any]
    study_hash: Hash
    shards: ShardsSeen
    num_parameters: Count
    macs: Step  # matmuls and convolutions of one forward pass of one image
    init_sha256: str | None = None  # of the weights that `config.init` named
    init_rows: list[dict[str, Any]] = []  # what was loaded, adapted and left fresh of them, as was shown
    init_note: Text = ""
    started_from: dict[str, Any] | None = None  # the run and checkpoint that `config.init` named, with its shards
    frozen: list[str] = []  # parameters that the optimizer's grouping leaves as they were
    online_teacher: dict[str, Any] | None = None  # everything that online depth depends on
    steps_per_epoch: Count
    num_steps: Step
    git: dict[str, Any]  # revision, dirty
    versions: dict[str, str]
    machine: dict[str, Any]  # device, cores, world_size

    @model_validator(mode="after")
    def _config_is_the_one_hashed(self) -> "RunRecord":
        if self.study_hash != study_hash(self.config):
            raise ValueError("config does not have the hash that study_hash states: it was changed since")
        for name, stated, *place in (
            ("model", self.model, "model", "name"),
            ("seed", self.seed, "seed"),
            ("preset", self.preset, "preset"),
            ("shards.depth_field", self.shards.depth_field, "data", "depth"),
        ):
            value: Any = self.config
            for key in place:
                value = value.get(key) if isinstance(value, dict) else None
            if value != stated:
                raise ValueError(f"{name} is {stated!r}, config says {value!r}: it was changed since")
        return self


def study_hash(config: dict[str, Any]) -> str:
    """Of all that a result depends on: a resolved configuration (as JSON has it) without `runtime`."""
    study = {name: value for name, value in config.items() if name != "runtime"}
    return hashlib.sha256(json.dumps(study, sort_keys=True).encode()).hexdigest()[:16]


class TrainLine(Record):
    """Means over the steps since the line before."""

    kind: Literal["train"] = "train"
    step: Step  # optimizer steps done
    epoch: Amount
    loss: FiniteFloat
    lr: Amount
    grad_norm: Amount
    images_per_s: Amount
    data_wait: Amount  # share of the time spent waiting for data


class ParametersLine(Record):
    """Parameters that the figures need, per epoch; epoch 0 is before the first step.

    mlin: `alpha`, one number a block. mmlp: `phi`, a list a block of φ(Δ) at the Δ of `phi_grid`.
    """

    kind: Literal["parameters"] = "parameters"
    step: Step
    epoch: Count
    values: dict[str, list[FiniteFloat] | list[list[FiniteFloat]]]

    @model_validator(mode="after")
    def _has_as_many_numbers_everywhere(self) -> "ParametersLine":
        for name in self.values:
            sizes = self.sizes(name)
            if len(set(sizes[1:])) > 1:
                raise ValueError(
                    f"{name} must have as many numbers in each block, got {', '.join(map(str, sizes[1:]))}"
                )
        if "alpha" in self.values and self.sizes("alpha")[1:]:
            raise ValueError("alpha must be one number a block, got lists")
        if "phi" in self.values and set(self.sizes("phi")[1:]) != {len(self.values.get("phi_grid", []))}:
            raise ValueError("phi must be a list a block, each with a number for each of phi_grid")
        return self

    def sizes(self, name: str) -> list[int]:
        """How many blocks there are, then how many numbers in each where these are lists."""
        values = self.values[name]
        return [len(values), *(len(each) for each in values if isinstance(each, list))]


class EndLine(Record):
    kind: Literal["end"] = "end"
    step: Step
    epoch: Count
    train_seconds: Amount  # time in training steps, over all resumes
    total_seconds: Amount  # with evaluation and checkpoints
    resumes: Count | None = None  # checkpoints it went on from, at least; 0: uninterrupted; None: an older record
