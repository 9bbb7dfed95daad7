"""Figures 4 and 14: accuracy against noise on depth, and how much noise real depth is worth."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import caption
from analysis.figures.spec import Draw, Drawn
from analysis.load import Given
from analysis.robustness import KINDS, Swept, accuracy_under_noise, sigma_stars, swept_models
from analysis.style import COLUMN, PAGE, look_of, new_figure, settings, zero_line

_SIGMA = {
    "pixel": "σ of noise, one Gaussian a pixel (z)",
    "patch": "σ of noise, one Gaussian a patch (z)",
}


def draw_noise(study: Given, variant: str, depth: str | None) -> Drawn:
    """Top-1 by sigma above, what is lost of it below; a column a kind of noise."""
    swept = swept_models(study, depth)
    frame = accuracy_under_noise(swept)
    with settings():
        figure, panels = _panels(frame, num_rows=2, height=3.4)
        for noise, (above, below) in panels.items():
            above.tick_params(labelbottom=False)
            zero_line(below)
            below.set_xlabel(_SIGMA[noise])
            for model, line in frame[frame["noise"] == noise].groupby("model", sort=False):
                _curve(above, line, str(model), "top1", "low", "high")
                _curve(below, line, str(model), "change", "change_low", "change_high")
        first = next(iter(panels.values()))
        first[0].set_ylabel("top-1, %")
        first[1].set_ylabel("change from σ = 0, points")
        _legend(figure, first[0])
    text = (
        f"Top-1 under noise z + σε on depth, ε the same for every σ and model ({_of(swept)}). Above, Wilson's 95 % "
        "intervals; below, the change from σ = 0 on the same samples, with paired intervals. They cover "
        "samples, not other seeds."
    )
    return Drawn(figure, {"": frame}, text)


def draw_gap(study: Given, variant: str, depth: str | None) -> Drawn:
    """Top-1 by sigma with each model's sigma* upright; `literal` compares logits, `softmax` shares."""
    output = "logits" if variant == "literal" else "softmax"
    swept = swept_models(study, depth)
    frame, stars = accuracy_under_noise(swept), sigma_stars(study, swept, output)
    with settings():
        figure, panels = _panels(frame, num_rows=1, height=2.4)
        for noise, (axes,) in panels.items():
            axes.set_xlabel(_SIGMA[noise])
            for model, line in frame[frame["noise"] == noise].groupby("model", sort=False):
                _curve(axes, line, str(model), "top1", "low", "high")
            limit = axes.get_xlim()
            for star in stars[stars["noise"] == noise].to_dict("records"):
                _upright(axes, star)
            axes.set_xlim(limit[0], max(limit[1], axes.get_xlim()[1]))
        first = next(iter(panels.values()))[0]
        first.set_ylabel("top-1, %")
        _legend(figure, first)
    return Drawn(figure, {"": frame, "-sigma-star": stars}, _caption14(swept, stars, output))


def _panels(frame: pd.DataFrame, num_rows: int, height: float) -> tuple[Figure, dict[str, list[Axes]]]:
    kinds = [kind for kind in KINDS if kind in set(frame["noise"])]
    figure = new_figure(PAGE if len(kinds) > 1 else COLUMN + 1.0, height)
    grid = np.atleast_2d(figure.subplots(num_rows, len(kinds), sharex="col", sharey="row", squeeze=False))
    return figure, {kind: list(grid[:, column]) for column, kind in enumerate(kinds)}


def _curve(axes: Axes, line: pd.DataFrame, model: str, value: str, low: str, high: str) -> None:
    look = look_of(model)
    middle = line[value].to_numpy()
    bars = np.abs(np.stack([middle - line[low].to_numpy(), line[high].to_numpy() - middle]))
    axes.errorbar(
        line["sigma"],
        100 * middle,
        yerr=100 * bars,
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash,
        elinewidth=0.7,
        label=model,
    )


def _upright(axes: Axes, star: dict[str, object]) -> None:
    """sigma* of one run: strong for z, thin and dotted for the inverse reading; the band is its interval."""
    sigma, low, high = (float(str(star[name])) for name in ("sigma_star", "low", "high"))
    look = look_of(str(star["model"]))
    if np.isnan(sigma):
        return
    literal = star["reading"] == "z"
    axes.axvline(sigma, color=look.colour, linewidth=1.2 if literal else 0.8, linestyle=look.dash if literal else ":")
    if literal and np.isfinite([low, high]).all():
        axes.axvspan(low, high, color=look.colour, alpha=0.12, linewidth=0)
    at = float(str(star["top1"]))
    if np.isfinite(at):
        face = look.colour if literal else "white"
        axes.plot(sigma, 100 * at, marker=look.marker, markersize=6, color=look.colour, markerfacecolor=face, zorder=5)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")


def _caption14(swept: list[Swept], stars: pd.DataFrame, output: str) -> str:
    text = (
        f"Top-1 under noise on pseudo-depth ({_of(swept)}). Uprights: σ*, the noise that moves a model's {output} as "
        f"far as real depth does, over {int(stars['num_images'].iloc[0]):,} images; bands: 95 % intervals over them. "
        "Full symbols read real depth in metres (z), open ones on dotted uprights as inverse depth."
    )
    above = stars[stars["sigma_star"].isna() & ~stars["undefined"]]
    if len(above):
        each = ", ".join(f"{row.model} ({row.noise}, {row.reading})" for row in above.itertuples())
        text += f" σ* lies above the measured grid for {each}."
    if stars["undefined"].any():
        names = ", ".join(dict.fromkeys(stars.loc[stars["undefined"], "model"]))
        text += f" {names} does not react to depth: it has no σ*."
    return text


def _of(swept: list[Swept]) -> str:
    samples = caption.among({each.correct.shape[1] for each in swept}, "sample", behind=True)
    seeds = caption.seeds_a_model((each.model, seed) for each in swept for seed in each.seeds)
    return f"{samples}, {seeds}, {caption.among({each.epoch for each in swept}, 'epoch')}"


DRAWS: dict[str, Draw] = {"noise": draw_noise, "gap": draw_gap}
