"""`precompute-depth verify`, and with --repair the labelling of what it found damaged."""

import shlex
import sys
from typing import Annotated

import typer

from pipeline.commands import console
from pipeline.commands.options import Shards, for_repair
from pipeline.errors import INTERRUPTED


def verify(
    context: typer.Context,
    shards: Shards,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make the damaged shards again, and only those, from the source.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before the recorded command runs (for scripts; --repair only).")
    ] = False,
    teacher: Annotated[
        str,
        typer.Option(
            show_default="the recorded one",
            help="The teacher to repair with: where it has moved, or is code, which runs only if you name it here.",
        ),
    ] = "",
) -> None:
    """Read every byte of every shard again and compare it with the index; names each damaged shard and sample.

    Depth that was added is looked at like the rest. With --repair the command that made what is damaged runs again: it
    stands in the shards' own plan, so it is shown first, and runs once you agree (or with --yes). It needs the source
    where it was; where that has moved, run that command yourself: it sees the marks and does the same.

    Examples:

        precompute-depth verify imagenet-rgbd

        precompute-depth verify imagenet-rgbd --repair

        precompute-depth verify photos-dark --repair --teacher darkness:Darkness
    """
    if teacher and not repair:
        raise typer.BadParameter("--teacher is for --repair: nothing else asks one")
    from pipeline.verify import check_shards, commands, mark, restore_constants

    found = check_shards(shards, console)
    agreed: list[list[str]] = []
    again = context.find_root().command  # precompute-depth itself
    for _ in range(3):  # a lost index hides what is wrong with its shards until it is there again
        for problem in found.problems:
            console.print(problem, style="red", soft_wrap=True)
        if not (found.problems and repair):
            break
        lines = [for_repair(line, shards, teacher) for line in commands(shards, found.outputs)]
        _agree([line for line in lines if line not in agreed], yes)
        agreed += lines
        restore_constants(shards, found.outputs)
        mark(shards, found)
        for line in lines:
            if again.main(line, standalone_mode=False) == INTERRUPTED:
                raise KeyboardInterrupt
        before, found = found.problems, check_shards(shards, console)
        if found.problems == before:
            break
    if found.problems:
        fix = (
            "it could not be repaired" if repair else "mend it with --repair, or run the job again if it is unfinished"
        )
        console.print(f"{len(found.problems)} problem(s) in {shards}: {fix}", soft_wrap=True)
        sys.exit(1)
    console.print(
        f"{shards}: {found.num_samples:,} samples in {found.num_shards:,} shards, all as the index says",
        soft_wrap=True,
    )


def _agree(lines: list[list[str]], yes: bool) -> None:
    """Show what a repair would run; go on only where a person or --yes agrees."""
    from pipeline.claim import JobError
    from pipeline.sources import printable

    for line in lines:
        console.print(f"repairing: precompute-depth {printable(shlex.join(line))}", soft_wrap=True)
    if not lines or yes:
        return
    if not sys.stdin.isatty():
        raise JobError("the repair runs what the shards' own plan says, shown above: add --yes to agree without asking")
    if not typer.confirm("Run this?"):
        raise JobError("nothing was changed: run the command yourself where you trust it")
