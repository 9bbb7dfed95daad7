"""Figures 1 and 5: attention scores against |Δ|, over dumps.

The slope of Figure 1 is the one given distance: every distance has a level of its own. A model falls with |Δ| where it
does so more than it would on another image's depth, and more than it did before training.
"""

import numpy as np

from analysis.attention import linearity
from analysis.causal import swap_jackknife
from analysis.claims.claim import OTHER_IMAGE, UNTRAINED, Claim, Rule
from analysis.claims.sources import arm_of, check_paired, dumps_of, seeds_told, trained_and_untrained
from analysis.claims.texts import signed, span
from analysis.claims.verdict import LEVEL, Finding, there
from analysis.contrast import Arm, contrast, drawn_together
from analysis.fixed_effects import distance_slopes
from analysis.load import AnalysisError, Given
from analysis.similarity import cosine_jackknife

Terms = list[tuple[float, Arm]]


def _slopes(study: Given, model: str) -> tuple[Terms, dict[str, Terms]]:
    """Falls with |Δ| by layer, and what is left of them over each reference."""
    last, first = trained_and_untrained(
        study, model, "distance slopes", lambda dump: distance_slopes(dump, dump.info.parts[-1])
    )
    return over_references(last, first)


def over_references(last: Arm, first: Arm) -> tuple[Terms, dict[str, Terms]]:
    """Of slopes on an image's own |Δ| and, behind them, on another's, after training and before: the fall, and its
    excesses.
    """
    own, other = halves(last)
    return [(-1.0, own)], {
        OTHER_IMAGE: [(-1.0, own.minus(other))],
        UNTRAINED: [(-1.0, own), (1.0, halves(first)[0])],
    }


def halves(arm: Arm) -> tuple[Arm, Arm]:
    cells = arm.values.shape[1] // 2
    return arm.cells(slice(cells)), arm.cells(slice(cells, None))


def found_of(fall: Terms, beyond: dict[str, Terms], what: str) -> Finding:
    side, left = contrast(fall), {name: contrast(terms) for name, terms in beyond.items()}
    observed = f"{int((side.above_zero < LEVEL).sum())} of {side.value.size} {what}"
    told = "; ".join(f"over {name} {span(part)}" for name, part in left.items())
    return Finding(
        (side,),
        left,
        observed=observed,
        interval=f"{span(side)}" + f"; {told}" * bool(told),
        seeds=seeds_told([a for _, a in fall]),
    )


def _falls(study: Given, claim: Claim) -> Finding:
    fall, beyond = _slopes(study, claim.options["model"])
    return found_of(fall, beyond, "layers")


def _linear(study: Given, claim: Claim) -> Finding:
    model = claim.options["model"]
    arm = arm_of(study, model, dumps_of(study, model), "linearity", linearity)
    return straight(found_of(*_slopes(study, model), "layers"), arm, claim, "layers")


def straight(fall: Finding, r2: Arm, claim: Claim, what: str) -> Finding:
    """r² above its threshold, in the cells that fall at all."""
    falls = there(fall)
    if not falls.any():
        raise AnalysisError(f"the score falls with |Δ| over its references in no {what}: there is no fall to be linear")
    arm, threshold = r2.cells(falls), claim.options["threshold"]
    side = contrast([(1.0, arm)]).shifted(-threshold)
    least, most = side.value.min() + threshold, side.value.max() + threshold
    observed = f"r² {least:.2f} to {most:.2f} in the {int(falls.sum())} of {falls.size} {what} that fall"
    return Finding((side,), incomplete=not falls.all(), observed=observed, seeds=seeds_told([arm]))


def _peaks(study: Given, claim: Claim) -> Finding:
    """Where the fall is steepest, in the claimed third of the layers."""
    fall, beyond = _slopes(study, claim.options["model"])
    found = found_of(fall, beyond, "layers")
    if not there(found).any():
        raise AnalysisError("no layer's score falls with |Δ| more than over its references: nothing has a peak")
    number = np.array([d.info.attention_layers for d in dumps_of(study, claim.options["model"])])[0]
    return peaked({"": fall, **beyond}, number, claim.options["third"], found)


def thirds(layers: np.ndarray, third: str, count: int | None = None) -> np.ndarray:
    """(layers,) which are in the first or the middle third; of few layers the first third is rounded up."""
    total = count or int(layers.max())
    if third == "first":
        return np.asarray(layers <= np.ceil(total / 3))
    return np.asarray((3 * layers > total) & (3 * layers <= 2 * total))


