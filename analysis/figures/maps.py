"""Figures 6, 10 and 13: mean attention or score by distance and |Δ|, all layers pooled and each, on one scale.

Below, how a column of the map changes with |Δ|: the slope among pairs at one distance.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from analysis.attention import bin_rule
from analysis.figures import caption
from analysis.figures.spec import Draw, Drawn
from analysis.load import AnalysisError, Given, seed_of
from analysis.maps import ALL, Quantity, cells, column_slopes, swapped_slopes
from analysis.style import GREY, PAGE, layer_ramp, look_of, new_figure, settings, zero_line
from training.dumps.pairs import BIN_WIDTH

if TYPE_CHECKING:
    from training.dumps.store import Dump

_COLUMNS = 6  # small panels in a row
_LABELS: dict[Quantity, str] = {
    "attention": "mean attention",
    "literal": "mean score",
}


def draw_attention(study: Given, variant: str, depth: str | None) -> Drawn:
    return of_dumps(_dumps(study, depth, ("m3ch", "mlin")), "attention")


def draw_scores(study: Given, variant: str, depth: str | None) -> Drawn:
    return _scores(_dumps(study, depth, ("m4ch",)), variant)


def draw_fused_scores(study: Given, variant: str, depth: str | None) -> Drawn:
    return _scores(_dumps(study, depth, ("mdf1", "mgem")), variant)


def _scores(dumps: "list[Dump]", variant: str) -> Drawn:
    return of_swaps(dumps) if variant == "causal" else of_dumps(dumps, cast(Quantity, variant))


def _dumps(study: Given, depth: str | None, models: tuple[str, ...]) -> "list[Dump]":
    """The last dump of each of these models that has one, of its lowest seed."""
    lowest: dict[str, Dump] = {}
    for dump in sorted(study.last_dumps(depth, lambda dump: dump.info.model in models), key=seed_of, reverse=True):
        lowest[dump.info.model] = dump
    found = [lowest[model] for model in models if model in lowest]
    if not found:
        raise AnalysisError(
            f"no dump of {' or '.join(models)} was given: make one with 'train dump RUN --data SHARDS' of such a run"
        )
    return found


def of_dumps(dumps: "list[Dump]", quantity: Quantity) -> Drawn:
    """A block of panels a model and, below, slopes by distance; frames: cells, `-slopes`."""
    maps = [cells(dump, quantity).assign(seed=seed_of(dump), run=dump.info.run) for dump in dumps]
    slopes = [column_slopes(dump, quantity).assign(seed=seed_of(dump), run=dump.info.run) for dump in dumps]
    everything = pd.concat(maps, ignore_index=True)
    scale = _Scale.of(everything, quantity, dumps[0])
    num_rows = [_rows(dump) for dump in dumps]
    num_columns = max(-(-dump.info.num_attention_layers // _rows(dump)) for dump in dumps)
    with settings():
        figure = new_figure(PAGE, 0.98 * sum(num_rows) + 1.8)
        heights = [1.0] * sum(num_rows) + [1.55]
        grid = figure.add_gridspec(
            len(heights), num_columns + 1, height_ratios=heights, width_ratios=[1.9, *[1.0] * num_columns]
        )
        panels: list[Axes] = []
        for first, dump, frame in zip(np.cumsum([0, *num_rows]), dumps, maps, strict=False):
            panels += _draw_maps(figure, grid[first : first + _rows(dump), :], dump, frame, scale)
        _draw_slopes(figure.add_subplot(grid[-1, : -max(1, num_columns // 3)]), dumps, slopes, quantity)
        _draw_scale(figure, panels, scale, quantity)
        if not everything["shown"].all():
            _draw_hatch(figure, scale)
    frames = {"": everything, "-slopes": pd.concat(slopes, ignore_index=True)}
    return Drawn(figure, frames, _caption(dumps, quantity, everything))


def of_swaps(dumps: "list[Dump]") -> Drawn:
    """What a swap of depth does to scores, by distance; frame: slopes."""
    changed = [dump for dump in dumps if dump.info.num_causal]
    if not changed:
        models = " or ".join(dump.info.model for dump in dumps)
        raise AnalysisError(
            f"no dump of {models} holds changed depth: make one with 'train dump RUN --data SHARDS --causal 500'"
        )
    slopes = [swapped_slopes(dump).assign(seed=seed_of(dump), run=dump.info.run) for dump in changed]
    with settings():
        figure = new_figure(PAGE, 2.4)
        _draw_slopes(figure.add_subplot(figure.add_gridspec(1, 3)[:2]), changed, slopes, "literal")
    images = caption.among((dump.info.num_causal for dump in changed), "image", behind=True)
    text = (
        "Slope of the head-mean score, minus its mean over a query's keys, on the change of |Δ| when an image is given "
        f"another's depth and keeps its photograph, among pairs at one distance, rounded down: {images} of the dumps' "
        f"{caption.of_dumps(changed)}; band: 95 % jackknife over groups of images, all layers."
    )
    return Drawn(figure, {"": pd.concat(slopes, ignore_index=True)}, text)


@dataclass(frozen=True)
class _Scale:
    """Shared by all panels of a figure."""

    norm: Normalize
    colours: Any
    top: float  # largest |Δ| that is drawn
    reach: tuple[float, float]  # of the columns
    reference: float | None  # attention that is the same to all keys
    hatch: str  # colour that the shades are not

    @classmethod
    def of(cls, frame: pd.DataFrame, quantity: Quantity, dump: "Dump") -> "_Scale":
        shown = frame[frame["shown"]]
        if shown.empty:
            raise AnalysisError(f"{dump.path}: no cell holds enough pairs to be drawn: dump more images with --images")
        low, high = float(shown["mean"].min()), float(shown["mean"].max())
        reference = None
        norm: Normalize
        if quantity == "attention":
            reference = 1 / (dump.info.num_prefix + dump.info.num_patches)
            low, high = min(low, reference / 1.1), max(high, reference * 1.1)
            norm, colours = LogNorm(low, high), "viridis"
        else:
            norm, colours = Normalize(low, high), "viridis"
        columns = (float(frame["distance"].min()), float(frame["distance"].max()) + 1)
        return cls(norm, matplotlib.colormaps[colours], float(shown["delta_high"].max()), columns, reference, "white")


def _rows(dump: "Dump") -> int:
    return max(2, -(-dump.info.num_attention_layers // _COLUMNS))


def _draw_maps(figure: Figure, place: SubplotSpec, dump: "Dump", frame: pd.DataFrame, scale: _Scale) -> list[Axes]:
    layers = dump.info.attention_layers
    num_rows = _rows(dump)
    num_columns = -(-len(layers) // num_rows)
    grid = place.get_gridspec()
    rows = place.rowspan
    pooled = figure.add_subplot(grid[rows.start : rows.stop, 0])
    _draw_map(pooled, frame[frame["layer"] == ALL], scale)
    pooled.set_title(f"{dump.info.model}, all layers", pad=2)
    pooled.set_ylabel("|Δ| (z)")
    pooled.set_xlabel("distance (patches)")
    panels = [pooled]
    for number, layer in enumerate(layers):
        row, column = divmod(number, num_columns)
        axes = figure.add_subplot(grid[rows.start + row, column + 1], sharex=pooled, sharey=pooled)
        _draw_map(axes, frame[frame["layer"] == layer], scale)
        axes.set_title(f"layer {layer}", pad=2)
        axes.tick_params(labelleft=False, labelbottom=number + num_columns >= len(layers))
        panels.append(axes)
    return panels


def _draw_map(axes: Axes, frame: pd.DataFrame, scale: _Scale) -> None:
    """Colours as an image; cells of too few data hatched."""
    frame = frame[frame["delta_high"] <= scale.top + 1e-9]
    first = int(scale.reach[0])
    shape = (round(scale.top / BIN_WIDTH), int(scale.reach[1]) - first)
    place = (frame["delta_low"] / BIN_WIDTH).round().astype(int), frame["distance"] - first
    values, few = np.full(shape, np.nan), np.zeros(shape, bool)
    values[place] = frame["mean"]
    few[place] = ~frame["shown"]
    across, up = np.arange(shape[1] + 1) + first, np.arange(shape[0] + 1) * BIN_WIDTH
    axes.pcolormesh(across, up, values, norm=scale.norm, cmap=scale.colours, rasterized=True)
    if few.any():
        hatch = PathPatch(
            _outline(few, across, up), facecolor="none", edgecolor=scale.hatch, hatch="//////", linewidth=0
        )
        axes.add_patch(hatch)
    axes.set_xlim(*scale.reach)
    axes.set_ylim(0, scale.top)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _outline(few: np.ndarray, across: np.ndarray, up: np.ndarray) -> Path:
    """Rectangles around each column's runs of marked cells, as one path."""
    corners: list[np.ndarray] = []
    for column in range(few.shape[1]):
        steps = np.diff(np.concatenate([[0], few[:, column].astype(int), [0]]))
        for low, high in zip(np.flatnonzero(steps > 0), np.flatnonzero(steps < 0), strict=True):
            left, right, bottom, top = across[column], across[column + 1], up[low], up[high]
            corners.append(np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]))
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.concatenate(corners), codes * len(corners))


