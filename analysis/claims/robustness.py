"""Figures 4 and 14: rules on accuracy under noise, paired over samples, with the luck of seeds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.claims.accuracy import gap_of
from analysis.claims.claim import DEPTH, Claim, Rule
from analysis.claims.sources import seeds_told
from analysis.claims.texts import POINTS, bounded, joined
from analysis.claims.verdict import Finding
from analysis.contrast import Arm, Between, Measured, between, contrast
from analysis.load import AnalysisError, Given
from analysis.robustness import KINDS, Swept, at_sigma, sigma_stars, swept_models
from analysis.runs import recipe_differences


def _swept(study: Given, noise: str) -> dict[str, Swept]:
    return {each.model: each for each in swept_models(study, DEPTH) if each.noise == noise}


def _check_recipes(study: Given, models: Sequence[str]) -> None:
    runs = [run for run in study.runs if run.record.model in models and run.noise_sweeps]
    if unlike := recipe_differences(runs):
        raise AnalysisError(f"{' and '.join(models)} differ in {'; '.join(unlike)}")


def _lost(swept: Swept, sigmas: Sequence[float]) -> Arm:
    """Accuracy at σ = 0 minus the mean over these sigmas, of each seed and sample."""
    under = swept.of_seeds[:, [swept.sigmas.index(sigma) for sigma in sigmas]].mean(1)
    return Arm.of_samples(swept.model, swept.of_seeds[:, 0] - under)


def _simpler_lose_less(study: Given, claim: Claim) -> Finding:
    swept = {
        name: each for name, each in _swept(study, "pixel").items() if each.sigmas[0] == 0 and len(each.sigmas) > 1
    }
    common = sorted(set.intersection(*(set(each.sigmas) for each in swept.values())) - {0.0}) if swept else []
    pairs = [pair for pair in claim.options["pairs"] if set(pair) <= set(swept)]
    if not pairs or not common:
        raise AnalysisError("needs pixel noise sweeps of two models, with σ = 0 and more in common")
    _check_recipes(study, list({name for pair in pairs for name in pair}))
    arms = {name: _lost(each, common) for name, each in swept.items()}
    seeds = between(list(arms.values()))
    each = {f"{r} over {s}": contrast([(1.0, arms[r]), (-1.0, arms[s])], seeds) for s, r in pairs}
    told = "; ".join(f"{name} {bounded(found, POINTS)}" for name, found in each.items())
    cells = joined(list(each.values()))
    observed = f"richer loses more in {int((cells.value > 0).sum())} of {len(each)} pairs"
    return Finding(
        (cells,), incomplete=claim.lacks(swept), observed=observed, interval=told,
        seeds=seeds_told(list(arms.values()), seeds), unit=POINTS,
    )  # fmt: skip


def _better_without_noise(study: Given, claim: Claim) -> Finding:
    names = [claim.options["better"], claim.options["worse"]]
    swept = next((found for kind in KINDS if set(names) <= set(found := _swept(study, kind))), {})
    if not swept or any(swept[name].sigmas[0] != 0 for name in names):
        raise AnalysisError(f"needs noise sweeps of {' and '.join(names)} that begin at σ = 0")
    _check_recipes(study, names)
    arms = {name: Arm.of_samples(name, each.of_seeds[:, 0]) for name, each in swept.items()}
    seeds = between(list(arms.values()))
    gap = gap_of(arms[names[0]], arms[names[1]], seeds)
    observed, _, interval = bounded(gap, POINTS).partition(" ")
    told = seeds_told([arms[name] for name in names], seeds)
    return Finding((gap,), observed=f"{observed} points", interval=interval, seeds=told, unit=POINTS)


def _better_at_sigma_star(study: Given, claim: Claim) -> Finding:
    """At the σ* of either model, for each kind of noise. σ*'s own error counts, by the slope of the difference
    there.
    """
    names = [claim.options["better"], claim.options["worse"]]
    stars = sigma_stars(study, swept_models(study, DEPTH), "logits")
    stars = stars[stars["model"].isin(names) & (stars["reading"] == "z")]
    each: dict[str, Measured] = {}
    told: list[Arm] = []
    luck: Between | None = None
    for (noise, model), rows in stars.groupby(["noise", "model"], sort=False):
        swept, sigma = _swept(study, str(noise)), float(rows["sigma_star"].mean())
        if not set(names) <= set(swept) or not np.isfinite(sigma):
            continue
        _check_recipes(study, names)
        steepness, arms = {}, {}
        for name, curve in swept.items():
            steepness[name], samples = at_sigma(curve, sigma)
            arms[name] = Arm.of_samples(name, samples)
        if not all(np.isfinite(steepness[name]) for name in names):
            continue
        luck = between([arm for name, arm in arms.items() if np.isfinite(steepness[name])])
        told = [arms[name] for name in names]
        found = contrast([(1.0, told[0]), (-1.0, told[1])], luck)
        width = float((rows["high"] - rows["low"]).mean()) / (2 * 1.959964) / np.sqrt(len(rows))
        spread = float(rows["sigma_star"].std(ddof=1)) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
        own = (steepness[names[0]] - steepness[names[1]]) ** 2 * max(width, spread) ** 2
        found = replace(found, images=found.images + own)
        each[f"σ* of {model}, {noise} {sigma:.2f}"] = found
    if not each or luck is None:
        raise AnalysisError(f"needs sweeps and gaps of {' and '.join(names)}, with σ* inside the sweeps")
    cells = joined(list(each.values()))
    observed = f"{names[0]} better at {int((cells.value > 0).sum())} of {len(each)} σ*"
    text = "; ".join(f"{name}: {bounded(found, POINTS)}" for name, found in each.items())
    return Finding((cells,), observed=observed, interval=text, seeds=seeds_told(told, luck), unit=POINTS)


RULES: dict[str, Rule] = {
    "simpler_lose_less": _simpler_lose_less,
    "better_without_noise": _better_without_noise,
    "better_at_sigma_star": _better_at_sigma_star,
}
