"""A run read back, whatever its task."""

import os
from pathlib import Path
from typing import Any

from training.config import StudyConfig, brought_up, validated
from training.engine import checkpoint, frozen
from training.engine.machine import TrainingError
from training.engine.task import LoadedRun, Task
from training.models.vit import built_for, load_checked
from training.records import RunRecord, parse
from training.tasks.registry import TASKS


def load(run: Path, name: str | None = None, made_by: str | None = None) -> LoadedRun:
    """The model of a run's checkpoint (`latest`, `best`, `epoch-<n>`, `step-<n>`; by default what its task reports).

    TrainingError where the run is not of the command `made_by`.
    """
    task, record = described(run)
    if made_by not in (None, task.made_by):
        raise TrainingError(f"{run} must be a run of {made_by}, {task.made_by} made it: give another")
    saved = checkpoint.load(checkpoint.find(run, name or task.chosen))
    if saved.info.study_hash != record.study_hash:
        raise TrainingError(f"{saved.folder} belongs to another run than {run}: restore this run's own checkpoints")
    if not task.frozen:
        return LoadedRun(run, task, record, saved, built_for(task.build, saved.weights, str(saved.folder)))
    model = task.build()
    report = task.initialise(model)
    if report.sha256 != record.init_sha256:
        raise TrainingError(
            f"the weights at {task.config.init} are not those that {run} keeps frozen (sha256 {record.init_sha256}): "
            "restore them"
        )
    load_checked(model, frozen.whole(saved.weights, model, task.frozen), str(saved.folder))
    return LoadedRun(run, task, record, saved, model)


def described(run: Path) -> tuple[Task[Any, Any], RunRecord]:
    """What a run is, without its weights; its configuration is for this machine, whatever it was trained on."""
    record = parse(RunRecord, run / "run.json")
    if record.task not in TASKS:
        raise TrainingError(
            f"{run} is of task {record.task!r}, this version has {', '.join(TASKS)}: use the version that made it"
        )
    kind = TASKS[record.task]
    config: StudyConfig = validated(brought_up(record.config), kind.schema)
    here = {"device": "auto", "workers": min(config.runtime.workers, os.cpu_count() or 1)}
    runtime = config.runtime.model_copy(update=here)
    return kind(config.model_copy(update={"runtime": runtime})), record
