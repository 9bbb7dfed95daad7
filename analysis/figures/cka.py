"""Figure 11: likeness to m3ch by layer, between a floor (a network at random) and a ceiling (m3ch trained twice)."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.cka import SUMMARIES, Compared, baseline, compare, compare_summaries, compare_tokens
from analysis.figures import caption
from analysis.figures.spec import Draw, Drawn
from analysis.load import BASELINE, AnalysisError, Given, seed_of
from analysis.style import GREY, PAGE, look_of, new_figure, settings, zero_line
from training.intervals import Estimate

if TYPE_CHECKING:
    from training.dumps.store import Dump

_NULL = (0, (1, 1.5))  # dash
_KINDS = {
    "debiased": "Debiased linear CKA, in which unrelated features get 0",
    "literal": "Biased linear CKA; dotted, in grey, what unrelated features of the same spread would get",
    "input_adjusted": "Debiased linear CKA of what is left of either model's similarities when those of the "
    "photographs' pixels are regressed out (Cui et al. 2022)",
}
TOKENS: dict[str, dict[str, Any]] = {
    "token": {},
    "token, position centred": {"position_centred": True},
    "token, position centred, top 1 % norms trimmed": {"position_centred": True, "trimmed": 0.01},
}


def draw(study: Given, variant: str, depth: str | None) -> Drawn:
    """m3ch's last dump (lowest seed) against the last dump of every other run of the depth field."""
    base = baseline(study, depth)
    others = [dump for dump in study.last_features(depth) if dump.info.model != BASELINE]
    if not others:
        raise AnalysisError(
            f"figure 11 compares other models with {BASELINE}, and no dump of another was given: make one with "
            "'train dump RUN --data SHARDS'"
        )
    pairs = [(dump, "model", dump.info.model) for dump in others] + controls(study, base)
    frames = []
    with settings():
        figure = new_figure(PAGE, 2.6)
        axes = figure.subplots()
        for dump, role, label in pairs:
            found = study.once(("cka", base.path, dump.path), partial(compare, base, dump))
            frames.append(_frame(dump, role, label, found, variant))
            _draw(axes, frames[-1], variant)
        zero_line(axes)
        axes.set_xticks(range(1, base.info.num_layers + 1))
        axes.set_xlabel("layer")
        kind = {"debiased": "", "literal": ", biased", "input_adjusted": ", input regressed out"}[variant]
        axes.set_ylabel(f"CKA with {BASELINE}{kind}")
        _legend(axes, [frame["label"].iloc[0] for frame in frames], variant)
    frame = pd.concat(frames, ignore_index=True)
    names = tuple(dump.path for dump in others)
    samples = study.once(("cka of samples", base.path, names), partial(_samples, base, others))  # of every variant
    return Drawn(figure, {"": frame, "-samples": samples}, _caption(base, others, frame, variant))


def controls(study: Given, base: "Dump") -> "list[tuple[Dump, str, str]]":
    """(dump, role, label): a network at random, and another training of m3ch or, for want of one, another epoch."""

    def images(dump: "Dump") -> tuple[object, ...]:
        return dump.info.fingerprint, dump.info.split, dump.info.num_images, dump.info.gram_batch

    of_base = [dump for dump in study.dumps if dump.info.model == BASELINE and dump is not base]
    of_base = [dump for dump in of_base if images(dump) == images(base)]
    found = [(dump, "floor", f"{BASELINE} at random (epoch 0)") for dump in of_base if dump.info.epoch == 0][:1]
    same_age = [d for d in of_base if d.info.epoch == base.info.epoch and seed_of(d) != seed_of(base)]
    if same_age:
        return [*found, (same_age[0], "ceiling", f"{BASELINE}, another seed")]
    earlier = [d for d in of_base if 0 < d.info.epoch < base.info.epoch and d.info.study_hash == base.info.study_hash]
    if earlier:
        last = max(earlier, key=lambda dump: dump.info.epoch)
        found.append((last, "ceiling", f"{BASELINE}, epochs {last.info.epoch} and {base.info.epoch} (not seeds)"))
    return found


