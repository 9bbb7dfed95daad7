"""The scoreboard: the paper's claims (data_manifests/claims.toml) judged on the runs and dumps at hand.

All are claims about pseudo-depth, so all are judged on pseudo-depth. The verdicts follow from intervals by the rule
each claim names: `reproduced`, `partly`, `not`, or `not tested` where a model or a dump is lacking. Dumps are those of
the lowest seed and last epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import data_manifests
from analysis.attention import Variant, bin_fits, layer_slopes, moments, score_curve, slope
from analysis.load import BASELINE, Study
from analysis.similarity import image_cosines
from analysis.statistics import Estimate, cluster_bootstrap, mean_over_images, ratio
from analysis.tables import gap, groups, points

if TYPE_CHECKING:
    from training.dumps.store import Dump

Verdict = Literal["reproduced", "partly", "not", "not tested"]
DEPTH = "pseudo"


@dataclass(frozen=True)
class Judged:
    """One row of the scoreboard; texts are for people."""

    id: str
    sentence: str
    statistic: str
    variant: str  # literal, gauge_fixed or empty
    expected: str
    observed: str
    interval: str
    verdict: Verdict
    judged: str
    shown_in: str


@dataclass(frozen=True)
class _Finding:
    verdict: Verdict
    observed: str
    interval: str = "–"


_UNDEFINED = _Finding("not tested", "cosine undefined: some layer's scores are constant in each row")


def judge(study: Study) -> list[Judged]:
    """Every claim, once per variant."""
    rows = []
    for claim in data_manifests.load("claims")["claim"]:
        for variant in claim.get("variants", [""]):
            if claim["rule"] == "accuracy_gap":
                finding = _accuracy_gap(study, claim["better"], claim["worse"])
            else:
                finding = _of_dump(study, claim, variant)
            rows.append(
                Judged(
                    id=claim["id"],
                    sentence=claim["sentence"],
                    statistic=claim["statistic"],
                    variant=variant,
                    expected=claim.get("expected") or _printed_gap(claim),
                    observed=finding.observed,
                    interval=finding.interval,
                    verdict=finding.verdict,
                    judged=claim["judged"],
                    shown_in=claim["shown_in"],
                )
            )
    return rows


def _printed_gap(claim: dict[str, Any]) -> str:
    paper = data_manifests.load("paper")
    return f"> 0 (ImageNet: {paper[claim['better']]['top1'] - paper[claim['worse']]['top1']:+.1f})"


def _accuracy_gap(study: Study, better: str, worse: str) -> _Finding:
    grouped = groups(study)
    depth_of_worse = "none" if worse == BASELINE else DEPTH
    difference = gap(grouped.get((better, DEPTH), []), grouped.get((worse, depth_of_worse), []))
    if difference is None:
        return _Finding("not tested", f"needs {better} and {worse} of one seed, on {DEPTH} depth")
    value, low, high = difference["gap"], difference["low"], difference["high"]
    observed, _, interval = points(value, low, high).partition(" ")
    return _Finding(side(value, low, above=True), f"{observed} points", interval)


def side(value: float, bound: float, above: bool) -> Verdict:
    """`bound` is the interval's end nearest to 0 if the claim holds: low for a claim of > 0, high for < 0."""
    sign = 1 if above else -1
    return "reproduced" if sign * bound > 0 else "partly" if sign * value > 0 else "not"


def _of_dump(study: Study, claim: dict[str, Any], variant: Variant) -> _Finding:
    model = claim["model"]
    of_model = Study([], [d for d in study.dumps if d.info.model == model and d.info.depth_field == DEPTH])
    if not of_model.dumps:
        return _Finding("not tested", f"needs a dump of {model} on {DEPTH} depth")
    dump = of_model.epoch_dumps(model)[-1]
    if dump.info.num_images < 2:
        return _Finding("not tested", "needs a dump of at least 2 images: intervals resample images")
    return _RULES[claim["rule"]](dump, variant, claim)


