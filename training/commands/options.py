"""What the commands of `train` have in common: options, the console, tables, what is said of a lack of memory."""

import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.errors import UserError, plain
from pipeline.terminal import make_console, print_table

if TYPE_CHECKING:
    from training.config import StudyConfig
    from training.engine.machine import Machine
    from training.engine.task import Asked, Task

console = make_console()

TaskChoice = Literal["segmentation", "classification"]
HeadChoice = Literal["linear", "pyramid", "ham"]
SelectChoice = Literal["best-on-val", "best-on-test"]
SplitChoice = Literal["train", "val"]
PatchDepthChoice = Literal["mean", "center4"]


class NoiseChoice(StrEnum):  # typer takes no list of Literals
    pixel = "pixel"
    patch = "patch"


Data = Annotated[
    str, typer.Option("--data", help="Shards made by precompute-depth (holding train/ and val/): a folder or a URL.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `train` made.")]
PretrainedRun = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder made by `train pretrain`.")]
RunOut = Annotated[Path, typer.Option("--out", help="Run folder to make: run.json, metrics.jsonl, checkpoints/.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the preset, e.g. --set optim.lr=5e-4."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest intact checkpoint in --out, or begin there.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="A few steps, then say what the run would take. Writes nothing.")
]
PrintConfig = Annotated[
    bool,
    typer.Option("--print-config", help="Print the resolved configuration, a TOML file that --preset takes, and stop."),
]
Profile = Annotated[bool, typer.Option("--profile", help="Watch steps 6 to 10: a table, and a trace in OUT/profile.")]
AcceptOther = Annotated[
    bool,
    typer.Option(
        "--accept-other-depth",
        help="Go on where the shards' depth is by another teacher, or standardised otherwise, than the run's was.",
    ),
]
CheckpointName = Annotated[str, typer.Option("--checkpoint", help="latest, best, epoch-N or step-N.")]


def told(note: str) -> None:
    console.print(plain(note), soft_wrap=True)


Sigmas = Annotated[
    str | None,
    typer.Option(
        "--sigma", metavar="LIST", show_default="0,0.05,0.1,0.2,0.3,0.5,0.75,1,1.5,2,3",
        help="Strengths of the noise, in units of z (standard deviations of the data set's depth).",
    ),
]  # fmt: skip

ResultOut = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the result; default RUN/evaluations. For a run that cannot be written to."),
]
NoiseSeed = Annotated[int, typer.Option("--noise-seed", min=0, help="Another draw of the noise.")]


def train_or_try(
    kind: "type[Task[Any, Any]]", asked: "Asked", dry_run: bool, profile: bool, print_config: bool
) -> None:  # fmt: skip
    """What all commands that train have in common."""
    import training.engine.dry_run
    from training.config import as_toml
    from training.engine.loop import train

    task = kind.of(asked, (lambda note: told(f"# {note}")) if print_config else told)  # a comment of the TOML
    if print_config:
        print(as_toml(task.config), end="")
        return
    if dry_run:
        if table := training.engine.dry_run.dry_run(task, asked.data, asked.out):
            print_table(console, table)
        return
    result = train(task, asked.data, asked.out, resume=asked.resume, console=console, profile=profile)
    if result is not None:
        for table in task.tables(result):
            print_table(console, table)
        written(asked.out)


def refuse_ranks(what: str) -> None:
    """Of what one process does."""
    from training.engine.ranks import RanksError, world_size

    if world_size() > 1:
        raise RanksError(f"{what} by one process: start it without torchrun, or with srun --ntasks 1")


def written(where: object) -> None:
    console.print(f"written to {where}", soft_wrap=True)


def tell_of_precision(machine: "Machine", config: "StudyConfig") -> None:
    from training.engine.machine import slow_precision

    if note := slow_precision(config, machine.device):
        told(note)


def meter(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    from training.engine import log

    return log.meter(console, label, total)


def explained(error: Exception) -> Exception | None:
    """What to say where memory or a worker is lacking, not the code at fault.

    torch's handler raises once more for the next worker that ends, wherever this is then: from here on it is not asked.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not isinstance(error, RuntimeError):
        return None
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        trains = sys.argv[1:2] in (["pretrain"], ["finetune"], ["depth"], ["matrix"], ["study"])
        fix = (
            "--set runtime.micro_batch lower (gradients are accumulated)"
            if trains
            else "free some, or use a larger one"
        )
        return UserError(f"this machine's memory does not hold a batch: {fix}")
    # torch reports a dead worker wherever the main thread happens to be.
    if "DataLoader worker" not in str(error):
        return None
    from training.loading.data import worker_died

    return worker_died(error)