def peaked(every: dict[str, Terms], layers: np.ndarray, third: str, of: Finding) -> Finding:
    """Shares of joint resamples whose largest value lies in the claimed third."""
    inside = thirds(layers, third)
    if not inside.any() or inside.all():
        raise AnalysisError(f"{len(layers)} layers have no {third} third")
    shares = {}
    for name, terms in every.items():
        draws = drawn_together(terms)
        undefined = np.isnan(draws).any()
        shares[name] = np.nan if undefined else float(inside[draws.argmax(1)].mean())
    largest = int(layers[np.argmax(of.sides[0].value)])
    told = ", ".join(f"{f'over {name} ' if name else ''}{100 * share:.0f} %" for name, share in shares.items())
    return Finding(
        of.sides, peaks=shares, observed=f"layer {largest} of {int(layers.max())}",
        interval=f"in the {third} third in {told} of resamples", seeds=of.seeds,
    )  # fmt: skip


def _swap_falls(study: Given, claim: Claim) -> Finding:
    """Of a swap nothing but depth has changed: the photograph's part is in both scores and cancels."""
    model = claim.options["model"]
    dumps = [dump for dump in dumps_of(study, model) if dump.info.num_causal]
    if not dumps:
        raise AnalysisError(f"needs a dump of {model} with changed depth: 'train dump RUN --data SHARDS --causal 500'")
    check_paired(dumps)
    return found_of([(-1.0, arm_of(study, model, dumps, "swap", swap_jackknife))], {}, "layers")


def _cosines(study: Given, model: str) -> tuple[dict[str, Arm], dict[str, Arm], np.ndarray]:
    """Gauge-fixed cosines by layer, with |Δ|, with distance and with another image's |Δ|: trained, untrained; layers.

    Of a row-centred score that is the same everywhere nothing is left: no offset that softmax ignores is in them.
    """
    both = trained_and_untrained(study, model, "cosines", cosine_jackknife)
    layers = dumps_of(study, model)[0].info.attention_layers
    size = len(layers)
    blocks = {name: slice(k * size, (k + 1) * size) for k, name in enumerate(("depth", "distance", "other"))}
    last, first = ({name: arm.cells(block) for name, block in blocks.items()} for arm in both)
    return last, first, layers


def _cosine_terms(study: Given, claim: Claim) -> tuple[Terms, dict[str, Terms], np.ndarray]:
    last, first, layers = _cosines(study, claim.options["model"])
    quantity = claim.options.get("quantity", "depth")
    own = last[quantity]
    beyond: dict[str, Terms] = {UNTRAINED: [(-1.0, own), (1.0, first[quantity])]}
    if quantity == "depth":
        beyond[OTHER_IMAGE] = [(-1.0, own.minus(last["other"]))]
    return [(-1.0, own)], beyond, layers


def _cosine_below(study: Given, claim: Claim) -> Finding:
    fall, beyond, _ = _cosine_terms(study, claim)
    return found_of(fall, beyond, "layers")


def _distance_stronger(study: Given, claim: Claim) -> Finding:
    """The most negative cosine over layers, with distance against with |Δ|; and by more than before training."""
    last, first, _ = _cosines(study, claim.options["model"])

    def deepest(of: dict[str, Arm]) -> tuple[Arm, Arm]:
        depth, distance = (
            of[name].cells(np.array([of[name].values.mean(0).argmin()])) for name in ("depth", "distance")
        )
        return depth.minus(distance), distance

    lead, distance = deepest(last)
    sides = contrast([(1.0, lead)]), contrast([(-1.0, distance)])  # it must be negative to be the stronger relation
    left = contrast([(1.0, lead), (-1.0, deepest(first)[0])])
    observed = (
        f"{signed(distance.values.mean())} with distance, {signed((lead.values + distance.values).mean())} with |Δ|"
    )
    return Finding(sides, {UNTRAINED: left}, observed=observed, interval=span(sides[0]), seeds=seeds_told([lead]))


def _cosine_peaks(study: Given, claim: Claim) -> Finding:
    fall, beyond, layers = _cosine_terms(study, claim)
    found = found_of(fall, beyond, "layers")
    if not there(found).any():
        raise AnalysisError("no cosine with |Δ| is below 0 by more than its references: nothing has a peak")
    return peaked({"": fall, **beyond}, layers, claim.options["third"], found)


RULES: dict[str, Rule] = {
    "falls": _falls,
    "linear": _linear,
    "peaks": _peaks,
    "swap_falls": _swap_falls,
    "cosine_below": _cosine_below,
    "distance_stronger": _distance_stronger,
    "cosine_peaks": _cosine_peaks,
}
