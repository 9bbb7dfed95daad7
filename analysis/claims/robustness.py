"""Figures 4 and 14: rules on accuracy under noise, paired over samples."""

import numpy as np

from analysis.claims.finding import DEPTH, Claim, Finding, Rule, Verdict, of_records, share, side
from analysis.load import Study
from analysis.robustness import Swept, loss_difference, sigma_stars, swept_models, top1_at
from analysis.statistics import Estimate, paired_difference
from analysis.tables import points


def _swept(study: Study, noise: str) -> dict[str, Swept]:
    return {each.model: each for each in swept_models(study, DEPTH) if each.noise == noise}


def _text(estimate: Estimate) -> str:
    return points(float(estimate.value), float(estimate.low), float(estimate.high))


def _simpler_lose_less(study: Study, claim: Claim) -> Finding:
    swept = _swept(study, "pixel")
    found: dict[str, Estimate] = {}
    for simpler, richer in claim["pairs"]:
        difference = loss_difference(swept[richer], swept[simpler]) if {simpler, richer} <= set(swept) else None
        if difference is not None:
            found[f"{richer} over {simpler}"] = difference
    if not found:
        return Finding("not tested", "needs pixel noise sweeps of two models, with σ = 0 and more in common")
    low, value = (np.array([float(getattr(each, name)) for each in found.values()]) for name in ("low", "value"))
    verdict: Verdict = "reproduced" if (low > 0).all() else "partly" if (value > 0).mean() >= 0.5 else "not"
    each = "; ".join(f"{name} {_text(estimate)}" for name, estimate in found.items())
    return Finding(verdict, f"{int((low > 0).sum())} of {len(found)} pairs above 0", each)


def _better_without_noise(study: Study, claim: Claim) -> Finding:
    swept = _swept(study, "pixel") or _swept(study, "patch")
    better, worse = swept.get(claim["better"]), swept.get(claim["worse"])
    if better is None or worse is None or better.sigmas[0] != 0 or worse.sigmas[0] != 0:
        return Finding(
            "not tested", f"needs noise sweeps of {claim['better']} and {claim['worse']} that begin at σ = 0"
        )
    difference = paired_difference(better.correct[0], worse.correct[0])
    observed, _, interval = _text(difference).partition(" ")
    return Finding(side(float(difference.value), float(difference.low), above=True), f"{observed} points", interval)


def _better_at_sigma_star(study: Study, claim: Claim) -> Finding:
    """At the sigma* of either model, for each kind of noise; sigma* itself is taken as it is."""
    names = (claim["better"], claim["worse"])
    stars = sigma_stars(study, swept_models(study, DEPTH), "logits")
    found: dict[str, Estimate] = {}
    for star in stars[stars["model"].isin(names) & (stars["reading"] == "z")].to_dict("records"):
        swept = _swept(study, star["noise"])
        if set(names) <= set(swept) and np.isfinite(star["sigma_star"]):
            at = top1_at(swept[names[0]], star["sigma_star"], minus=swept[names[1]])
            if np.isfinite(at.value):
                found.setdefault(f"σ* of {star['model']}, {star['noise']} {star['sigma_star']:.2f}", at)
    if not found:
        return Finding("not tested", f"needs sweeps and gaps of {' and '.join(names)}, with σ* inside the sweeps")
    verdict, observed = share(np.array([each.low > 0 for each in found.values()]), "σ*")
    if verdict != "reproduced":
        verdict = "partly" if np.mean([each.value > 0 for each in found.values()]) >= 0.5 else "not"
    return Finding(verdict, observed, "; ".join(f"{name}: {_text(at)}" for name, at in found.items()))


RULES: dict[str, Rule] = {
    "simpler_lose_less": of_records(_simpler_lose_less),
    "better_without_noise": of_records(_better_without_noise),
    "better_at_sigma_star": of_records(_better_at_sigma_star),
}
