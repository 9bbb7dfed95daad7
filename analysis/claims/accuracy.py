"""Table 2: rules on accuracy, paired over validation samples."""

from typing import Any

from analysis.claims.finding import DEPTH, Claim, Finding, Rule, Verdict, of_records, side
from analysis.load import BASELINE, AnalysisError, Study
from analysis.runs import recipe_differences
from analysis.tables import gap, groups, points


def _accuracy_gap(study: Study, claim: Claim) -> Finding:
    found = _difference(study, claim)
    return _finding(side(found["gap"], found["low"], above=True), found)


def _accuracy_tie(study: Study, claim: Claim) -> Finding:
    """Two one-sided tests in one interval: a tie if it lies within the margin, none if it lies beyond."""
    found, margin = _difference(study, claim), claim["margin"] / 100
    within = -margin < found["low"] and found["high"] < margin
    beyond = found["low"] > margin or found["high"] < -margin
    return _finding("reproduced" if within else "not" if beyond else "partly", found)


def _difference(study: Study, claim: Claim) -> dict[str, Any]:
    """Accuracy of the claim's `better` minus that of its `worse`."""
    better, worse = claim["better"], claim["worse"]
    if claim.get("measure") == "top5" and any(run.record.shards.num_classes <= 5 for run in study.runs):
        raise AnalysisError("needs more than 5 classes: five guesses are always right of so few")
    grouped = groups(study)
    ours, theirs = (grouped.get((model, "none" if model == BASELINE else DEPTH), []) for model in (better, worse))
    difference = gap(ours, theirs, {"top1": "correct1", "top5": "correct5"}[claim.get("measure", "top1")])
    if difference is None:
        raise AnalysisError(f"needs {better} and {worse} of one seed, on {DEPTH} depth")
    if unlike := recipe_differences([*ours, *theirs]):
        raise AnalysisError(f"{better} and {worse} differ in {'; '.join(unlike)}")
    return difference


def _finding(verdict: Verdict, difference: dict[str, Any]) -> Finding:
    observed, _, interval = points(difference["gap"], difference["low"], difference["high"]).partition(" ")
    return Finding(verdict, f"{observed} points", interval)


RULES: dict[str, Rule] = {"accuracy_gap": of_records(_accuracy_gap), "accuracy_tie": of_records(_accuracy_tie)}
