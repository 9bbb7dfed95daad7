"""Figures 1 (swaps), 5 (where |Δ| peaks), 6, 10 and 13: rules on changed depth and on maps by distance, over dumps."""

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from analysis.attention import Variant
from analysis.causal import swap_slopes
from analysis.claims.finding import (
    OTHER,
    Claim,
    Finding,
    Rule,
    Verdict,
    beyond_null,
    bounded,
    defined,
    last_dump,
    of_dump,
    of_records,
    share,
    side,
    signed,
    span,
)
from analysis.claims.scores import UNDEFINED
from analysis.load import Study, check_same_axes
from analysis.maps import ALL, LEAST_BINS, Quantity, column_slopes, relative_slopes
from analysis.similarity import against_other, image_cosines
from analysis.statistics import cluster_bootstrap, mean_of_sums, rows_of_mean

if TYPE_CHECKING:
    from training.dumps.store import Dump

_NO_COLUMN = Finding("not tested", f"no distance has {LEAST_BINS} bins with enough pairs: dump more images")


def _swap_below_zero(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    slopes = swap_slopes(dump)
    verdict, observed = share(defined(slopes.high) < 0, "layers")
    return Finding(verdict, observed, f"slopes {span(slopes.value)}; highest bound {signed(slopes.high.max())}")


def _peaks_mid_layers(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    values = image_cosines(dump, variant)
    if not np.isfinite(values[..., 0]).any(0).all():
        return UNDEFINED
    number, layers = np.arange(values.shape[1]) + 1, values.shape[1]
    middle = (3 * number > layers) & (3 * number <= 2 * layers)
    if not middle.any() or middle.all():
        return Finding("not tested", f"{layers} layers have no middle third")

    def lead(mean: np.ndarray) -> np.ndarray:
        """Smallest cosine in the middle minus the smallest elsewhere."""
        return np.asarray(mean[..., middle].min(-1) - mean[..., ~middle].min(-1))

    rows = rows_of_mean(values[..., 0])
    found = cluster_bootstrap(rows, lambda sums: lead(mean_of_sums(sums)))
    mean = mean_of_sums(rows.sum(0))
    verdict = side(float(found.value), float(found.high), above=False) if mean.min() < 0 else "not"
    observed = f"layer {int(mean.argmin()) + 1} of {layers}"
    null, beyond = against_other(values, lead)
    if variant == "gauge_fixed":
        verdict, reason = beyond_null(verdict, beyond.high, above=False)
        observed += reason
    return Finding(verdict, observed, f"lead of the middle {bounded(found)}; {OTHER} {signed(null)}")


def _pooled(dump: "Dump", quantity: Quantity) -> pd.DataFrame:
    """Columns that are long enough, all layers pooled."""
    frame = column_slopes(dump, quantity)
    return frame[(frame["layer"] == ALL) & (frame["num_bins"] >= LEAST_BINS)]


def _quantity(variant: str, claim: Claim) -> Quantity:
    return cast(Quantity, claim.get("quantity", variant))


def _columns_fall(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    columns = _pooled(dump, _quantity(variant, claim))
    if columns.empty:
        return _NO_COLUMN
    name = "relative" if "relative" in columns else "slope"
    if columns[f"{name}_high"].isna().any():
        return Finding("not tested", "needs at least 2 groups of images")
    verdict, observed = share((columns[f"{name}_high"] < 0).to_numpy(), "distances")
    interval = f"slopes {span(columns[name].to_numpy())}; highest bound {signed(columns[f'{name}_high'].max())}"
    if "beyond" in columns:
        verdict, reason = beyond_null(verdict, columns["beyond_high"].to_numpy(), above=False, what="distances")
        observed += reason
        interval += f"; {OTHER} {span(columns['other'].to_numpy())}"
    return Finding(verdict, observed, interval)


def _columns_linear(dump: "Dump", variant: Variant, claim: Claim) -> Finding:
    linearity = _pooled(dump, _quantity(variant, claim))["linearity"].dropna().to_numpy()
    if not linearity.size:
        return _NO_COLUMN
    verdict, observed = share(linearity >= claim["threshold"], "distances")
    return Finding(verdict, observed, f"r² {linearity.min():.2f} to {linearity.max():.2f}")


def _flatter(study: Study, claim: Claim) -> Finding:
    found = [last_dump(study, model) for model in (claim["flat"], claim["steep"])]
    check_same_axes(found)
    if found[0].keys() != found[1].keys() or found[0].info.num_groups < 2:
        return Finding("not tested", "needs dumps of the same images, at least 2")
    flat, steep, difference = relative_slopes(*found)
    if not (np.isfinite(difference.value) and steep.value):
        return Finding("not tested", "attention, or |Δ| at each distance, is constant")
    steeper = side(float(difference.value), float(difference.low), above=True)
    part = abs(float(flat.value) / float(steep.value))
    verdict: Verdict = steeper if part <= claim["threshold"] else "partly" if steeper == "reproduced" else "not"
    if steep.value > 0:
        verdict = "not"  # flat beside a rise is not what the sentence says
    observed = f"{signed(flat.value)} against {signed(steep.value)} ({part:.2f} of it)"
    return Finding(verdict, observed, f"difference {bounded(difference)}")


RULES: dict[str, Rule] = {
    "swap_below_zero": of_dump(_swap_below_zero),
    "peaks_mid_layers": of_dump(_peaks_mid_layers),
    "columns_fall": of_dump(_columns_fall),
    "columns_linear": of_dump(_columns_linear),
    "flatter": of_records(_flatter),
}
