"""Figures 1 and 5: rules on attention scores, over dumps."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.attention import Variant, bin_fits, layer_slopes, moments, score_curve, slope
from analysis.claims.finding import Claim, Finding, Rule, Verdict, bounded, defined, of_dump, share, side, signed, span
from analysis.similarity import image_cosines
from analysis.statistics import cluster_bootstrap, mean_over_images, ratio

if TYPE_CHECKING:
    from training.dumps.store import Dump

_UNDEFINED = Finding("not tested", "cosine undefined: some layer's scores are constant in each row")


def _slope_below_zero(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    slopes = layer_slopes(dump, variant)
    verdict, observed = share(defined(slopes.high) < 0, "layers")
    return Finding(verdict, observed, f"slopes {span(slopes.value)}; highest bound {signed(slopes.high.max())}")


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

    def excess(sums: np.ndarray) -> np.ndarray:
        each = -slope(sums, variant)
        return each[..., peak] - each[..., -1]

    estimate = cluster_bootstrap(pooled, excess)
    early = peak + 1 <= np.ceil(num_layers / 3)
    strict = early and float(defined(estimate.low)) > 0
    verdict: Verdict = "reproduced" if strict else "partly" if peak < num_layers / 2 else "not"
    if fall[peak] <= 0:
        return Finding("not", "no layer's score falls", f"slopes {span(-fall)}")
    return Finding(verdict, f"layer {peak + 1} of {num_layers}", f"excess over last {bounded(estimate)}")


def _cosines_below_zero(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    mean = mean_over_images(image_cosines(dump, variant))
    if np.isnan(mean.value).any():
        return _UNDEFINED
    verdict, observed = share(defined(mean.high) < 0, "cells")
    delta, r = mean.value[:, 0], mean.value[:, 1]
    return Finding(verdict, observed, f"|Δ| {span(delta)}; r {span(r)}")


def _distance_stronger(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
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
    return Finding(verdict, signed(float(estimate.value)), f"[{signed(estimate.low)}, {signed(estimate.high)}]")


RULES: dict[str, Rule] = {
    "slope_below_zero": of_dump(_slope_below_zero),
    "linear": of_dump(_linear),
    "peaks_early": of_dump(_peaks_early),
    "cosines_below_zero": of_dump(_cosines_below_zero),
    "distance_stronger": of_dump(_distance_stronger),
}
