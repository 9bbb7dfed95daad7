"""Stage 3: figures, tables and the report from what runs leave behind; needs no torch, no model and no network.

import analysis
study = analysis.load(["runs/m3ch", "runs/m4ch"])
study.figure(1, variant="gauge_fixed")  # a matplotlib figure
study.table(2)                          # a pandas frame
"""

from analysis.load import AnalysisError, Study, load

__all__ = ["AnalysisError", "Study", "load"]
