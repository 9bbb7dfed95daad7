"""A study's units of work, checked against its shards and against what its folder holds. Writes nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import files, shards
from training.config import ConfigError
from training.engine.machine import TrainingError
from training.engine.resume import refuse_changes
from training.engine.task import Task
from training.noise.gap import open_pairs
from training.records import RunRecord, ShardsSeen, parse
from training.study.config import Runs, StudyFile
from training.study.stages import STAGES, StudyRun, is_finished, is_there
from training.study.tuning import Table3, TuningRow
from training.tasks.classification.config import Config, resolve
from training.tasks.classification.data import check_classes, classes_sha256
from training.tasks.classification.task import PreTraining
from training.tasks.segmentation.task import FineTuning

TABLE3 = "table3"


class StagePart(NamedTuple):
    """One stage of one unit."""

    test: Callable[[], bool]
    make: Callable[[], None]

    @property
    def is_there(self) -> bool:
        return is_there(self.test)


@dataclass(frozen=True)
class Unit:
    """What one process does at once: a run with all its stages, or Table 3, which waits for its runs."""

    name: str
    parts: Mapping[str, StagePart]
    after: Sequence[Path] = ()

    @property
    def waits_for(self) -> list[str]:
        return [run.name for run in self.after if not is_there(partial(is_finished, run))]


@dataclass(frozen=True)
class Plan:
    """`units` in the order in which they are taken."""

    file: StudyFile
    out: Path
    runs: tuple[StudyRun, ...]
    units: tuple[Unit, ...]


def planned(file: StudyFile, out: Path) -> Plan:
    """The plan; UserError where a run could not be made, or was begun with other settings."""
    if blocked := next((path for path in (out, *out.absolute().parents) if path.exists() and not path.is_dir()), None):
        raise ConfigError(f"--out {blocked} is a file: choose a folder")
    files.check_writable(out / "x.json")
    splits = [shards.open_split(file.data, split) for split in shards.SPLITS]
    check_classes(splits[1], classes_sha256(splits[0]))
    num_classes = len(splits[0].index.class_names) or None
    if file.pairs is not None:
        open_pairs(file.pairs, "real")
    runs = tuple(run for some in file.runs for run in _runs(file, some, out, num_classes))
    for run in runs:
        task = PreTraining(run.config)
        task.open(file.data)
        _refuse_changed(run.folder, task, task.seen())
    table3 = _table3(file, out, runs)
    needed = {row.run.folder for row in table3.rows} if table3 else set()
    units = [Unit(run.folder.name, {name: _part(name, file, run) for name in run.stages}) for run in runs]
    # What Table 3 waits for first, then what has most to do; the file's order else.
    units.sort(key=lambda unit: (out / "runs" / unit.name not in needed, -len(unit.parts)))
    if table3:
        units.insert(0, Unit(TABLE3, {"matrix": StagePart(table3.is_there, table3.make)}, sorted(needed)))
    return Plan(file, out, runs, tuple(units))


def _part(stage: str, file: StudyFile, run: StudyRun) -> StagePart:
    return StagePart(partial(STAGES[stage].is_there, file, run), partial(STAGES[stage].make, file, run))


def _runs(file: StudyFile, some: Runs, out: Path, num_classes: int | None) -> list[StudyRun]:
    checkpoints = file.dump.checkpoints if some.checkpoints is None else some.checkpoints
    found = []
    for model, depth, seed in some.named:
        settings = [*file.settings, f"data.depth={depth}", f"seed={seed}"]
        config = resolve(file.preset, model, settings, num_classes)
        stages = [stage for stage in STAGES if stage == "pretrain" or stage in some.stages]
        if "dump" in stages:
            _check_kept(config, checkpoints)
        found.append(StudyRun(out / "runs" / f"{model}-{depth}-{seed}", config, stages, checkpoints))
    return found


def _check_kept(config: Config, checkpoints: Sequence[str]) -> None:
    kept = [f"epoch-{epoch}" for epoch in config.runtime.snapshot_epochs if epoch <= config.optim.epochs]
    for name in checkpoints:
        if name not in ("best", *kept):
            raise ConfigError(
                f"checkpoints must be of best, {', '.join(kept)}, which the runs keep, got {name!r}: leave it out, or "
                "add its epoch to settings' runtime.snapshot_epochs"
            )


def _table3(file: StudyFile, out: Path, runs: Sequence[StudyRun]) -> Table3 | None:
    if file.matrix is None:
        return None
    by_name = {run.folder.name: run for run in runs}
    rows = [
        TuningRow(by_name[each.name], seed)
        for some in file.matrix.runs
        for each in some.named
        for seed in some.tuning_seeds
    ]
    table3 = Table3(out / TABLE3, file.matrix, tuple(rows))
    table3.splits()
    for folder, config in table3.configs():
        _refuse_changed(folder, FineTuning(config))
    return table3


def _refuse_changed(folder: Path, task: Task[Any, Any], seen: ShardsSeen | None = None) -> None:
    """TrainingError where a run was begun otherwise; its shards are compared where those of now are given."""
    if not (folder / "run.json").exists():
        return
    begun = parse(RunRecord, folder / "run.json")
    if begun.task != task.kind:
        raise TrainingError(f"{folder} holds a run of another kind, {begun.task}: choose another --out")
    now = {"name": folder, "config": task.config.model_dump(mode="json"), "shards": seen or begun.shards}
    refuse_changes(begun, begun.model_copy(update=now))
