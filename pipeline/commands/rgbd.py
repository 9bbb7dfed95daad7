"""`precompute-depth rgbd`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import console
from pipeline.commands.label import label, refuse_inside
from pipeline.commands.options import LabellingOptions, Out, labelling
from pipeline.teachers import DEFAULT_TEACHER


def _list(wanted: bool) -> None:
    if not wanted:
        return
    from rich.table import Table

    from pipeline.sources.rgbd import reading
    from pipeline.terminal import print_table

    table = Table("name", "depth", "labels", "what it is")
    for name in reading.ready():
        found = reading.load(name)
        seg, cls = found.labels.seg, found.labels.cls
        labels = [f"{len(seg.names)} classes of pixels" if seg and seg.names else "pixels" if seg else ""]
        labels.append(f"{len(cls.classes)} classes" if cls else "")
        table.add_row(name, ", ".join(found.depth), ", ".join(filter(None, labels)) or "-", found.about)
    print_table(console, table)
    console.print("Each is a file of data_manifests/rgbd/: copy one to describe data of your own (docs/rgbd.md).")
    raise typer.Exit


@labelling(teacher="auto", samples_per_shard=500)
def rgbd(
    description: Annotated[
        str,
        typer.Argument(metavar="DESCRIPTION", help="A ready one by its name (--list shows them), or a TOML of yours."),
    ],
    src: Annotated[Path, typer.Argument(metavar="SRC", help="Folder that holds the data as it was published.")],
    out: Out,
    short_side: Annotated[
        int, typer.Option("--short-side", min=0, help="Shrink so that the short side is this; 0 keeps the size.")
    ] = 0,
    accept_polarity: Annotated[
        bool, typer.Option("--accept-polarity", help="Label depth fields that contradict each other as they are.")
    ] = False,
    list: Annotated[
        bool, typer.Option("--list", is_eager=True, callback=_list, help="Show the ready descriptions and stop.")
    ] = False,
    *,
    job: LabellingOptions,
) -> None:
    """Label RGB-D data of any layout: a description says where its parts lie and what their numbers mean.

    Sensor depth goes into the shards in metres, labels as class indices, and pseudo-depth is estimated beside them
    (--teacher none leaves it out; where the description has pseudo-depth made elsewhere, no teacher runs by itself).
    Look at --dry-run first: a wrong scale shows in the median.

    Examples:

        precompute-depth rgbd --list

        precompute-depth rgbd sunrgbd /data/sunrgbd sunrgbd-rgbd --dry-run

        precompute-depth rgbd my-sensor.toml /data/recordings recordings-rgbd --stats-from imagenet-rgbd
    """
    from pipeline.sources.rgbd.reading import load
    from pipeline.sources.rgbd.source import Rgbd

    says = load(description)
    source = Rgbd(src, says, short_side)
    refuse_inside(src, out)
    if job.teacher == "auto":
        estimated = any(field.kind == "estimated" for field in source.depth_fields.values())
        job = replace(job, teacher="none" if estimated else DEFAULT_TEACHER)
    label(source, out, job, accept_polarity)
