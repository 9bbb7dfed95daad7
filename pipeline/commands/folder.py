"""`precompute-depth folder`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.label import label, refuse_inside
from pipeline.commands.options import LabellingOptions, Out, ShortSide, labelling


@labelling()
def folder(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Folder of images; SRC/CLASS/*.jpg gives classes, SRC/train/ and SRC/val/ splits."
        ),
    ],
    out: Out,
    short_side: ShortSide = 384,
    val_fraction: Annotated[float, typer.Option("--val-fraction", help="Share of images for val, by name hash.")] = 0.1,
    *,
    job: LabellingOptions,
) -> None:
    """Label any folder of photographs.

    Interrupt it whenever you like: the same line again finishes what is missing, to the same bytes. Images that cannot
    be read are listed as rejects with a reason and the job goes on.

    Examples:

        precompute-depth folder photos photos-rgbd --teacher toy

        precompute-depth folder photos photos-rgbd --short-side 256 --batch-size 128 --workers 16
    """
    from pipeline.sources.folder import Folder

    refuse_inside(src, out)
    label(Folder(src, short_side, val_fraction), out, job)
