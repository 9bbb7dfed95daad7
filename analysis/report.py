"""`analyze report`: the whole study on one page that opens from a file, and every figure beside it."""

from html import escape
from pathlib import Path

import pandas as pd

from analysis import figures, fine_tuning, html, output, tables
from analysis.claims import DEPTH, Judged, judge
from analysis.load import (
    BASELINE,
    AnalysisError,
    Study,
    comparable_runs,
    depth_of,
    depth_order,
    final_evaluation,
    recipe_differences,
)
from analysis.report_figures import curves_section, embed, figure1_section, figure5_section
from analysis.style import close
from training.records import Matrix

TITLE = "What do Vision Transformers do with depth?"
QUESTION = (
    "Pre-trained with depth that a monocular estimator guessed from the same photograph (pseudo-depth), does a Vision "
    "Transformer classify better, and does its attention use that depth?"
)
_MAX_BYTES = 10_000_000
_VERDICTS = {"reproduced": "✓ reproduced", "partly": "◐ partly", "not": "✗ not", "not tested": "not tested"}


def write_report(study: Study, out: Path, matrix: Matrix | None = None) -> Path:
    """Write `out/index.html` and `out/figures/`; returns the page's path. `matrix` is what `train matrix` found."""
    comparable_runs(study)
    for run in study.runs:
        final_evaluation(run)
    parts = [
        _header(study, matrix),
        _found(study, out),
        _tables(study, out),
        *([_table3(matrix, out)] if matrix else []),
        figure1_section(study, out),
        figure5_section(study, out),
        curves_section(study, out),
        _limitations(study),
        _manifest(study),
    ]
    page = html.page(TITLE, "\n".join(parts))
    if len(page.encode()) > _MAX_BYTES:
        raise AnalysisError(f"the page would have {len(page) / 1e6:.1f} MB, more than 10: give fewer runs")
    return output.write(out / "index.html", page)


def _header(study: Study, matrix: Matrix | None) -> str:
    shards = study.runs[0].record.shards
    seeds = len({run.record.seed for run in study.runs})
    made = (
        f"{len(study.runs)} runs, {len(study.dumps)} dumps; {shards.source}: {shards.num_train:,} training and "
        f"{shards.num_val:,} validation samples, {shards.num_classes} classes; {seeds} seed{'s' * (seeds > 1)}."
    )
    links = {
        "found": "What was found",
        "tables": "Tables",
        **({"table3": "Fine-tuning"} if matrix else {}),
        "figure1": "Figure 1",
        "figure5": "Figure 5",
        "curves": "Training",
        "limitations": "Limitations",
        "manifest": "Manifest",
    }
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in links.items())
    return (
        f'<header><h1>{TITLE}</h1>\n<p class="question">{QUESTION}</p>\n<p class="meta">{made}</p>\n'
        f"<nav>{nav}</nav></header>"
    )


def _found(study: Study, out: Path) -> str:
    picture, frame = _headline(study, out)
    accuracy = tables.readable2(tables.table2(study)).rename(columns={"gap to m3ch, points": "gap to m3ch"})
    accuracy = accuracy.sort_values("depth", key=lambda depth: depth.map(depth_order), kind="stable")
    accuracy = accuracy[["depth", "model", "top-1 %", "gap to m3ch"]]
    claims = judge(study)
    output.write_frame(out / "figures" / "claims.csv", pd.DataFrame([vars(claim) for claim in claims]))
    return html.section(
        "found",
        "What was found",
        html.paragraph(_answer(frame)),
        f'<div class="headline">{picture}<div>{html.table(accuracy)}</div></div>',
        "<h3>The paper's claims</h3>",
        html.paragraph(
            f"Each claim is judged by a rule fixed beforehand, on runs with {DEPTH}-depth, from the interval beside "
            "it. These runs are not the paper's: a verdict says whether the effect is seen here. " + _tally(claims)
        ),
        _scoreboard(claims),
    )


