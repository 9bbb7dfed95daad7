"""Table 3: fine-tuning, from `train matrix`, paired over test images.

What training with another depth changes is a difference within one fine-tuning seed, and its luck is told by seeds of
the same model alone: m3ch's difference is exactly 0 and mlin's nearly, they say nothing of m4ch's.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import chndtr, chndtrinc

from analysis.claims.claim import DEPTH, Claim, Rule
from analysis.claims.sources import accuracy, seeds_told
from analysis.claims.texts import POINTS, bounded, joined
from analysis.claims.verdict import LEVEL, Finding
from analysis.contrast import Arm, Between, Measured, between, contrast
from analysis.load import BASELINE, AnalysisError, Given
from training.intervals import Estimate
from training.records import Matrix, MatrixCell

_CELLS = (("real", "real"), ("real", "pseudo"), ("pseudo", "pseudo"), ("pseudo", "real"))  # trained, tested
_RR, _RP, _PP, _PR = range(4)
_Z = 1.959964


def _matrix(study: Given) -> Matrix:
    if study.matrix is None:
        raise AnalysisError("needs the matrix.json of 'train matrix RUNS --data SHARDS --out FOLDER'")
    return study.matrix


def arms(study: Given, models: Sequence[str]) -> dict[str, Arm]:
    """Of these models that are there with all four cells: mIoU by `_CELLS`, a seed a row of the table."""
    rows: dict[str, dict[tuple[str, int], dict[tuple[str, str], MatrixCell]]] = {}
    for cell in _matrix(study).cells:
        rows.setdefault(cell.model, {}).setdefault((cell.name, cell.seed), {})[cell.trained, cell.tested] = cell
    found = {}
    for model in models:
        whole = [row for row in rows.get(model, {}).values() if set(row) == set(_CELLS)]
        if not whole or model == BASELINE:
            continue
        for row in whole:
            for cell in row.values():
                if not cell.low > cell.commonest_miou:
                    raise AnalysisError(
                        f"{model} is no better than the commonest label everywhere: mIoU {POINTS * cell.miou:.1f} %, "
                        f"that {POINTS * cell.commonest_miou:.1f} %"
                    )
        values = np.array([[row[pair].miou for pair in _CELLS] for row in whole])
        pseudo = np.array([np.transpose([row[pair].pseudo_values for pair in _CELLS]) for row in whole])
        found[model] = Arm(model, values, pseudo)
    return found


def _combined(arm: Arm, weights: dict[int, float]) -> Arm:
    """One cell: a combination within each seed."""
    turned = np.zeros((len(_CELLS), 1))
    for place, weight in weights.items():
        turned[place] = weight
    return Arm(arm.name, arm.values @ turned, arm.pseudo @ turned)


_GAIN = {_PP: 1.0, _RR: -1.0}  # of training with pseudo-depth, each tested with its own
_DROP_PSEUDO = {_PP: 1.0, _PR: -1.0}  # of testing with the other depth, trained with pseudo-depth
_DROP_REAL = {_RR: 1.0, _RP: -1.0}
_DROP = {_PP: 0.5, _PR: -0.5, _RR: 0.5, _RP: -0.5}
_MORE = {_PP: 1.0, _PR: -1.0, _RR: -1.0, _RP: 1.0}


def _some(study: Given, models: Sequence[str]) -> dict[str, Arm]:
    if not (found := arms(study, models)):
        raise AnalysisError(f"needs one of {', '.join(models)}, fine-tuned with either depth and tested with both")
    return found


def _within(found: dict[str, Arm], weights: dict[int, float]) -> dict[str, Measured]:
    return {model: contrast([(1.0, _combined(arm, weights))]) for model, arm in found.items()}


def _told(each: dict[str, Measured]) -> str:
    return "; ".join(f"{name} {bounded(found, POINTS)}" for name, found in each.items())


def _found(study: Given, claim: Claim, each: dict[str, Measured], found: dict[str, Arm], told: str) -> Finding:
    cells = joined(list(each.values()))
    observed = f"{told} in {int((cells.value > 0).sum())} of {len(each)}"
    return Finding(
        (cells,), incomplete=claim.lacks(found), observed=observed, interval=_told(each), seeds=_seeds(study, found),
        unit=POINTS,
    )  # fmt: skip


def _seeds(study: Given, found: dict[str, Arm]) -> str:
    """How many of each model, and where all were fine-tuned from one pre-trained network, whose luck they all have."""
    told = []
    for model, arm in found.items():
        begun = {cell.name for cell in _matrix(study).cells if cell.model == model}
        told.append(f"{model} {len(arm)}" + " of one pre-training" * (len(arm) > 1 and len(begun) == 1))
    return f"{', '.join(told)}; each model's own spread"


def _pseudo_gains(study: Given, claim: Claim) -> Finding:
    found = _some(study, claim.options["models"])
    return _found(study, claim, _within(found, _GAIN), found, "higher with pseudo-depth")


def _indifferent(study: Given, claim: Claim) -> Finding:
    found, margin = _some(study, claim.options["models"]), claim.options["margin"] / POINTS
    each = _within(found, _GAIN)
    cells = joined(list(each.values()))
    sides = [cells.shifted(margin), cells.turned().shifted(margin)]
    within = int((np.abs(cells.value) < margin).sum())
    observed = f"within {claim.options['margin']:g} point in {within} of {len(each)}"
    return Finding(
        sides, incomplete=claim.lacks(found), observed=observed, interval=_told(each), seeds=_seeds(study, found),
        unit=POINTS,
    )  # fmt: skip


def _gain_grows(study: Given, claim: Claim) -> Finding:
    return _between_models(study, claim, _GAIN, "grows")


def _drops_more(study: Given, claim: Claim) -> Finding:
    return _between_models(study, claim, _DROP, "drops more")


def _between_models(study: Given, claim: Claim, weights: dict[int, float], told: str) -> Finding:
    """A difference of two models' differences, each with the luck of its own seeds."""
    pairs = claim.options["pairs"]
    there = arms(study, [name for pair in pairs for name in pair])
    each: dict[str, Measured] = {}
    of: dict[str, Arm] = {}
    for simpler, richer in pairs:
        if simpler in there and richer in there:
            ours, theirs = (_combined(there[name], weights) for name in (richer, simpler))
            seeds = [between([ours]), between([theirs])]
            each[f"{richer} over {simpler}"] = contrast([(1.0, ours), (-1.0, theirs)], seeds)
            of |= {name: there[name] for name in (simpler, richer)}
    if not each:
        names = ", ".join(dict.fromkeys(name for pair in pairs for name in pair))
        raise AnalysisError(f"needs two of {names}, fine-tuned with either depth and tested with both")
    return _found(study, claim, each, of, told)


