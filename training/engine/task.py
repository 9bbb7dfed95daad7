"""What a run does, apart from going on: which data it reads, what it evaluates, what it leaves behind.

`PreTraining` (tasks/classification) classifies images, `FineTuning` (tasks/segmentation) labels pixels; the
loop runs either.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from training.engine.ranks import Ranks
from training.engine.share import Share
from training.models.pretrained import Report
from training.records import AnyEvaluation, MetricsLine, RunRecord
from training.tasks.classification.online import OnlineDepth


class Found(Protocol):
    """What an evaluation found; `str` of it is for people."""

    @property
    def score(self) -> float:
        """The higher the better: the checkpoint of the highest is kept as `best`."""

    @property
    def loss(self) -> float: ...

    def line(self, step: int, epoch: int) -> MetricsLine: ...


@dataclass(frozen=True)
class Machine:
    """Where a run runs. `between` is called between batches of an evaluation, as often on every rank; it may raise."""

    device: torch.device
    autocast: Callable[[], AbstractContextManager[None]]
    ranks: Ranks
    between: Callable[[], None] = lambda: None


class Task(Protocol):
    num_steps: int
    num_train: int  # samples
    num_val: int  # samples of an evaluation

    @property
    def label(self) -> str:
        """What the progress bar calls the run."""

    def build(self) -> nn.Module: ...

    def initialise(self, model: nn.Module) -> Report:
        """Load `config.init`."""

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[Any]: ...

    def epoch_at(self, step: int) -> float: ...

    def epochs_done(self, step: int) -> int:
        """Whole epochs in the first `step` batches; the last step ends the last epoch."""

    def is_due(self, epoch: int) -> bool:
        """Whether an evaluation follows this epoch."""

    def describe(
        self, name: str, model: nn.Module, machine: Machine, report: Report | None, teacher: OnlineDepth | None
    ) -> RunRecord: ...

    def evaluate(self, model: nn.Module, machine: Machine, teacher: OnlineDepth | None) -> Found: ...

    def conclude(self, found: Found, out: Path, step: int, machine: Machine) -> AnyEvaluation:
        """The final evaluation of a run whose last evaluation found `found`; called on every rank."""
