"""`analyze report`: the whole study on one page that opens from a file, and every figure beside it."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from analysis import accuracy, html, output, tables
from analysis.claims import DEPTH, VERDICTS, Judged, judge
from analysis.explorer import explorer_section
from analysis.figures.headline import depth_figure
from analysis.figures.training import training_curves
from analysis.head_map import head_section
from analysis.html import Html
from analysis.load import BASELINE, AnalysisError, Study, depth_order
from analysis.manifest import limitations, manifest, revision
from analysis.packing import palettes
from analysis.report_figures import Drawings, figure_sections
from analysis.report_tables import causal_section, table3_section, tables_section
from analysis.runs import comparable_runs, final_evaluation
from analysis.style import close

TITLE = "What do Vision Transformers do with depth?"
QUESTION = (
    "Pre-trained with depth that a monocular estimator guessed from the same photograph (pseudo-depth), does a Vision "
    "Transformer classify better, and does its attention use that depth?"
)
_MAX_BYTES = 10_000_000
Steps = Iterable[tuple[str, Callable[[], Html]]]  # anchor, what makes its section


def write_report(study: Study, out: Path, track: Callable[[Steps], Steps] = lambda steps: steps) -> Path:
    """Write `out/index.html` and `out/figures/`; returns the page's path. `track` iterates over the sections.

    Everything is made in a folder of its own first: a report that fails leaves what was in `out` as it was.
    """
    comparable_runs(study)
    for run in study.runs:
        final_evaluation(run)
    with output.all_or_nothing(out, whole=True) as made:
        _write(study, made, track)
    return out / "index.html"


def _write(study: Study, out: Path, track: Callable[[Steps], Steps]) -> None:
    drawings = Drawings(out, revision())
    steps: dict[str, Callable[[], Html]] = {
        "tables": partial(tables_section, study, out),
        **({"table3": partial(table3_section, study.matrix, out)} if study.matrix else {}),
        **figure_sections(study, drawings),
        "causal": partial(causal_section, study, out),
        "heads": partial(head_section, study, out),
        "explorer": partial(explorer_section, study),
        "curves": partial(_curves, study, drawings),
        "limitations": partial(limitations, study),
        "manifest": partial(manifest, study),
    }
    sections = {anchor: make() for anchor, make in track(list(steps.items()))}
    anchors = set(re.findall(r'\bid="([^"]+)"', html.join(sections.values())))
    sections = {"found": _found(study, out, drawings, anchors), **sections}
    body = html.join([_header(study), _navigation(sections), *sections.values(), html.data("palettes", palettes())])
    around = len(html.page(TITLE, Html(), drawings.styles).encode())
    page = html.page(TITLE, drawings.place(body, _MAX_BYTES - around), drawings.styles)
    if len(page.encode()) > _MAX_BYTES:
        raise AnalysisError(f"the page would have {len(page.encode()) / 1e6:.1f} MB, more than 10: give fewer runs")
    output.write(out / "index.html", page)


def _header(study: Study) -> Html:
    shards = study.runs[0].record.shards
    seeds = len({run.record.seed for run in study.runs})
    made = (
        f"{_several(len(study.runs), 'run')}, {_several(len(study.dumps), 'dump')}; {shards.source}: "
        f"{shards.num_train:,} training and {shards.num_val:,} validation samples, {shards.num_classes} classes; "
        f"{_several(seeds, 'seed')}."
    )
    return html.of(
        '<header><h1>{}</h1>\n<p class="question">{}</p>\n<p class="meta">{}</p></header>', TITLE, QUESTION, made
    )


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


_NAMES = {
    "found": "Found",
    "tables": "Tables",
    "table3": "Fine-tuning",
    "causal": "Changed depth",
    "heads": "Heads",
    "explorer": "Explorer",
    "curves": "Training",
    "limitations": "Limitations",
    "manifest": "Manifest",
}


def _navigation(sections: dict[str, Html]) -> Html:
    names = {anchor: _NAMES.get(anchor) or anchor.replace("figure", "Fig ") for anchor in sections}
    links = html.join((html.of('<a href="#{}">{}</a>', anchor, name) for anchor, name in names.items()), "")
    return html.of('<nav aria-label="Sections">{}</nav>', links)


def _found(study: Study, out: Path, drawings: Drawings, anchors: set[str]) -> Html:
    picture, frame = _headline(study, drawings)
    table = accuracy.readable2(accuracy.table2(study)).rename(columns={"gap to m3ch, points": "gap to m3ch"})
    table = table.sort_values("depth", key=lambda depth: depth.map(depth_order), kind="stable")
    table = table[["depth", "model", "top-1 %", "gap to m3ch"]]
    claims = judge(study)
    output.write_frame(out / "figures" / "claims.csv", pd.DataFrame([vars(claim) for claim in claims]))
    return html.section(
        "found",
        "What was found",
        html.paragraph(_answer(frame)),
        html.of('<div class="headline">{}<div>{}</div></div>', picture, html.table(table)),
        html.heading("The paper's claims"),
        html.paragraph(
            f"Each claim is judged by a rule, on runs with {DEPTH}-depth, from the interval beside it. Some rules were "
            "mended after a first look at toy rooms, where they did not ask what the paper says; none has seen "
            "ImageNet. These runs are not the paper's: a verdict says whether the effect is seen here. "
            + _tally(claims)
        ),
        _scoreboard(claims, anchors),
    )


def _headline(study: Study, drawings: Drawings) -> tuple[Html, pd.DataFrame]:
    """The picture of gaps to m3ch (empty where there is none) and its data."""
    drawn, frame = depth_figure(study)
    if frame.empty:
        close(drawn)
        return Html(), frame
    caption = (
        "Top-1 on validation above the model that sees RGB alone, with paired 95 % intervals over samples, by the "
        "depth a model was trained and evaluated on."
    )
    if "exact" in set(frame["depth"]):
        caption += " `exact` is the renderer's depth, without noise or holes."
    title = "Top-1 gained over RGB alone, by depth field"
    return drawings.figure("depth", title, drawn, {"": frame}, caption), frame


def _answer(gaps: pd.DataFrame) -> str:
    """The study's answer in a sentence, from the data."""
    clauses = []
    for depth, rows in gaps.groupby("depth", sort=False):
        each = [f"{r['model']} {tables.points(r['gap'], r['low'], r['high'])}" for r in rows.to_dict("records")]
        listed = " and ".join(filter(None, [", ".join(each[:-1]), each[-1]]))
        clauses.append(f"with {depth} depth {listed}")
    if not clauses:
        return f"No model can be compared with {BASELINE} on RGB alone: give a run of both."
    return f"Points of top-1 over RGB alone, with 95 % intervals: {'; '.join(clauses)}."


