"""The report's head map: slopes of every layer's and head's score on |Δ|, and each head's scores by distance and |Δ|.

Gauge-fixed: scores and |Δ| minus their means over the keys of a query. Maps are of scores with their bias (`total`),
without (`content`), and of what swapped depth does to those with (`causal`). Intervals leave out one group of images at
a time (jackknife); over a map's heads the false-discovery rate is held at 5 % (Benjamini and Hochberg 1995).
`analysis/heads.js` draws a chosen head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from analysis import html, output
from analysis.attention import bias_slopes, head_moments, slope
from analysis.colours import signed_colour
from analysis.html import Html
from analysis.load import Given, model_order, seed_of
from analysis.packing import deflated, quantised
from training.dumps.from_raw import bias_mode
from training.dumps.pairs import BIN_WIDTH, NUM_BINS, distances
from training.intervals import over_units, ratio

if TYPE_CHECKING:
    from training.dumps.store import Dump

LEVEL = 0.05  # share of marked heads that may be false
_MERGED = 2  # bins of |Δ| to a cell of a head's map


@dataclass(frozen=True)
class HeadSlopes:
    """(layers, heads) each; NaN intervals and no head marked with fewer than two groups of images."""

    value: np.ndarray  # score per 1 z
    low: np.ndarray
    high: np.ndarray
    differs: np.ndarray  # bool: from 0


def head_intervals(dump: "Dump", part: str) -> HeadSlopes:
    """Gauge-fixed slopes of one part of the scores."""
    return _marked(head_moments(dump, "gauge_fixed", part=part), lambda each: slope(each, "gauge_fixed"))


def swap_intervals(dump: "Dump") -> HeadSlopes:
    """Slopes of the change of scores on the change of |Δ| where depth is swapped, `causal.swap_slopes` per head."""
    across, pairs = dump["causal/swap/head_rows"], dump["causal/swap/head_pairs"]
    sums = np.stack([across, np.broadcast_to(pairs[:, None, None], across.shape)], -1)
    # Groups of the dump that none of the few images is in are no groups.
    return _marked(sums[pairs > 0], lambda each: ratio(each[..., 0], each[..., 1]))


def _marked(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> HeadSlopes:
    """Of sums (groups, layers, heads, ...)."""
    found = over_units(sums, statistic, 1 - LEVEL)
    freedom = len(sums) - 1
    error = (found.high - found.value) / stdtrit(freedom, 1 - LEVEL / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(found.value) / error)  # 0 where there is no error, NaN where undefined
    return HeadSlopes(found.value, found.low, found.high, discovered(p, LEVEL))


def discovered(p: np.ndarray, rate: float) -> np.ndarray:
    """Which of these tests hold with at most this share of false ones; NaN holds never. Of one family, any shape."""
    flat = np.where(np.isnan(p), 1.0, p).ravel()
    ranked = np.sort(flat)
    below = np.flatnonzero(ranked <= rate * np.arange(1, flat.size + 1) / flat.size)
    return np.asarray(flat <= (ranked[below[-1]] if below.size else -1.0)).reshape(p.shape)


def head_section(study: Given, out: Path) -> Html:
    """Maps in tabs, by depth field and model; one head at a time in detail."""
    title = "Heads: which of them follow depth"
    fields = study.depth_fields()
    if not fields:
        return html.section(
            "heads", title, html.lacking("No run has a dump: 'train dump RUN --data SHARDS' makes one.")
        )
    frames: list[pd.DataFrame] = []
    details: dict[str, Any] = {}
    outer = []
    for field in fields:
        dumps = [dump for dumps in study.panel_sets(field) for dump in dumps]
        lowest = {dump.info.model: dump for dump in sorted(dumps, key=seed_of, reverse=True)}
        inner = []
        for dump in sorted(lowest.values(), key=lambda dump: model_order(dump.info.model)):
            drawn = f"heads-{field}-{dump.info.model}"
            kinds = [*dump.info.parts[::-1], *["causal"] * (dump.info.num_causal > 0)]
            for kind in kinds:
                name = f"{drawn}-{kind}"
                slopes = swap_intervals(dump) if kind == "causal" else head_intervals(dump, kind)
                frames.append(_frame(dump, kind, slopes))
                details[name] = f"{drawn}-{kinds[0]}" if kind == "causal" else _details(dump, kind)
                label = dump.info.model if len(kinds) == 1 else f"{dump.info.model}, {_kind(dump, kind)}"
                inner.append((f"{name}-panel", label, _map(name, dump, kind, slopes)))
        outer.append((f"heads-{field}", f"{field} depth", html.tabs(inner)))
    output.write_frame(out / "figures" / "heads.csv", pd.concat(frames, ignore_index=True))
    return html.section(
        "heads",
        title,
        html.paragraph(
            "Slope of each head's score on |Δ|, score per 1 z, within query rows: `−` attends less to patches at "
            "another depth, `+` more. Darker is steeper. Hatched: not told apart from 0 (95 % jackknife over groups "
            "of images, false-discovery rate 5 % over the map's heads). Choose a head to see its mean score by "
            "distance and |Δ|. Where depth was swapped, the slope is of the change of score on the change of |Δ| when "
            "an image is given another's depth and keeps its photograph; what a chosen head shows is not of the swap."
        ),
        html.tabs(outer),
        html.files(["heads.csv"]),
        html.data("heads-data", details),
    )


def _kind(dump: "Dump", kind: str) -> str:
    if kind == "causal":
        return "depth swapped"
    return {"total": "with bias", "content": "without"}[kind] if dump.info.has_bias else "as it is"


def _frame(dump: "Dump", kind: str, slopes: HeadSlopes) -> pd.DataFrame:
    layers, heads = np.indices(slopes.value.shape)
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "seed": seed_of(dump),
            "part": kind,
            "layer": layers.ravel() + dump.info.first_attention_layer + 1,
            "head": heads.ravel() + 1,
            "slope": slopes.value.ravel(),
            "low": slopes.low.ravel(),
            "high": slopes.high.ravel(),
            "differs_from_0": slopes.differs.ravel(),
        }
    )


def _map(name: str, dump: "Dump", kind: str, slopes: HeadSlopes) -> Html:
    num_layers, num_heads = slopes.value.shape
    reach = float(np.nanmax(np.abs(slopes.value), initial=0.0)) or 1.0
    head = html.join((html.of("<th>{}</th>", number) for number in range(1, num_heads + 1)), "")
    body = []
    for layer in range(num_layers):
        shown = layer + dump.info.first_attention_layer + 1
        cells = html.join((_cell(slopes, layer, head, shown, reach) for head in range(num_heads)), "")
        body.append(html.of("<tr><th>{}</th>{}</tr>", shown, cells))
    below = 100 * float((slopes.value < 0).mean())
    num_images = dump.info.num_causal if kind == "causal" else dump.info.num_images
    caption = (
        f"{dump.info.model}, {dump.info.depth_field} depth: {below:.0f} % of {slopes.value.size} heads fall with |Δ|, "
        f"{int(slopes.differs.sum())} differ from 0; darkest: ±{reach:.3g} per 1 z. {num_images:,} images, "
        f"{dump.info.checkpoint} (epoch {dump.info.epoch}), 1 seed ({seed_of(dump)})."
    )
    check = bias_check(dump) if kind == "total" else ""
    return html.of(
        '<div class="heads" id="{}"><div class="scroll"><table class="headmap"><caption>layer ↓ head →</caption>'
        "<thead><tr><th></th>{}</tr></thead><tbody>{}</tbody></table></div>"
        '<div class="chosen"><h4></h4><div class="axes"><div><span></span><span>|Δ|</span><span>0</span></div>'
        '<canvas tabindex="0" role="application"></canvas><i></i>'
        "<div><span></span><span>distance in patches</span><span></span></div></div>"
        '<div class="legend"><span></span><canvas width="128" height="8"></canvas><span></span></div>'
        '<div class="readout" aria-live="polite"></div></div></div>{}',
        name, head, html.join(body, ""), html.caption(caption + check),
    )  # fmt: skip


def _cell(slopes: HeadSlopes, layer: int, head: int, shown: int, reach: float) -> Html:
    value, low, high = (float(each[layer, head]) for each in (slopes.value, slopes.low, slopes.high))
    if np.isnan(value):
        return html.of("<td>–</td>")
    interval = "" if np.isnan(low) else f" [{html.signed(low)}, {html.signed(high)}]"
    said = f"layer {shown}, head {head + 1}: {html.signed(value)}{interval}"
    share = abs(value) / reach
    kinds = " ".join(["dull"] * (not slopes.differs[layer, head]) + ["light"] * (share > 0.5))
    colour, sign = signed_colour(value / reach), "−" if value < 0 else "+" if value > 0 else "0"
    return html.of(
        '<td><button type="button" data-head="{},{}" data-slope="{}" class="{}" style="background-color:{}" '
        'title="{}">{}</button></td>',
        layer, head, f"{share:.4f}", kinds, colour, said, sign,
    )  # fmt: skip


def bias_check(dump: "Dump") -> str:
    """mlin's slope with its bias minus without must be the bias itself, α_l s_h, where both read one patch depth."""
    if dump.info.bias != "linear" or bias_mode(dump.info) != dump.info.patch_depth:
        return ""
    found = head_intervals(dump, "total").value - head_intervals(dump, "content").value
    worst = float(np.abs(found - bias_slopes(dump)).max())
    return (
        " Check: the slope with the bias minus without is α times the head's factor, known from the parameters; "
        f"largest difference {worst:.1e}."
    )


