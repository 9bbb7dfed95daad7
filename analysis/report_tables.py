"""The report's sections of tables: size and accuracy, fine-tuning, and what changing depth does to answers."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis import accuracy, causal, fine_tuning, html, output, tables
from analysis.html import Html
from analysis.load import Given, seed_of
from pipeline import files
from training.records import Matrix

if TYPE_CHECKING:
    from training.dumps.store import Dump


def tables_section(study: Given, out: Path, gained: Callable[[], Html]) -> Html:
    """`gained` draws what each model is above RGB alone."""
    first, second = tables.table1(study), accuracy.table2(study)
    output.write_frame(out / "figures" / "table1.csv", first)
    output.write_frame(out / "figures" / "table2.csv", second)
    return html.section(
        "tables",
        "Tables",
        html.heading("Table 2: accuracy", "table2"),
        html.paragraph(accuracy.notes2(second)),
        html.table(accuracy.readable2(second)),
        gained(),
        html.heading("Table 1: size and cost", "table1"),
        html.paragraph(tables.notes1(first)),
        html.table(tables.readable1(first)),
        html.files(["table1.csv", "table2.csv"]),
    )


_CHOSEN = {"best-on-val": "scenes set aside from training", "best-on-test": "the test images themselves"}


def table3_section(matrix: Matrix, out: Path) -> Html:
    output.write_frame(out / "figures" / "table3.csv", fine_tuning.table3(matrix))
    output.write_frame(out / "figures" / "table3-differences.csv", fine_tuning.differences(matrix))
    chosen = {cell.selection for cell in matrix.cells}
    by = " or ".join(_CHOSEN.get(rule, rule) for rule in sorted(chosen))
    how = "predictions summed over scales and mirror images" if matrix.multi_scale else "images as they are"
    return html.section(
        "table3",
        "Table 3: fine-tuned to label pixels",
        html.paragraph(
            f"mIoU in percent over {matrix.num_classes} classes and {matrix.num_images:,} test images ({how}), by the "
            f"depth a model was fine-tuned with and the depth it was tested with; the checkpoint was chosen by {by}. "
            "Intervals are 95 %, Student's over images (each left out once); they say nothing about other training "
            "runs. m3ch reads no depth, so one run is its result."
        ),
        html.table(fine_tuning.readable3(matrix)),
        html.heading("What the depth makes of it"),
        html.paragraph(
            "Points of mIoU, paired over images: the cost of testing with the other depth, and what "
            "training with pseudo-depth gains or costs."
        ),
        html.table(fine_tuning.readable_differences(matrix)),
        html.files(["table3.csv", "table3-differences.csv"]),
    )


def causal_section(study: Given, out: Path) -> Html:
    """By depth field, the last dump of every run that holds images with changed depth."""
    panels = []
    for field in study.depth_fields():
        dumps = [d for each in study.panel_sets(field) for d in each if d.info.num_causal]
        if dumps:
            panels.append((f"causal-{field}", f"{field} depth", _changes(dumps, field, out)))
    lacking = "No dump holds images with changed depth: 'train dump RUN --data SHARDS --causal 500' makes one."
    return html.section(
        "causal",
        "Changed depth: what it does to answers",
        html.paragraph(
            "The same images with another image's depth (swap), flat depth (zero, mean) or other depth of their own "
            "(real); with depth kept out of blocks' scores (ablate, erase_scores) or erased from a block's output "
            "(erase_depth). Such input is off the training distribution. What a swap does to scores: Figures 1, 10 "
            "and 13, causal."
        ),
        html.tabs(panels) if panels else html.lacking(lacking),
    )


def _changes(dumps: "list[Dump]", field: str, out: Path) -> Html:
    answers = pd.concat([causal.effects(dump) for dump in dumps], ignore_index=True)
    again = pd.concat([causal.refitted(dump) for dump in dumps], ignore_index=True)
    names = f"causal-{field}.csv", f"causal-{field}-erased.csv"
    for name, frame in zip(names, (answers, again), strict=True):
        output.write_frame(out / "figures" / name, frame)
    by_block = answers["change"].str.contains(r"-\d+$")
    blocks = html.table(causal.readable_effects(answers[by_block]))
    counts = ", ".join(f"{d.info.model} {d.info.num_causal:,} images (seed {seed_of(d)})" for d in dumps)
    return html.join(
        [
            html.table(causal.readable_effects(answers[~by_block])),
            html.details("Block by block", blocks),
            html.heading("R² of depth at the last block, where it was erased after a block"),
            html.table(causal.readable_refitted(again)),
            html.caption(
                f"{counts}. Points are changed minus unchanged, a loss below 0, with 95 % intervals over images, each "
                "against itself unchanged. Images that swapped depths are left out together."
            ),
            html.files(names),
        ]
    )


_PNG, _MOST_SHEETS, _MOST_BYTES = b"\x89PNG\r\n\x1a\n", 24, 8_000_000


def sheets_section(study: Given, out: Path) -> Html:
    """Contact sheets of the shards and sheets of what fine-tuned runs label, copied beside the page; else nothing."""
    found: dict[str, tuple[str, Path]] = {}
    for number, shards in enumerate(dict.fromkeys(run.record.shards.path for run in study.runs), 1):
        found[f"contact-sheet-{number}.png"] = (f"contact sheet of {shards}", Path(shards) / "contact-sheet.png")
    folder = study.matrix_path if study.matrix_path is None or study.matrix_path.is_dir() else study.matrix_path.parent
    sheets = sorted(folder.glob("**/evaluations/*.png"))[:_MOST_SHEETS] if folder else []
    for number, path in enumerate(sheets, 1):
        found[f"evaluation-sheet-{number}.png"] = (f"{path.parent.parent.name}, {path.stem}", path)
    links = []
    for name, (what, path) in found.items():
        try:
            content = files.read_bytes(path, most=_MOST_BYTES)
        except (OSError, ValueError):
            continue  # not made, on another machine, or no picture of ours
        if content.startswith(_PNG):
            output.write(out / "figures" / name, content)
            links.append(html.of('<li><a href="figures/{}">{}</a></li>', name, what))
    if not links:
        return Html()
    return html.section(
        "sheets",
        "Sheets to look at",
        html.paragraph("What the models were shown, and what fine-tuned ones make of test images; copies, as PNG."),
        html.of("<ul>{}</ul>", html.join(links)),
    )
