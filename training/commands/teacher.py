"""train teacher: the depth estimator that labels toy rooms."""

from typing import Annotated

import typer

from training.commands.options import DryRun, PrintConfig, Profile, Resume, RunOut, Settings, train_or_try


def teacher(
    data: Annotated[str, typer.Option("--data", help="Shards with `exact` depth (toyrooms --teacher none).")],
    out: RunOut,
    preset: Annotated[str, typer.Option("--preset", help="toy, or a TOML file.")] = "toy",
    settings: Settings = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    profile: Profile = False,
    print_config: PrintConfig = False,
) -> None:
    """Train the tiny Depth Anything that labels toy rooms, from shards with rendered depth.

    A run like any other, which ends with OUT/teacher: `precompute-depth --teacher OUT` labels with it. Its scores stand
    beside those of the mean depth of each position, which is what can be said without looking.

    Examples:

        precompute-depth toyrooms rooms --teacher none --samples 120000 --seed 1000

        train teacher --data rooms --out my-teacher

        precompute-depth folder photos shards --teacher my-teacher
    """
    from training.engine.task import Asked
    from training.tasks.depth.task import TeacherTraining

    asked = Asked(data, out, preset, settings=settings or [], resume=resume)
    train_or_try(TeacherTraining, asked, dry_run, profile, print_config)
