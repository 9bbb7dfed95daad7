"""Figure 1: attention scores against the depth difference |Δ|, by layer; and what they do when depth is changed.

m4ch's alone, as in the paper, with its own null and the slope given distance beside the paper's; other models small.
"""

from functools import partial
from typing import TYPE_CHECKING, cast

import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.attention import Variant, bin_rule, line_through_means, score_curve, slopes
from analysis.causal import beside_association
from analysis.evidence import evidence
from analysis.figures import caption
from analysis.figures.spec import Draw, Drawn
from analysis.fixed_effects import distance_slopes
from analysis.load import BASELINE, AnalysisError, Given, seed_of
from analysis.nulls import null_slope
from analysis.style import GREY, PAGE, Look, look_of, new_figure, settings, zero_line

if TYPE_CHECKING:
    from training.dumps.store import Dump

_COLUMNS = 4  # panels in a row
_LEAD = "m4ch"  # whose scores the paper draws
_PALE: dict[Variant, str] = {
    "literal": "over all pairs, which is what the paper fits",
    "gauge_fixed": "within query rows",
}


def draw(study: Given, variant: str, depth: str | None) -> Drawn:
    """The last dump of every run of one depth field; `causal`: of those that hold changed depth."""
    dumps = study.last_dumps(depth)
    return of_swaps(dumps) if variant == "causal" else of_dumps(study, dumps, cast(Variant, variant))


def of_swaps(dumps: "list[Dump]") -> Drawn:
    """Slopes by layer when depth is swapped for another image's, and pale beside them those over pairs."""
    changed = [dump for dump in dumps if dump.info.num_causal]
    if not changed:
        raise AnalysisError("no dump holds changed depth: make one with 'train dump RUN --data SHARDS --causal 500'")
    frames = [beside_association(dump).assign(seed=seed_of(dump), run=dump.info.run) for dump in changed]
    with settings():
        figure = new_figure(PAGE, 3.2)
        axes = figure.subplots()
        for frame, dump, label in zip(frames, changed, _labels(changed), strict=True):
            look = look_of(dump.info.model)
            _draw_slopes(axes, frame, look, label)
            axes.plot(frame["layer"], frame["association"], color=look.colour, linestyle=look.dash, alpha=0.35)
        _finish_slopes(axes, changed[0].info.num_layers)
    images = caption.among((dump.info.num_causal for dump in changed), "image", behind=True)
    text = (
        f"Slope of the head-mean score, bias included, on the change of |Δ| when an image is given another's depth and "
        f"keeps its photograph: {images} of the dumps' {caption.of_dumps(changed)}; 95 % intervals over images. "
        "Pale, the gauge-fixed slope over pairs of the same scores, where depth, colour and position go together. "
        "Another image's depth is not what a model was trained on."
    )
    return Drawn(figure, {"": pd.concat(frames, ignore_index=True)}, text)


