"""The page's first pictures: what changing depth does to answers, and one patch's attention in every model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.causal import top1_jackknife
from analysis.colours import depth_map
from analysis.examples import comparable_examples, example_of
from analysis.figures import caption
from analysis.figures.spec import Drawn
from analysis.load import BASELINE, AnalysisError, Given, model_order, seed_of
from analysis.style import COLUMN, new_figure, settings, zero_line
from training.intervals import Jackknife

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from training.dumps.store import Dump


@dataclass(frozen=True)
class _Change:
    told: str
    colour: str
    hatch: str = ""


_CHANGES = {
    "swap": _Change("another image's depth", "#1b1b1b"),
    "mean": _Change("flat, at the image's mean", "#8a8a8a"),
    "zero": _Change("flat, at z = 0", "#d0d0d0"),
    "real": _Change("a sensor's depth of it", "white", "////"),
    "pseudo": _Change("a teacher's depth of it", "white", "////"),
}
_ACROSS = 4  # panels of the strip in a row


def changed_answers(study: Given, field: str) -> Drawn:
    """Change of top-1, a group of bars a model, mean over its seeds; m3ch reads no depth: 0 where it was not tried."""
    dumps = [dump for each in study.panel_sets(field) for dump in each]
    changed = [dump for dump in dumps if dump.info.num_causal and dump.info.labelled]
    if not changed:
        raise AnalysisError(
            "no dump holds images with changed depth and labels: 'train dump RUN --data SHARDS --causal 500' makes one"
        )
    models = sorted({d.info.model for d in changed} | {d.info.model for d in dumps} & {BASELINE}, key=model_order)
    frame = pd.DataFrame([row for model in models for row in _rows(model, changed)])
    there = [name for name in _CHANGES if name in set(frame["change"])]
    height = 0.5 + sum(0.16 + 0.105 * max(1, (frame["model"] == model).sum()) for model in models)
    with settings():
        figure = new_figure(COLUMN + 0.6, height)
        axes = figure.subplots()
        ends = _draw(axes, frame, models, there)
        zero_line(axes, vertical=True)
        axes.set_yticks(list(ends.values()), list(ends))
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("change of top-1, points")
        axes.margins(x=0.12, y=0.02)
        figure.legend(loc="outside upper left", ncols=min(2, len(there)))
    images = caption.among(frame["num_images"][frame["num_images"] > 0], "image", behind=True)
    seeds = caption.seeds_a_model((dump.info.model, seed_of(dump)) for dump in changed)
    text = (
        f"What happens to top-1 when an image keeps its photograph and is given other depth than its own ({images}, "
        f"{seeds}, {field} depth; 95 % intervals over images alone)."
    )
    if frame["of_seeds"].map(len).max() > 1:
        text += " Bars are means over seeds; circles: single seeds."
    if BASELINE not in {dump.info.model for dump in changed} and BASELINE in models:
        text += f" {BASELINE} reads no depth: 0 by construction."
    return Drawn(figure, {"": frame}, text)


def _rows(model: str, changed: "list[Dump]") -> list[dict[str, object]]:
    """One a change; seeds of other images than the first's are left out."""
    of_model = [dump for dump in changed if dump.info.model == model]
    if not of_model:
        none = {"value": 0.0, "low": 0.0, "high": 0.0, "of_seeds": [], "num_images": 0}
        return [{"model": model, "change": "swap", **none}]
    keys = of_model[0].keys()[: of_model[0].info.num_causal]
    alike = [dump for dump in of_model if dump.keys()[: dump.info.num_causal] == keys]
    rows = []
    for change in _CHANGES:
        having = [dump for dump in alike if change in dump.info.interventions]
        if having:
            each = [top1_jackknife(dump, change) for dump in having]
            mean = Jackknife(np.mean([one.value for one in each], 0), np.mean([one.without for one in each], 0))
            found, of_seeds = mean.estimate(), [float(one.value[0]) for one in each]
            ends = {"value": found.value[0], "low": found.low[0], "high": found.high[0]}
            rows.append({"model": model, "change": change, **ends, "of_seeds": of_seeds, "num_images": len(keys)})
    return rows


