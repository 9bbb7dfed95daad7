"""The teachers' page: networks that answer depth where they are asked, by accuracy, time, edges and examples.

`analyze teachers` makes it alone; `analyze report` puts it beside its own page where runs of `train depth` are given.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import html, output, teachers
from analysis.commands import command
from analysis.figures.teachers import answer_label
from analysis.html import Html
from analysis.load import AnalysisError
from analysis.manifest import revision
from analysis.report_figures import Drawings
from analysis.teacher_drawings import asked_section, edges_section, time_section, titled
from analysis.teacher_examples import examples_section
from analysis.teacher_findings import findings, not_learned
from analysis.teacher_scores import scores
from analysis.teachers import AUTHORS, PROTOCOLS, Design, Network, number, spread

TITLE = "Depth where it is asked"
QUESTION = (
    "Which network gives the nearest depth, in metres, at the pixels that it is asked; is asking cheaper than a dense "
    "map, and as accurate, near depth edges too?"
)
FILE = "teachers.html"  # beside a report
_MAX_BYTES = 10_000_000


def write_teachers(networks: Sequence[Network], out: Path) -> Path:
    """Write `out/index.html` and `out/figures/`, all or nothing; returns the page's path."""
    with output.all_or_nothing(out, whole=True) as made:
        teachers_page(networks, made, "index.html")
    return out / "index.html"


def teachers_page(networks: Sequence[Network], out: Path, name: str, report: str = "") -> None:
    """Write `out/name`, and figures in `out/figures` that begin with `teachers-`; `report` is a page to link to."""
    found = teachers.designs(networks)
    drawings = Drawings(out, revision())
    sections = {
        "accuracy": _accuracy(found, out),
        "time": time_section(found, drawings),
        "asked": asked_section(found, drawings),
        "edges": edges_section(found, drawings, out),
        "examples": examples_section(found),
        "limitations": _limitations(found),
        "manifest": _manifest(found),
    }
    body = html.join([_header(found), _navigation(report), *sections.values()])
    around = len(html.page(TITLE, Html(), drawings.styles).encode())
    page = html.page(TITLE, drawings.place(body, _MAX_BYTES - around), drawings.styles)
    if len(page.encode()) > _MAX_BYTES:
        raise AnalysisError(f"the page would have {len(page.encode()) / 1e6:.1f} MB, more than 10: give fewer runs")
    output.write(out / name, page)


_NAMES = {
    "accuracy": "Accuracy",
    "time": "Time",
    "asked": "Asked or dense",
    "edges": "Edges",
    "examples": "Examples",
    "limitations": "Limitations",
    "manifest": "Runs",
}


def _navigation(report: str) -> Html:
    links = [html.of('<a href="{}">Report</a>', report)] * bool(report)
    links += [html.of('<a href="#{}">{}</a>', anchor, name) for anchor, name in _NAMES.items()]
    return html.of('<nav aria-label="Sections">{}</nav>', html.join(links, ""))


def _header(found: Sequence[Design]) -> Html:
    shards, evaluation = found[0].networks[0].run.record.shards, found[0].networks[0].found
    networks = [network for design in found for network in design.networks]
    made = (
        f"{shards.source}: {shards.num_train:,} training and {evaluation.num_images:,} validation images; "
        f"{len(found)} design{'s' * (len(found) > 1)}, {len(networks)} network{'s' * (len(networks) > 1)}."
    )
    first, *rest = findings(found)
    untaught = not_learned(found)
    notice = html.of('<p class="notice">{}</p>', untaught) if untaught else Html()
    return html.of(
        '<header><h1>{}</h1>\n<p class="question">{}</p>\n<p class="meta">{}</p></header>\n'
        '<section class="answer" id="answer">\n{}\n<p><b>{}</b></p>\n{}\n</section>',
        TITLE, QUESTION, made, notice, first, html.bullets(rest),
    )  # fmt: skip


# --- accuracy --------------------------------------------------------------------------------------------------------


def _accuracy(found: Sequence[Design], out: Path) -> Html:
    frame = scores(found)
    output.write_frame(out / "figures" / "teachers-scores.csv", frame)
    panels = []
    for protocol in teachers.protocols(found):
        told = [
            html.caption(f"Counted: {PROTOCOLS.get(protocol, protocol)}."),
            titled("Of each image, then the mean over images", _readable(frame, protocol, "")),
            titled("Pooled over the pixels of all images", _readable(frame, protocol, "pooled_")),
        ]
        if protocol == "author":
            told.append(
                html.caption(
                    "The author's figures are those he prints of his v15.1.1 on NYUDepthV2's 654 test images, pooled "
                    "over pixels. They can be held against pooled figures of this protocol alone, and only where the "
                    "images are those."
                )
            )
        panels.append((f"accuracy-{protocol}", protocol, html.join(told)))
    return html.section(
        "accuracy",
        "Accuracy",
        html.paragraph(
            "AbsRel is the mean of |error| / truth, δ the share of pixels within a factor of 1.25, RMSE in metres. "
            "They are taken twice: of each image, then the mean over images; and pooled over the pixels of all images, "
            "as many papers do. ± is the deviation between seeds where there are several; “draws ±” that of AbsRel's "
            "mean between draws of the pixels that are asked. Answers whose scale, or scale and shift in inverse "
            "depth, was fitted to the truth of each image stand apart: they were told what others must know."
        ),
        html.tabs(panels),
        html.files(["teachers-scores.csv"]),
    )


