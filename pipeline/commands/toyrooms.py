"""`precompute-depth toyrooms`."""

from typing import Annotated

import typer

from pipeline.commands.label import label
from pipeline.commands.options import LabellingOptions, Out, labelling


@labelling(teacher="toy", batch_size=64)
def toyrooms(
    out: Out,
    samples: Annotated[int, typer.Option("--samples", help="Training scenes.")] = 6000,
    val_samples: Annotated[int, typer.Option("--val-samples", help="Validation scenes.")] = 2000,
    size: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 64,
    camouflage: Annotated[
        float, typer.Option("--camouflage", help="0: objects plain in RGB; 1: seen in depth only.")
    ] = 0.5,
    *,
    job: LabellingOptions,
) -> None:
    """Render procedural rooms with exact depth, a simulated depth sensor, classes and labels.

    The data set of the demo: everything can be tried on it in minutes, and the truth is known. --seed also chooses the
    rooms.

    Examples:

        precompute-depth toyrooms rooms

        precompute-depth toyrooms teacher-rooms --teacher none --samples 120000 --seed 1000
    """
    from pipeline.scenes import SceneConfig
    from pipeline.sources import SourceError
    from pipeline.sources.toyrooms import ToyRooms

    try:
        scene = SceneConfig(size_px=size, camouflage=camouflage)
    except ValueError as error:
        raise SourceError(str(error)) from None
    label(ToyRooms(samples, val_samples, job.seed, scene), out, job)
