"""The drawn sections of the teachers' page: time, asked or dense, near depth edges."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import html, output
from analysis.figures.teachers import answer_label, asked_figure, edges_figure, time_figure
from analysis.html import Html
from analysis.report_figures import Drawings
from analysis.teacher_scores import Difference, edge_differences, scores, times, within
from analysis.teachers import DENSE, PIXELS, Design, asked_in_words, spread, to_evaluate


def time_section(found: Sequence[Design], drawings: Drawings) -> Html:
    frame = times(found)
    names = [design.name for design in found]
    if frame.empty:
        content = html.lacking("Not drawn: no evaluation holds times. " + _evaluate(found))
        return html.section("time", "Time", content)
    devices = list(dict.fromkeys(each or "a machine that is not named" for each in frame["device"]))
    caption = (
        f"Milliseconds an image, alone in its batch, median over the images that were timed; measured on "
        f"{' and '.join(devices)}. An image is encoded once, then asked at K pixels at once (points) or mapped densely "
        "(dashed). The mark is where both cost the same, by a straight line in K between the numbers that were timed. "
        "Times are of that machine, and of what else ran on it."
    )
    drawn = time_figure(frame, names)
    table = pd.DataFrame(
        {
            "network": frame["name"],
            "device": frame["device"],
            "answer": [asked_in_words(each) for each in frame["asked"]],
            "encode ms": [_ms(each) for each in frame["encode_ms"]],
            "answer ms": [_ms(each) for each in frame["answer_ms"]],
            "both ms": [_ms(each) for each in frame["ms"]],
        }
    )
    return html.section(
        "time",
        "Time: asked, or the whole map",
        drawings.figure("teachers-time", "Milliseconds an image by pixels asked", drawn, {"": frame}, caption),
        html.details("Numbers: what is drawn", html.table(table)),
    )


def _ms(value: float) -> str:
    return f"{value:,.1f}" if value < 1e6 else f"{value:.3g}"


def asked_section(found: Sequence[Design], drawings: Drawings) -> Html:
    frame = scores(found)
    own = frame[(frame["who"] == "model") & (frame["protocol"] == "whole") & (frame["aligned"] == "none")]
    title = "Asked pixel by pixel, or densely"
    if own.empty:
        return html.section("asked", title, html.lacking("Not drawn: no evaluation holds answers. " + _evaluate(found)))
    drawn = asked_figure(own, [design.name for design in found])
    caption = (
        "AbsRel, mean over images and seeds, of every pixel that counts (protocol whole). Points: K pixels of each "
        "image, drawn evenly; bands: ± the deviation between draws. Asking fewer pixels changes how sure the number "
        "is, not what it is: points off the solid line are luck. Lines: every pixel asked (solid), and the dense map, "
        "resized (dashed)."
    )
    rows = []
    for design in found:
        difference = within(design, PIXELS, DENSE)
        if difference:
            row = {"network": design.name, "every pixel asked minus dense map": difference.told()} | _over(difference)
            rows.append(row | {"dense map from asked": _apart(design)})
    return html.section(
        "asked",
        title,
        drawings.figure("teachers-asked", "AbsRel by pixels asked", drawn, {"": own}, caption),
        html.table(pd.DataFrame(rows))
        if rows
        else html.lacking("No evaluation asked every pixel. " + _evaluate(found)),
        html.caption(
            "AbsRel with 95 % interval, Student's; images are paired, within each network. Last: how far the dense map "
            "is from what is answered there pixel by pixel, relative, mean over images and seeds."
        )
        if rows
        else Html(),
    )


def _apart(design: Design) -> str:
    known = [each.found.dense_from_asked for each in design.networks if each.found.dense_from_asked is not None]
    return f"{sum(known) / len(known):.2%}".replace("%", " %") if known else "–"


def _evaluate(found: Sequence[Design]) -> str:
    return f"`{to_evaluate(found[0].networks[0].run)}` makes one with all."


def _over(difference: Difference) -> dict[str, str]:
    return {
        "images": f"{difference.num_images:,}",
        "left out": f"{difference.left_out:,}",
        "interval over": "images and seeds" if difference.seeded else "images only",
    }


def edges_section(found: Sequence[Design], drawings: Drawings, out: Path) -> Html:
    title = "Near depth edges"
    frame = scores(found)
    whole = frame[(frame["protocol"] == "whole") & frame["region"].isin(["edges", "rest"])]
    if not (whole["region"] == "edges").any():
        return html.section(
            "edges", title, html.lacking("No image has a pixel near a depth edge, or none was counted.")
        )
    names, of = [design.name for design in found], found[0].networks[0].found.edges_of
    caption = (
        f"AbsRel, mean over images, within 3 px of where {of} depth changes by more than a tenth from a pixel to the "
        "next, and elsewhere; protocol whole. Grey: who else answered."
    )
    pairs = edge_differences(found)
    rows = [
        {"network": each.name, "answer": each.answer, "minus": each.minus, **vars(each.difference)} for each in pairs
    ]
    columns = ["network", "answer", "minus", "value", "low", "high", "num_images", "left_out", "seeded"]
    output.write_frame(out / "figures" / "teachers-edge-differences.csv", pd.DataFrame(rows, columns=columns))
    readable = [
        {"network": each.name, "answer": each.answer, "minus": each.minus}
        | {"AbsRel near edges": each.difference.told()} | _over(each.difference)
        for each in pairs
    ]  # fmt: skip
    of_designs = pd.DataFrame([row for row in readable if row["minus"] in names])
    of_others = pd.DataFrame([row for row in readable if row["minus"] not in names])
    lacking = html.lacking("Nobody else's answers can be paired with a network's. " + _evaluate(found))
    drawn = edges_figure(whole, names)
    return html.section(
        "edges",
        title,
        drawings.figure("teachers-edges", "AbsRel near depth edges and elsewhere", drawn, {"": whole}, caption),
        html.details("Numbers: near edges and elsewhere", titled("AbsRel", _edges_table(whole))),
        html.paragraph(
            "Below, differences of AbsRel within the edge region with 95 % intervals, Student's; below 0 the network "
            "is nearer to the truth. Each image is paired with itself, within each network; images without such "
            "a pixel are left out. Intervals are not widened for their number."
        ),
        titled("One design minus another, near edges", of_designs) if len(of_designs) else Html(),
        titled("Each network minus who else answered, near edges", of_others) if len(of_others) else lacking,
        html.files(["teachers-edge-differences.csv"]),
    )


def _edges_table(whole: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, who, asked, aligned), own in whole.groupby(["name", "who", "asked", "aligned"], sort=False):
        by = {row["region"]: row for row in own.to_dict("records")}
        edges, rest = by.get("edges"), by.get("rest")
        row = {"network": str(name), "answer": answer_label("", str(who), str(asked), str(aligned)) or "as it is"}
        for kind, words in (("", ""), ("pooled_", "pooled, ")):
            for region, of in (("near edges", edges), ("elsewhere", rest)):
                told = spread(of[f"{kind}abs_rel"], of[f"{kind}abs_rel_sd"], 4) if of else "–"
                row[f"{words}{region}"] = told
        row["pixels near edges"] = f"{edges['num_pixels']:,}" if edges else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def titled(title: str, frame: pd.DataFrame) -> Html:
    return html.of('<div class="answers">{}{}</div>', html.heading(title), html.table(frame))
