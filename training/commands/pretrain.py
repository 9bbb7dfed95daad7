"""train pretrain: one model on RGB-D shards."""

from typing import Annotated

import typer

from training.commands.options import Data, DryRun, PrintConfig, Profile, Resume, RunOut, Settings, train_or_try


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
            "--preset",
            help="thesis (the paper's ViT-B/16 on ImageNet), modern (the same with what is known better now), tiny (a "
            "0.2 M-parameter model, minutes on a laptop, for toy rooms) or a TOML file.",
        ),
    ],
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
    print_config: PrintConfig = False,
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
    from training.engine.task import Asked
    from training.tasks.classification.task import PreTraining

    asked = Asked(data, out, preset, model, init, None, settings or [], resume)
    train_or_try(PreTraining, asked, dry_run, profile, print_config)
