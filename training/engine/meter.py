"""What lies between two lines of metrics: mean loss and gradient norm, throughput, and time spent waiting for data."""

import time
from collections.abc import Iterator
from typing import Any, TypeVar

from training.engine.step import StepSummary
from training.records import TrainLine

_Batch = TypeVar("_Batch")


class StepMeter:
    """Sums since the last line: part of a checkpoint, so that a resume writes the same lines. Timings are not."""

    def __init__(self) -> None:
        self.train_seconds = 0.0  # of all steps, over all resumes
        self._begin()
        self._sums = {"loss": 0.0, "grad_norm": 0.0, "steps": 0}

    def _begin(self) -> None:
        self._start, self._waited_s, self._steps_timed = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """The batches; the time until each is there counts as waiting."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self._waited_s += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def add(self, summary: StepSummary, seconds: float) -> None:
        self._sums["loss"] += summary.loss
        self._sums["grad_norm"] += summary.grad_norm
        self._sums["steps"] += 1
        self._steps_timed += 1
        self.train_seconds += seconds

    def leave_out(self, seconds: float) -> None:
        """Time that is not the trainer's: an evaluation."""
        self._start += seconds

    def line(self, step: int, epoch: float, lr: float, batch_size: int) -> TrainLine:
        """The line that ends here; the next begins."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        line = TrainLine(
            step=step,
            epoch=epoch,
            loss=self._sums["loss"] / self._sums["steps"],
            lr=lr,
            grad_norm=self._sums["grad_norm"] / self._sums["steps"],
            images_per_s=self._steps_timed * batch_size / elapsed,
            data_wait=self._waited_s / elapsed,
        )
        self._sums = {"loss": 0.0, "grad_norm": 0.0, "steps": 0}
        self._begin()
        return line

    def state(self) -> dict[str, Any]:
        return {"window": dict(self._sums), "train_seconds": self.train_seconds}

    def load(self, state: dict[str, Any]) -> None:
        self._sums, self.train_seconds = dict(state["window"]), state["train_seconds"]
