"""train depth: a network that answers depth, in metres, where it is asked."""

from typing import Annotated

import typer

from training.commands.options import Data, DryRun, PrintConfig, Profile, Resume, RunOut, Settings, train_or_try


def depth(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="spd-v15 (DINOv2, attention to a few tokens around a query) or spd-v13 (ConvNeXt V2, which reads the "
            "whole image too).",
        ),
    ],
    data: Data,
    out: RunOut,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="spd-v15 or spd-v13 (their authors' recipes, which want --init), tiny (either, from nothing, on toy "
            "rooms) or a TOML file.",
        ),
    ],
    depth: Annotated[
        str | None,
        typer.Option("--depth", help="exact, real, raw or another field in metres; default: the preset's."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Start from weights: timm:NAME or a file, of the encoder; a teacher or a finished run of train depth, "
            "of the whole network.",
        ),
    ] = None,
    settings: Settings = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    profile: Profile = False,
    print_config: PrintConfig = False,
) -> None:
    """Train a network that encodes an image once and then answers depth in metres at any of its pixels.

    A run like any other, which ends with OUT/teacher: `precompute-depth --teacher OUT` labels with it. The shards hold
    depth in metres and images as large as the preset's crop; images are cut and not resized, as depth in metres belongs
    to a focal length in pixels.

    Examples:

        precompute-depth toyrooms rooms --teacher none --size 224 --samples 4000 --val-samples 500

        train depth --preset tiny --model spd-v15 --depth exact --data rooms --out runs/v15

        train depth --preset spd-v15 --model spd-v15 --init timm:vit_small_patch14_dinov2.lvd142m --data nyu --out v15

        precompute-depth folder photos shards --teacher runs/v15
    """
    from training.engine.task import Asked
    from training.tasks.sparse_depth.task import SparseDepthTraining

    asked = Asked(data, out, preset, model, init, depth, settings or [], resume)
    train_or_try(SparseDepthTraining, asked, dry_run, profile, print_config)
