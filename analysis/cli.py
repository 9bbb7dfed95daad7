"""analyze: report, teachers, figure NAME (analysis/figures; the paper's are fig1 and so on too), table1 to 3, causal.

Heavy imports come late.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from analysis.figures import FIGURES
from analysis.figures.spec import FigureSpec
from pipeline import errors
from pipeline.terminal import add_version, make_console, print_table

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 3: figures, tables and a report from what runs leave behind. Needs no model, no torch, no network.\n\n"
    "Start with `analyze report runs/* --out report`, then open report/index.html.",
)
console = make_console()
add_version(app)
figures = typer.Typer(no_args_is_help=True, help="A figure by its name; the paper's have their number as well: fig11.")
app.add_typer(figures, name="figure")


Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Runs of `train pretrain`, folders of runs, or bare .zarr dumps."),
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Runs of `train pretrain`, or folders of runs.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the files; made if it is not there.")]
OutOrNone = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the table as CSV, Markdown, PDF, SVG and PNG; default: print only."),
]
Depth = Annotated[
    str | None,
    typer.Option("--depth", help="Depth field to draw (pseudo, real, ...); default pseudo, or the only one."),
]


@app.command()
def report(
    runs: RunFolders,
    out: Out,
    matrix: Annotated[
        Path | None, typer.Option("--matrix", help="matrix.json of `train matrix`, or its folder: adds Table 3.")
    ] = None,
    digits: Annotated[
        Path | None,
        typer.Option(
            "--digits", help="JSON of tests/benchmarks/digits.py: judges the introduction's claim about training anew."
        ),
    ] = None,
) -> None:
    """One page with everything: an answer, tables, figures, heads, examples, the paper's claims, limits, manifest.

    Writes OUT/index.html, which opens from disk without a network, and OUT/figures/ with PDF, SVG, PNG and CSV. Runs
    must share their shards; each needs an evaluation (`train evaluate`), and for the figures a dump (`train dump`; its
    --raw images are the examples). What is not there is named on the page with the command that makes it. Runs of
    `train depth` among them have a page of their own beside it, teachers.html (`analyze teachers`).

    Example:

        analyze report demo/runs/* --matrix demo/table3 --out demo/report
    """
    from rich.progress import track

    from analysis.read import read, teachers_apart
    from analysis.report import Steps, write_report
    from analysis.teachers import read_networks

    def tracked(steps: Steps) -> Steps:
        return track(steps, "report", console=console, transient=True, disable=not console.is_terminal)

    others, teachers = teachers_apart(runs)
    networks = read_networks(teachers) if teachers else []
    page = write_report(read(others, matrix, digits), out, tracked, networks)
    console.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)", highlight=False)


@app.command()
def teachers(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs of `train depth`, or folders of such runs alone.")
    ],
    out: Out,
) -> None:
    """One page on networks that answer depth where they are asked: accuracy, time, edges, examples.

    Writes OUT/index.html, which opens from disk without a network, and OUT/figures/ with PDF, SVG, PNG and CSV. Runs
    must share their shards. Runs that differ in their seed alone are one row; give several seeds, and intervals count
    the luck of a training too. Each run needs an evaluation of its own val, with another teacher beside it.

    Example:

        train evaluate runs/v15-0 --data nyu-rgbd --against depth-anything/Depth-Anything-V2-Small-hf --every-pixel

        analyze teachers runs/v15-* runs/v13-* --out teachers
    """
    from analysis.report_teachers import write_teachers
    from analysis.teachers import read_networks

    page = write_teachers(read_networks(runs), out)
    console.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)", highlight=False)


def _add_figure(to: typer.Typer, name: str, spec: FigureSpec) -> None:
    default, *others = spec.variants
    variants = f"{default} (default)" + "".join(f", {variant}" for variant in others)
    start = f"analyze {name}" if to is app else f"analyze figure {name}"
    example = f"{start} runs/* --out figures" + (f" --variant {others[0]}" if others else "")

    def command(
        runs: Runs,
        out: Out,
        variant: str | None = None,
        depth: Depth = None,
    ) -> None:
        from analysis.output import all_or_nothing, write_figure
        from analysis.read import read

        chosen = spec.chosen(variant)
        with all_or_nothing(out) as made:
            study = read(runs)
            drawn = spec.drawn(study, chosen, depth)
            paths = write_figure(made, f"{spec.stem}-{chosen}", drawn.figure, drawn.frames, drawn.caption)
        _list(out, paths)
        print(drawn.caption)
        if spec.per_depth and (left_out := study.without(study.field(depth))):
            print(f"Not drawn, without a dump of {study.field(depth)} depth: {', '.join(left_out)}.")

    about = typer.Option("--variant", help=f"Which reading to draw: {variants}.")
    command.__annotations__["variant"] = Annotated[Literal[spec.variants] | None, about]
    if not spec.per_depth:
        command.__annotations__["runs"] = RunFolders  # drawn from what runs logged and how they were evaluated
    title = spec.heading + "." * (not spec.title.endswith("?"))
    to.command(
        name,
        short_help=title,
        help=f"{title}\n\n{spec.about}\n\nWrites OUT/{spec.stem}-VARIANT as PDF, SVG "
        f"and PNG, what is drawn as CSV, the caption as text.\n\nExample:\n\n    {example}",
    )(command)


for _spec in FIGURES.values():
    _add_figure(figures, _spec.name, _spec)
    if _spec.number is not None:
        _add_figure(app, f"fig{_spec.number}", _spec)


@app.command()
def table1(runs: RunFolders, out: OutOrNone = None) -> None:
    """Table 1: parameters, GMACs and hours of each model, the paper's beside them at its size.

    Example:

        analyze table1 runs/m3ch runs/mlin runs/m4ch
    """
    from analysis import tables
    from analysis.read import read

    frame = tables.table1(read(runs))
    _show("Table 1: size and cost", tables.readable1(frame), frame, out, "table1")


@app.command()
def table2(runs: RunFolders, out: OutOrNone = None) -> None:
    """Table 2: top-1 and top-5 with 95 % intervals, and the gap to m3ch, over images and seeds.

    Example:

        analyze table2 runs/* --out tables
    """
    from analysis import accuracy
    from analysis.read import read

    frame = accuracy.table2(read(runs))
    _show("Table 2: accuracy", accuracy.readable2(frame), frame, out, "table2")
    print(accuracy.notes2(frame))


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
    from analysis.read import read_matrix

    found = read_matrix(matrix)
    _show("Table 3: fine-tuning", fine_tuning.readable3(found), fine_tuning.table3(found), out, "table3")
    differences = fine_tuning.readable_differences(found)
    _show("differences", differences, fine_tuning.differences(found), out, "table3-differences")


@app.command()
def causal(runs: Runs, out: OutOrNone = None, depth: Depth = None) -> None:
    """What changing depth does to answers: swapped, flattened, real, kept out of blocks, erased from their outputs.

    Top-1 lost with a paired interval, how far the logits move, and, where depth was erased after a block, how much of
    it a probe reads again at the last one. Figure 1 --variant causal shows what a swap does to the scores.

    Example:

        train dump runs/m4ch --data imagenet-rgbd --images 5000 --causal 500

        analyze causal runs/m4ch --out tables
    """
    import pandas as pd

    from analysis.causal import effects, readable_effects, readable_refitted, refitted
    from analysis.read import read

    dumps = read(runs).last_dumps(depth)
    answers = pd.concat([effects(dump) for dump in dumps], ignore_index=True)
    again = pd.concat([refitted(dump) for dump in dumps], ignore_index=True)
    by_block = answers["change"].str.contains(r"-\d+$")
    whole = readable_effects(answers[~by_block])
    _show("what changing depth does to answers", readable_effects(answers), answers, out, "causal", whole)
    if out is None and by_block.any():
        print(f"{by_block.sum()} changes of one block alone are not shown. --out DIR writes all.")
    _show("R² of depth at the last block", readable_refitted(again), again, out, "causal-erased")


def _show(
    title: str,
    readable: "pd.DataFrame",
    frame: "pd.DataFrame",
    out: Path | None,
    name: str,
    printed: "pd.DataFrame | None" = None,
) -> None:
    """Print a table, or the part `printed` of it; write all of it where there is a place."""
    from analysis.figures.table import table_figure
    from analysis.output import all_or_nothing, write, write_figure

    paths = []
    if out is not None:
        lines = [list(readable.columns), ["---"] * len(readable.columns), *readable.values.tolist()]
        markdown = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        with all_or_nothing(out) as made:
            paths = write_figure(made, name, table_figure(title, readable), {"": frame})
            paths.append(write(made / f"{name}.md", markdown))
    _print_table(title, readable if printed is None else printed)
    _list(out, paths)


# What a narrow terminal can do without, first to go first; files always hold every column.
_SPARE = (
    "fine-tuned from",
    "seed",
    "paper parameters",
    "paper GMACs",
    "paper, M over m3ch",
    "paper (ImageNet)",
    "mean |Δ logit|",
    "KL, nats",
    "p",
    "top-5 %",
    "training",
    "paper (ImageNet), hours",
    "seeds",
)


def _print_table(title: str, readable: "pd.DataFrame") -> None:
    """Print as many columns as fit, and say which do not; no column is cut short. A pipe is as wide as it must be."""
    columns = list(readable.columns)
    left_out: list[str] = []
    for spare in (*_SPARE, None):
        shown = Table(title=title)
        for column in columns:
            shown.add_column(column, no_wrap=True)
        for row in readable[columns].itertuples(index=False):
            shown.add_row(*row)
        needed = console.measure(shown, options=console.options.update(width=1000)).maximum
        if needed <= console.width or not console.is_terminal or not spare:
            break
        if spare in columns:
            columns.remove(spare)
            left_out.append(spare)
    print_table(console, shown)
    if left_out:
        print(f"Not shown in {console.width} columns: {', '.join(left_out)}. --out DIR writes all.")


def _list(folder: Path | None, paths: list[Path]) -> None:
    for path in paths:
        print((folder or Path()) / path.name)


def main() -> None:
    """Entry point."""
    errors.main(app)


if __name__ == "__main__":
    main()
