"""What a run says: run.json, metrics.jsonl and trackers for machines, a progress bar or plain lines for people."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import files
from training.config import StudyConfig
from training.engine.trackers import TensorBoard, Tracker, open_trackers, scalars
from training.records import MetricsLine, read_metrics


def write_json(run: Path, name: str, record: BaseModel) -> Path:
    """Write RUN/NAME (`evaluations/val-final.json`), whole or not at all, through no link below RUN; where it lies."""
    *folders, file = name.split("/")
    return files.write_whole(files.folder_in(run, *folders) / file, record.model_dump_json(indent=1))


class RunLog:
    """Appends to metrics.jsonl and tells the trackers; a rank that is not the first does neither.

    A resume keeps the first `num_lines` lines, those of its checkpoint, so that no line doubles.
    """

    def __init__(self, config: StudyConfig, out: Path, num_lines: int, resume_step: int, first: bool) -> None:
        self._file: TextIO | None = None
        self._trackers: list[Tracker] = []
        self.num_lines = num_lines
        if not first:
            return
        path = out / "metrics.jsonl"
        kept = [line for line in read_metrics(path)[:num_lines] if line.step <= resume_step]
        files.write_whole(path, "".join(_line(entry) for entry in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.num_lines = len(kept)
        self._trackers = open_trackers(config, out, resume_step)
        for line in kept:
            if line.step == resume_step:  # TensorBoard drops the checkpoint's own step too
                self._tell(line, only=TensorBoard)

    def write(self, entry: MetricsLine) -> None:
        if self._file is None:
            return
        self._file.write(_line(entry))
        self._file.flush()
        self.num_lines += 1
        self._tell(entry)

    def _tell(self, entry: MetricsLine, only: type = object) -> None:
        for tracker in self._trackers:
            if isinstance(tracker, only):
                tracker.log(scalars(entry), entry.step)

    def flush(self) -> None:
        """To the disk: a checkpoint that counts these lines is about to be written."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _line(entry: MetricsLine) -> str:
    return json.dumps(entry.model_dump(mode="json")) + "\n"


class TrainingProgress:
    """A bar with loss, images/s, share of time waiting for data and ETA; plain lines where there is no terminal."""

    def __init__(self, console: Console, label: str, first_step: int, num_steps: int) -> None:
        self.console, self.label, self.num_steps = console, label, num_steps
        self._bar: Progress | None = None
        if console.is_terminal:
            note = TextColumn("{task.fields[note]}")
            columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=num_steps, completed=first_step, note="")
            self._bar.start()

    def step(self, step: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=step)

    def note(self, step: int, loss: float, images_per_s: float, data_wait: float) -> None:
        text = f"loss {loss:.3f}  {images_per_s:,.0f} images/s  data wait {data_wait:.0%}"
        if self._bar:
            self._bar.update(self._task, completed=step, note=text)
        else:
            self.say(f"{self.label} step {step}/{self.num_steps}  {text}")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


@contextmanager
def meter(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """`with meter(console, "evaluate", total) as advance: advance(n)`: a bar with rate and ETA, on a terminal only."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    start, done = time.perf_counter(), 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, completed=done)

        yield advance
    seconds = time.perf_counter() - start
    console.print(f"{label}: {done:,} images in {seconds:.1f} s, {done / seconds:,.1f}/s", highlight=False)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
