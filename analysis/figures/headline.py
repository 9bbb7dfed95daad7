"""What each model gains over RGB alone, by the depth it was trained on."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.accuracy import advantages
from analysis.load import BASELINE, Given, depth_order, model_order
from analysis.style import COLUMN, look_of, new_figure, settings
from analysis.tables import groups, outcomes


def depth_figure(study: Given) -> tuple[Figure, pd.DataFrame]:
    """Top-1 gained over m3ch by each model, grouped by the depth it was trained on; its data."""
    baseline = groups(study).get((BASELINE, "none"), [])
    rows = [
        {"depth": depth, "model": model, "gap": gap.value, "low": gap.low, "high": gap.high, "p": gap.p}
        | {"seeds_of": ", ".join(gap.seeds_of)}
        for (model, depth), gap in advantages(study).items()
    ]
    frame = pd.DataFrame(rows, columns=["depth", "model", "gap", "low", "high", "p", "seeds_of"])
    depths = sorted(set(frame["depth"]), key=depth_order)
    models = sorted(set(frame["model"]), key=model_order)
    heights, ticks, bottom = _heights(frame, depths)
    with settings():
        figure = new_figure(COLUMN + 0.6, 1.1 + 0.24 * bottom)
        axes = figure.subplots()
        for model in models:
            _draw_gaps(axes, frame[frame["model"] == model], model, heights)
        axes.axvline(0, color=look_of(BASELINE).colour, linewidth=0.9)
        axes.set_yticks(ticks, depths)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.set_ylim(max(1.0, bottom), -0.8)
        alone = f", {100 * outcomes(baseline).mean():.1f} %" if baseline else ""
        axes.set_xlabel(f"top-1 minus m3ch (RGB alone{alone}), points")
        axes.margins(x=0.13)
        axes.set_ylabel("depth")
        if models:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(models))
    return figure, frame


def _heights(frame: pd.DataFrame, depths: list[str]) -> tuple[dict[tuple[str, str], float], list[float], float]:
    """Where each (depth, model) goes, a line each and a space between depths; where each depth's name goes; the end."""
    heights: dict[tuple[str, str], float] = {}
    ticks, line = [], 0.0
    for depth in depths:
        models = sorted(frame.loc[frame["depth"] == depth, "model"], key=model_order)
        heights |= {(depth, model): line + place for place, model in enumerate(models)}
        ticks.append(line + (len(models) - 1) / 2)
        line += len(models) + 0.8
    return heights, ticks, line - 1


def _draw_gaps(axes: Axes, frame: pd.DataFrame, model: str, heights: dict[tuple[str, str], float]) -> None:
    look = look_of(model)
    height = [heights[depth, model] for depth in frame["depth"]]
    value = 100 * frame["gap"].to_numpy()
    bars = 100 * np.stack([frame["gap"] - frame["low"], frame["high"] - frame["gap"]])
    axes.errorbar(
        value,
        height,
        xerr=np.abs(bars),
        color=look.colour,
        marker=look.marker,
        linestyle="none",
        capsize=2.5,
        label=model,
    )
    for x, y, high in zip(value, height, 100 * frame["high"], strict=True):
        text = f"{x:+.1f}".replace("-", "−")
        axes.annotate(
            text, (max(x, high), y), xytext=(4, 0), textcoords="offset points", va="center", color=look.colour
        )