def of_dumps(study: Given, dumps: "list[Dump]", variant: Variant) -> Drawn:
    """m4ch's scores against |Δ|, a panel a layer on shared scales, its slopes by layer, other models' slopes small.

    Frames, of every model: bins, `-slopes`; `gauge_fixed` also has `-evidence`: controls and nulls. Without m4ch the
    first model is drawn in its place.

    Points are bin means. In `literal` the thin line is the regression over pairs; in `gauge_fixed` none is drawn, since
    its slope is within query rows and the bins pool rows. mlin's bias is part of what softmax sees: its `total` scores
    are drawn, and the frames hold its `content` as well.
    """
    models = list(dict.fromkeys(dump.info.model for dump in dumps))
    lead = _LEAD if _LEAD in models else models[0]
    rest = [model for model in models if model != lead]
    num_layers = dumps[0].info.num_layers
    num_rows = -(-num_layers // _COLUMNS)
    bins, fits = _bins(dumps, variant), _fits(study, dumps, variant)
    with settings():
        figure = new_figure(PAGE, 1.3 * num_rows + 1.75 + 1.35 * bool(rest))
        heights = [1.0] * num_rows + [1.4] + [1.1] * bool(rest)
        grid = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
        panels = _layer_panels(figure, grid, num_layers)
        below = figure.add_subplot(grid[num_rows, :])
        for dump in dumps:
            if dump.info.model == lead:
                _draw_curves(panels, dump, _of(bins, dump), _of(fits, dump), variant)
        for first in panels[::_COLUMNS]:
            first.set_ylabel("score" if variant == "literal" else "score − row mean")
        _draw_lead(below, [dump for dump in dumps if dump.info.model == lead], fits, variant)
        _finish_slopes(below, num_layers)
        below.set_title(f"{lead}, all heads: slope on |Δ|", pad=2)
        if rest:
            small = grid[num_rows + 1, :].subgridspec(1, max(_COLUMNS, len(rest)))
        for place, model in enumerate(rest):
            axes = figure.add_subplot(small[place], sharey=below)
            _draw_small(axes, [dump for dump in dumps if dump.info.model == model], fits, num_layers)
            axes.tick_params(labelleft=place == 0)
    frames = {"": bins, "-slopes": fits}
    text = _caption(dumps, lead, variant, bins)
    if variant == "gauge_fixed":
        proofs = [
            evidence(dump, part).assign(seed=seed_of(dump), run=dump.info.run)
            for dump in dumps
            for part in dump.info.parts
        ]
        frames["-evidence"] = pd.concat(proofs, ignore_index=True)
        text += "".join(map(_what_content_does, proofs)) + _what_p_is_of(frames["-evidence"])
    return Drawn(figure, frames, text)


def _bins(dumps: "list[Dump]", variant: Variant) -> pd.DataFrame:
    curves = [
        score_curve(dump, variant, part).assign(seed=seed_of(dump), run=dump.info.run)
        for dump in dumps
        for part in dump.info.parts
    ]
    return pd.concat(curves, ignore_index=True)


def _fits(study: Given, dumps: "list[Dump]", variant: Variant) -> pd.DataFrame:
    """Slopes by layer, as the variant has them and given distance, on an image's own |Δ| and on another's (`other`)."""
    found = []
    for dump in dumps:
        for part in dump.info.parts:
            null = null_slope(dump, "other", variant, part)
            more = {"other": null.value, "other_low": null.low, "other_high": null.high}
            key = (
                ("distance slopes", dump.path) if part == dump.info.parts[-1] else ("distance slopes", part, dump.path)
            )
            both = study.once(key, partial(distance_slopes, dump, part)).estimate()
            for place, name in enumerate(("given_distance", "other_given_distance")):
                ends = {"": both.value, "_low": both.low, "_high": both.high}
                more |= {f"{name}{end}": values[place] for end, values in ends.items()}
            found.append(slopes(dump, variant, part).assign(**more, seed=seed_of(dump), run=dump.info.run))
    return pd.concat(found, ignore_index=True)


def _of(frame: pd.DataFrame, dump: "Dump") -> pd.DataFrame:
    """Of all that the model's softmax sees, its bias included."""
    own = (frame["run"] == dump.info.run) & (frame["model"] == dump.info.model) & (frame["seed"] == seed_of(dump))
    return frame[own & (frame["part"] == dump.info.parts[-1])]


def _caption(dumps: "list[Dump]", lead: str, variant: Variant, bins: pd.DataFrame) -> str:
    content, (min_pairs, min_images) = bins[bins["part"] == "content"], bin_rule(dumps[0].info.num_images)
    score = "score" if variant == "literal" else "score minus its mean over a query's keys"
    text = (
        f"{lead}: head-mean {score} by bin of |Δ|, a panel a layer ({caption.of_dumps(dumps)}). Below, its slope on "
        "|Δ| by layer with 95 % intervals over images: given distance, where every distance has a level of its own, "
        f"and pale {_PALE[variant]}. Grey: the slope given distance on another image's |Δ|, the null. "
        f"{int((~content['shown']).sum())} of {len(content)} bins are hidden (under {min_pairs:,} pairs or "
        f"{min_images} images, or |Δ| ≥ 4)."
    )
    models = {dump.info.model for dump in dumps}
    if models > {lead}:
        text += " Small: the same slopes of the other models, on the same scale."
    if BASELINE in models:
        text += f" {BASELINE} never saw depth: its slope is what colour and position alone give."
    if any(dump.info.first_attention_layer for dump in dumps):
        text += (
            " Blocks of two branches have no scores of this kind: a model that begins with them has later layers only."
        )
    if any(dump.info.has_bias for dump in dumps):
        text += " Where a model biases its scores by depth, the drawn scores include that bias (`total`)."
    return text


def _what_content_does(proof: pd.DataFrame) -> str:
    """Of a biased model's evidence on its total scores."""
    if "content_is" not in proof:
        return ""
    counts = proof["content_is"].value_counts()
    return (
        f" {proof['model'].iloc[0]}: the learned scores offset the bias in {counts.get('offsetting', 0)} of "
        f"{len(proof)} layers and add to it in {counts.get('adding', 0)}."
    )


def _what_p_is_of(proofs: pd.DataFrame) -> str:
    tested = proofs.loc[proofs["p_images"] > 0, "p_images"]
    if tested.empty:
        return " The evidence has no p: too few raw images ('train dump RUN --data SHARDS --raw 64' keeps more)."
    return f" The evidence's p is of the first {caption.among(tested, 'raw image', behind=True)} alone."


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
    for place, layer in enumerate(dump.info.attention_layers):
        axes, shown = panels[layer - 1], curve[(curve["layer"] == layer) & curve["shown"]]
        x = ((shown["delta_low"] + shown["delta_high"]) / 2).to_numpy()
        axes.plot(x, shown["score"], linestyle="none", marker=look.marker, color=look.colour, markersize=2.4)
        if variant == "gauge_fixed":
            zero_line(axes)
        elif len(x):
            ends = np.array([0.0, x.max()])
            line = mean_score[place] + fit["slope"].to_numpy()[place] * (ends - mean_delta[place])
            axes.plot(ends, line, color=look.colour, linestyle=look.dash, linewidth=0.9)


def _draw_lead(axes: Axes, dumps: "list[Dump]", fits: pd.DataFrame, variant: Variant) -> None:
    pale = "over pairs (the paper's)" if variant == "literal" else "within query rows"
    for dump, name in zip(dumps, _labels(dumps), strict=True):
        own, look = _of(fits, dump), look_of(dump.info.model)
        seed = name.removeprefix(dump.info.model)
        _draw_slopes(axes, own, look, f"given distance{seed}", "given_distance")
        axes.plot(
            own["layer"], own["slope"], color=look.colour, linestyle=":", marker="x", alpha=0.6, label=f"{pale}{seed}"
        )
        _draw_null(axes, own, first=dump is dumps[0])


def _draw_small(axes: Axes, dumps: "list[Dump]", fits: pd.DataFrame, num_layers: int) -> None:
    look = look_of(dumps[0].info.model)
    for dump in dumps:
        own = _of(fits, dump)
        _draw_slopes(axes, own, look, "", "given_distance")
        axes.plot(own["layer"], own["slope"], color=look.colour, linestyle=":", marker="x", markersize=2.4, alpha=0.6)
        _draw_null(axes, own, first=False)
    zero_line(axes)
    axes.set_title(dumps[0].info.model, pad=2)
    axes.set_xlim(0.6, num_layers + 0.4)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))
    axes.set_xlabel("layer")


def _draw_slopes(axes: Axes, fit: pd.DataFrame, look: Look, label: str, name: str = "slope") -> None:
    low, high = ("low", "high") if name == "slope" else (f"{name}_low", f"{name}_high")
    value = fit[name].to_numpy()
    bars = np.abs(np.stack([value - fit[low].to_numpy(), fit[high].to_numpy() - value]))
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


def _draw_null(axes: Axes, fit: pd.DataFrame, first: bool) -> None:
    label = "another image's depth,\ngiven distance" if first else None
    band = fit[["other_given_distance_low", "other_given_distance_high"]].to_numpy().T
    if np.isfinite(band).all():
        axes.fill_between(fit["layer"], *band, color=GREY, alpha=0.25, linewidth=0, zorder=0)
    axes.plot(fit["layer"], fit["other_given_distance"], color=GREY, linewidth=0.8, zorder=1, label=label)


def _finish_slopes(axes: Axes, num_layers: int) -> None:
    zero_line(axes)
    axes.set_xticks(range(1, num_layers + 1))
    axes.set_xlim(0.6, num_layers + 0.4)
    axes.set_xlabel("layer")
    axes.set_ylabel("slope (score per 1 z)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


DRAWS: dict[str, Draw] = {"scores-by-depth": draw}
