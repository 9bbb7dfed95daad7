"""The report's last two sections: what limits its findings, and what it was made from."""

import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import html
from analysis.claims import DEPTH
from analysis.commands import to_make_again
from analysis.html import Html
from analysis.load import Given, depth_of
from analysis.runs import final_evaluation, recipe_differences


def revision() -> str:
    """The analysis code's own: git's short hash, `+changes` where files differ; else the package's version."""
    here = Path(__file__).parent
    try:
        found = [_git(here, "rev-parse", "--short=10", "HEAD"), _git(here, "status", "--porcelain", "--", ".")]
    except (OSError, subprocess.CalledProcessError):
        return f"version {metadata.version('pseudodepth')}"
    return found[0] + "+changes" * bool(found[1])


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def limitations(study: Given) -> Html:
    return html.section(
        "limitations",
        "Limitations and deviations",
        html.heading("Of these runs"),
        html.bullets(_of_runs(study)),
        html.heading("Of the method, and where it departs from the paper"),
        html.bullets(_of_method()),
    )


def _of_runs(study: Given) -> list[str]:
    shards = study.runs[0].record.shards
    items = []
    if len({run.record.seed for run in study.runs}) == 1:
        items.append(
            "1 seed: intervals cover validation samples and images, not the luck of one training run. Claims that need "
            "it are open."
        )
    if shards.source != "imagenet":
        items.append(
            f"The data are {shards.source}, not ImageNet: the paper's accuracies are shown for orientation only."
        )
    items.append(
        f"Claims are in our words and judged on {DEPTH}-depth, from every seed's last checkpoint, over what the "
        "untrained model or another image's depth would give."
    )
    items += [f"Runs differ in {difference}." for difference in recipe_differences(study.runs)]
    modes = sorted({dump.info.patch_depth for dump in study.dumps})
    if modes:
        items.append(f"Patch depth in these dumps: {' and '.join(modes)}.")
    for run in study.runs:
        reached, planned = final_evaluation(run).epoch, run.record.config.get("optim", {}).get("epochs")
        if planned is not None and reached < planned:
            items.append(f"{run.record.name} is judged at epoch {reached} of {planned}.")
    return items


def _of_method() -> list[str]:
    return [
        "Every stored depth map is farther-is-larger: inverse depth, as most estimators give, is negated when it is "
        "standardised. |Δ| does not notice; signed quantities (mmlp's φ, a probe's weights) are mirrored against the "
        "paper's.",
        "Patch depth `mean` is the mean over a patch's pixels, the paper's text; `center4` the mean of its four centre "
        "pixels, which is what the paper's printed code computes.",
        "Δ in cosines and slopes is absolute, |Δ|: signed Δ is antisymmetric, and its cosine with nearly symmetric "
        "scores is about 0 whatever a model does.",
        "Scores are per head, QKᵀ/√(head width), and the head mean of those; slopes are score per 1 z. Other scalings "
        "change slopes by a constant, cosines not at all.",
        "Raw scores are free by a constant in each query's row, which softmax ignores. `literal` figures keep it, as "
        "the paper does; `gauge-fixed` ones do not.",
        "Layers count from 1. Pairs are ordered pairs of two different patches that both have a depth; class tokens "
        "are in softmax's denominator and in no pair.",
        "mdf1 and mgem begin with blocks of two branches, RGB and depth apart: figures of scores cover the plain "
        "blocks after them.",
        "Probes are ridge regressions in closed form, cross-validated over images; the paper's gradient descent is "
        "their `literal` variant. CKA is debiased and averaged over blocks of images before the ratio is taken: the "
        "biased estimate, `literal`, is far above 0 for unrelated features.",
        "The head factors of mlin and mmlp use DFormerv2's constants (2 and 4 unless a run says otherwise): the paper "
        "prints neither. Noise is added to depth after standardisation, in units of z.",
        "Slopes, cosines and probes are associations: depth, colour and position vary together. Only the figures that "
        "exchange or remove depth (causal) intervene, and what they feed the model is off its training distribution.",
        "The paper runs the depth estimator inside the training loop on augmented, mixed images. Here, unless a run "
        "says `online`, depth is computed once from the clean image and shares the image's geometry.",
        "In the explorer, attention and residual scores are stored in 8 bits; figures and tables are not.",
    ]


def manifest(study: Given) -> Html:
    dumps = [
        html.heading("Dumps"),
        html.paragraph("Each is bound to its checkpoint by the hash of the weights."),
        html.table(_dumps(study)),
    ]
    return html.section(
        "manifest",
        "Manifest",
        html.paragraph(f"Made by `analyze report`, code {revision()}."),
        html.heading("Runs"),
        html.table(_runs(study)),
        *(dumps if study.dumps else []),
        html.heading("To make it again"),
        html.paragraph(
            "With the shards of the fingerprints above, where no runs are yet. Every setting that a result depends on "
            "is named, also where it is the preset's own."
        ),
        html.of("<pre>{}</pre>", to_make_again(study)),
    )


def _runs(study: Given) -> pd.DataFrame:
    rows = []
    for run in study.runs:
        record = run.record
        code = str(record.git.get("revision") or "unknown")[:10] + ("+changes" if record.git.get("dirty") else "")
        rows.append(
            {
                "run": record.name,
                "model": record.model,
                "depth": depth_of(run),
                "seed": str(record.seed),
                "config": record.study_hash[:12],
                "code": code,
                "shards (train, val)": f"{record.shards.train_fingerprint[:10]}, {record.shards.val_fingerprint[:10]}",
                "the depth is": str(record.shards.provenance or record.shards.teacher or "not known"),
                "machine": f"{record.machine.get('device', '?')}, {record.machine.get('cores', '?')} cores",
                "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
            }
        )
    return pd.DataFrame(rows)


def _dumps(study: Given) -> pd.DataFrame:
    rows = []
    for info in (dump.info for dump in study.dumps):
        rows.append(
            {
                "run": info.run,
                "checkpoint": f"{info.checkpoint} (epoch {info.epoch})",
                "weights": info.checkpoint_sha256[:12],
                "depth": info.depth_field,
                "images": f"{info.num_images:,}",
                "raw": str(info.num_raw),
                "patch depth": info.patch_depth,
                "z": _standardisation(info.standardisation),
                "data": f"{info.split} {info.fingerprint[:10]}{'' if info.labelled else ', no labels'}",
                "precision": info.dtype,
                "fused against explicit": f"{info.max_fused_difference:.1e}",
            }
        )
    return pd.DataFrame(rows)


def _standardisation(known: Mapping[str, Any]) -> str:
    sign = "−" if known.get("polarity") == "closer_is_larger" else ""
    return f"{sign}(d − {known.get('mean', float('nan')):.4g}) / {known.get('std', float('nan')):.4g}"
