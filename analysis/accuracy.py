"""Table 2: accuracy of each model on each depth, and what it is above RGB alone, with images and seeds together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import data_manifests
from analysis.claims.accuracy import gap_of
from analysis.claims.sources import accuracy_arm, luck_of_accuracy
from analysis.contrast import between
from analysis.load import BASELINE, Given
from analysis.runs import final_evaluation, recipe_of, train_hours
from analysis.tables import duration, groups, outcomes, percent, points, text
from training.intervals import mcnemar, wilson
from training.records import Run

_OF_THE_PAPER = ("none", "pseudo")  # depth fields


@dataclass(frozen=True)
class Advantage:
    """Mean accuracy of a model minus that of m3ch, a share; images are paired, seeds are not."""

    value: float
    low: float
    high: float
    p: float  # two-sided; McNemar's mid-p where nothing was trained twice
    seeds_of: tuple[str, ...]  # whose seeds tell the luck of a training; none: the interval is over images alone


def advantages(study: Given) -> dict[tuple[str, str], Advantage]:
    """(model, depth field) -> what it is above m3ch; empty without a run of m3ch."""
    grouped = groups(study)
    baseline = grouped.get((BASELINE, "none"))
    if not baseline:
        return {}
    return {name: _gap(study, name, runs, baseline) for name, runs in grouped.items() if name[0] != BASELINE}


def _gap(study: Given, name: tuple[str, str], runs: list[Run], baseline: list[Run]) -> Advantage:
    ours, theirs = accuracy_arm(name, runs), accuracy_arm((BASELINE, "none"), baseline)
    recipes = {recipe_of(run) for run in [*runs, *baseline]}
    luck = luck_of_accuracy(study, recipes.pop()) if len(recipes) == 1 else between([ours, theirs])
    found = gap_of(ours, theirs, luck)
    within = found.estimate()
    if luck.df:
        p = min(1.0, 2 * float(min(found.above_zero[0], found.below_zero[0])))
    else:
        first, second = ours.pseudo[0, :, 0], theirs.pseudo[0, :, 0]
        p = mcnemar(int((first > second).sum()), int((first < second).sum()))
    return Advantage(float(within.value[0]), float(within.low[0]), float(within.high[0]), p, luck.of)


def table2(study: Given) -> pd.DataFrame:
    """One row a (model, depth field): top-1, top-5, gap to m3ch with intervals, seeds, hours.

    Shares 0..1, means over seeds; top1_low and top1_high are Wilson's 95 % interval over the validation samples,
    top1_sd the spread over seeds where there are several. `gap_seeds`: whose seeds the gap's interval knows of, none
    where it is over images alone. The paper's columns are ImageNet with pseudo-depth.
    """
    paper = data_manifests.load("paper")
    known = advantages(study)
    rows = []
    for (model, depth), runs in groups(study).items():
        row: dict[str, Any] = {"model": model, "depth": depth}
        for name, outcome in (("top1", "correct1"), ("top5", "correct5")):
            hits = outcomes(runs, outcome)
            low, high = wilson(round(float(hits.mean(0).sum())), hits.shape[1])
            row |= {name: float(hits.mean()), f"{name}_low": low, f"{name}_high": high}
            if name == "top1":
                row["top1_sd"] = float(hits.mean(1).std(ddof=1)) if len(runs) > 1 else None
        gap = known.get((model, depth))
        row |= {"gap": gap and gap.value, "gap_low": gap and gap.low, "gap_high": gap and gap.high}
        hours = [hour for hour in map(train_hours, runs) if hour is not None]
        row |= {
            "gap_p": gap and gap.p,
            "gap_seeds": ", ".join(gap.seeds_of) if gap else "",
            "seeds": len(runs),
            "epoch": max(final_evaluation(run).epoch for run in runs),
            "samples": final_evaluation(runs[0]).num_samples,
            "hours": float(np.mean(hours)) if hours else None,
            "paper_top1": paper.get(model, {}).get("top1") if depth in _OF_THE_PAPER else None,
            "paper_top5": paper.get(model, {}).get("top5") if depth in _OF_THE_PAPER else None,
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    measured = ["top1_sd", "gap", "gap_low", "gap_high", "gap_p", "hours", "paper_top1", "paper_top5"]
    return frame.astype(dict.fromkeys(measured, float))


def readable2(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 2 as people read it, all text, in percent and percentage points."""
    rows = list(frame.to_dict("records"))
    return pd.DataFrame(
        {
            "model": frame["model"],
            "depth": frame["depth"],
            "top-1 %": [f"{percent(r['top1'])} [{percent(r['top1_low'])}, {percent(r['top1_high'])}]" for r in rows],
            "top-5 %": [f"{percent(r['top5'])} [{percent(r['top5_low'])}, {percent(r['top5_high'])}]" for r in rows],
            "gap to m3ch, points": [_gap_text(r) for r in rows],
            "p": [_p_value(r["gap_p"]) for r in rows],
            "seeds": [_seeds(r["seeds"], r["top1_sd"]) for r in rows],
            "training": [duration(r["hours"]) for r in rows],
            "paper (ImageNet)": [_papers(r) for r in rows],
        }
    )


def notes2(frame: pd.DataFrame) -> str:
    """What Table 2's intervals know of."""
    told = (
        "Intervals are 95 %: Wilson's over images for accuracies; for gaps Student's, images paired, no narrower than "
        "Tango's score interval. "
    )
    known = sorted({each for each in frame["gap_seeds"] if each})
    if known:
        told += (
            f"Gaps count the luck of a training too, its spread between seeds pooled over {'; '.join(known)}; p is the "
            "two-sided p of the same difference. "
        )
    if (frame["gap"].notna() & (frame["gap_seeds"] == "")).any():
        told += (
            "Where a gap says “images only” nothing was trained twice: its interval says nothing of the luck of a "
            "training, and p is McNemar's mid-p. "
        )
    return told + "The paper's column is of ImageNet."


def _gap_text(row: dict[str, Any]) -> str:
    told = points(row["gap"], row["gap_low"], row["gap_high"])
    return told if told == "–" or row["gap_seeds"] else f"{told} (images only)"


def _papers(row: dict[str, Any]) -> str:
    return "–" if pd.isna(row["paper_top1"]) else f"{row['paper_top1']:.1f}, top-5 {row['paper_top5']:.1f}"


def _p_value(value: Any) -> str:
    return "<0.001" if pd.notna(value) and value < 0.001 else text(value, ".3f")


def _seeds(count: int, sd: float | None) -> str:
    return "1 seed" if count == 1 else f"{count} seeds, SD {100 * (sd or 0):.1f}"
