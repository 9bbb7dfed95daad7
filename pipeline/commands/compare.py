"""`precompute-depth compare`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import console
from pipeline.commands.options import Shards, SplitChoice


def compare(
    shards: Shards,
    fields: Annotated[
        str, typer.Option("--fields", show_default="all", metavar="A,B,...", help="Which depth fields to compare.")
    ] = "",
    images: Annotated[
        int, typer.Option("--images", min=0, help="Images, evenly spaced over the split; 0: all.")
    ] = 1000,
    samples: Annotated[int, typer.Option("--samples", min=1, max=64, help="Rows of the sheet for each pair.")] = 4,
    split: Annotated[SplitChoice, typer.Option("--split", help="Which images.")] = "train",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write to; default the data set's own (beside you for a URL)."),
    ] = None,
) -> None:
    """How far the depth fields of a data set agree: its teachers, and its sensor where there is one.

    For each pair of fields and each image: Spearman's rank correlation, and the affine-invariant error (Ranftl et al.
    2022), what is left after the scale and shift of least squares, by the reference's mean distance from its median. 0
    is the same; about 1 is no relation. Writes compare-SPLIT.csv, a line an image and pair, and compare-SPLIT.png, the
    images that differ most.

    Examples:

        precompute-depth add photos-rgbd --teacher depth-anything/Depth-Anything-V2-Base-hf --as base

        precompute-depth compare photos-rgbd

        precompute-depth compare photos-rgbd --fields pseudo,base --images 0 --samples 12
    """
    from pipeline import files, ranks
    from pipeline.compare import compare, most_different, pairs_of, table, write_csv
    from pipeline.compare_sheet import sheet
    from pipeline.shards import open_split
    from pipeline.terminal import print_table

    folder = out or Path("." if "://" in shards else shards)
    files.check_writable(folder / f"compare-{split}.csv")
    opened = open_split(shards, split)
    pairs = pairs_of(opened, [name.strip() for name in fields.split(",") if name.strip()])
    found = compare(opened, pairs, images, min(ranks.usable_cpus(), 16), console)
    print_table(console, table(found, pairs))
    units = {opened.index.depth[name].unit for pair in pairs for name in pair}
    if len({"inverse" in unit or unit == "disparity" for unit in units}) > 1:
        console.print(
            "note: some of these are inverse depth and some depth: an affine-invariant error is left between them even "
            "where both are right; the rank correlation is fair",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    files.folder_in(folder)
    write_csv(found, folder / f"compare-{split}.csv")
    console.print(f"numbers: {folder}/compare-{split}.csv", highlight=False, soft_wrap=True)
    chosen = [most_different(found, pair, samples) for pair in pairs]
    if any(chosen):
        picture = folder / f"compare-{split}.png"
        with files.writing(picture) as file:
            sheet(opened, pairs, chosen).save(file, "PNG")
        console.print(f"the most different: {picture}", highlight=False, soft_wrap=True)
