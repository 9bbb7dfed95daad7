"""`train study --dry-run`: hours and disk of what is not made yet, from a few real steps a model."""

from collections.abc import Sequence

from rich.table import Table

from training.dumping.dump import plan_dump
from training.dumps.estimate import estimated_bytes
from training.engine.checkpoint import Checkpoint, CheckpointInfo, steps_of
from training.engine.describe import describe
from training.engine.dry_run import RunEstimate, estimate
from training.engine.machine import Machine
from training.engine.ranks import Ranks
from training.study.plan import TABLE3, Plan
from training.study.stages import StudyRun, asked
from training.study.summary import there_now
from training.tasks.classification.config import Config
from training.tasks.classification.task import PreTraining

NOT_ESTIMATED = (
    "not estimated: hours of evaluations, dumps, noise, gap and fine-tuning; disk of fine-tuned runs and logs"
)


def table_of(plan: Plan) -> Table:
    """A row a unit and the sum; every model is measured once, writing nothing."""
    now = there_now(plan)
    measured: dict[str, RunEstimate] = {}
    table = Table("run", "is there", "to make", "hours", "GB", title=f"dry run: {plan.out}", caption=NOT_ESTIMATED)
    total_s = total_bytes = 0.0
    for run in sorted(plan.runs, key=lambda run: run.folder.name):
        name, model = run.folder.name, run.config.model.name
        missing = [stage for stage in run.stages if stage not in now[name]]
        seconds = num_bytes = 0.0
        if "pretrain" in missing:
            if model not in measured:
                task = PreTraining(run.config)
                task.open(plan.file.data)
                measured[model] = estimate(task, Ranks())
            done = max(steps_of(run.folder), default=0)
            seconds = measured[model].step_s * (measured[model].num_steps - done)
            num_bytes += measured[model].disk_bytes
        if "dump" in missing:
            num_bytes += _dump_bytes(plan, run)
        total_s, total_bytes = total_s + seconds, total_bytes + num_bytes
        table.add_row(name, *_words(run.stages, missing), f"{seconds / 3600:.3f}", f"{num_bytes / 1e9:.2f}")
    for unit in plan.units:
        if unit.name == TABLE3:
            missing = [stage for stage in unit.parts if stage not in now[unit.name]]
            table.add_row(unit.name, *_words(list(unit.parts), missing), "", "")
    table.add_row("all", "", "", f"{total_s / 3600:.3f}", f"{total_bytes / 1e9:.2f}")
    return table


def _words(stages: Sequence[str], missing: list[str]) -> tuple[str, str]:
    return ", ".join(stage for stage in stages if stage not in missing), ", ".join(missing)


def _dump_bytes(plan: Plan, run: StudyRun) -> int:
    """At most, of all dumps of a run."""
    config: Config = run.config
    task = PreTraining(config)
    task.open(plan.file.data)
    model = task.build()
    record = describe(run.folder.name, task, model, Machine.here(config), None)
    saved = Checkpoint(run.folder / "step-1", CheckpointInfo(1, 1, "0" * 64, record.study_hash), {})
    return sum(
        estimated_bytes(
            plan_dump(
                config, record, saved, model, task.val, config.data.depth, num_images=plan.file.dump.images,
                num_raw=one.raw, num_causal=one.causal,
            )
        )
        for one in asked(plan.file, run)
    )  # fmt: skip
