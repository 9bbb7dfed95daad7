"""`precompute-depth add`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.commands.label import label
from pipeline.commands.options import LabellingOptions, labelling
from pipeline.teachers import DEFAULT_TEACHER

if TYPE_CHECKING:
    from pipeline.sources.rgbd.description import Values

_MAPS = "Maps made elsewhere"
_ENDINGS = {"png16": "png", "png8": "png"}  # of formats that are not called as their files end


@labelling(teacher="auto", without=("samples_per_shard", "seed"))
def add(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A finished folder or URL written by precompute-depth.")],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="What the new depth field is called, as in data.depth=NAME.")
    ],
    depth_from: Annotated[
        Path | None,
        typer.Option(
            "--depth-from",
            metavar="DIR",
            rich_help_panel=_MAPS,
            help="No teacher runs: the maps are files in this folder.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", rich_help_panel=_MAPS, help="npy, png16, png8, pfm, tiff, npz:KEY, h5:KEY, exr:CHANNEL."
        ),
    ] = None,
    files: Annotated[
        str | None,
        typer.Option(
            "--files",
            show_default="{key}.npy and so on",
            rich_help_panel=_MAPS,
            help="Where a sample's map lies in DIR: {key}, {split}, {source} (the photograph's path), {source_stem}.",
        ),
    ] = None,
    kind: Annotated[
        Literal["metres", "disparity", "relative"] | None,
        typer.Option("--kind", rich_help_panel=_MAPS, help="What the numbers are; relative needs --polarity."),
    ] = None,
    polarity: Annotated[
        Literal["farther_is_larger", "closer_is_larger"] | None,
        typer.Option("--polarity", rich_help_panel=_MAPS, help="Which way the numbers grow."),
    ] = None,
    scale: Annotated[
        float,
        typer.Option("--scale", rich_help_panel=_MAPS, help="What a stored number is multiplied with: to metres."),
    ] = 1.0,
    invalid: Annotated[
        float | None,
        typer.Option(
            "--invalid", show_default="0 for metres", rich_help_panel=_MAPS, help="The number that means: nothing here."
        ),
    ] = None,
    resized: Annotated[
        bool, typer.Option("--resized", rich_help_panel=_MAPS, help="Maps show the same view in other pixels.")
    ] = False,
    scale_lost: Annotated[
        bool,
        typer.Option("--scale-lost", rich_help_panel=_MAPS, help="Each map was stretched for itself, as to 0 to 255."),
    ] = False,
    by: Annotated[
        str, typer.Option("--by", show_default="the folder's name", rich_help_panel=_MAPS, help="Who made the maps.")
    ] = "",
    *,
    job: LabellingOptions,
) -> None:
    """Add a second teacher's depth to shards that are finished, or maps that another program made.

    It lies in tars of its own, OUT/train/NAME/shard-000000.tar, with the same keys in the same order. The shards
    themselves are not touched. The teacher sees the photographs as they are stored. Where it rejects one, or a map is
    missing, the map has no valid pixel, and the reject is listed. Interrupt and repeat the line, or share it among
    ranks, as always.

    Examples:

        precompute-depth add imagenet-rgbd --teacher depth-anything/Depth-Anything-V2-Large-hf --as large

        precompute-depth add imagenet-rgbd --as mine --depth-from maps --format png16 --kind metres --scale 0.001

        train pretrain --preset thesis --model m4ch --data imagenet-rgbd --out runs/large --set data.depth=large
    """
    from pipeline import shards
    from pipeline.claim import JobError
    from pipeline.output import Sidecar
    from pipeline.sources.finished import FinishedShards
    from pipeline.sources.maps import Maps

    if not shards.is_depth_name(name):
        raise JobError(
            f"--as must be 1 to 32 small letters, digits, - or _, and no other member of a sample, got {name!r}"
        )
    data = shards.open_store(out)
    if depth_from is None:
        if format or files or kind or polarity or by or scale_lost:
            raise JobError("--format, --files, --kind, --polarity and the like describe maps: add --depth-from DIR")
        if job.teacher == "none":
            raise JobError("--teacher none adds nothing: name a depth model, or give --depth-from DIR")
        source, teacher = FinishedShards(data), DEFAULT_TEACHER if job.teacher == "auto" else job.teacher
    else:
        if job.teacher not in ("auto", "none"):
            raise JobError("--teacher and --depth-from exclude each other: give one")
        if scale_lost and kind == "metres":
            raise JobError("--scale-lost and --kind metres contradict each other: say --kind relative")
        says = _values(format, kind, polarity, scale, invalid, resized)
        ending = _ENDINGS.get(kind_of(says), kind_of(says))
        where = files or f"{{key}}.{ending}"
        who = by or depth_from.resolve().name
        source, teacher = Maps(data, name, depth_from, where, says, who, scale_lost), "none"
    for split in source.splits_by_name.values():
        if name in split.own.depth:
            raise JobError(f"{split.store} has {name} depth of its own: give another name with --as")
    label(source, Sidecar(data, name, source.splits_by_name), replace(job, teacher=teacher))


def kind_of(says: "Values") -> str:
    return says.format.split(":")[0]


def _values(
    format: str | None,
    kind: str | None,
    polarity: str | None,
    scale: float,
    invalid: float | None,
    resized: bool,
) -> "Values":
    from pydantic import ValidationError

    from pipeline.claim import JobError
    from pipeline.files import reason
    from pipeline.sources.rgbd.description import Values

    for option, given in (("--format", format), ("--kind", kind)):
        if given is None:
            raise JobError(f"--depth-from needs {option}: see precompute-depth add --help")
    holes = [0.0] if invalid is None and kind == "metres" else [] if invalid is None else [invalid]
    try:
        return Values.model_validate(
            {
                "format": format, "kind": kind, "polarity": polarity, "scale": scale, "invalid": holes,
                "size": "same_view_resize" if resized else "aligned",
            }
        )  # fmt: skip
    except ValidationError as error:
        raise JobError(f"--depth-from: {reason(error)}") from None
