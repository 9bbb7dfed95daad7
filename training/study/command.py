"""train study: everything from one file. Imports no torch before it is called."""

import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError, complain
from pipeline.terminal import print_table
from training.commands.options import console, refuse_ranks


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What the study is made of; see below.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to make: runs/MODEL-DEPTH-SEED/, and table3/ with a [matrix].")
    ],
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, max=256, help="Processes here, with a thread each (or OMP_NUM_THREADS)."),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which runs there are, and hours and disk. Writes nothing.")
    ] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print an sbatch script, a job array whose tasks share the runs, and stop.")
    ] = False,
    worker: Annotated[float | None, typer.Option("--worker", hidden=True)] = None,  # of a study that began then
) -> None:
    """Pre-train, dump and measure every run of a study, and fine-tune some: models x depths x seeds x stages.

    Each run is made by one process, `pretrain` first, then its stages: `dump`, `noise` (train evaluate --noise), `gap`.
    With a [matrix] some runs are fine-tuned for Table 3, as soon as they are there. What is finished and as asked for
    is reused, what was killed goes on. The same line may be started as often as there are machines on one folder:
    each takes the next run that nobody has claimed. A run that fails does not stop the others.

    A study file, its paths as on a command line; `settings`, `noise` and `[dump]` are options of `train`:

        data = "demo/shards"
        pairs = "demo/pairs"              # for gap
        preset = "tiny"
        settings = ["optim.epochs=30"]
        noise = ["pixel", "patch"]
        [dump]
        images = 1000
        causal = 500
        raw = 64
        checkpoints = ["epoch-0"]         # besides the last, without causal and raw
        [[runs]]                          # a table a kind of runs
        models = ["m4ch", "mlin"]
        depths = ["pseudo", "real"]
        seeds = [0, 1, 2]
        stages = ["dump", "noise", "gap"] # or none
        checkpoints = ["best"]            # in place of [dump]'s
        [matrix]
        data = "demo/shards"
        preset = "tiny"
        settings = []
        [[matrix.runs]]                   # of those above
        models = ["m4ch"]
        depths = ["pseudo"]
        seeds = [0]
        tuning_seeds = [0, 1]             # each is fine-tuned twice

    Examples:

        train study training/presets/study/demo.toml --out demo --jobs 2

        train study training/presets/study/demo.toml --out demo --dry-run

        train study my-study.toml --out study --slurm | sbatch
    """
    from training.study.config import read
    from training.study.jobs import run_workers
    from training.study.plan import planned
    from training.study.summary import conclusion, sbatch, there_now
    from training.study.work import work

    refuse_ranks("a study's run is made")
    plan = planned(read(file), out)
    if worker is not None:
        work(plan, worker)
        return
    if dry_run:
        from training.study.estimate import table_of

        print_table(console, table_of(plan))
        return
    if slurm:
        print(sbatch(plan, file), end="")
        return
    before, began = there_now(plan), time.time()
    if jobs > 1:
        run_workers(file, out, jobs, began)
    else:
        work(plan, began)
    table, failures, elsewhere = conclusion(plan, before, began)
    print_table(console, table)
    if elsewhere:
        console.print(f"other processes are still at {', '.join(elsewhere)}", soft_wrap=True)
    for failure in failures:
        complain(UserError(failure))
    if failures:
        raise typer.Exit(1)
