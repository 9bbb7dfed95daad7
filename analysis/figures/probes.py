"""Figures 9 and 12: how well patch depth can be read off the tokens by a line, by layer; in grey, what that is worth.

Grey are the same probe of the untrained model (epoch 0), the mean depth at each position, which needs no image, and a
probe for the depth of another image.
"""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import caption
from analysis.figures.spec import Draw, Drawn
from analysis.load import AnalysisError, Given, seed_of
from analysis.probes import STATISTICS, Probes, ProbeVariant, probe
from analysis.style import GREY, PAGE, look_of, new_figure, settings, zero_line

if TYPE_CHECKING:
    from training.dumps.store import Dump

INITIAL = 0  # the epoch of the untrained model


def draw_probes(study: Given, variant: str, depth: str | None) -> Drawn:
    """Figure 9: models of one stream of tokens, the last dump of every run."""
    dumps = study.last_dumps(depth, lambda dump: not dump.info.first_attention_layer)
    if not dumps:
        raise AnalysisError(
            "figure 9 probes models whose tokens are in one stream (m3ch, mlin, mmlp, m4ch), and no dump of one was "
            "given: make one with 'train dump RUN --data SHARDS'"
        )
    trained, initial = _split(study, dumps)
    kind = cast(ProbeVariant, variant)
    frame = pd.concat([probe_frame(dump, "tokens", kind, None) for dump in trained + initial], ignore_index=True)
    with settings():
        figure = new_figure(PAGE, 2.6)
        left, right = figure.subplots(1, 2)
        _draw_panel(left, right, frame)
        _name_axes(left, right)
        right.legend(handles=_legend(frame), loc="center left", bbox_to_anchor=(1.0, 0.5))
    fitted = "ridge" if variant == "ridge" else "gradient descent with early stopping"
    return Drawn(figure, {"": frame}, _caption(trained, frame, f"{fitted} on the block's output"))


def draw_branches(study: Given, variant: str, depth: str | None) -> Drawn:
    """Figure 12: the two branches of fusion models, in the layers that have them; a column a model."""
    dumps = study.last_dumps(depth, lambda dump: dump.info.first_attention_layer > 0)
    if not dumps:
        raise AnalysisError(
            "figure 12 probes models of two branches (mdf1, mgem), and no dump of one was given: make one with "
            "'train dump RUN --data SHARDS'"
        )
    trained, initial = _split(study, dumps)
    frame = pd.concat([branch_frame(dump, variant) for dump in trained + initial], ignore_index=True)
    models = list(dict.fromkeys(frame["model"]))
    with settings():
        figure = new_figure(PAGE, 3.9)
        panels = figure.subplots(2, len(models), squeeze=False, sharey="row")
        for column, model in enumerate(models):
            _draw_panel(panels[0, column], panels[1, column], frame[frame["model"] == model])
            panels[0, column].set_title(model)
        _name_axes(*panels[:, 0])
        panels[0, -1].legend(handles=_legend(frame), loc="center left", bbox_to_anchor=(1.0, 0.5))
    width = "" if variant == "ridge" else " after reducing both branches to the narrower one's width by PCA"
    return Drawn(figure, {"": frame}, _caption(trained, frame, f"ridge on a branch's output{width}"))


def branch_frame(dump: "Dump", variant: str) -> pd.DataFrame:
    """Probes of both branches; `equal_width`: of as many principal components as the narrower branch is wide."""
    branches = [stream for stream in dump.info.streams if stream.name != "tokens"]
    narrowest = min(branch.width for branch in branches) if variant == "equal_width" else None
    return pd.concat([probe_frame(dump, branch.name, "ridge", narrowest) for branch in branches], ignore_index=True)


def probe_frame(dump: "Dump", stream: str, variant: ProbeVariant, width: int | None) -> pd.DataFrame:
    """One row a layer: held-out MSE (z²) and shares of variance with 95 % intervals over folds."""
    found, of = probe(dump, stream, variant, width), dump.info.stream(stream)
    columns: dict[str, object] = {
        "model": dump.info.model,
        "depth_field": dump.info.depth_field,
        "seed": seed_of(dump),
        "epoch": dump.info.epoch,
        "stream": stream,
        "variant": variant,
        "width": width or of.width,
        "layer": np.arange(of.first_layer, of.first_layer + of.num_layers) + 1,
    }
    for name in ("mse", "r2", "r2_within", "r2_control", "selectivity", "skill", "skill_centred"):
        columns |= STATISTICS[name](found).estimate().columns(name)
    return pd.DataFrame(columns | _references(found) | {"num_images": dump.info.num_images})