def _headline(study: Study, out: Path) -> tuple[str, pd.DataFrame]:
    """The picture of gaps to m3ch (empty where there is none) and its data."""
    drawn, frame = figures.depth_figure(study)
    if frame.empty:
        close(drawn)
        return "", frame
    caption = (
        "Top-1 on validation above the model that sees RGB alone, with paired 95 % intervals over samples, by the "
        "depth a model was trained and evaluated on."
    )
    if "exact" in set(frame["depth"]):
        caption += " `exact` is the renderer's depth, without noise or holes."
    return embed(
        drawn, "depth", "Top-1 gained over RGB alone, by depth field", caption, out, {"": frame}, wide=False
    ), frame


def _answer(gaps: pd.DataFrame) -> str:
    """The study's answer in a sentence, from the data."""
    clauses = []
    for depth, rows in gaps.groupby("depth", sort=False):
        each = [f"{r['model']} {tables.points(r['gap'], r['low'], r['high'])}" for r in rows.to_dict("records")]
        clauses.append(f"with {depth} depth {' and '.join(each)}")
    if not clauses:
        return f"No model can be compared with {BASELINE} on RGB alone: give a run of both."
    return f"Points of top-1 over RGB alone, with 95 % intervals: {'; '.join(clauses)}."


def _tally(claims: list[Judged]) -> str:
    verdicts = [claim.verdict for claim in claims]
    counts = [f"{verdicts.count(name)} {name}" for name in _VERDICTS if name in verdicts]
    return f"{', '.join(counts)}, of {len(claims)} statements."


def _scoreboard(claims: list[Judged]) -> str:
    rows = []
    for claim in claims:
        variant = f", {claim.variant.replace('_', '-')}" if claim.variant else ""
        anchor = {"Table 2": "tables", "Figure 1": "figure1", "Figure 5": "figure5"}[claim.shown_in]
        rows.append(
            f"<tr><td>{escape(claim.sentence)}<span class='id'>{claim.id}{variant} · "
            f'<a href="#{anchor}">{claim.shown_in}</a></span></td>'
            f'<td data-label="expected">{escape(claim.expected)}</td>'
            f'<td data-label="observed">{escape(claim.observed)}</td>'
            f'<td data-label="95 % interval or range">{escape(claim.interval)}</td>'
            f'<td><span class="badge {claim.verdict.replace(" ", "-")}" title="{escape(claim.judged)}">'
            f"{_VERDICTS[claim.verdict]}</span></td></tr>"
        )
    head = "".join(
        f"<th>{name}</th>" for name in ("claim", "expected", "observed", "95 % interval or range", "verdict")
    )
    once = {claim.id: claim for claim in claims}.values()
    rules = html.bullets(
        f"{claim.id}: {claim.statistic}. {claim.judged[0].upper()}{claim.judged[1:]}." for claim in once
    )
    return (
        f'<table class="claims"><thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(rows) + "\n</tbody></table>\n"
        f"<details><summary>How each claim is judged</summary>{rules}</details>"
    )


def _tables(study: Study, out: Path) -> str:
    first, second = tables.table1(study), tables.table2(study)
    output.write_frame(out / "figures" / "table1.csv", first)
    output.write_frame(out / "figures" / "table2.csv", second)
    chance = 100 / study.runs[0].record.shards.num_classes
    return html.section(
        "tables",
        "Tables",
        "<h3>Table 2: accuracy</h3>",
        html.paragraph(
            f"Chance is {chance:.1f} %. Intervals are 95 %: Wilson for accuracies, paired bootstrap over validation "
            "samples for gaps; p is McNemar's mid-p. They say nothing about other seeds. The paper's columns are "
            "ImageNet, other data."
        ),
        html.table(tables.readable2(second)),
        "<h3>Table 1: size and cost</h3>",
        html.paragraph(
            "GMACs count matmuls and convolutions of one image; training is the time in steps on the machine in the "
            "manifest. The paper's columns appear for models of its size."
        ),
        html.table(tables.readable1(first)),
        '<p class="meta">Files: <a href="figures/table1.csv">table1.csv</a> · '
        '<a href="figures/table2.csv">table2.csv</a></p>',
    )


