"""The introduction's example, overlapping digits: a model trained from scratch fails, a pre-trained one succeeds.

From the JSON of tests/benchmarks/digits.py, which `analyze report --digits` takes: accuracy on the pixels where two
digits overlap, of fine-tunings from scratch and from a pre-trained run with the same budget.
"""

import numpy as np

from analysis.claims.claim import Claim, Rule
from analysis.claims.sources import seeds_told
from analysis.claims.texts import POINTS, bounded, joined
from analysis.claims.verdict import Finding
from analysis.contrast import Arm, Measured, between, contrast
from analysis.load import AnalysisError, DigitsFit, Given

_Z = 1.959964


def _scratch_fails(study: Given, claim: Claim) -> Finding:
    """Pre-trained minus scratch at the largest budget that both had; the images' errors are taken as independent."""
    if study.digits is None:
        raise AnalysisError(
            "needs the digits study: 'python tests/benchmarks/digits.py', then 'analyze report RUNS --digits JSON "
            "--out report'"
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
    return Finding((cells,), observed=observed, interval=told, seeds=seeds_told(arms), unit=POINTS)


def _variance(fit: DigitsFit) -> float:
    low, high = fit.overlap_accuracy_95
    return ((high - low) / (2 * _Z)) ** 2


RULES: dict[str, Rule] = {"scratch_fails": _scratch_fails}
