"""`analyze report`: the whole study on one page that opens from a file, and every figure beside it."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from analysis import html, output, report_teachers
from analysis.claims import Judged, judge, scoreboard
from analysis.colours import palettes
from analysis.explorer import explorer_section
from analysis.figures import FIGURES
from analysis.figures.headline import depth_figure
from analysis.figures.training import training_curves
from analysis.head_map import head_section
from analysis.html import Html
from analysis.load import BASELINE, AnalysisError, Given
from analysis.manifest import limitations, manifest, revision
from analysis.report_answer import answer_section
from analysis.report_claims import claims_section
from analysis.report_figures import Drawings, figure_sections
from analysis.report_tables import causal_section, sheets_section, table3_section, tables_section
from analysis.runs import comparable_runs, final_evaluation
from analysis.teachers import Network

TITLE = "What do Vision Transformers do with depth?"
QUESTION = (
    "Pre-trained with depth that a monocular estimator guessed from the same photograph (pseudo-depth), does a Vision "
    "Transformer classify better, and does its attention use that depth?"
)
_MAX_BYTES = 10_000_000
Steps = Iterable[tuple[str, Callable[[], Html]]]  # anchor, what makes its section


def write_report(
    study: Given,
    out: Path,
    track: Callable[[Steps], Steps] = lambda steps: steps,
    networks: Sequence[Network] = (),
) -> Path:
    """Write `out/index.html` and `out/figures/`; returns the page's path. `track` iterates over the sections.

    `networks`, which answer depth where they are asked, have a page beside it. Everything is made in a folder of its
    own first: a report that fails leaves what was in `out` as it was.
    """
    comparable_runs(study)
    for run in study.runs:
        final_evaluation(run)
    with output.all_or_nothing(out, whole=True) as made:
        _write(study, made, track, report_teachers.FILE if networks else "")
        if networks:
            report_teachers.teachers_page(networks, made, report_teachers.FILE, "index.html")
    return out / "index.html"


def _write(study: Given, out: Path, track: Callable[[Steps], Steps], teachers: str) -> None:
    drawings = Drawings(out, revision())
    judged: list[Judged] = []

    def answer() -> Html:
        judged.extend(judge(study))
        output.write_frame(out / "figures" / "claims.csv", scoreboard(judged))
        return answer_section(study, judged, drawings)

    steps: dict[str, Callable[[], Html]] = {
        "answer": answer,
        "tables": partial(tables_section, study, out, partial(_gained, study, drawings)),
        **({"table3": partial(table3_section, study.matrix, out)} if study.matrix else {}),
        "causal": partial(causal_section, study, out),
        **figure_sections(study, drawings),
        "heads": partial(head_section, study, out),
        "explorer": partial(explorer_section, study),
        "curves": partial(_curves, study, drawings),
        "sheets": partial(sheets_section, study, out),
        "claims": lambda: Html(),  # last, since it links to the others
        "limitations": partial(limitations, study),
        "manifest": partial(manifest, study),
    }
    sections = {anchor: make() for anchor, make in track(list(steps.items()))}
    anchors = set(re.findall(r'\bid="([^"]+)"', html.join(sections.values())))
    sections["claims"] = claims_section(judged, anchors)
    first = sections.pop("answer")
    body = html.join(
        [_header(study), first, _navigation(sections, teachers), *sections.values(), html.data("palettes", palettes())]
    )
    around = len(html.page(TITLE, Html(), drawings.styles).encode())
    page = html.page(TITLE, drawings.place(body, _MAX_BYTES - around), drawings.styles)
    if len(page.encode()) > _MAX_BYTES:
        raise AnalysisError(f"the page would have {len(page.encode()) / 1e6:.1f} MB, more than 10: give fewer runs")
    output.write(out / "index.html", page)


def _header(study: Given) -> Html:
    shards = study.runs[0].record.shards
    seeds = len({run.record.seed for run in study.runs})
    made = (
        f"{shards.source}: {shards.num_train:,} training and {shards.num_val:,} validation images, "
        f"{shards.num_classes} classes; {_several(len(study.runs), 'run')}, {_several(seeds, 'seed')}, "
        f"{_several(len(study.dumps), 'dump')}."
    )
    return html.of(
        '<header><h1>{}</h1>\n<p class="question">{}</p>\n<p class="meta">{}</p></header>', TITLE, QUESTION, made
    )


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


_NAMES = {
    "tables": "Tables",
    "table3": "Fine-tuning",
    "causal": "Changed depth",
    "heads": "Heads",
    "explorer": "Explorer",
    "curves": "Training",
    "sheets": "Sheets",
    "claims": "Claims",
    "limitations": "Limitations",
    "manifest": "Manifest",
}


def _navigation(sections: dict[str, Html], teachers: str) -> Html:
    names = _NAMES | {spec.stem: spec.label.replace("Figure", "Fig") for spec in FIGURES.values()}
    links = html.join(
        (html.of('<a href="#{}">{}</a>', anchor, names[anchor]) for anchor, section in sections.items() if section), ""
    )
    beside = html.of('<a href="{}">Depth teachers</a>', teachers) if teachers else Html()
    return html.of('<nav aria-label="Sections">{}{}</nav>', links, beside)


def _gained(study: Given, drawings: Drawings) -> Html:
    """The picture of gaps to m3ch; nothing where there is none."""
    drawn, frame = depth_figure(study)
    if frame.empty:
        return html.lacking(f"No model can be compared with {BASELINE} on RGB alone: give a run of both.")
    caption = (
        "Top-1 on validation above the model that sees RGB alone, with the intervals of Table 2, by the depth a model "
        "was trained and evaluated on."
    )
    if "exact" in set(frame["depth"]):
        caption += " `exact` is the renderer's depth, without noise or holes."
    return drawings.figure("depth", "Top-1 gained over RGB alone, by depth field", drawn, {"": frame}, caption)


def _curves(study: Given, drawings: Drawings) -> Html:
    drawn, frame = training_curves(study.runs)
    caption = f"Validation top-1 during training; {BASELINE} is the same run in every panel."
    shown = drawings.figure("training", "Training curves", drawn, {"": frame}, caption)
    return html.section("curves", "Training", shown)
