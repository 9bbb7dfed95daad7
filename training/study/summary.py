"""What is told of a study: its table at the end, what failed, and what it would take."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from training.study.plan import Plan, Unit
from training.study.stages import STAGES
from training.study.work import is_claimed, outcome_of

There = Mapping[str, set[str]]  # unit -> stages that are there


def there_now(plan: Plan) -> There:
    return {unit.name: {name for name, part in unit.parts.items() if part.is_there} for unit in plan.units}


def conclusion(plan: Plan, before: There, began: float) -> tuple[Table, list[str], list[str]]:
    """The table of units by stages; what failed or was left, a line each; the units that others are still making.

    `before` is what was there when the study began, at `began`.
    """
    claimed = {unit.name for unit in plan.units if is_claimed(plan.out, unit.name)}  # first: what ends later is there
    now = there_now(plan)
    columns = [name for name in (*STAGES, "matrix") if any(name in unit.parts for unit in plan.units)]
    table = Table("run", *columns, "hours")
    failures, elsewhere = [], []
    for unit in sorted(plan.units, key=lambda unit: unit.name):
        outcome = outcome_of(plan.out, unit.name)
        failed = outcome.failed if outcome.when >= began else None
        cells = dict.fromkeys(unit.parts, "open")
        cells |= {name: "done" if name in before[unit.name] else "made" for name in now[unit.name]}
        if "open" in cells.values():
            if claimed & {unit.name, *unit.waits_for}:
                elsewhere.append(unit.name)
            elif failed:
                cells[failed.split(":")[0]] = "failed"
                failures.append(f"{unit.name} failed in {failed}")
            elif unit.waits_for:
                failures.append(f"{unit.name} waits for {', '.join(unit.waits_for)}")
            else:
                failures.append(f"{unit.name} is not finished, its process ended early: the same line goes on")
        hours = sum(outcome.seconds.values()) / 3600
        table.add_row(unit.name, *(cells.get(name, "") for name in columns), f"{hours:.3f}")
    return table, failures, elsewhere


def open_units(plan: Plan) -> list[Unit]:
    now = there_now(plan)
    return [unit for unit in plan.units if now[unit.name] != unit.parts.keys()]


def sbatch(plan: Plan, study: Path) -> str:
    """A job array, a task a unit that is open."""
    num_tasks = len(open_units(plan))
    cores = 2 + max(run.config.runtime.workers for run in plan.runs)
    command = shlex.join([sys.executable, "-m", "training.cli", "study", str(study), "--out", str(plan.out)])
    return f"""#!/bin/bash
# Each task takes the next run that nobody has claimed, until there is none. Submit it again until all is made.
#SBATCH --job-name=study --array=0-{max(0, num_tasks - 1)}
#SBATCH --gpus=1 --cpus-per-task={cores} --time=24:00:00
#SBATCH --requeue --signal=USR1@120
srun --ntasks=1 {command}
"""