_CHOSEN = {"best-on-val": "scenes set aside from training", "best-on-test": "the test images themselves"}


def _table3(matrix: Matrix, out: Path) -> str:
    output.write_frame(out / "figures" / "table3.csv", fine_tuning.table3(matrix))
    output.write_frame(out / "figures" / "table3-differences.csv", fine_tuning.differences(matrix))
    chosen = {cell.selection for cell in matrix.cells}
    by = " or ".join(_CHOSEN[rule] for rule in sorted(chosen))
    how = "predictions summed over scales and mirror images" if matrix.multi_scale else "images as they are"
    return html.section(
        "table3",
        "Table 3: fine-tuned to label pixels",
        html.paragraph(
            f"mIoU in percent over {matrix.num_classes} classes and {matrix.num_images:,} test images ({how}), by the "
            f"depth a model was fine-tuned with and the depth it was tested with; the checkpoint was chosen by {by}. "
            f"Intervals are 95 % of {matrix.num_resamples:,} resamples of the images; they say nothing about other "
            "training runs. m3ch reads no depth, so one run is its result."
        ),
        html.table(fine_tuning.readable3(matrix)),
        "<h3>What the depth makes of it</h3>",
        html.paragraph(
            "Points of mIoU, paired over images: the cost of testing with the other depth, and what "
            "training with pseudo-depth gains or costs."
        ),
        html.table(fine_tuning.readable_differences(matrix)),
        '<p class="meta">Files: <a href="figures/table3.csv">table3.csv</a> · '
        '<a href="figures/table3-differences.csv">table3-differences.csv</a></p>',
    )


def _limitations(study: Study) -> str:
    shards = study.runs[0].record.shards
    seeds = {run.record.seed for run in study.runs}
    items = []
    if len(seeds) == 1:
        items.append("1 seed: intervals cover validation samples and images, not the luck of one training run.")
    if shards.source != "imagenet":
        items.append(
            f"The data are {shards.source}, not ImageNet: the paper's accuracies are shown for orientation only."
        )
    items += [
        "The paper runs the teacher inside the training loop on augmented, mixed images. Here depth is computed once, "
        "from the clean image, and shares the image's geometry.",
        "Patch depth is the mean over the patch where a run says `mean`; the paper's appendix code averages the four "
        "centre pixels (`center4`).",
        "Figure 1 and Figure 5 are associations. Depth, colour and position vary together; 'after distance' removes "
        "distance only. No shuffled-depth null is drawn yet.",
        f"The claims are in our words; only those that Table 2 and Figures 1 and 5 decide are judged, on {DEPTH}-depth "
        "and the lowest seed's last dump.",
    ]
    items += [f"Runs differ in {difference}." for difference in recipe_differences(study.runs)]
    for run in study.runs:
        reached, planned = final_evaluation(run).epoch, run.record.config.get("optim", {}).get("epochs")
        if planned is not None and reached < planned:
            items.append(f"{run.record.name} is judged at epoch {reached} of {planned}.")
    return html.section("limitations", "Limitations and deviations", html.bullets(items))


def _manifest(study: Study) -> str:
    rows = []
    for run in study.runs:
        record = run.record
        revision = str(record.git.get("revision") or "unknown")[:10] + ("+changes" if record.git.get("dirty") else "")
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        rows.append(
            {
                "run": record.name,
                "model": record.model,
                "depth": depth_of(run),
                "seed": str(record.seed),
                "config": record.study_hash[:12],
                "revision": revision,
                "shards (train, val)": f"{record.shards.train_fingerprint[:10]}, {record.shards.val_fingerprint[:10]}",
                "teacher": record.shards.teacher or "none",
                "machine": f"{record.machine.get('device', '?')}, {record.machine.get('cores', '?')} cores",
                "versions": versions,
            }
        )
    return html.section("manifest", "Manifest of runs", html.table(pd.DataFrame(rows)))
