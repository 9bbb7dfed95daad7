"""train finetune: a pre-trained model labels pixels, or tells other classes."""

from typing import Annotated, Any

import typer

from training.commands.options import (
    Data,
    DryRun,
    HeadChoice,
    PrintConfig,
    Profile,
    Resume,
    RunOut,
    SelectChoice,
    Settings,
    TaskChoice,
    train_or_try,
)


def finetune(
    data: Data,
    out: RunOut,
    task: Annotated[
        TaskChoice, typer.Option("--task", help="segmentation: every pixel (seg); classification: the image (cls).")
    ] = "segmentation",
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
        str | None,
        typer.Option(
            "--preset",
            show_default="dformer-nyu, of classification finetune",
            help="dformer-nyu (the paper's recipe), tiny (minutes on a laptop) or a TOML file; of classification "
            "finetune (ViT-B/16), finetune-tiny or a TOML file.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="m3ch, m4ch, mlin, mmlp, mdf1, mgem, and to label pixels dformer-tiny or dformerv2-small; a run or an "
            "export knows its own.",
        ),
    ] = None,
    head: Annotated[
        HeadChoice | None, typer.Option("--head", help="ham (DFormer's, the default), pyramid or linear.")
    ] = None,
    select: Annotated[
        SelectChoice | None,
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
    print_config: PrintConfig = False,
) -> None:
    """Fine-tune a pre-trained model to label every pixel, with real or with pseudo-depth (Table 3), or to classify.

    Ends with the best checkpoint's mIoU on the test split, image by image as it is; `train evaluate --multi-scale` adds
    scales and mirror images. Stops and resumes as pre-training does.

    With --task classification a new head tells the classes of the shards (cls: scene types, say), and everything is
    trained. Ends with the last checkpoint's top-1 and mean-class accuracy on val: the mean of the classes' top-1.

    Examples:

        train finetune --init runs/m4ch --depth real --data nyu-rgbd --out runs/m4ch-nyu-real

        train finetune --init runs/m4ch --depth pseudo --data nyu-rgbd --out runs/m4ch-nyu-pseudo --select best-on-test

        train finetune --model dformer-tiny --init DFormer_Tiny.pth.tar --data nyu-rgbd --out runs/dformer-nyu

        train finetune --preset tiny --init demo/runs/m4ch-pseudo-0 --data demo/shards --out runs/rooms

        train finetune --task classification --init runs/m4ch --depth real --data scenes --out runs/m4ch-scenes
    """
    from training.config import ConfigError
    from training.engine.task import Asked, Task
    from training.tasks.classification.finetune import Tuning
    from training.tasks.segmentation.task import FineTuning

    more = {
        "head": head, "rule": select, "allow_missing": allow_missing or [], "allow_unexpected": allow_unexpected or []
    }  # fmt: skip
    kind: type[Task[Any, Any]] = FineTuning
    if task == "classification":
        kind, preset = Tuning, preset or "finetune"
        names = {"rule": "select"} | {name: name.replace("_", "-") for name in more if name != "rule"}
        if unfit := [f"--{names[name]}" for name, value in more.items() if value]:
            raise ConfigError(f"{' and '.join(unfit)}: for --task segmentation alone: leave it out")
    asked = Asked(data, out, preset or "dformer-nyu", model, init, depth, settings or [], resume, more)
    train_or_try(kind, asked, dry_run, profile, print_config)
