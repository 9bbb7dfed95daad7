"""Stage 3: figures, tables and the report from what runs leave behind; needs no torch, no model and no network.

import analysis
study = analysis.load("runs/")           # or some of them: ["runs/m3ch", "runs/m4ch"]
study.figure(1, variant="gauge_fixed")  # a matplotlib figure
study.table(2)                          # a pandas frame
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.load import AnalysisError

if TYPE_CHECKING:
    from analysis.study import Study

__all__ = ["AnalysisError", "load"]


def load(
    paths: Iterable[Path | str] | Path | str, matrix: Path | str | None = None, digits: Path | str | None = None
) -> "Study":
    """Read run folders (with every dump inside), folders of runs, bare `.zarr` dumps; one part at fault refuses all.

    `matrix`: the matrix.json of `train matrix`, or its folder. `digits`: the digits study's JSON.
    """
    from analysis.study import study_of  # pandas and matplotlib, which `analyze --help` does without

    return study_of(paths, matrix, digits)
