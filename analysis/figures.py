"""Figures as matplotlib figures, each with the frame behind it. Layers are counted from 1."""

from typing import TYPE_CHECKING

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.attention import Variant, line_through_means, score_curve, slopes
from analysis.load import BASELINE, DEPTH_FIELDS, Study, depth_of, model_order, seed_of
from analysis.similarity import over_epochs
from analysis.style import COLUMN, PAGE, Look, look_of, new_figure, settings, zero_line
from analysis.tables import gap, groups, outcomes
from training.records import EvalLine, Run

if TYPE_CHECKING:
    from training.dumps.store import Dump

VARIANT_TITLES: dict[Variant, str] = {"literal": "literal", "gauge_fixed": "gauge-fixed"}
_COLUMNS = 4  # panels in a row


def figure1(dumps: "list[Dump]", variant: Variant = "literal") -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    """Score against |Δ|, a panel a layer on shared scales, and the slope by layer below; (figure, bins, slopes).

    Points are bin means. In `literal` the thin line is the regression over pairs; in `gauge_fixed` none is drawn, since
    its slope is within query rows and the bins pool rows. mlin's bias is part of what softmax sees: its `total` scores
    are drawn, and the frames hold its `content` as well.
    """
    labels = _labels(dumps)
    curves, fits = [], []
    num_layers = dumps[0].info.num_layers
    num_rows = -(-num_layers // _COLUMNS)
    with settings():
        figure = new_figure(PAGE, 1.35 * num_rows + 1.75)
        grid = figure.add_gridspec(num_rows + 1, _COLUMNS, height_ratios=[1.0] * num_rows + [1.25])
        panels = _layer_panels(figure, grid, num_layers)
        below = figure.add_subplot(grid[num_rows, :])
        for dump, label in zip(dumps, labels, strict=True):
            for part in dump.info.parts:
                curves.append(score_curve(dump, variant, part))
                fits.append(slopes(dump, variant, part).assign(seed=seed_of(dump), run=dump.info.run))
            _draw_curves(panels, dump, curves[-1], fits[-1], variant)
            _draw_slopes(below, fits[-1], look_of(dump.info.model), label)
        for first in panels[::_COLUMNS]:
            first.set_ylabel("score" if variant == "literal" else "score − row mean")
        zero_line(below)
        below.set_xticks(range(1, num_layers + 1))
        below.set_xlim(0.6, num_layers + 0.4)
        below.set_xlabel("layer")
        below.set_ylabel("slope (score per 1 z)")
        below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, pd.concat(curves, ignore_index=True), pd.concat(fits, ignore_index=True)


def _labels(dumps: "list[Dump]") -> list[str]:
    """The model's name, with the seed where a model comes twice."""
    models = [dump.info.model for dump in dumps]
    return [
        f"{model} (seed {seed_of(dump)})" if models.count(model) > 1 else model
        for model, dump in zip(models, dumps, strict=True)
    ]


def _layer_panels(figure: Figure, grid: "matplotlib.gridspec.GridSpec", num_layers: int) -> list[Axes]:
    panels: list[Axes] = []
    for layer in range(num_layers):
        first = panels[0] if panels else None
        axes = figure.add_subplot(grid[layer // _COLUMNS, layer % _COLUMNS], sharex=first, sharey=first)
        axes.set_title(f"layer {layer + 1}", pad=2)
        if layer % _COLUMNS:
            axes.tick_params(labelleft=False)
        if layer + _COLUMNS < num_layers:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("|Δ| (z)")
        panels.append(axes)
    return panels


def _draw_curves(panels: list[Axes], dump: "Dump", curve: pd.DataFrame, fit: pd.DataFrame, variant: Variant) -> None:
    look = look_of(dump.info.model)
    mean_delta, mean_score = line_through_means(dump, dump.info.parts[-1])
    for layer, axes in enumerate(panels):
        shown = curve[(curve["layer"] == layer + 1) & curve["shown"]]
        x = ((shown["delta_low"] + shown["delta_high"]) / 2).to_numpy()
        axes.plot(x, shown["score"], linestyle="none", marker=look.marker, color=look.colour, markersize=2.4)
        if variant == "gauge_fixed":
            zero_line(axes)
        elif len(x):
            ends = np.array([0.0, x.max()])
            line = mean_score[layer] + fit["slope"].to_numpy()[layer] * (ends - mean_delta[layer])
            axes.plot(ends, line, color=look.colour, linestyle=look.dash, linewidth=0.9)


def _draw_slopes(axes: Axes, fit: pd.DataFrame, look: Look, label: str) -> None:
    value = fit["slope"].to_numpy()
    bars = np.abs(np.stack([value - fit["low"].to_numpy(), fit["high"].to_numpy() - value]))
    axes.errorbar(
        fit["layer"],
        value,
        yerr=None if np.isnan(bars).all() else np.nan_to_num(bars),
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash,
        capsize=2,
        elinewidth=0.8,
        label=label,
    )


def figure5(dumps: "list[Dump]", variant: Variant = "literal") -> tuple[Figure, pd.DataFrame]:
    """Cosine of the head-mean score with |Δ| and with r by layer, a line an epoch; bars: 95 % of the last epoch."""
    frame = over_epochs(dumps, variant)
    epochs = sorted(frame["epoch"].unique())
    ramp = matplotlib.colormaps["viridis_r"](np.linspace(0.15, 1.0, len(epochs))) if len(epochs) > 1 else ["black"]
    titles = {"delta": "with depth difference |Δ|", "r": "with distance r"}
    num_layers = dumps[0].info.num_layers
    with settings():
        figure = new_figure(PAGE, 2.3)
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, (quantity, title) in zip((left, right), titles.items(), strict=True):
            zero_line(axes)
            for colour, epoch in zip(ramp, epochs, strict=True):
                line = frame[(frame["quantity"] == quantity) & (frame["epoch"] == epoch)]
                last = epoch == epochs[-1]
                axes.plot(
                    line["layer"],
                    line["cosine"],
                    color=colour,
                    marker="o" if last else None,
                    linewidth=1.6 if last else 0.9,
                    linestyle="-" if last else (0, (4, 1 + 2 * (len(epochs) - 1 - epochs.index(epoch)) / len(epochs))),
                    label=f"epoch {epoch}",
                )
                if last and line["low"].notna().any():
                    axes.vlines(line["layer"], line["low"], line["high"], color=colour, linewidth=1.6, alpha=0.55)
            axes.set_title(title)
            axes.set_xlabel("layer")
            axes.set_xticks(range(1, num_layers + 1))
        left.set_ylabel(f"cosine, {dumps[0].info.model}")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 if len(epochs) <= 12 else 2)
        if frame["cosine"].isna().all():
            left.text(0.5, 0.6, "undefined: scores are\nconstant in each row", ha="center", transform=left.transAxes)
    return figure, frame


def depth_figure(study: Study) -> tuple[Figure, pd.DataFrame]:
    """The study in one picture: top-1 gained over m3ch by each model, grouped by the depth it was trained on."""
    grouped = groups(study)
    baseline = grouped.get((BASELINE, "none"), [])
    rows = []
    for (model, depth), runs in grouped.items():
        difference = gap(runs, baseline) if model != BASELINE else None
        if difference:
            rows.append({"depth": depth, "model": model, **difference})
    frame = pd.DataFrame(rows, columns=["depth", "model", "gap", "low", "high", "p", "seeds"])
    depths = [depth for depth in DEPTH_FIELDS if depth in set(frame["depth"])]
    models = sorted(set(frame["model"]), key=model_order)
    with settings():
        figure = new_figure(COLUMN + 0.6, 0.85 + 0.24 * (len(depths) * (len(models) + 0.8)))
        axes = figure.subplots()
        for model in models:
            _draw_gaps(axes, frame[frame["model"] == model], model, depths, models)
        axes.axvline(0, color=look_of(BASELINE).colour, linewidth=0.9)
        spacing = len(models) + 0.8
        axes.set_yticks([(index * spacing) + (len(models) - 1) / 2 for index in range(len(depths))], depths)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.set_ylim(max(1.0, len(depths) * spacing) - 1, -0.8)
        alone = f", {100 * outcomes(baseline).mean():.1f} %" if baseline else ""
        axes.set_xlabel(f"top-1 minus m3ch (RGB alone{alone}), points")
        axes.margins(x=0.13)
        axes.set_ylabel("depth")
        if models:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(models))
    return figure, frame


def _draw_gaps(axes: Axes, frame: pd.DataFrame, model: str, depths: list[str], models: list[str]) -> None:
    look = look_of(model)
    height = [depths.index(depth) * (len(models) + 0.8) + models.index(model) for depth in frame["depth"]]
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


def training_curves(runs: list[Run]) -> tuple[Figure, pd.DataFrame]:
    """Validation top-1 by epoch, a panel a depth field; m3ch is the same in each."""
    rows = [
        {"model": run.record.model, "depth": depth_of(run), "seed": run.record.seed, "epoch": e.epoch, "top1": e.top1}
        for run in runs
        for e in run.lines(EvalLine)
    ]
    frame = pd.DataFrame(rows, columns=["model", "depth", "seed", "epoch", "top1"])
    depths = [depth for depth in DEPTH_FIELDS if depth in set(frame["depth"])] or ["none"]
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
