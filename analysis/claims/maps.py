"""Figures 6, 10 and 13: rules on columns of the maps, attention or score against |Δ| among pairs at one distance."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.claims.claim import Claim, Rule
from analysis.claims.scores import Terms, found_of, halves, over_references, straight
from analysis.claims.sources import arm_of, check_paired, dumps_of, seeds_told, trained_and_untrained
from analysis.claims.texts import signed
from analysis.claims.verdict import Finding, there
from analysis.contrast import contrast
from analysis.load import AnalysisError, Given
from analysis.maps import LEAST_BINS, Quantity, columns_linearity, long_columns, slopes_at_distances
from training.intervals import Jackknife

if TYPE_CHECKING:
    from training.dumps.store import Dump


def _pooled(dump: "Dump", quantity: Quantity, of_column: np.ndarray) -> Jackknife:
    """(2, columns): all layers pooled; on an image's own |Δ| and on another's."""
    found = slopes_at_distances(dump, quantity, of_column)
    return Jackknife(found.value[:, 0], found.without[:, :, 0])


def _columns(study: Given, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the last dump; which cells are shown depends on depth alone, so all dumps of these images have the same."""
    names, of_column = long_columns(dumps_of(study, model)[0])
    if not names.size:
        raise AnalysisError(f"no distance has {LEAST_BINS} bins with enough pairs: dump more images")
    return names, of_column


def _slopes(study: Given, claim: Claim) -> tuple[Terms, dict[str, Terms]]:
    model, quantity = claim.options["model"], claim.options.get("quantity", "literal")
    names, of_column = _columns(study, model)
    statistic = partial(_pooled, quantity=quantity, of_column=of_column)
    last, first = trained_and_untrained(study, model, ("columns", quantity, tuple(names)), statistic)
    return over_references(last, first)


def _columns_fall(study: Given, claim: Claim) -> Finding:
    fall, beyond = _slopes(study, claim)
    return found_of(fall, beyond, "distances")


def _columns_linear(study: Given, claim: Claim) -> Finding:
    model = claim.options["model"]
    names, of_column = _columns(study, model)
    statistic = partial(columns_linearity, of_column=of_column)
    arm = arm_of(study, model, dumps_of(study, model), ("columns linearity", tuple(names)), statistic)
    return straight(found_of(*_slopes(study, claim), "distances"), arm, claim, "distances")


def _flatter(study: Given, claim: Claim) -> Finding:
    """Of attention at all distances together: at most a share of what the steep model has learned, on either side of 0.

    That is its fall beyond the one it began with; where it has none there is nothing to be flat beside.
    """
    flat_model, steep_model = claim.options["flat"], claim.options["steep"]
    first = dumps_of(study, steep_model)[0]
    whole = np.ones((len(first["statistics/distance/pairs"][0]), 1))
    statistic = partial(_pooled, quantity="attention", of_column=whole)
    steep_last, steep_first = trained_and_untrained(study, steep_model, "attention at all distances", statistic)
    flat_dumps = dumps_of(study, flat_model)
    check_paired([first, *flat_dumps])
    flat, _ = halves(arm_of(study, flat_model, flat_dumps, "attention at all distances", statistic))
    steep, before = halves(steep_last)[0], halves(steep_first)[0]
    if not there(found_of(*over_references(steep_last, steep_first), "slopes")).all():
        raise AnalysisError(
            f"{steep_model}'s attention does not fall with |Δ| beyond its references: nothing to be flat beside"
        )
    share = claim.options["threshold"]
    sides = [contrast([(sign, flat), (-share, steep), (share, before)]) for sign in (1.0, -1.0)]
    observed = f"{signed(flat.values.mean())} against {signed(steep.values.mean())}"
    part = abs(flat.values.mean() / steep.values.mean())
    return Finding(tuple(sides), observed=observed, interval=f"{part:.2f} of it", seeds=seeds_told([flat, steep]))


RULES: dict[str, Rule] = {"columns_fall": _columns_fall, "columns_linear": _columns_linear, "flatter": _flatter}