def _tally(claims: list[Judged]) -> str:
    verdicts = [claim.verdict for claim in claims]
    counts = [f"{verdicts.count(name)} {name}" for name in VERDICTS if name in verdicts]
    return f"{', '.join(counts)}, of {len(claims)} statements."


def _scoreboard(claims: list[Judged], anchors: set[str]) -> Html:
    rows = []
    for claim in claims:
        anchor = _anchor(claim, anchors)
        shown_in = html.of('<a href="#{}">{}</a>', anchor, claim.shown_in) if anchor else claim.shown_in
        rows.append(
            html.of(
                "<tr><td>{}<span class='id'>{} · {}</span></td>"
                '<td data-label="expected">{}</td><td data-label="observed">{}</td>'
                '<td data-label="95 % interval or range">{}</td>'
                '<td><span class="badge {}" title="{}">{}</span></td></tr>',
                claim.sentence, claim.id, shown_in, claim.expected, claim.observed or claim.why, claim.interval,
                claim.verdict.replace(" ", "-"), claim.why or claim.estimand, claim.verdict,
            )
        )  # fmt: skip
    names = ("claim", "expected", "observed", "95 % interval or range", "verdict")
    head = html.join((html.of("<th>{}</th>", name) for name in names), "")
    return html.of(
        '<table class="claims"><thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table>', head, html.join(rows)
    )


def _anchor(claim: Judged, anchors: set[str]) -> str | None:
    """Where it is shown: the panel of the claims' depth if there is one, else the whole figure or table."""
    place = claim.shown_in.lower().replace(" ", "")
    wanted = (f"{place}-{DEPTH}-panel", place)
    return next((anchor for anchor in wanted if anchor in anchors), None)


def _curves(study: Study, drawings: Drawings) -> Html:
    drawn, frame = training_curves(study.runs)
    caption = f"Validation top-1 during training; {BASELINE} is the same run in every panel."
    shown = drawings.figure("training", "Training curves", drawn, {"": frame}, caption)
    return html.section("curves", "Training", shown)