def _draw(axes: "Axes", frame: pd.DataFrame, models: list[str], there: list[str]) -> dict[str, float]:
    """Bars from the top; returns the middle of each model's."""
    middles, top, named = {}, 0.0, set()
    for model in models:
        rows = frame[frame["model"] == model].set_index("change")
        own = [change for change in there if change in rows.index]
        for place, change in enumerate(own):
            row, look = rows.loc[change], _CHANGES[change]
            value, low, high = (100 * float(row[name]) for name in ("value", "low", "high"))
            axes.barh(
                top + place, value, 0.9, color=look.colour, hatch=look.hatch, edgecolor="#1b1b1b", linewidth=0.5,
                label=None if change in named else look.told,
            )  # fmt: skip
            named.add(change)
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [top + place] * 2, color="#D55E00", linewidth=1.0)
            if len(row["of_seeds"]) > 1:
                seeds = 100 * np.array(row["of_seeds"])
                axes.plot(
                    seeds, [top + place] * len(seeds), "o", color="white", markeredgecolor="#D55E00", markersize=3
                )
            if change == own[0]:
                text = f"{value:+.0f}".replace("-", "−") if round(value) else "0"
                edge = np.nanmin([low, value, 0.0])
                axes.annotate(
                    text, (edge, top + place), xytext=(-3, 0), textcoords="offset points", va="center", ha="right"
                )
        middles[model] = top + (len(own) - 1) / 2
        top += len(own) + 1.2
    return middles


def attention_strip(study: Given, field: str) -> Drawn:
    """Photograph, depth, and each model's attention from one patch of them."""
    dumps, _ = comparable_examples(Given([], [d for d in study.dumps if d.info.depth_field == field and d.info.epoch]))
    if not dumps:
        raise AnalysisError(
            "no dump holds raw scores: 'train dump RUN --data SHARDS --raw 16' keeps those of 16 images"
        )
    example = example_of(dumps)
    rows, columns = example.depth.shape
    line = -(-(2 + len(dumps)) // _ACROSS)
    every = np.stack(list(example.attention.values()))
    top = float(every.max())
    least = max(float(every[every > 0].min()), top / 300)
    norm = LogNorm(least, top)
    with settings():
        figure = new_figure(COLUMN + 1.7, 1.5 * line + 0.6)
        panels = list(np.ravel(figure.subplots(line, _ACROSS, squeeze=False)))
        extent = (0, columns, rows, 0)
        panels[0].imshow(example.rgb, extent=extent)
        panels[0].set_title("photograph", pad=3)
        depth = np.where(np.isfinite(example.depth), example.depth, np.nan)
        panels[1].imshow(depth, extent=extent, cmap=depth_map())
        panels[1].set_title("depth (bright: near)", pad=3)
        for axes, (model, weights) in zip(panels[2:], example.attention.items(), strict=False):
            shades = axes.imshow(np.maximum(weights, least), extent=extent, cmap="viridis", norm=norm)
            axes.set_title(model, pad=3)
        for axes in panels[: 2 + len(dumps)]:
            _frame(axes, example.query, columns)
        for axes in panels[2 + len(dumps) :]:
            axes.remove()
        bar = figure.colorbar(
            shades, ax=panels[: 2 + len(dumps)], location="bottom", label="attention", fraction=0.05, aspect=50
        )
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.xaxis.set_minor_formatter(NullFormatter())
    patch = np.arange(rows * columns)
    frame = pd.DataFrame(
        {"row": patch // columns + 1, "column": patch % columns + 1, "query": patch == example.query}
        | {"depth": example.depth.ravel()}
        | {model: weights.ravel() for model, weights in example.attention.items()}
    )
    text = (
        "Where each model attends from one patch of one image (framed: the patch whose depth differs most from its "
        f"neighbours', in the image whose depth varies most of those kept), on {field} depth: mean over heads and "
        "layers, after softmax, one logarithmic scale. One image shows how it looks, not what holds."
    )
    return Drawn(figure, {"": frame}, text)


def _frame(axes: "Axes", query: int, columns: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for width, colour in ((2.4, "white"), (1.2, "#D55E00")):
        corner = (query % columns, query // columns)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width, clip_on=False))
