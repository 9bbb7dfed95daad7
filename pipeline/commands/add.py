"""`precompute-depth add`."""

from typing import Annotated

import typer

from pipeline.commands.label import label
from pipeline.commands.options import LabellingOptions, labelling


@labelling(without=("samples_per_shard", "seed"))
def add(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A finished folder or URL written by precompute-depth.")],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What the new depth field is called, as in data.depth=NAME.")
    ],
    *,
    job: LabellingOptions,
) -> None:
    """Add a second teacher's depth to shards that are finished.

    It lies in tars of its own, OUT/train/NAME/shard-000000.tar, with the same keys in the same order. The shards
    themselves are not touched. The teacher sees the photographs as they are stored. Where it rejects one, the map has
    no valid pixel, and the reject is listed. Interrupt and repeat the line, or share it among ranks, as always.

    Examples:

        precompute-depth add imagenet-rgbd --teacher depth-anything/Depth-Anything-V2-Large-hf --as large

        train pretrain --preset thesis --model m4ch --data imagenet-rgbd --out runs/large --set data.depth=large

        precompute-depth compare imagenet-rgbd
    """
    from pipeline import shards
    from pipeline.claim import JobError
    from pipeline.output import Sidecar
    from pipeline.sources.finished import FinishedShards

    if not shards.is_depth_name(name):
        raise JobError(
            f"--as must be 1 to 32 small letters, digits, - or _, and no other member of a sample, got {name!r}"
        )
    data = shards.open_store(out)
    source = FinishedShards(data)
    for split in source.splits_by_name.values():
        if name in split.own.depth:
            raise JobError(f"{split.store} has {name} depth of its own: give another name with --as")
    if job.teacher == "none":
        raise JobError("--teacher none adds nothing: name a depth model, or toy")
    label(source, Sidecar(data, name, source.splits_by_name), job)