def _every_drops(study: Given, claim: Claim) -> Finding:
    found = _some(study, claim.options["models"])
    each = {f"{model}, trained with real depth": part for model, part in _within(found, _DROP_REAL).items()}
    each |= {f"{model}, trained with pseudo-depth": part for model, part in _within(found, _DROP_PSEUDO).items()}
    return _found(study, claim, each, found, "a drop")


def _larger_drop(study: Given, claim: Claim) -> Finding:
    found = _some(study, claim.options["models"])
    drops = joined([*_within(found, _DROP_REAL).values(), *_within(found, _DROP_PSEUDO).values()])
    if drops.seeds_df and not (drops.above_zero < LEVEL).any():
        raise AnalysisError("no model drops on the other depth: no drop is the larger")
    return _found(study, claim, _within(found, _MORE), found, "the larger drop is from pseudo to real depth")


def _complex_best(study: Given, claim: Claim) -> Finding:
    """Some complex model above every simpler one, with either depth; which one is picked counts twice."""
    complex_, simple = (arms(study, claim.options[name]) for name in ("complex", "simple"))
    if not complex_ or not simple:
        raise AnalysisError(
            f"needs one of {', '.join(claim.options['complex'])} and one of {', '.join(claim.options['simple'])}"
        )
    every = {**complex_, **simple}
    best = max(complex_.values(), key=lambda arm: arm.values.mean(0)[[_RR, _PP]].sum())
    each = {}
    for place, depth in ((_RR, "real"), (_PP, "pseudo")):
        own = {model: _combined(arm, {place: 1.0}) for model, arm in every.items()}
        seeds = between(list(own.values()))
        for model in simple:
            each[f"{best.name} over {model}, {depth}"] = contrast([(1.0, own[best.name]), (-1.0, own[model])], seeds)
    told = joined(list(each.values()))
    wider = replace(told, choices=len(complex_))
    observed = f"{best.name} above {int((told.value > 0).sum())} of {len(each)}"
    seeds_text = seeds_told(list(every.values()), between(list(every.values())))
    return Finding(
        (wider,), incomplete=claim.lacks(every), observed=observed, interval=_told(each), seeds=seeds_text, unit=POINTS
    )


def _varies_more(study: Given, claim: Claim) -> Finding:
    """SDs of the models themselves: what sampling and seeds add to either is taken off.

    Models share samples and images, so the covariances come from these; seeds add to the variances alone.
    """
    own = {model: _combined(arm, {_PP: 1.0}) for model, arm in arms(study, claim.options["models"]).items()}
    names = [model for model in own if any(run.record.model == model for run in study.runs)]
    if len(names) < 3:
        raise AnalysisError(f"needs three models both pre-trained and fine-tuned on {DEPTH} depth")
    tuned = [own[model] for model in names]
    trained, luck = accuracy(study, names)
    of_miou, of_top1 = _true_sd_of(tuned, between(tuned)), _true_sd_of(trained, luck)
    value = float(of_miou.value - of_top1.value)
    low = float(np.hypot(of_miou.value - of_miou.low, of_top1.high - of_top1.value))
    high = float(np.hypot(of_miou.high - of_miou.value, of_top1.value - of_top1.low))
    least = min(between(tuned).df, luck.df)
    bounds = [np.array([(each / _Z) ** 2]) for each in (low, high)]
    found = Measured(np.array([value]), bounds[0], seeds_df=least, above=bounds[1])
    observed = f"SD {POINTS * of_miou.value:.1f} of mIoU, {POINTS * of_top1.value:.1f} of top-1"
    return Finding(
        (found,), observed=observed, interval=bounded(found, POINTS), seeds=seeds_told(trained, luck), unit=POINTS
    )


def _true_sd_of(models: Sequence[Arm], luck: Between) -> Estimate:
    rows = np.array([arm.pseudo[..., 0].mean(0) for arm in models])
    covariance = np.atleast_2d(np.cov(rows)) / rows.shape[1]
    covariance = covariance + np.diag([float(luck.variance[0]) / len(arm) for arm in models])
    return true_sd(np.array([float(arm.values.mean()) for arm in models]), covariance)


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
    "pseudo_gains": _pseudo_gains,
    "indifferent": _indifferent,
    "gain_grows": _gain_grows,
    "every_drops": _every_drops,
    "drops_more": _drops_more,
    "larger_drop": _larger_drop,
    "complex_best": _complex_best,
    "varies_more": _varies_more,
}
