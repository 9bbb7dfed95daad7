"""analyze: report | fig1 | fig5 | table1 | table2 | table3. Heavy imports happen inside the commands."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 3: figures, tables and a report from what runs leave behind. Needs no model, no torch, no network.\n\n"
    "Start with `analyze report runs/* --out report`, then open report/index.html.",
)
console = Console()


class VariantName(StrEnum):
    """Which scores a figure uses."""

    literal = "literal"
    gauge_fixed = "gauge_fixed"


Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run folders made by `train pretrain`; figures also take bare .zarr dumps."),
]
RunFolders = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by `train pretrain`.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the files; made if it is not there.")]
OutOrNone = Annotated[
    Path | None, typer.Option("--out", help="Folder for the table as CSV and Markdown; default: print only.")
]
VariantOption = Annotated[
    VariantName,
    typer.Option(
        "--variant", help="literal: scores as computed (the paper's). gauge_fixed: without what softmax ignores."
    ),
]
Depth = Annotated[
    str | None, typer.Option("--depth", help="Depth field of the dumps to draw; default pseudo, or the only one.")
]


@app.command()
def report(
    runs: RunFolders,
    out: Out,
    matrix: Annotated[
        Path | None, typer.Option("--matrix", help="matrix.json of `train matrix`, or its folder: adds Table 3.")
    ] = None,
) -> None:
    """One page with everything: verdicts on the paper's claims, tables, figures, limitations, manifest.

    Writes OUT/index.html, which opens from disk without a network, and OUT/figures/ with PDF, SVG, PNG and CSV. Runs
    must share their shards; each needs an evaluation (`train evaluate`), and a dump (`train dump`) for the figures.

    Example:

        analyze report demo/runs/* --matrix demo/table3 --out demo/report
    """
    from analysis.fine_tuning import read_matrix
    from analysis.load import load
    from analysis.report import write_report

    page = write_report(load(runs), out, read_matrix(matrix) if matrix else None)
    console.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)", highlight=False)


@app.command()
def fig1(runs: Runs, out: Out, variant: VariantOption = VariantName.literal, depth: Depth = None) -> None:
    """Figure 1: attention scores against the depth difference |Δ|, per layer, with slopes.

    Draws the last dump of every run of one depth field.

    Examples:

        analyze fig1 runs/m4ch --out figures

        analyze fig1 runs/m3ch/dumps/latest.zarr runs/m4ch --out figures --variant gauge_fixed
    """
    from analysis import figures
    from analysis.load import load
    from analysis.output import write_figure

    drawn, curves, slopes = figures.figure1(load(runs).last_dumps(depth), variant.value)
    _list(write_figure(out, f"figure1-{variant.value}", drawn, {"": curves, "-slopes": slopes}))


@app.command()
def fig5(
    runs: Runs,
    out: Out,
    variant: VariantOption = VariantName.literal,
    depth: Depth = None,
    model: Annotated[str, typer.Option("--model", help="The model whose checkpoints are drawn.")] = "m3ch",
) -> None:
    """Figure 5: cosine of scores with |Δ| and with distance, per layer, over the epochs of one run of --model.

    The run needs a dump per checkpoint: `train dump RUN --data D --checkpoint epoch-5` and so on.

    Example:

        analyze fig5 runs/m3ch --out figures --variant gauge_fixed
    """
    from analysis import figures
    from analysis.load import load
    from analysis.output import write_figure

    drawn, frame = figures.figure5(load(runs).epoch_dumps(model, depth), variant.value)
    _list(write_figure(out, f"figure5-{variant.value}", drawn, {"": frame}))


@app.command()
def table1(runs: RunFolders, out: OutOrNone = None) -> None:
    """Table 1: parameters, GMACs and hours of each model, the paper's beside them at its size.

    Example:

        analyze table1 runs/m3ch runs/mlin runs/m4ch
    """
    from analysis import tables
    from analysis.load import load

    frame = tables.table1(load(runs))
    _show("Table 1: size and cost", tables.readable1(frame), frame, out, "table1")


@app.command()
def table2(runs: RunFolders, out: OutOrNone = None) -> None:
    """Table 2: top-1 and top-5 with 95 % intervals, and the gap to m3ch on the same validation samples.

    Example:

        analyze table2 runs/* --out tables
    """
    from analysis import tables
    from analysis.load import load

    frame = tables.table2(load(runs))
    _show("Table 2: accuracy", tables.readable2(frame), frame, out, "table2")


@app.command()
def table3(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="matrix.json of `train matrix`, or its folder.")],
    out: OutOrNone = None,
) -> None:
    """Table 3: mIoU by the depth trained with and the depth tested with, with 95 % intervals, beside the paper's.

    Example:

        train matrix runs/m3ch runs/m4ch --data nyu-rgbd --out table3

        analyze table3 table3 --out tables
    """
    from analysis import fine_tuning

    found = fine_tuning.read_matrix(matrix)
    _show("Table 3: fine-tuning", fine_tuning.readable3(found), fine_tuning.table3(found), out, "table3")
    differences = fine_tuning.readable_differences(found)
    _show("differences", differences, fine_tuning.differences(found), out, "table3-differences")


def _show(title: str, readable: "pd.DataFrame", frame: "pd.DataFrame", out: Path | None, name: str) -> None:
    from analysis.output import write, write_frame

    _print_table(title, readable)
    if out is not None:
        lines = [list(readable.columns), ["---"] * len(readable.columns), *readable.values.tolist()]
        markdown = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        _list([write_frame(out / f"{name}.csv", frame), write(out / f"{name}.md", markdown)])


# What a narrow terminal can do without, first to go first; files always hold every column.
_SPARE = (
    "fine-tuned from",
    "seed",
    "paper parameters",
    "paper GMACs",
    "paper top-5",
    "p",
    "top-5 %",
    "training",
    "paper hours",
    "seeds",
)


def _print_table(title: str, readable: "pd.DataFrame") -> None:
    """Print as many columns as fit unbroken, and say which do not."""
    from rich.table import Table

    columns = list(readable.columns)
    left_out: list[str] = []
    for spare in (*_SPARE, None):
        shown = Table(title=title)
        for column in columns:
            shown.add_column(column, no_wrap=True)
        for row in readable[columns].itertuples(index=False):
            shown.add_row(*(text.replace("[", "\\[") for text in row))
        if console.measure(shown, options=console.options.update(width=1000)).maximum <= console.width or not spare:
            break
        if spare in columns:
            columns.remove(spare)
            left_out.append(spare)
    console.print(shown)
    if left_out:
        print(f"Not shown in {console.width} columns: {', '.join(left_out)}. --out DIR writes all.")


def _list(paths: list[Path]) -> None:
    for path in paths:
        print(path)


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 1 (2 for misuse of the command line)."""
    try:
        app()
    except (ValueError, OSError) as error:
        ours = type(error).__module__.split(".")[0] in ("analysis", "training")
        if not ours and not isinstance(error, OSError):
            raise  # a defect, not a user's mistake: show where
        message = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(f"error: {message}", style="red", markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
