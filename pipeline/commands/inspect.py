"""`precompute-depth inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import console
from pipeline.commands.options import Shards, SplitChoice


def inspect(
    shards: Shards,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="PNG to write; default contact-sheet.png inside the folder (beside you for a URL)."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=64, help="Rows of the sheet.")] = 8,
    split: Annotated[SplitChoice, typer.Option("--split", help="Which images.")] = "train",
) -> None:
    """Write a contact sheet (RGB, every depth field, labels, histograms) to look at before you train on anything."""
    from pipeline.inspect import contact_sheet, survey
    from pipeline.shards import open_split
    from pipeline.terminal import print_table

    target = out or Path("." if "://" in shards else shards) / "contact-sheet.png"
    contact_sheet(shards, split, samples, target)
    opened = open_split(shards, split)
    found = survey(opened)
    print_table(console, found.table({name: str(opened.index.provenance(name)) for name in opened.index.depth}))
    for note in found.notes():
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(f"contact sheet: {target}", highlight=False, soft_wrap=True)
