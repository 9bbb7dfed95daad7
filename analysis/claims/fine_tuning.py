"""Table 3: rules on fine-tuning, from `train matrix`; its intervals resample test images."""

import numpy as np
from scipy.special import chndtr, chndtrinc

from analysis.claims.finding import DEPTH, Claim, Finding, Rule, Verdict, of_records, side
from analysis.load import BASELINE, Study
from analysis.statistics import Estimate
from analysis.tables import groups, outcomes, points
from training.records import MatrixCell, MatrixDifference

_NO_MATRIX = Finding("not tested", "needs the matrix.json of 'train matrix'")
_TWO_SIDED = 2 * 1.959964  # standard errors in a 95 % interval


def _differences(study: Study, of: tuple[str, str], minus: tuple[str, str]) -> dict[str, MatrixDifference]:
    """By what was fine-tuned; m3ch reads no depth, so it has none to compare."""
    every = study.matrix.differences if study.matrix else []
    return {f"{d.name} {d.seed}": d for d in every if (d.of, d.minus) == (of, minus) and d.model != BASELINE}


def _pseudo_trained(study: Study, claim: Claim) -> Finding:
    if study.matrix is None:
        return _NO_MATRIX
    every = _differences(study, ("pseudo", "pseudo"), ("real", "real")).values()
    found = [d for d in every if d.model in claim["models"]]
    if not found:
        return Finding("not tested", f"needs one of {', '.join(claim['models'])}, fine-tuned with either depth")
    low, high = (np.array([getattr(d, name) for d in found]) for name in ("low", "high"))
    least = -claim["margin"] / 100
    verdict: Verdict = "reproduced" if (low > least).all() else "not" if (high < least).any() else "partly"
    each = "; ".join(f"{d.model} {points(d.value, d.low, d.high)}" for d in found)
    return Finding(verdict, f"{int((low > least).sum())} of {len(found)} models above −{claim['margin']:g}", each)


def _drop_to_real(study: Study, claim: Claim) -> Finding:
    if study.matrix is None:
        return _NO_MATRIX
    to_real = _differences(study, ("pseudo", "real"), ("pseudo", "pseudo"))
    to_pseudo = _differences(study, ("real", "pseudo"), ("real", "real"))
    pairs = [(to_real[name], to_pseudo[name]) for name in to_real if name in to_pseudo]
    if not pairs:
        return Finding("not tested", "needs a model fine-tuned with either depth and tested with both")
    apart = np.array([real.high < pseudo.low for real, pseudo in pairs])  # drops are negative differences
    larger = np.array([real.value < pseudo.value for real, pseudo in pairs])
    verdict: Verdict = "reproduced" if apart.all() else "partly" if larger.mean() >= 0.5 else "not"
    each = "; ".join(
        f"{real.model} {points(real.value, real.low, real.high)} against {points(other.value, other.low, other.high)}"
        for real, other in pairs
    )
    return Finding(verdict, f"larger in {int(larger.sum())} of {len(pairs)} models", each)


def _varies_more(study: Study, claim: Claim) -> Finding:
    """SDs of the models themselves: what sampling adds to either is taken off.

    Models share validation samples, so the covariances of top-1 come from the samples. Of mIoU only intervals are
    recorded: the errors of the models are taken as independent. Shared test images make that too much to take off,
    which is against the claim.
    """
    if study.matrix is None:
        return _NO_MATRIX
    runs = {model: some for (model, depth), some in groups(study).items() if depth in (DEPTH, "none")}
    cells: dict[str, MatrixCell] = {}
    for cell in study.matrix.cells:
        if (cell.trained, cell.tested) == (DEPTH, DEPTH) and cell.model in runs:
            cells.setdefault(cell.model, cell)
    if len(cells) < 3:
        return Finding("not tested", f"needs three models both pre-trained and fine-tuned on {DEPTH} depth")
    correct = np.stack([outcomes(runs[model]).mean(0) for model in cells])  # (models, samples)
    top1 = true_sd(correct.mean(1), np.cov(correct) / correct.shape[1])
    errors = np.array([(cell.high - cell.low) / _TWO_SIDED for cell in cells.values()])
    miou = true_sd(np.array([cell.miou for cell in cells.values()]), np.diag(errors**2))
    value = float(miou.value - top1.value)
    low = value - float(np.hypot(miou.value - miou.low, top1.high - top1.value))
    high = value + float(np.hypot(miou.high - miou.value, top1.value - top1.low))
    observed = f"SD {100 * miou.value:.1f} of mIoU, {100 * top1.value:.1f} of top-1"
    return Finding(side(value, low, above=True), observed, points(value, low, high))


def true_sd(measured: np.ndarray, covariance: np.ndarray) -> Estimate:
    """SD of what lies under measurements (models,) whose errors have this covariance, with its 95 % interval.

    With e² the mean variance of an error minus the mean covariance of two, E[s²] = σ² + e², and (n - 1) s² / e² is
    noncentral χ² of n - 1 degrees with noncentrality (n - 1) σ² / e²: exactly so where all errors are alike. Two such
    intervals make that of a difference (Zou and Donner 2008).
    """
    n = len(measured)
    error = (np.trace(covariance) - (covariance.sum() - np.trace(covariance)) / (n - 1)) / n
    variance = measured.var(ddof=1)
    value = np.sqrt(max(0.0, variance - error))
    if error <= 0:  # the same outcome on each sample
        return Estimate(value, value, value)
    scaled = (n - 1) * variance / error
    low, high = (chndtrinc(scaled, n - 1, p) if chndtr(scaled, n - 1, 0) > p else 0.0 for p in (0.975, 0.025))
    return Estimate(value, np.sqrt(low * error / (n - 1)), np.sqrt(high * error / (n - 1)))


RULES: dict[str, Rule] = {
    "pseudo_trained": of_records(_pseudo_trained),
    "drop_to_real": of_records(_drop_to_real),
    "varies_more": of_records(_varies_more),
}
