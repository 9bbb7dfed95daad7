"""What an evaluation found, of which weights."""

import math
from dataclasses import dataclass
from typing import Protocol

from training.engine.checkpoint import Checkpoint
from training.engine.share import DataError
from training.records import MetricsLine, ScoresLine


class Found(Protocol):
    """What an evaluation found; `str` of it is for people."""

    @property
    def score(self) -> float:
        """Above -1, the higher the better: the checkpoint of the highest is kept as `best`."""

    @property
    def loss(self) -> float: ...

    def line(self, step: int, epoch: int) -> MetricsLine: ...


@dataclass(frozen=True)
class Scores:
    """A `Found` of numbers by name, for tasks without a record of their own; `score` is what chooses a checkpoint."""

    scores: dict[str, float]
    score: float
    loss: float
    num_samples: int
    seconds: float = 0.0

    def line(self, step: int, epoch: int) -> ScoresLine:
        return ScoresLine(
            step=step, epoch=epoch, scores=self.scores, loss=self.loss, num_samples=self.num_samples,
            seconds=self.seconds,
        )  # fmt: skip

    def __str__(self) -> str:
        shown = [f"{name} {value:.3f}" for name, value in self.scores.items() if not name.startswith("position_")]
        return "  ".join(shown[:4])


@dataclass(frozen=True)
class At:
    """Which weights an evaluation was of."""

    checkpoint: str  # its name
    epoch: int
    sha256: str = ""

    @classmethod
    def of(cls, saved: Checkpoint) -> "At":
        return cls(saved.name, saved.info.epoch, saved.info.sha256)


def refuse_diverged(loss: float, which: str) -> None:
    """A result without a finite loss would be no result: whoever reads it would have to guess why."""
    if not math.isfinite(loss):
        raise DataError(
            f"the loss of {which} is {loss}: its weights have diverged. Choose an earlier one with --checkpoint epoch-N"
        )
