"""THE CONTRACT between the engine and what is trained: which data a run reads, its loss, what it evaluates and leaves.

A task is a folder in training/tasks with a subclass of `Task`, a line in its registry and a preset; the engine knows
none of them. What a task can be asked before its data are opened (model, loss) needs none: `Task(config)` reads no
file, `open` does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from pydantic import BaseModel
from rich.table import Table
from torch import Tensor, nn

from pipeline.shards import Split
from training import provenance
from training.config import StudyConfig
from training.engine.batch import Batch
from training.engine.checkpoint import Checkpoint
from training.engine.found import At, Found, refuse_diverged
from training.engine.machine import Machine
from training.engine.results import Target
from training.engine.share import DataError, Epochs, Share
from training.models.backbone import FigureParameters
from training.models.pretrained import Report
from training.models.vit import ModelError
from training.records import RunRecord, ScoresEvaluation, ShardsSeen

C = TypeVar("C", bound=StudyConfig)
B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Asked:
    """What a command line says of a run; `more` are options that one task alone has, by name."""

    data: str
    out: Path
    preset: str
    model: str | None = None
    init: str | None = None
    depth: str | None = None
    settings: Sequence[str] = ()
    resume: bool = False
    more: dict[str, Any] | None = None


@dataclass(frozen=True)
class Examination:
    """What `train evaluate` is asked of a run, beside the checkpoint."""

    target: Target
    split: str
    multi_scale: bool
    machine: Machine
    meter: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    more: dict[str, Any] = field(default_factory=dict)  # options that one task alone has, by name


@dataclass(frozen=True)
class Result:
    """A record, and where it is to lie (less its ending); `draw` makes a picture there first, by the first rank."""

    record: BaseModel
    place: Path
    draw: Callable[[Path], Path] | None = None
    details: Sequence[Table] = ()


class Task(ABC, Generic[C, B]):
    """One run's. `made_by` is the command that trains it, `chosen` the checkpoint that is reported by default."""

    kind: ClassVar[str]
    schema: ClassVar[type[StudyConfig]]
    made_by: ClassVar[str]
    chosen: ClassVar[str] = "latest"
    counts: ClassVar[bool] = False  # whether targets must be counted, or are one a sample
    smaller_batch: ClassVar[str] = "--set it lower"  # what helps where a batch is larger than the data
    draws: ClassVar[bool] = False  # whether the model draws random numbers in training; the step then seeds them

    num_train: int  # samples, once data are open
    num_val: int  # samples of an evaluation
    data: str

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    @abstractmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> Self:
        """The task of a command line, with its configuration resolved; errors of either in one line."""

    # --- the model -------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What the progress bar calls the run."""
        return f"{self.config.model.name} ({self.config.data.depth})"

    @abstractmethod
    def build(self) -> nn.Module:
        """Freshly drawn weights. Of its parameters those that require a gradient are trained."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Modules whose weights stay those of `config.init` (training/engine/frozen.py)."""
        return ()

    def initialise(self, model: nn.Module) -> Report:
        """Load `config.init`."""
        raise ModelError(f"--init: {self.made_by} starts from no weights: leave it out")

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """One sample as the model takes it, of zeros, on the current default device: multiply-accumulates are its."""

    @property
    def rate_factors(self) -> Mapping[str, float]:
        """On the learning rate, by the name of a module or parameter; whatever is not named here has 1."""
        return {}

    @property
    def warmup_epochs(self) -> float:
        """How long rates rise, once data are open."""
        return self.config.optim.warmup_epochs

    def figure_parameters(self, model: nn.Module) -> FigureParameters:
        """Parameters the figures follow over epochs: name -> one number or list a block."""
        return {}

    # --- a step ----------------------------------------------------------------------------------------------------

    def place(self, device: torch.device) -> None:
        """Called once before the first step: what the task itself holds there."""

    @abstractmethod
    def inputs(self, batch: B) -> tuple[Tensor, ...]:
        """Of a batch on the model's device: tensors with a row a sample, which are cut into micro-batches together."""

    @abstractmethod
    def loss(self, forward: Callable[..., Any], *inputs: Tensor) -> Tensor:
        """Summed over targets; the engine divides it by how many the global batch has. `forward` runs the model."""

    def count(self, batch: B) -> int:
        """Targets of a batch, where they are counted."""
        raise NotImplementedError

    # --- data ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, data: str) -> None:
        """Open the shards; DataError where they do not have what is needed. Sets num_train, num_val and data."""

    @abstractmethod
    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[B]:
        """This rank's batches of steps first_step .. num_steps - 1."""

    @abstractmethod
    def splits(self) -> tuple[Split, Split]:
        """What is trained on and what is tested on, of open data."""

    @property
    def classes(self) -> tuple[int, str]:
        """How many classes or labels there are, and the hash of their names; none by default."""
        return 0, ""

    def seen(self) -> ShardsSeen:
        """The data, for run.json."""
        (train, test), (num_classes, sha256) = self.splits(), self.classes
        index, field = train.index, self.config.data.depth
        return ShardsSeen(
            path=self.data,
            source=index.source,
            train_fingerprint=index.fingerprint,
            val_fingerprint=test.index.fingerprint,
            num_train=self.num_train,
            num_val=len(test),
            num_classes=num_classes,
            classes_sha256=sha256,
            depth_field=field,
            depth_fingerprints={
                split.index.split: split.depth_fingerprint(field) for split in (train, test) if field in split.sidecars
            },
            **self.depth_seen(),
        )

    def depth_seen(self) -> dict[str, Any]:
        """How the depth it reads was standardised and by whom it was estimated."""
        return provenance.seen(self.splits()[0].index, self.config.data.depth)

    @property
    def epochs(self) -> Epochs:
        return Epochs(self.config.optim, self.num_train)

    def facts(self) -> dict[str, Any]:
        """What run.json says besides, by field."""
        return {}

    # --- what comes of it ------------------------------------------------------------------------------------------

    def is_due(self, epoch: int) -> bool:
        """Whether an evaluation follows this epoch."""
        return epoch % self.config.runtime.eval_every == 0

    @abstractmethod
    def evaluate(self, model: nn.Module, machine: Machine) -> Found:
        """On the data that choose a checkpoint, shared between ranks; leaves the model in evaluation mode."""

    def record(self, found: Any, at: At, other_depth: Sequence[str] = ()) -> BaseModel:
        """What an evaluation found, as RUN/evaluations keeps it; this one of `Scores`."""
        refuse_diverged(found.loss, f"{self.config.model.name}, {at.checkpoint}")
        split = self.splits()[1]
        return ScoresEvaluation(
            task=self.kind,
            model=self.config.model.name,
            checkpoint=at.checkpoint,
            epoch=at.epoch,
            checkpoint_sha256=at.sha256,
            data=split.data,
            split=split.index.split,
            fingerprint=split.index.fingerprint,
            depth_field=self.config.data.depth,
            num_samples=found.num_samples,
            scores=found.scores,
            loss=found.loss,
            other_depth=list(other_depth),
        )

    def conclude(self, found: Found, out: Path, at: At, machine: Machine) -> BaseModel:
        """The record a finished run ends with, whose last evaluation found `found`; called on every rank."""
        return self.record(found, at)

    def examine(self, loaded: "LoadedRun", asked: Examination) -> Result:
        """A finished run on any data, by `train evaluate`; called on every rank.

        This one evaluates on what chooses a checkpoint, of the val that `open` finds there.
        """
        target, own = asked.target, self.config.data.depth
        if asked.multi_scale or asked.split != "val" or target.depth not in (None, own):
            raise DataError(
                f"runs of {self.made_by} are evaluated on val and their own depth, {own}: leave out --multi-scale, "
                "--split and --depth"
            )
        self.open(target.data)
        other = target.opened(loaded.record.shards, self.splits()[1], self.config.data.depth)
        with asked.meter("evaluate", self.num_val) as advance:
            found = self.evaluate(loaded.model.to(asked.machine.device), asked.machine)
            advance(self.num_val)
        record = self.record(found, At.of(loaded.saved), other)
        name = f"val-{self.config.data.depth}-{loaded.saved.name}"
        return Result(record, target.place(name, loaded.record.shards, self.splits()[1]))

    @classmethod
    def tables(cls, result: Any) -> list[Table]:
        """A record for people; this one of `Scores`."""
        table = Table("score", "value", title=f"{result.model}, {result.num_samples:,} samples")
        for name, value in result.scores.items():
            table.add_row(name, f"{value:.4f}")
        return [table]


@dataclass(frozen=True)
class LoadedRun:
    """A run's model read back from a checkpoint, on the CPU; averaged weights where the run kept an average."""

    folder: Path
    task: Task[Any, Any]
    record: RunRecord
    saved: Checkpoint
    model: Any
