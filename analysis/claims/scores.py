"""Figures 1 and 5: rules on attention scores, over dumps."""

from typing import TYPE_CHECKING

import numpy as np

from analysis import nulls
from analysis.attention import Variant, bin_fits, layer_slopes, moments, score_curve, slope
from analysis.claims.finding import (
    OTHER,
    Claim,
    Finding,
    Rule,
    Verdict,
    beyond_null,
    bounded,
    defined,
    of_dump,
    share,
    side,
    signed,
    span,
)
from analysis.similarity import against_other, image_cosines
from analysis.statistics import cluster_bootstrap, mean_of_sums, mean_over_images, rows_of_mean

if TYPE_CHECKING:
    from training.dumps.store import Dump

UNDEFINED = Finding("not tested", "cosine undefined: some layer's scores are constant in each row")


def _slope_below_zero(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    slopes = layer_slopes(dump, variant)
    verdict, observed = share(defined(slopes.high) < 0, "layers")
    null, beyond = nulls.against_other(dump, variant, lambda each: each)
    interval = f"slopes {span(slopes.value)}; highest bound {signed(slopes.high.max())}"
    if variant == "gauge_fixed":
        verdict, reason = beyond_null(verdict, beyond.high, above=False, what="layers")
        observed += reason
    return Finding(verdict, observed, f"{interval}; {OTHER} {span(null)}")


def _linear(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    linearity = bin_fits(score_curve(dump, variant))["linearity"].to_numpy()
    if np.isnan(linearity).any():
        return Finding("not tested", "some layer has under three bins to show, or constant scores")
    verdict, observed = share(linearity >= claim["threshold"], "layers")
    return Finding(verdict, observed, f"r² {linearity.min():.2f} to {linearity.max():.2f}")


def _peaks_early(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    num_layers = dump.info.num_layers
    pooled = moments(dump, variant)
    fall = -defined(slope(pooled.sum(0), variant))
    peak = int(fall.argmax())

    def excess(slopes: np.ndarray) -> np.ndarray:
        """Of the fall at the peak over that in the last layer."""
        return np.asarray(slopes[..., -1] - slopes[..., peak])

    estimate = cluster_bootstrap(pooled, lambda sums: excess(slope(sums, variant)))
    early = peak + 1 <= np.ceil(num_layers / 3)
    strict = early and float(defined(estimate.low)) > 0
    verdict: Verdict = "reproduced" if strict else "partly" if peak < num_layers / 2 else "not"
    if fall[peak] <= 0:
        return Finding("not", "no layer's score falls", f"slopes {span(-fall)}")
    observed = f"layer {peak + 1} of {num_layers}"
    null, beyond = nulls.against_other(dump, variant, excess)
    if variant == "gauge_fixed":
        verdict, reason = beyond_null(verdict, beyond.low, above=True)
        observed += reason
    return Finding(verdict, observed, f"excess over last {bounded(estimate)}; {OTHER} {signed(null)}")


def _cosines_below_zero(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    values = image_cosines(dump, variant)
    mean = mean_over_images(values[..., :2])  # |Δ| and r
    if np.isnan(mean.value).any():
        return UNDEFINED
    verdict, observed = share(defined(mean.high) < 0, "cells")
    null, beyond = against_other(values, lambda each: each)
    if variant == "gauge_fixed":
        verdict, reason = beyond_null(verdict, beyond.high, above=False, what="layers")
        observed += reason
    delta, r = mean.value[:, 0], mean.value[:, 1]
    return Finding(verdict, observed, f"|Δ| {span(delta)}; r {span(r)}; {OTHER} {span(null)}")


def _distance_stronger(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    values = image_cosines(dump, variant)
    if not np.isfinite(values[..., :2]).any(0).all():
        return UNDEFINED

    def difference(sums: np.ndarray) -> np.ndarray:
        smallest = mean_of_sums(sums).min(-2)
        return smallest[..., 1] - smallest[..., 0]

    estimate = cluster_bootstrap(rows_of_mean(values[..., :2]), difference)
    verdict = side(float(estimate.value), float(estimate.high), above=False)
    null = np.nanmin(against_other(values, lambda each: each)[0])
    interval = f"[{signed(estimate.low)}, {signed(estimate.high)}]; smallest {OTHER} {signed(null)}"
    return Finding(verdict, signed(float(estimate.value)), interval)


RULES: dict[str, Rule] = {
    "slope_below_zero": of_dump(_slope_below_zero),
    "linear": of_dump(_linear),
    "peaks_early": of_dump(_peaks_early),
    "cosines_below_zero": of_dump(_cosines_below_zero),
    "distance_stronger": of_dump(_distance_stronger),
}
