"""What a notebook asks of runs: `study = analysis.load("runs/")`, then figures, frames, tables and claims."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import accuracy, fine_tuning, tables
from analysis.figures import figure_of
from analysis.load import AnalysisError, Loaded
from analysis.read import read
from analysis.style import close


class Study(Loaded):
    """Runs, dumps and a matrix, with what they show; made by `analysis.load`."""

    def figure(self, name: str | int, variant: str | None = None, depth: str | None = None) -> Figure:
        """A figure by its name or the paper's number; in its first variant, of the usual depth field, unless told."""
        return figure_of(name).drawn(self, variant, depth).figure

    def frames(self, name: str | int, variant: str | None = None, depth: str | None = None) -> dict[str, pd.DataFrame]:
        """What a figure draws, as frames by name; "" is the figure's own."""
        drawn = figure_of(name).drawn(self, variant, depth)
        close(drawn.figure)
        return drawn.frames

    def table(self, number: int) -> pd.DataFrame:
        """Table 1 (size and cost), 2 (accuracy) or 3 (fine-tuning, of `matrix`)."""
        if number == 1:
            return tables.table1(self)
        if number == 2:
            return accuracy.table2(self)
        if number != 3:
            raise AnalysisError(f"table must be 1, 2 or 3, got {number!r}")
        if self.matrix is None:
            raise AnalysisError("table 3 needs a matrix: make one with 'train matrix', then load(runs, matrix=FOLDER)")
        return fine_tuning.table3(self.matrix)


def study_of(paths: Iterable[Path | str] | Path | str, matrix: Path | str | None, digits: Path | str | None) -> Study:
    """`read`, with what it shows."""
    found = read(paths, matrix, digits)
    return Study(found.runs, found.dumps, found.matrix, found.digits, found.matrix_path, found.digits_path)
