"""Figures 7 and 8: mlin's α by epoch, mmlp's φ(Δ), a line a layer."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.depth_bias import alpha_by_epoch, density_of_delta, phi_curves, run_of
from analysis.figures.spec import Draw, Drawn
from analysis.load import Given
from analysis.style import COLUMN, GREY, layer_ramp, new_figure, settings, zero_line
from training.dumps.from_raw import bias_mode
from training.records import Run

_UNTRAINED = (
    "The last block's {} gets no gradient in pre-training, because only the class token, which has no bias, is "
    "read after it: grey, dashed."
)


def draw_alpha(study: Given, variant: str, depth: str | None) -> Drawn:
    """`literal`: α as logged; `effective`: α times the mean over heads of |log γ_h|, with the band over heads."""
    run = run_of(study, "mlin", depth)
    frame = alpha_by_epoch(run)
    value = "alpha" if variant == "literal" else "effective"
    with settings():
        figure = new_figure(COLUMN + 1.0, 2.5)
        axes = figure.subplots()
        _lines(figure, axes, frame, "epoch", value)
        zero_line(axes)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        axes.set_ylabel("α" if variant == "literal" else "α · mean |log γ| (score per 1 z)")
    what = (
        "The one learned number α of each block's depth bias"
        if variant == "literal"
        else "How far the bias lowers the score per 1 z of |Δ|, α times |log γ_h|: mean over heads, band over heads"
    )
    text = f"{what}, by epoch ({_of(run)}). {_UNTRAINED.format('α')}"
    return Drawn(figure, {"": frame}, text)


def draw_phi(study: Given, variant: str, depth: str | None) -> Drawn:
    """`effective`: the bias φ(Δ) · mean s_h; `literal`: φ against the paper's sign of Δ. Below, how often Δ occurs."""
    run = run_of(study, "mmlp", depth)
    frame = phi_curves(run)
    density = _density(study, run)
    sign = 1 if variant == "effective" else -1  # the paper's depth is nearer-is-larger
    with settings():
        figure = new_figure(COLUMN + 1.0, 2.5 if density is None else 3.2)
        ratios = [1.0] if density is None else [3.0, 1.0]
        axes, *below = np.atleast_1d(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios))
        x, value = ("delta", "effective") if variant == "effective" else ("paper_delta", "phi")
        _lines(figure, axes, frame, x, value)
        zero_line(axes)
        zero_line(axes, vertical=True)
        axes.set_ylabel("bias, mean over heads (score)" if variant == "effective" else "φ(Δ)")
        if density is not None:
            middle = sign * (density["low"] + density["high"]) / 2
            below[0].fill_between(middle, density["density"], color=GREY, alpha=0.5, linewidth=0)
            below[0].set_ylim(bottom=0)
            below[0].set_ylabel("density (1/z)")
            axes.tick_params(labelbottom=False)
        last = (axes, *below)[-1]
        farther = "query farther" if variant == "effective" else "query nearer"
        last.set_xlabel(f"Δ = query minus key (z); right of 0: {farther}")
    frames = {"": frame} if density is None else {"": frame, "-density": density}
    return Drawn(figure, frames, _caption8(run, int(frame["epoch"].iloc[0]), variant, density))


def _density(study: Given, run: Run) -> pd.DataFrame | None:
    """Of the run's last dump on the depth it was trained on, in the patch depth the model reads if there is one."""
    own = (run.record.name, run.record.study_hash, run.record.shards.depth_field)
    dumps = [d for d in study.dumps if (d.info.run, d.info.study_hash, d.info.depth_field) == own]
    if not dumps:
        return None
    chosen = max(dumps, key=lambda dump: (dump.info.patch_depth == bias_mode(dump.info), dump.info.epoch))
    return density_of_delta(chosen).assign(depth_field=chosen.info.depth_field, patch_depth=chosen.info.patch_depth)


def _caption8(run: Run, epoch: int, variant: str, density: pd.DataFrame | None) -> str:
    what = (
        "The bias that mmlp adds to a score, φ(Δ) times log γ_h: mean over heads, band over heads; below 0 it attends "
        "less"
        if variant == "effective"
        else "φ as learned, against Δ as the paper signs it (its depth is nearer-is-larger, ours farther-is-larger); "
        "log γ_h < 0 turns its sign in the score"
    )
    text = (
        f"{what} ({_of(run)}, epoch {epoch}). A constant acts too, on patches against the class token, so none is "
        "taken off."
    )
    if density is None:
        field = run.record.shards.depth_field
        text += (
            f" The run has no dump on {field} depth ('train dump RUN --data SHARDS' makes one), so the density of Δ is "
            "left out."
        )
    else:
        of = density.iloc[0]
        depth = f"{int(of['num_images']):,} images (patch depth {of['patch_depth']} of {of['depth_field']})"
        text += f" Below, the density of Δ over all ordered pairs of patches of {depth}, even by construction."
    return f"{text} {_UNTRAINED.format('φ')}"


def _lines(figure: Figure, axes: Axes, frame: pd.DataFrame, x: str, value: str) -> None:
    """A line a layer, coloured by depth; the band is over heads. The layer that is not trained: grey, dashed, below."""
    num_layers = int(frame["layer"].max())
    ramp = layer_ramp(num_layers)
    for layer, line in frame.groupby("layer"):
        ordered, trained = line.sort_values(x), bool(line["trained"].iloc[0])
        colour = ramp[int(layer) - 1] if trained else GREY
        axes.plot(
            ordered[x],
            ordered[value],
            color=colour,
            linestyle="-" if trained else (0, (3, 2)),
            marker="o" if len(ordered) == 1 else None,
            zorder=3 if trained else 1,
        )
        if value == "effective" and trained:
            axes.fill_between(
                ordered[x], ordered["effective_low"], ordered["effective_high"], color=colour, alpha=0.07, linewidth=0
            )
    if num_layers > 1:
        colours = ListedColormap(ramp[:-1])
        edges = np.arange(num_layers) + 0.5
        bar = figure.colorbar(ScalarMappable(BoundaryNorm(edges, len(ramp) - 1), colours), ax=axes, pad=0.02)
        bar.set_ticks(list(range(1, num_layers)))
        bar.ax.tick_params(length=0)
        bar.set_label("layer")
    last = Line2D([], [], color=GREY, linestyle=(0, (3, 2)), label=f"layer {num_layers}, no gradient")
    axes.legend(handles=[last], loc="best")


def _of(run: Run) -> str:
    return f"{run.record.model} on {run.record.shards.depth_field} depth, 1 seed ({run.record.seed})"


DRAWS: dict[str, Draw] = {"alpha": draw_alpha, "phi": draw_phi}
