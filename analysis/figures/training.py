"""Validation accuracy during training."""

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from analysis.load import depth_of, depth_order, model_order
from analysis.style import PAGE, look_of, new_figure, settings
from training.records import EvalLine, Run


def training_curves(runs: list[Run]) -> tuple[Figure, pd.DataFrame]:
    """Validation top-1 by epoch, a panel a depth field; m3ch is the same in each."""
    rows = [
        {"model": run.record.model, "depth": depth_of(run), "seed": run.record.seed, "epoch": e.epoch, "top1": e.top1}
        for run in runs
        for e in run.lines(EvalLine)
    ]
    frame = pd.DataFrame(rows, columns=["model", "depth", "seed", "epoch", "top1"])
    depths = sorted(set(frame["depth"]) - {"none"}, key=depth_order) or ["none"]
    with settings():
        figure = new_figure(PAGE, 1.9)
        panels = np.atleast_1d(figure.subplots(1, len(depths), sharey=True))
        drawn: dict[str, Artist] = {}
        for axes, depth in zip(panels, depths, strict=True):
            shown = frame[frame["depth"].isin([depth, "none"])]
            for (model, _), line in shown.groupby(["model", "seed"], sort=False):
                look = look_of(str(model))
                ordered = line.sort_values("epoch")
                (drawn[str(model)],) = axes.plot(
                    ordered["epoch"], 100 * ordered["top1"], color=look.colour, marker=look.marker, linestyle=look.dash
                )
            axes.set_title(f"{depth} depth" if depth != "none" else "RGB alone")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        panels[0].set_ylabel("validation top-1, %")
        ordered_models = sorted(drawn, key=model_order)
        if ordered_models:
            figure.legend([drawn[m] for m in ordered_models], ordered_models, loc="outside right center")
    return figure, frame
