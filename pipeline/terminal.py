"""What the three commands print on: any terminal, any file name, any width. Imports nothing heavy."""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def make_console(**options: Any) -> Console:
    """A console (of rich's `options`) that takes text as it is: a `[/x]` or `:cat:` in a file name is no markup."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def add_version(app: typer.Typer) -> None:
    """`--version` for a command line."""

    def show(asked: bool) -> None:
        if asked:
            print(f"pseudodepth {version('pseudodepth')}")
            raise typer.Exit

    @app.callback()
    def options(
        asked: Annotated[
            bool, typer.Option("--version", callback=show, is_eager=True, help="Say it, and stop.")
        ] = False,
    ) -> None:
        pass


def print_table(console: Console, table: Table) -> None:
    """As a table where it fits or goes to a file or pipe, which are as wide as it must be; else a line a value.

    No number is ever cut short. A column may break its lines where it is made with overflow="fold".
    """
    for column in table.columns:
        column.no_wrap = column.overflow != "fold"
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    folds = any(column.overflow == "fold" for column in table.columns)
    least = console.measure(table, options=console.options.update(width=10_000)).minimum if folds else needed
    if needed <= console.width or (folds and least <= console.width):
        console.print(table)
    elif not console.is_terminal:
        make_console(file=console.file, width=needed).print(table)
    else:
        _print_values(console, table)


def _print_values(console: Console, table: Table) -> None:
    """`heading: value`, a line each, a gap between rows."""
    if table.title:
        console.print(table.title, markup=False, highlight=False, soft_wrap=True)
    cells = [list(column.cells) for column in table.columns]
    for row in zip(*cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            text = " ".join(str(cell).split())
            if text:
                console.print(f"{column.header}: {text}", markup=False, highlight=False, soft_wrap=True)
        console.print()
