"""train: pretrain | finetune | teacher; measure.py, record.py and study/ hold the others. Heavy imports come late."""

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import errors
from pipeline.terminal import print_table
from training.commands import measure, record
from training.commands.options import (
    Data,
    DryRun,
    Profile,
    Resume,
    RunOut,
    Settings,
    console,
    explained,
    result_table,
    segmentation_table,
    told,
    written,
)
from training.commands.study import study

if TYPE_CHECKING:
    from training.engine.task import Task
    from training.runs import AnyConfig

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 2: pre-train RGB-D Vision Transformers, fine-tune and evaluate them, dump what attention does.\n\n"
    "Start with `train pretrain --preset tiny --model m4ch --data SHARDS --out runs/m4ch`.",
)


@app.command()
def pretrain(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="m3ch (RGB only), m4ch (depth channel), mlin, mmlp (bias on attention), mdf1, mgem (two branches).",
        ),
    ],
    data: Data,
    out: RunOut,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="tiny (minutes on a laptop), thesis (the paper's recipe) or modern (see its file)."
        ),
    ] = "tiny",
    init: Annotated[
        str | None,
        typer.Option(
            "--init", help="Start from weights: timm:NAME, a file (timm's or torchvision's ViT), a run or an export."
        ),
    ] = None,
    settings: Settings = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    profile: Profile = False,
) -> None:
    """Pre-train one model on RGB-D shards.

    The same shards, config and seed give the same result: a run that is killed and resumed ends with the same
    weights, bit for bit on a CPU with as many threads. SIGTERM and SIGUSR1 save a checkpoint first.

    Examples:

        train pretrain --preset tiny --model m4ch --data demo/shards --out runs/m4ch --set data.depth=real

        train pretrain --preset thesis --model mlin --data imagenet-rgbd --out runs/mlin --set runtime.workers=16

        torchrun --nproc-per-node 8 -m training.cli pretrain --preset modern --model mgem --data ... --out ... --resume

        train pretrain --preset thesis --model m4ch --init timm:vit_base_patch16_224.augreg_in1k --data ... --out ...
    """
    from pipeline import shards
    from training.config import resolve

    classes = len(shards.open_split(data, "train").index.class_names) or None
    config = resolve(preset, model, settings or [], num_classes=classes, init=init)
    from training.tasks.classification.task import PreTraining

    _run(config, lambda: PreTraining(config, data), out, resume, dry_run, profile)


@app.command()
def finetune(
    data: Data,
    out: RunOut,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="What to start from: a run (RUN or RUN:epoch-N) or an export; with --model a file of a plain ViT or "
            "of the DFormer authors, or timm:NAME. Without it every weight starts fresh.",
        ),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option("--depth", help="pseudo, real, raw or exact: the depth it is trained with; default real."),
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="dformer-nyu (the paper's recipe) or tiny (minutes on a laptop).")
    ] = "dformer-nyu",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="m3ch, m4ch, mlin, mmlp, mdf1, mgem, dformer-tiny or dformerv2-small; a run or an export knows "
            "its own.",
        ),
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="ham (DFormer's, the default), pyramid or linear.")] = None,
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="best-on-val: scenes set aside from the training split choose the checkpoint (default). best-on-test: "
            "the test split does, as in the authors' code.",
        ),
    ] = None,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-missing",
            metavar="PATTERN",
            help="Weights that a file of the DFormer authors may lack, e.g. 'norm*'.",
        ),
    ] = None,
    allow_unexpected: Annotated[
        list[str] | None,
        typer.Option("--allow-unexpected", metavar="PATTERN", help="Weights that it may hold besides."),
    ] = None,
    settings: Settings = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    profile: Profile = False,
) -> None:
    """Fine-tune a pre-trained model to label every pixel, with real or with pseudo-depth (Table 3).

    Ends with the best checkpoint's mIoU on the test split, image by image as it is; `train evaluate --multi-scale` adds
    scales and mirror images. Stops and resumes as pre-training does.

    Examples:

        train finetune --init runs/m4ch --depth real --data nyu-rgbd --out runs/m4ch-nyu-real

        train finetune --init runs/m4ch --depth pseudo --data nyu-rgbd --out runs/m4ch-nyu-pseudo --select best-on-test

        train finetune --model dformer-tiny --init DFormer_Tiny.pth.tar --data nyu-rgbd --out runs/dformer-nyu

        train finetune --preset tiny --init demo/runs/m4ch-pseudo-0 --data demo/shards --out runs/rooms
    """
    from training.tasks.segmentation.finetune import prepared
    from training.tasks.segmentation.task import FineTuning

    config, start = prepared(
        data, out, preset=preset, init=init, model=model, depth=depth, head=head, rule=select, settings=settings or [],
        resume=resume, allow_missing=allow_missing or [], allow_unexpected=allow_unexpected or [], say=told,
    )  # fmt: skip
    _run(config, lambda: FineTuning(config, data, start), out, resume, dry_run, profile)


app.command()(measure.evaluate)
app.command()(measure.gap)
app.command()(measure.matrix)
app.command()(record.dump)
app.command()(record.export)
app.command()(study)


@app.command()
def teacher(
    data: Annotated[Path, typer.Option("--data", help="Shards with `exact` depth (toyrooms --teacher none).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for config.json, model.safetensors, preprocessor.")],
    epochs: Annotated[int, typer.Option("--epochs")] = 3,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    size_px: Annotated[int, typer.Option("--size-px", help="Input side, a multiple of 14.")] = 112,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the tiny DepthAnything that labels toy rooms; the result loads like any teacher.

    Example:

        precompute-depth toyrooms rooms --teacher none --samples 120000 --seed 1000

        train teacher --data rooms --out my-teacher
    """
    from training.tasks.depth.toy_teacher import train_teacher

    train_teacher(data, out, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, size_px=size_px, device=device)


def _run(
    config: "AnyConfig", task: "Callable[[], Task]", out: Path, resume: bool, dry_run: bool, profile: bool
) -> None:
    """What pretrain and finetune have in common."""
    from training.records import Evaluation, SegmentationEvaluation

    if dry_run:
        from training.engine.dry_run import dry_run as try_out

        if table := try_out(config, task, out):
            print_table(console, table)
        return
    from training.engine.loop import train

    result = train(config, task, out, resume=resume, console=console, profile=profile)
    if isinstance(result, Evaluation):
        result_table(result.model, result.depth_field, result.num_samples, result.top1, result.top5)
        written(out)
    elif isinstance(result, SegmentationEvaluation):
        segmentation_table(result)
        written(out)


def main() -> None:
    """Entry point."""
    try:
        errors.main(app, explained)
    finally:
        _end_workers()


def _end_workers() -> None:
    """A loader that an error left open: its workers ignore the signals that Python would end them with at exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would take their end for a failure
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


if __name__ == "__main__":
    main()