def _layers(holds: np.ndarray, what: str) -> tuple[Verdict, str]:
    """All, at least half, or fewer."""
    verdict: Verdict = "reproduced" if holds.all() else "partly" if holds.mean() >= 0.5 else "not"
    return verdict, f"{int(holds.sum())} of {holds.size} {what}"


def _slope_below_zero(dump: "Dump", variant: Variant, claim: dict[str, Any]) -> _Finding:
    slopes = layer_slopes(dump, variant)
    verdict, observed = _layers(slopes.high < 0, "layers")
    return _Finding(verdict, observed, f"slopes {_span(slopes.value)}; highest bound {_signed(slopes.high.max())}")


def _linear(dump: "Dump", variant: Variant, claim: dict[str, Any]) -> _Finding:
    linearity = bin_fits(score_curve(dump, variant))["linearity"].to_numpy()
    if np.isnan(linearity).any():
        return _Finding("not tested", "some layer has under three bins to show, or constant scores")
    verdict, observed = _layers(linearity >= claim["threshold"], "layers")
    return _Finding(verdict, observed, f"r² {linearity.min():.2f} to {linearity.max():.2f}")


def _peaks_early(dump: "Dump", variant: Variant, claim: dict[str, Any]) -> _Finding:
    num_layers = dump.info.num_layers
    pooled = moments(dump).mean(2)
    strength = np.abs(slope(pooled.sum(0), variant))
    peak = int(strength.argmax())

    def excess(sums: np.ndarray) -> np.ndarray:
        each = np.abs(slope(sums, variant))
        return each[..., peak] - each[..., -1]

    estimate = cluster_bootstrap(pooled, excess)
    early = peak + 1 <= np.ceil(num_layers / 3)
    verdict: Verdict = "reproduced" if early and estimate.low > 0 else "partly" if peak < num_layers / 2 else "not"
    return _Finding(verdict, f"layer {peak + 1} of {num_layers}", f"excess over last {_bounded(estimate)}")


def _cosines_below_zero(dump: "Dump", variant: Variant, claim: dict[str, Any]) -> _Finding:
    mean = mean_over_images(image_cosines(dump, variant))
    if np.isnan(mean.value).any():
        return _UNDEFINED
    verdict, observed = _layers(mean.high < 0, "cells")
    delta, r = mean.value[:, 0], mean.value[:, 1]
    return _Finding(verdict, observed, f"|Δ| {_span(delta)}; r {_span(r)}")


def _distance_stronger(dump: "Dump", variant: Variant, claim: dict[str, Any]) -> _Finding:
    values = image_cosines(dump, variant)
    defined = np.isfinite(values)
    if not defined.any(0).all():
        return _UNDEFINED

    def difference(sums: np.ndarray) -> np.ndarray:
        smallest = ratio(sums[..., 0], sums[..., 1]).min(-2)
        return smallest[..., 1] - smallest[..., 0]

    rows = np.stack([np.where(defined, values, 0.0), defined.astype(float)], -1)
    estimate = cluster_bootstrap(rows, difference)
    verdict = side(float(estimate.value), float(estimate.high), above=False)
    return _Finding(verdict, _signed(float(estimate.value)), f"[{_signed(estimate.low)}, {_signed(estimate.high)}]")


_Rule = Callable[["Dump", Variant, dict[str, Any]], _Finding]
_RULES: dict[str, _Rule] = {
    "slope_below_zero": _slope_below_zero,
    "linear": _linear,
    "peaks_early": _peaks_early,
    "cosines_below_zero": _cosines_below_zero,
    "distance_stronger": _distance_stronger,
}


def _span(values: np.ndarray) -> str:
    return f"{_signed(np.nanmin(values))} to {_signed(np.nanmax(values))}" if np.isfinite(values).any() else "undefined"


def _bounded(estimate: Estimate) -> str:
    return f"{_signed(estimate.value)} [{_signed(estimate.low)}, {_signed(estimate.high)}]"


def _signed(value: float | np.ndarray) -> str:
    """Three decimals below 1, two above; a true minus sign."""
    number = float(value)
    return f"{number:+.3f}".replace("-", "−") if abs(number) < 1 else f"{number:+.2f}".replace("-", "−")