def _draw_scale(figure: Figure, panels: list[Axes], scale: _Scale, quantity: Quantity) -> None:
    shades = matplotlib.cm.ScalarMappable(scale.norm, scale.colours)
    bar = figure.colorbar(shades, ax=panels, label=_LABELS[quantity], fraction=0.03, pad=0.01, aspect=40)
    if scale.reference is not None:
        bar.ax.axhline(scale.reference, color="white", linewidth=1.2)
        ticks = _ticks(float(scale.norm.vmin or 0), float(scale.norm.vmax or 1), scale.reference)
        labels = [f"{tick:g}" for tick in ticks] + [f"1/{round(1 / scale.reference)}"]
        bar.set_ticks([*ticks, scale.reference], labels=labels)
        bar.minorticks_off()


def _draw_hatch(figure: Figure, scale: _Scale) -> None:
    """What hatched cells are, in the picture; in the corner that the slopes leave free."""
    shade = scale.colours(0.35)
    swatch = Patch(facecolor=shade, edgecolor=scale.hatch, hatch="//////", linewidth=0, label="hatched: too few pairs")
    legend = figure.legend(handles=[swatch], loc="lower right", borderaxespad=0.2)
    legend.set_in_layout(False)


def _ticks(low: float, high: float, reference: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or what lies between; none so near the reference that labels would touch."""
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    every = sorted(float(f"{times * 10**power:.0e}") for power in powers for times in (1, 2, 5))
    between = sorted({float(f"{tick:.2g}") for tick in np.geomspace(low, high, 6)})  # where no two of those lie
    near = 0.06 * np.log(high / low)
    fitting = (
        [tick for tick in ticks if low <= tick <= high and abs(np.log(tick / reference)) > near]
        for ticks in (every, between)
    )
    return max(fitting, key=lambda ticks: min(len(ticks), 2))


def _draw_slopes(axes: Axes, dumps: "list[Dump]", slopes: list[pd.DataFrame], quantity: Quantity) -> None:
    """All layers with interval; of one model its layers too. Grey: all layers on another image's |Δ|, where known."""
    zero_line(axes)
    for dump, frame in zip(dumps, slopes, strict=True):
        if len(dumps) == 1:
            ramp = layer_ramp(dump.info.num_layers)
            for layer in dump.info.attention_layers:
                line = frame[frame["layer"] == layer]
                axes.plot(
                    line["distance"] + 0.5, line["slope"], color=ramp[layer - 1], linewidth=0.7, label=f"layer {layer}"
                )
        look, pooled = look_of(dump.info.model), frame[frame["layer"] == ALL]
        x = pooled["distance"] + 0.5
        axes.fill_between(x, pooled["slope_low"], pooled["slope_high"], color=look.colour, alpha=0.2, linewidth=0)
        axes.plot(
            x,
            pooled["slope"],
            color=look.colour,
            marker=look.marker,
            linestyle=look.dash,
            label=f"{dump.info.model}, all",
        )
        if "other" in pooled:
            label = "another\nimage's depth" if dump is dumps[0] else None  # beside layers' names there is little room
            axes.fill_between(
                x, pooled["other_low"], pooled["other_high"], color=GREY, alpha=0.25, linewidth=0, zorder=0
            )
            axes.plot(x, pooled["other"], color=GREY, linestyle=look.dash, linewidth=0.8, zorder=1, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("distance (patches)")
    axes.set_ylabel("slope over mean (1 per z)" if quantity == "attention" else "slope (score per 1 z)")
    # Over the room that is left beside the panel: the layout need not make any.
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=2 if len(dumps) == 1 else 1)
    legend.set_in_layout(False)


def _caption(dumps: "list[Dump]", quantity: Quantity, frame: pd.DataFrame) -> str:
    min_pairs, min_images = bin_rule(dumps[0].info.num_images)
    what = {
        "attention": "Head-mean attention (after softmax over all tokens, any depth bias included)",
        "literal": "Head-mean score",
    }[quantity]
    text = (
        f"{what} by distance, rounded down, and |Δ| ({caption.of_dumps(dumps)}), on one scale. Hatched: under "
        f"{min_pairs:,} pairs or {min_images} images. Below, the slope on |Δ| among pairs of exactly one distance, "
        "pooled over a column's distances"
    )
    if quantity == "attention":
        text += ", over the column's mean attention"
    text += "; band: 95 % jackknife over groups of images, all layers."
    if quantity == "attention":
        keys = dumps[0].info.num_prefix + dumps[0].info.num_patches
        text += f" White line in the scale: 1/{keys}, attention that is the same to all keys."
    text += " Grey: the same on another image's |Δ|, the null: it has what images share by position."
    if dumps[0].info.first_attention_layer:
        last = dumps[0].info.first_attention_layer
        which = f"Layers 1 to {last} have" if last > 1 else "Layer 1 has"
        text += f" {which} two branches and no scores of this kind."
    return text


DRAWS: dict[str, Draw] = {
    "attention-maps": draw_attention,
    "score-maps": draw_scores,
    "fused-score-maps": draw_fused_scores,
}
