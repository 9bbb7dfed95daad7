"""`precompute-depth imagenet`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.label import label, refuse_inside
from pipeline.commands.options import LabellingOptions, Out, ShortSide, SplitChoice, labelling

LayoutChoice = Literal["auto", "official", "folders", "kaggle", "parquet", "webdataset"]


@labelling()
def imagenet(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="Folder that holds ImageNet-1k: the official tars, train/ and val/ folders, Kaggle's, the hub's "
            "parquet, or WebDataset tars.",
        ),
    ],
    out: Out,
    split: Annotated[SplitChoice, typer.Option("--split", help="Label train first, val then shares its constants.")],
    layout: Annotated[LayoutChoice, typer.Option("--layout", help="auto recognises it by looking.")] = "auto",
    short_side: ShortSide = 384,
    *,
    job: LabellingOptions,
) -> None:
    """Label ImageNet-1k as it lies on your disk; nothing needs unpacking.

    Interrupt it whenever you like: the same line again finishes what is missing, to the same bytes. Start it on as many
    GPUs as you have (torchrun, srun, a SLURM array, or --rank and --world-size): the bytes stay the same.

    Examples:

        precompute-depth imagenet /data/imagenet imagenet-rgbd --split train --short-side 256 --batch-size 128 --dry-run

        torchrun --nproc-per-node 8 -m pipeline.cli imagenet /data/imagenet imagenet-rgbd --split train

        precompute-depth imagenet /data/imagenet imagenet-rgbd --split val
    """
    from pipeline.sources.imagenet import ImageNet

    refuse_inside(src, out)
    source = ImageNet(src, split, short_side, max(1, job.samples_per_shard // 10), layout)
    label(source, out, job)
