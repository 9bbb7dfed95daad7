"""train task: any task by its name, for those that have no command of their own."""

from typing import Annotated

import typer

from training.commands.options import Data, DryRun, PrintConfig, Profile, Resume, RunOut, Settings, train_or_try


def task(
    name: Annotated[str, typer.Argument(metavar="TASK", help="A name of training/tasks/registry.py.")],
    data: Data,
    out: RunOut,
    preset: Annotated[str, typer.Option("--preset", help="Of training/presets/TASK, or a TOML file.")],
    model: Annotated[str | None, typer.Option("--model", help="Where the task has several.")] = None,
    init: Annotated[str | None, typer.Option("--init", help="Weights to start from.")] = None,
    depth: Annotated[str | None, typer.Option("--depth", help="The depth field; default: the preset's.")] = None,
    settings: Settings = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    profile: Profile = False,
    print_config: PrintConfig = False,
) -> None:
    """Train a task of your own: a folder in training/tasks, a line in its registry and a preset.

    `train pretrain`, `finetune`, `teacher` and `depth` are the same with options of their own.

    Example:

        train task classification --preset tiny --model m4ch --data demo/shards --out runs/m4ch
    """
    from training.config import ConfigError
    from training.engine.task import Asked
    from training.tasks.registry import TASKS

    if name not in TASKS:
        raise ConfigError(f"TASK must be one of {', '.join(TASKS)}, got {name!r}")
    train_or_try(
        TASKS[name],
        Asked(data, out, preset, model, init, depth, settings or [], resume),
        dry_run,
        profile,
        print_config,
    )
