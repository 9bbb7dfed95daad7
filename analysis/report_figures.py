"""The report's sections of figures: each in tabs, with its definition, its files and its numbers."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis import figures, html, output
from analysis.attention import VARIANTS, Variant, bin_rule, mlin_bias_slope, slopes
from analysis.load import BASELINE, Study, seed_of
from training.records import ParametersLine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.dumps.store import Dump


def figure1_section(study: Study, out: Path) -> str:
    panels = []
    for depth in study.depth_fields():
        for variant in VARIANTS:
            panels.append((f"{depth} · {figures.VARIANT_TITLES[variant]}", _figure1_panel(study, depth, variant, out)))
    content = html.tabs("figure1-tabs", panels) if panels else html.paragraph(_NO_DUMPS)
    return html.section(
        "figure1",
        "Figure 1: attention scores against the depth difference",
        html.paragraph(
            "Does a patch attend less to patches at another depth? Literal scores are as the model computes them. "
            "Gauge-fixed scores and |Δ| have their mean over each query's keys removed: softmax cannot see that "
            "mean, so only this part acts."
        ),
        content,
    )


_NO_DUMPS = "No run has a dump: 'train dump RUN --data SHARDS' makes one."


def _figure1_panel(study: Study, depth: str, variant: Variant, out: Path) -> str:
    pieces = []
    groups = study.panel_sets(depth)
    for number, dumps in enumerate(groups):
        name = f"figure1-{depth}-{variant}" + (f"-{number + 1}" if len(groups) > 1 else "")
        drawn, curves, fits = figures.figure1(dumps, variant)
        curves_kept, (min_pairs, min_images) = curves[curves["part"] == "content"], bin_rule(dumps[0].info.num_images)
        caption = (
            f"Head-mean score by |Δ| of patch depths ({dumps[0].info.patch_depth}), {dumps[0].info.num_images} images; "
            f"below, slopes over pairs with 95 % image-bootstrap intervals. {int((~curves_kept['shown']).sum())} of "
            f"{len(curves_kept)} bins are hidden (under {min_pairs:,} pairs or {min_images} images, or |Δ| ≥ 4)."
        )
        if {BASELINE} < {dump.info.model for dump in dumps}:
            caption += f" {BASELINE} never saw depth: its slope is what colour and position alone give."
        if any(dump.info.has_bias for dump in dumps):
            caption += " For mlin the drawn scores include its depth bias (`total`)."
        pieces.append(embed(drawn, name, f"Figure 1, {depth}, {variant}", caption, out, {"": curves, "-slopes": fits}))
        pieces.append(_slopes_table(fits))
    pieces.append(_bias_check(study, depth, variant))
    return "\n".join(pieces)


def _slopes_table(fits: pd.DataFrame) -> str:
    def signed(value: float, digits: int = 3) -> str:
        return "–" if pd.isna(value) else f"{value:+.{digits}f}".replace("-", "−")

    def bounded(value: float, low: float, high: float) -> str:
        return signed(value) + ("" if pd.isna(low) else f" [{signed(low)}, {signed(high)}]")

    rows = list(fits.to_dict("records"))
    shown = pd.DataFrame(
        {
            "model": [f"{r['model']}, {r['part']}" if r["model"] == "mlin" else r["model"] for r in rows],
            "layer": [str(r["layer"]) for r in rows],
            "slope": [bounded(r["slope"], r["low"], r["high"]) for r in rows],
            "after distance": [bounded(r["partial_slope"], r["partial_low"], r["partial_high"]) for r in rows],
            "odds × per 1 z": [signed(r["odds_ratio"], 2).removeprefix("+") for r in rows],
            "through bins": [signed(r["bin_slope"]) for r in rows],
            "r² of bins": [signed(r["linearity"], 2).removeprefix("+") for r in rows],
            "standardised": [signed(r["standardised"], 2) for r in rows],
            "heads below 0": [f"{100 * r['heads_below_zero']:.0f} %" for r in rows],
        }
    )
    return f"<details><summary>Slopes by layer (score per 1 z)</summary>{html.table(shown)}</details>"


def _bias_check(study: Study, depth: str, variant: Variant) -> str:
    """mlin's slope with its bias minus without must be the bias itself; shown where the run's α was logged."""
    worst: list[float] = []
    for dump in (dump for dumps in study.panel_sets(depth) for dump in dumps if dump.info.has_bias):
        alpha = _logged_alpha(study, dump)
        if alpha is None:
            continue
        total, content = (slopes(dump, variant, part)["slope"].to_numpy() for part in ("total", "content"))
        worst.append(float(abs(total - content - mlin_bias_slope(dump.info.config, alpha)).max()))
    if not worst:
        return ""
    return (
        f'<p class="meta">Check: mlin\'s slope with its bias minus without equals α times the mean head factor, '
        f"known from its parameters; largest difference {max(worst):.1e}.</p>"
    )


def _logged_alpha(study: Study, dump: "Dump") -> list[float] | None:
    for run in study.runs:
        if run.record.name == dump.info.run and run.record.study_hash == dump.info.study_hash:
            for line in run.lines(ParametersLine):
                if line.epoch == dump.info.epoch and "alpha" in line.values:
                    return [alpha for alpha in line.values["alpha"] if isinstance(alpha, float)]
    return None


def figure5_section(study: Study, out: Path) -> str:
    panels = []
    if any(dump.info.model == BASELINE for dump in study.dumps):
        dumps = study.epoch_dumps()
        for variant in VARIANTS:
            drawn, frame = figures.figure5(dumps, variant)
            undefined = int(frame["num_undefined"].sum())
            caption = (
                f"Mean over {dumps[-1].info.num_images} images of the cosine between {BASELINE}'s head-mean scores and "
                f"|Δ| ({dumps[-1].info.depth_field} depth, which it never saw) or the patches' distance r; bars: 95 % "
                f"image-bootstrap intervals of epoch {dumps[-1].info.epoch}; seed {seed_of(dumps[-1])}."
            )
            if undefined:
                caption += f" {undefined} cosines of single images are undefined and left out."
            title = figures.VARIANT_TITLES[variant]
            panels.append((title, embed(drawn, f"figure5-{variant}", f"Figure 5, {title}", caption, out, {"": frame})))
    missing = f"No dump of {BASELINE}: 'train dump RUN --data SHARDS --checkpoint epoch-<n>' makes one per checkpoint."
    return html.section(
        "figure5",
        "Figure 5: does a model that never saw depth respect it?",
        html.paragraph(
            "The literal cosine also moves with a constant that softmax ignores: scores that are −1 everywhere already "
            "have cosine −0.90 with distance on a 14×14 grid. The gauge-fixed cosine does not."
        ),
        html.tabs("figure5-tabs", panels) if panels else html.paragraph(missing),
    )


def curves_section(study: Study, out: Path) -> str:
    drawn, frame = figures.training_curves(study.runs)
    caption = f"Validation top-1 during training; {BASELINE} is the same run in every panel."
    return html.section("curves", "Training", embed(drawn, "training", "Training curves", caption, out, {"": frame}))


def embed(
    drawn: "Figure", name: str, title: str, caption: str, out: Path, frames: dict[str, pd.DataFrame], wide: bool = True
) -> str:
    """Write the figure's files and return it as HTML."""
    paths = output.write_figure(out / "figures", name, drawn, frames)
    svg = (out / "figures" / f"{name}.svg").read_text("utf-8")
    return html.figure(name, svg, title, caption, [path.name for path in paths], wide)