def _details(dump: "Dump", part: str) -> dict[str, Any]:
    """Each head's mean centred score in 8 bits, by |Δ| and whole distance (floor); cells of few pairs left out."""
    values, _ = distances(dump.info.grid)
    column = np.floor(values + 1e-9).astype(int)
    columns = np.arange(column.min(), column.max() + 1)
    across = (column[:, None] == columns).astype(float)
    down = (np.arange(NUM_BINS - 1) // _MERGED == np.arange((NUM_BINS - 1) // _MERGED)[:, None]).astype(float)
    count = down @ dump["statistics/bins/count"][:-1] @ across
    few = count < min_pairs(dump.info.num_images)
    rows = 1 + int(max(np.flatnonzero((~few).any(1)), default=0))  # up to the largest |Δ| that is shown
    sums = down @ dump[f"statistics/{part}/bins/sum_centred"][:, :, :-1] @ across
    means = np.where(few, np.nan, sums / np.maximum(count, 1))[:, :, :rows]
    reach = np.nanmax(np.abs(means), axis=(2, 3), initial=0.0)
    reach = np.where(reach > 0, reach, 1.0)
    planes = quantised(means, -reach[..., None, None], reach[..., None, None])
    return {
        "distance": [int(columns[0]), len(columns)],
        "width": _MERGED * BIN_WIDTH,
        "rows": rows,
        "count": count[:rows].astype(int).ravel().tolist(),
        "reach": [[float(f"{each:.5g}") for each in row] for row in reach],
        "data": deflated(planes),
    }


def min_pairs(num_images: int) -> int:
    """1,000 pairs a cell, in proportion for dumps under 500 images."""
    return max(1, round(1000 * min(1.0, num_images / 500)))
