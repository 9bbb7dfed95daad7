"""Table 1: size and cost, which are exact, and hours, which are not."""

import numpy as np
import pandas as pd

import data_manifests
from analysis.claims.claim import Claim, Rule
from analysis.claims.sources import runs_of, seeds_told
from analysis.claims.texts import joined
from analysis.claims.verdict import Finding
from analysis.commands import command
from analysis.contrast import Arm, Measured, between, contrast
from analysis.load import BASELINE, AnalysisError, Given
from analysis.runs import recipe_differences, recipe_of
from analysis.tables import groups, table1
from training.records import EndLine, Run

_NEEDS = "needs a run of the paper's size: ViT-B/16, 224 px, 1000 classes"
_MODELS = ("mlin", "mmlp", "m4ch", "mdf1", "mgem")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}


def printed(text: str) -> tuple[float, float]:
    """`+200K` -> 200,000 and half a unit of its last digit that is not 0, 50,000: what it may be rounded from."""
    unit = _UNITS[text[-1] if text[-1] in _UNITS else ""]
    digits = text.rstrip("KMB").lstrip("+-").replace("−", "")
    whole, _, decimals = digits.partition(".")
    place = 10.0 ** -len(decimals) if decimals else 10.0 ** (len(whole) - len(whole.rstrip("0")))
    return float(digits) * unit * (-1 if text[0] in "-−" else 1), place * unit / 2


def _printed(study: Given, claim: Claim) -> Finding:
    """Every number that the thesis prints in a column, against ours at its rounding."""
    frame = table1(study).dropna(subset=["paper_parameters"]).set_index("model")
    if frame.empty or (claim.options["column"] == "macs" and BASELINE not in frame.index):
        raise AnalysisError(_NEEDS + f", and one of {BASELINE}" * (not frame.empty))
    paper, spare, told = data_manifests.load("paper"), [], []
    for model, row in frame.iterrows():
        for text in paper[model]["printed"].get(claim.options["column"], []):
            over = text[0] in "+-−"
            ours = row["over_m3ch"] if over else row["parameters"]
            if claim.options["column"] == "macs":
                ours = 1e9 * row["gmacs_over_m3ch"]
            if pd.isna(ours):
                continue
            value, half = printed(text)
            spare.append(half - abs(float(ours) - value))
            if spare[-1] < 0:
                told.append(f"{model} {_rounded(float(ours), half)} for {text.replace('-', '−')}")
    if not spare:
        raise AnalysisError(_NEEDS)
    holds = np.array(spare) >= 0
    return Finding(
        (Measured.exactly(np.where(holds, 1.0, -1.0)),),
        incomplete=not set(_MODELS) <= set(frame.index),
        observed=f"{int(holds.sum())} of {len(spare)} as printed",
        interval="; ".join(told) or "no difference",
    )


def _rounded(value: float, half: float) -> str:
    return f"{value:+,.0f}".replace("-", "−") if half < 1e3 else f"{value / 1e6:+,.1f}M".replace("-", "−")


def _hours_over_cost(study: Given, claim: Claim) -> Finding:
    """log(hours / m3ch's) minus log(MACs / m3ch's): above 0 where time grows faster than the operations."""
    models = [m for m in claim.options["models"] if any(run.record.model == m for run in study.runs)]
    if not models:
        raise AnalysisError(f"needs runs of {BASELINE} and another model")
    runs = {model: runs_of(study, model) for model in (BASELINE, *models)}
    every = [run for each in runs.values() for run in each]
    _check_comparable(every)
    recipe = recipe_of(every[0])
    alike = {
        model: [run for run in each if recipe_of(run) == recipe and run.lines(EndLine)]
        for (model, _), each in groups(study).items()
    }
    pooled = between([_hours(model, each) for model, each in alike.items() if each])
    arms = {model: _hours(model, each) for model, each in runs.items()}
    cost = table1(study).set_index("model")["gmacs_over_m3ch"]
    base = runs[BASELINE][0].record.macs / 1e9
    found, told = [], []
    for model in models:
        times = contrast([(1.0, arms[model]), (-1.0, arms[BASELINE])], pooled)
        macs = float(np.log1p(cost[model] / base))
        found.append(times.shifted(-macs))
        told.append(f"{model} {np.exp(times.value[0]):.2f} times the hours for {np.exp(macs):.3f} times the operations")
    cells = joined(found)
    observed = f"{int((cells.value > 0).sum())} of {len(models)} models"
    return Finding(
        (cells,), incomplete=claim.lacks(models), observed=observed, interval="; ".join(told),
        seeds=seeds_told(list(arms.values()), pooled),
    )  # fmt: skip


def _check_comparable(runs: list[Run]) -> None:
    if unlike := recipe_differences(runs):
        raise AnalysisError(f"runs differ in {'; '.join(unlike)}")
    machines = {str(sorted(run.record.machine.items())) for run in runs}
    if len(machines) > 1:
        raise AnalysisError("hours are compared on one machine, these runs were trained on several")
    for run in runs:
        end = run.lines(EndLine)
        if not end:
            raise AnalysisError(
                f"{run.record.name} has not ended: go on with {command('train', 'pretrain')} ... --resume"
            )
        if end[-1].resumes is None or end[-1].resumes > 0:
            raise AnalysisError(f"hours are of uninterrupted runs, {run.record.name} was interrupted or does not say")


def _hours(model: str, runs: list[Run]) -> Arm:
    return Arm.of_parameters(model, np.log([[run.lines(EndLine)[-1].train_seconds] for run in runs]))


RULES: dict[str, Rule] = {"printed": _printed, "hours_over_cost": _hours_over_cost}
