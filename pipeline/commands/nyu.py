"""`precompute-depth nyu`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.label import label
from pipeline.commands.options import LabellingOptions, Out, labelling


@labelling(samples_per_shard=100, batch_size=16)
def nyu(
    src: Annotated[Path, typer.Argument(metavar="MAT", help="nyu_depth_v2_labeled.mat as its authors publish it.")],
    out: Out,
    scene_classes: Annotated[
        bool, typer.Option("--scene-classes", help="Give each image its kind of scene as class, of ten.")
    ] = False,
    *,
    job: LabellingOptions,
) -> None:
    """Label NYUDepthV2: RGB, sensor depth with holes filled (real) and as measured (raw), pseudo-depth, 40 classes.

    Writes the standard 795 training and 654 test images (as val) at full size, RGB as PNG.

    Examples:

        precompute-depth nyu nyu_depth_v2_labeled.mat nyu-rgbd --stats-from imagenet-rgbd

        precompute-depth inspect nyu-rgbd

        precompute-depth nyu nyu_depth_v2_labeled.mat nyu-scenes --scene-classes
    """
    from pipeline.sources.nyu import Nyu

    label(Nyu(src, scene_classes=scene_classes), out, job)
