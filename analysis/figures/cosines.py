"""Figure 5: cosine of the head-mean score with |Δ| and with distance, by layer, over the epochs of one run of m3ch."""

from typing import TYPE_CHECKING, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.attention import Variant
from analysis.figures import caption
from analysis.figures.spec import Draw, Drawn
from analysis.load import Given
from analysis.similarity import over_epochs
from analysis.style import GREY, PAGE, new_figure, settings, zero_line

if TYPE_CHECKING:
    from training.dumps.store import Dump


def draw(study: Given, variant: str, depth: str | None) -> Drawn:
    """Every checkpoint of the lowest seed's run that has a dump."""
    return of_dumps(study.epoch_dumps(depth=depth), cast(Variant, variant))


def of_dumps(dumps: "list[Dump]", variant: Variant) -> Drawn:
    """A line an epoch; bars: 95 % of the last epoch. Grey: another image's |Δ|, and in `literal` constant scores."""
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
            _draw_references(axes, frame[frame["epoch"] == epochs[-1]], quantity)
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
        # The left panel has all there is to name.
        handles, labels = left.get_legend_handles_labels()
        columns = 1 if len(labels) <= 14 else 2
        right.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)
        if frame["cosine"].isna().all():
            left.text(0.5, 0.6, "undefined: scores are\nconstant in each row", ha="center", transform=left.transAxes)
    last_info, undefined = dumps[-1].info, int(frame.loc[frame["quantity"] != "other", "num_undefined"].sum())
    text = (
        f"Mean over images of the cosine between {last_info.model}'s head-mean scores and |Δ|, which it never saw, or "
        f"the patches' distance r ({caption.of_dumps(dumps)}); bars: 95 % intervals over images of epoch "
        f"{last_info.epoch}."
    )
    text += " Grey: with another image's |Δ|, the null: it has what images share by position."
    if variant == "literal":
        text += " Dashed: scores that are −1 everywhere, an offset that softmax cannot see."
    if undefined:
        text += f" {undefined} cosines of single images are undefined and left out."
    return Drawn(figure, {"": frame}, text)


def _draw_references(axes: Axes, frame: pd.DataFrame, quantity: str) -> None:
    """Of the last epoch."""
    if quantity == "delta":
        other = frame[frame["quantity"] == "other"]
        if other["low"].notna().all():
            axes.fill_between(
                other["layer"], other["low"], other["high"], color=GREY, alpha=0.25, linewidth=0, zorder=0
            )
        axes.plot(other["layer"], other["cosine"], color=GREY, linewidth=1.2, zorder=1, label="another image's |Δ|")
    constant = frame.loc[frame["quantity"] == quantity, "constant"].iloc[0]
    if np.isfinite(constant):
        axes.axhline(constant, color=GREY, linestyle=(0, (5, 3)), linewidth=0.9, zorder=1, label="scores of −1")


DRAWS: dict[str, Draw] = {"cosines": draw}