def _frame(dump: "Dump", role: str, label: str, found: Compared, variant: str) -> pd.DataFrame:
    """One row a layer; `null` is what unrelated features of this kind would get.

    Beside the variant's own, debiased CKA with the input regressed out, and without the images of the top 1 % of norms.
    """
    estimates = {"debiased": found.debiased, "literal": found.biased, "input_adjusted": found.input_adjusted}
    estimate = estimates[variant]
    frame = pd.DataFrame(
        {
            "role": role,
            "label": label if role != "model" or not seed_of(dump) else f"{label} (seed {seed_of(dump)})",
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "seed": seed_of(dump),
            "epoch": dump.info.epoch,
            "variant": variant,
            "layer": np.arange(1, dump.info.num_layers + 1),
            "cka": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "null": found.null if variant == "literal" else 0.0,
            "undefined": found.reasons,
            "num_images": len(found.hsics) * dump.info.gram_batch,
            "block": dump.info.gram_batch,
        }
    )
    for name, each in (("input_adjusted", found.input_adjusted), ("trimmed", found.trimmed)):
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = each.value, each.low, each.high
    frame["trimmed_change"] = found.trimmed.value - found.debiased.value
    return frame


def _draw(axes: Axes, frame: pd.DataFrame, variant: str) -> None:
    role, look = frame["role"].iloc[0], look_of(frame["model"].iloc[0])
    if role == "model":
        bars = np.abs(np.stack([frame["cka"] - frame["low"], frame["high"] - frame["cka"]]))
        axes.errorbar(
            frame["layer"],
            frame["cka"],
            yerr=None if np.isnan(bars).all() else np.nan_to_num(bars),
            color=look.colour,
            marker=look.marker,
            linestyle=look.dash,
            capsize=2,
            elinewidth=0.8,
            label=frame["label"].iloc[0],
        )
        if variant == "literal":
            axes.plot(frame["layer"], frame["null"], color=GREY, marker=look.marker, linestyle=_NULL)
    else:
        dash = "-" if role == "ceiling" else (0, (4, 2))
        axes.plot(frame["layer"], frame["cka"], color=GREY, linestyle=dash, label=frame["label"].iloc[0])


def _legend(axes: Axes, labels: list[str], variant: str) -> None:
    """In the order of drawing, which matplotlib changes: lines before lines with bars."""
    found, names = axes.get_legend_handles_labels()
    handles = dict(zip(names, found, strict=True))
    shown = [handles[label] for label in dict.fromkeys(labels)]
    if variant == "literal":
        shown.append(Line2D([], [], color=GREY, linestyle=_NULL, marker="o", label="unrelated features"))
    axes.legend(handles=shown, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _samples(base: "Dump", others: "list[Dump]") -> pd.DataFrame:
    """Debiased CKA of other choices of what a sample is, by model and layer; NaN where a model lacks it."""
    rows: list[dict[str, Any]] = []

    def add(dump: "Dump", sample: str, found: "list[Estimate | None] | list[Estimate]") -> None:
        for layer, estimate in enumerate(found, 1):
            values = [np.nan] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]
            named = dict(zip(("cka", "low", "high"), map(float, values), strict=True))
            who = {"model": dump.info.model, "seed": seed_of(dump), "epoch": dump.info.epoch}
            rows.append({**who, "sample": sample, "layer": layer, **named})

    for dump in others:
        for summary in SUMMARIES:
            add(dump, f"image: {summary}", compare_summaries(base, dump, summary))
        if min(base.info.num_raw, dump.info.num_raw) > 1:
            for sample, options in TOKENS.items():
                add(dump, sample, compare_tokens(base, dump, **options))
    return pd.DataFrame(rows)


def _caption(base: "Dump", others: "list[Dump]", frame: pd.DataFrame, variant: str) -> str:
    blocks, block = int(frame["num_images"].iloc[0] / frame["block"].iloc[0]), int(frame["block"].iloc[0])
    kind = _KINDS[variant]
    text = (
        f"{kind}, between patch tokens of {BASELINE} (epoch {base.info.epoch}, seed {seed_of(base)}) and each model "
        f"({caption.of_dumps(others)}); a sample is an image with its tokens flattened; {blocks} block"
        f"{'s' * (blocks != 1)} of {block} images"
    )
    text += ", bars: 95 % intervals over blocks." if blocks > 1 else ": too few for intervals."
    change = np.abs(frame.loc[frame["role"] == "model", "trimmed_change"]).max()
    if np.isfinite(change):
        text += (
            " Without the 1 % of a block's images (at least one) with the highest norms in either model, debiased CKA "
            "of models changes by at most "
            f"{change:.2g} (`trimmed` in the CSV)."
        )
    drawn = set(frame["role"])
    if "ceiling" not in drawn:
        text += f" Neither a second seed nor an earlier epoch of {BASELINE} was given: no ceiling is drawn."
    if "floor" not in drawn:
        text += f" No dump of epoch 0 of {BASELINE} was given: no floor is drawn."
    if undefined := sorted(set(frame["undefined"]) - {""}):
        text += f" Undefined where {'; '.join(undefined)}."
    return text


DRAWS: dict[str, Draw] = {"cka": draw}