def _references(found: Probes) -> dict[str, object]:
    """What the grey lines are drawn from, and the setting that most folds chose."""
    return {
        "mse_control": found.error_control.sum(1) / found.count.sum(),
        "mse_position": found.error_position.sum() / found.count.sum(),
        "setting": np.median(found.setting, 1),
    }


def _split(study: Given, dumps: "list[Dump]") -> "tuple[list[Dump], list[Dump]]":
    """Dumps of trained models, and of the same models before training."""

    def kind(dump: "Dump") -> tuple[str, str, str]:
        return dump.info.model, dump.info.depth_field, dump.info.patch_depth

    kinds = {kind(dump) for dump in dumps}
    initial = [dump for dump in study.dumps if dump.info.epoch == INITIAL and kind(dump) in kinds]
    return [dump for dump in dumps if dump.info.epoch != INITIAL], initial


def _draw_panel(mse: Axes, selectivity: Axes, frame: pd.DataFrame) -> None:
    """Error on one axes, selectivity on the other; the depth branch is drawn with open markers."""
    for (model, _, epoch, stream), line in frame.groupby(["model", "seed", "epoch", "stream"], sort=False):
        stroke = _stroke(str(model), str(stream))
        for axes, name in ((mse, "mse"), (selectivity, "selectivity")):
            if epoch == INITIAL:
                face = "white" if stream == "depth" else GREY
                grey = {**stroke, "color": GREY, "markerfacecolor": face, "linewidth": 0.7}
                axes.plot(line["layer"], line[name], **grey)
                continue
            bars = np.abs(np.stack([line[name] - line[f"{name}_low"], line[f"{name}_high"] - line[name]]))
            axes.errorbar(line["layer"], line[name], yerr=bars, capsize=2, elinewidth=0.8, **stroke)
        if epoch != INITIAL:
            mse.plot(line["layer"], line["mse_control"], color=GREY, linestyle=(0, (1, 1.5)), linewidth=0.9, marker="_")
    for level in sorted(set(frame["mse_position"].round(12))):
        mse.axhline(level, color=GREY, linestyle=(0, (5, 3)), linewidth=0.9)
    zero_line(selectivity)
    mse.set_ylim(bottom=0)
    for axes in (mse, selectivity):
        axes.set_xticks(sorted(set(frame["layer"])))
        axes.set_xlabel("layer")


def _name_axes(mse: Axes, selectivity: Axes) -> None:
    mse.set_ylabel("held-out error (z²)")
    selectivity.set_ylabel("selectivity (R² − R² of control)")


def _stroke(model: str, stream: str) -> dict[str, Any]:
    """A model's look; its branches are told apart by dash and by open markers."""
    look = look_of(model)
    dash = {"tokens": look.dash, "rgb": "-", "depth": (0, (2, 1.2))}[stream]
    is_open = {"markerfacecolor": "white", "markersize": 4.6, "markeredgewidth": 0.8} if stream == "depth" else {}
    return {"color": look.colour, "marker": look.marker, "linestyle": dash, **is_open}


def _legend(frame: pd.DataFrame) -> list[Line2D]:
    trained = frame[frame["epoch"] != INITIAL]
    entries = []
    for model, stream in dict.fromkeys(zip(trained["model"], trained["stream"], strict=True)):
        label = model if stream == "tokens" else f"{model}, {stream}"
        entries.append(Line2D([], [], label=label, **_stroke(model, stream)))
    if (frame["epoch"] == INITIAL).any():
        entries.append(Line2D([], [], color=GREY, linewidth=0.7, marker="o", label="untrained (epoch 0)"))
    return [
        *entries,
        Line2D([], [], color=GREY, linestyle=(0, (1, 1.5)), marker="_", label="another image's depth"),
        Line2D([], [], color=GREY, linestyle=(0, (5, 3)), label="position alone"),
    ]


def _caption(trained: "list[Dump]", frame: pd.DataFrame, how: str) -> str:
    who = caption.of_dumps(trained) if trained else "only the untrained models were given"
    text = (
        f"Held-out error of patch depth z predicted by {how} ({who}), cross-validated over five folds of images, its "
        "setting chosen inside the training folds; bars: 95 % intervals over folds (jackknife), which hold the fits as "
        "they are. "
        "Selectivity is R² minus that of a probe for another image's depth."
    )
    if (frame["epoch"] != INITIAL).all():
        text += " No dump of epoch 0 was given: what an untrained model gives away is not drawn."
    return text


DRAWS: dict[str, Draw] = {"probes": draw_probes, "branch-probes": draw_branches}
