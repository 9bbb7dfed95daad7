"""`precompute-depth digits`."""

from typing import Annotated

import typer

from pipeline.commands.label import label
from pipeline.commands.options import LabellingOptions, Out, labelling


@labelling(teacher="toy", batch_size=64)
def digits(
    out: Out,
    samples: Annotated[int, typer.Option("--samples", help="Training images.")] = 6000,
    val_samples: Annotated[int, typer.Option("--val-samples", help="Validation images, of other glyphs.")] = 1000,
    size: Annotated[int, typer.Option("--size", help="Width and height in pixels.")] = 64,
    *,
    job: LabellingOptions,
) -> None:
    """Render red and blue digits that overlap: which is on top shows in depth and not at all in RGB.

    The smallest problem in which depth matters. Labels (seg) are colour XOR parity of the digit on top, the class is
    its colour and value. Pseudo-depth cannot know the order, real and exact depth do. --seed also chooses the images.

    Examples:

        precompute-depth digits digits

        precompute-depth inspect digits

        train pretrain --preset tiny --model m4ch --data digits --out runs/digits --set data.depth=real \
          --set augment.flip=0.0 --set optim.epochs=30 --set optim.lr=1e-3
    """
    from pipeline.digits import DigitsConfig
    from pipeline.sources import SourceError
    from pipeline.sources.digits import Digits

    try:
        picture = DigitsConfig(size_px=size)
    except ValueError as error:
        raise SourceError(str(error)) from None
    label(Digits(samples, val_samples, job.seed, picture), out, job)
