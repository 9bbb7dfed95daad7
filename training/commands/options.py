"""What the commands of `train` have in common: options, the console, tables, what is said of a lack of memory."""

import re
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.errors import UserError, plain
from pipeline.terminal import make_console, print_table

if TYPE_CHECKING:
    from pipeline.shards import Split
    from training.records import SegmentationEvaluation

console = make_console()

Data = Annotated[
    str, typer.Option("--data", help="Shards made by precompute-depth (holding train/ and val/): a folder or a URL.")
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder made by `train pretrain` or `train finetune`.")
]
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
Profile = Annotated[bool, typer.Option("--profile", help="Watch steps 6 to 10: a table, and a trace in OUT/profile.")]
AcceptOther = Annotated[
    bool,
    typer.Option(
        "--accept-other-depth",
        help="Go on where the shards' depth is by another teacher, or standardised otherwise, than the run's was.",
    ),
]
CheckpointName = Annotated[str, typer.Option("--checkpoint", help="latest, best, epoch-N or step-N.")]


def result_table(model: str, depth: str, count: int, top1: float, top5: float) -> None:
    table = Table("model", "depth", "samples", "top-1", "top-5")
    table.add_row(model, depth, f"{count:,}", f"{top1:.2%}", f"{top5:.2%}")
    print_table(console, table)


def told(note: str) -> None:
    console.print(plain(note), soft_wrap=True)


def foreign_name(split: "Split") -> str:
    """What marks the files of shards that are not a run's own: their folder's name and the start of their hash."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", split.data.rstrip("/").rsplit("/", 1)[-1])[:60] or "data"
    return f"{name}-{split.index.fingerprint[:6]}"


def refuse_ranks(what: str) -> None:
    """Of what one process does."""
    from training.engine.ranks import RanksError, world_size

    if world_size() > 1:
        raise RanksError(f"{what} by one process: start it without torchrun, or with srun --ntasks 1")


def written(where: object) -> None:
    console.print(f"written to {where}", soft_wrap=True)


def segmentation_table(result: "SegmentationEvaluation") -> None:
    table = Table("model", "depth", "images", "mIoU", "pixels right", "seen")
    for seen, scores in (("as they are", result.single), (f"{2 * len(result.scales)} views", result.multi)):
        if scores is not None:
            table.add_row(
                result.model, result.depth_field, f"{result.num_samples:,}", f"{scores.miou:.2%}",
                f"{scores.pixel_accuracy:.2%}", seen,
            )  # fmt: skip
    print_table(console, table)
    chosen = {
        "best-on-val": ", chosen by scenes set aside from the training split",
        "best-on-test": ", chosen by the test split",
    }.get(result.selection, "")
    console.print(f"checkpoint {result.checkpoint}, epoch {result.epoch}{chosen}", soft_wrap=True)


def classes_table(result: "SegmentationEvaluation") -> None:
    """IoU of each class, of the best way to predict there is, with its share of the labelled pixels."""
    scores = result.multi or result.single
    table = Table("class", "IoU", "of the labelled pixels", title="the sum's" if result.multi else None)
    total = max(1, sum(map(sum, scores.confusion)))
    for name, iou, row in zip(result.classes, scores.class_iou, scores.confusion, strict=True):
        table.add_row(name, "–" if iou is None else f"{iou:.1%}", f"{sum(row) / total:.2%}")
    print_table(console, table)


def meter(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    from training.engine.log import meter as bar

    return bar(console, label, total)


def explained(error: Exception) -> Exception | None:
    """What to say where memory or a worker is lacking, not the code at fault.

    torch's handler raises once more for the next worker that ends, wherever this is then: from here on it is not asked.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not isinstance(error, RuntimeError):
        return None
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        trains = sys.argv[1:2] in (["pretrain"], ["finetune"], ["matrix"], ["study"])
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
