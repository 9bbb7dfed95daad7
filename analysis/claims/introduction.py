"""The introduction's example, overlapping digits: a model trained from scratch fails, a pre-trained one succeeds.

From the JSON of tests/benchmarks/digits.py, which `analyze report --digits` takes: accuracy on the pixels where two
digits overlap, of fine-tunings from scratch and from a pre-trained run with the same budget.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field

from analysis.claims.claim import Claim, Rule
from analysis.claims.sources import seeds_told
from analysis.claims.texts import bounded, joined
from analysis.claims.verdict import Found
from analysis.contrast import Arm, Measured, between, contrast
from analysis.load import AnalysisError, Study
from training.records import parse

POINTS = 100.0
_Share = Annotated[float, Field(ge=0, le=1)]
_Z = 1.959964


class _Fit(BaseModel):
    model: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    start: Literal["pre-trained", "scratch"]
    steps: Annotated[int, Field(ge=1)]
    seed: int
    overlap_accuracy: _Share
    overlap_accuracy_95: tuple[_Share, _Share]


class Digits(BaseModel):
    """What is read of digits.json."""

    measured: Annotated[list[_Fit], Field(min_length=1)]


def read_digits(path: Path | str) -> Digits:
    return parse(Digits, Path(path))


def _scratch_fails(study: Study, claim: Claim) -> Found:
    """Pre-trained minus scratch at the largest budget that both had; the images' errors are taken as independent."""
    if study.digits is None:
        raise AnalysisError(
            "needs the digits study: 'python tests/benchmarks/digits.py', then 'analyze report --digits'"
        )
    each: dict[str, Measured] = {}
    arms = []
    for model in claim.options["models"]:
        fits = [fit for fit in study.digits.measured if fit.model == model]
        steps = {start: {fit.steps for fit in fits if fit.start == start} for start in ("pre-trained", "scratch")}
        if not (common := set.intersection(*steps.values())):
            continue
        chosen = {start: [f for f in fits if f.start == start and f.steps == max(common)] for start in steps}
        pre, scratch = (
            Arm.of_parameters(f"{model} {start}", np.array([[fit.overlap_accuracy] for fit in some]))
            for start, some in chosen.items()
        )
        if not np.mean([fit.overlap_accuracy_95[0] for fit in chosen["pre-trained"]]) > 0.5:
            continue
        images = sum(float(np.mean([_variance(fit) for fit in some])) for some in chosen.values())
        each[model] = contrast([(1.0, pre), (-1.0, scratch)], between([pre, scratch]), images)
        arms += [pre, scratch]
    if not each:
        raise AnalysisError("no pre-trained model tells which digit is on top better than a coin")
    cells = joined(list(each.values()))
    told = "; ".join(f"{model} {bounded(found, POINTS)}" for model, found in each.items())
    observed = f"pre-trained above scratch in {int((cells.value > 0).sum())} of {len(each)}"
    return Found((cells,), observed=observed, interval=told, seeds=seeds_told(arms), unit=POINTS)


def _variance(fit: _Fit) -> float:
    low, high = fit.overlap_accuracy_95
    return ((high - low) / (2 * _Z)) ** 2


RULES: dict[str, Rule] = {"scratch_fails": _scratch_fails}
