"""train status: how far runs are. Imports no torch."""

import fcntl
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pipeline.errors import UserError
from pipeline.terminal import print_table
from training.commands.options import console


def status(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
) -> None:
    """Say of every run how far it is: step, time left, last accuracy, and whether a process is at it.

    Looks at files alone, so it may be asked while runs go on, from any machine that sees them.

    Example:

        train status runs
    """
    found = sorted({run for folder in runs for run in _runs_in(folder)})
    table = Table("run", "model", "depth", "step", "epoch", "last score", "images/s", "time left", "state")
    for run in found:
        table.add_row(*_row(run))
    print_table(console, table)


def _runs_in(folder: Path) -> list[Path]:
    if (folder / "run.json").is_file():
        return [folder]
    inside = [path.parent for path in folder.glob("*/run.json")]
    if not inside:
        what = "holds no run" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}: give folders made by train pretrain, finetune or teacher")
    return inside


def _row(run: Path) -> list[str]:
    from training.records import EndLine, RecordError, RunRecord, TrainLine, parse, read_metrics

    try:
        record = parse(RunRecord, run / "run.json")
        lines = read_metrics(run / "metrics.jsonl")
    except RecordError as error:
        return [run.name, "", "", "", "", "", "", "", f"damaged: {error}"]
    last = lines[-1] if lines else None
    step, epoch = (last.step, last.epoch) if last else (0, 0)
    trained = [line for line in lines if isinstance(line, TrainLine)]
    scores = [text for line in lines if (text := _score(line))]
    speed = trained[-1].images_per_s if trained else 0.0
    ended = isinstance(last, EndLine)
    left_s = (record.num_steps - step) * record.config["optim"]["batch_size"] / speed if speed and not ended else 0.0
    state = "finished" if ended else "running" if _is_held(run) else "stopped"
    return [
        run.name, record.model, record.shards.depth_field, f"{step:,}/{record.num_steps:,}", f"{epoch:g}",
        scores[-1] if scores else "", f"{speed:,.0f}" if speed else "", _duration(left_s) if left_s else "", state,
    ]  # fmt: skip


def _score(line: object) -> str:
    from training.records import EvalLine, ScoresLine, SegmentationLine

    if isinstance(line, EvalLine):
        return f"top-1 {line.top1:.1%}"
    if isinstance(line, SegmentationLine):
        return f"mIoU {line.miou:.1%}"
    if isinstance(line, ScoresLine) and line.scores:
        name, value = next(iter(line.scores.items()))
        return f"{name} {value:.3f}"
    return ""


def _is_held(run: Path) -> bool:
    """Whether a process of this file system's holds the run's lock; looks, and lets go."""
    try:
        lock = os.open(run / ".lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