def _readable(frame: pd.DataFrame, protocol: str, kind: str) -> pd.DataFrame:
    """A row an answer, all text; `kind`: "" of each image, pooled_ of all. The author's own are pooled."""
    rows: list[dict[str, str]] = []
    for row in frame[(frame["protocol"] == protocol) & (frame["region"] == "all")].to_dict("records"):
        network = row["who"] == "model"
        drawn = {"draws ±": number(row["draws_abs_rel"])} if not kind else {}
        rows.append(
            {
                "network": row["name"],
                "answer": answer_label("", row["who"], row["asked"], row["aligned"]) or "as it is",
                "AbsRel": spread(row[f"{kind}abs_rel"], row[f"{kind}abs_rel_sd"], 4),
                **drawn,
                "δ<1.25 %": spread(100 * row[f"{kind}delta1"], 100 * row[f"{kind}delta1_sd"], 2),
                "RMSE m": spread(row[f"{kind}rmse_m"], row[f"{kind}rmse_m_sd"], 3),
                "seeds": str(row["seeds"]) if network else "–",
            }
        )
    columns = list(rows[0]) if rows else []
    if protocol == "author" and kind:
        for asked, value in AUTHORS.items():
            own = {"network": "v15.1.1, as its author prints", "answer": teachers.asked_in_words(asked)}
            rows.append(dict.fromkeys(columns, "–") | own | {"AbsRel": f"{value:.4f}"})
    return pd.DataFrame(rows, columns=columns)


# --- limits, and what it was made from -------------------------------------------------------------------------------

_SOURCES = {
    "toyrooms": "The images are toy rooms, rendered at random: boxes, plain light, exact depth. What is found says "
    "little of photographs.",
    "nyu": "The images are NYUDepthV2's: indoors, one sensor, holes in its depth filled or left out. Depth edges are "
    "where that sensor is least sure.",
}


def _limitations(found: Sequence[Design]) -> Html:
    shards, evaluation = found[0].networks[0].run.record.shards, found[0].networks[0].found
    source = "nyu" if shards.source.startswith("nyu") else shards.source
    items = [_SOURCES.get(source, f"The images are of {shards.source}: what is found may not hold of others.")]
    if any(len(design.networks) == 1 for design in found):
        alone = [design.name for design in found if len(design.networks) == 1]
        items.append(
            f"One seed of {', '.join(alone)}: what is said of a single network may be the luck of its training. Where "
            "some designs have several seeds, their spread stands for all that are compared with them."
        )
    items += [
        "Intervals treat images as independent. Frames of one scene are not: their intervals are too narrow.",
        "Where several designs are compared, the two best are; all numbers that have no interval are descriptions.",
        "Each network sees the largest centre of an image that its patches divide, so that designs may be measured on "
        "slightly different pixels. Images are never resized: depth in metres belongs to a focal length in pixels.",
        "A teacher whose scale was fitted to the truth is told what a network in metres must know itself; the "
        "network's own dense map, fitted alike, is what to hold it against.",
        f"Depth edges are those of {evaluation.edges_of} depth."
        + " Near them a measured depth may be of either side: errors there are the sensor's as well."
        * (evaluation.edges_of != "exact"),
        "Times are of one machine and one image at a time; a batch of images, or another machine, has another "
        "break-even.",
    ]
    if "author" in teachers.protocols(found):
        items.append(
            "The author's figures are of another network (v15.1.1), trained elsewhere; they are printed, not measured "
            "here, and have no interval."
        )
    return html.section("limitations", "Limitations", html.bullets(items))


def _manifest(found: Sequence[Design]) -> Html:
    rows, lines = [], []
    for design in found:
        for network in design.networks:
            record, of = network.run.record, network.found
            code = str(record.git.get("revision") or "unknown")[:10] + ("+changes" if record.git.get("dirty") else "")
            rows.append(
                {
                    "run": record.name,
                    "design": design.name,
                    "seed": str(record.seed),
                    "config": record.study_hash[:12],
                    "checkpoint": f"{of.checkpoint} (epoch {of.epoch})",
                    "weights": of.checkpoint_sha256[:12],
                    "parameters": f"{record.num_parameters:,}",
                    "depth": of.depth_field,
                    "val": of.fingerprint[:12],
                    "images": f"{of.num_images:,}",
                    "teacher beside": of.teacher[:80] or "–",
                    "timed on": of.device[:80] or "–",
                    "code": code,
                }
            )
            lines.append(_evaluated(network))
    lines.append(
        command("analyze", "teachers", *(n.run.folder for d in found for n in d.networks), "--out", "teachers")
    )
    return html.section(
        "manifest",
        "Runs",
        html.paragraph(
            f"Made by `analyze teachers`, code {revision()}; of each run its latest evaluation of its own val."
        ),
        html.table(pd.DataFrame(rows)),
        html.heading("To make it again"),
        html.of("<pre>{}</pre>", "\n".join(lines)),
    )


def _evaluated(network: Network) -> str:
    of = network.found
    words = ["train", "evaluate", network.run.folder, "--data", of.data, "--checkpoint", of.checkpoint]
    words += ["--depth", of.depth_field] + (["--against", of.teacher] if of.teacher else [])
    every = any(score.asked == "every-pixel" for score in of.scores)
    return command(*words, *["--every-pixel"] * every)
