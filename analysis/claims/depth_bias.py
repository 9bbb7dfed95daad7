"""Figures 7 and 8: rules on learned biases, a run's parameters, held against those it began with.

No image is in them: what is known of their luck is how seeds differ, pooled over layers. The last block's are left out,
because they get no gradient.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.claim import UNTRAINED, Claim, Rule
from analysis.claims.scores import Terms, peaked
from analysis.claims.sources import dumps_of, list_of, runs_of, seeds_told
from analysis.claims.texts import signed, span
from analysis.claims.verdict import LEVEL, Finding, holm
from analysis.contrast import Arm, Between, Measured, between, contrast
from analysis.depth_bias import of_parameters, phi_grid, share_within
from analysis.load import AnalysisError, Given

_LEAST_EPOCHS, _LEAST_LAYERS = 5, 3


def _logged(study: Given, model: str, name: str) -> np.ndarray:
    """(seeds, epochs, layers, ...), from epoch 0 on."""
    every = [of_parameters(run, name) for run in runs_of(study, model)]
    common = sorted(set.intersection(*(set(epochs) for epochs, _ in every)))
    if not common or common[0] != 0:
        raise AnalysisError(f"needs {name} of epoch 0, which this run's log does not hold: train {model} again")
    if len(common) < 2:
        raise AnalysisError(f"needs {name} of an epoch after training has begun")
    found = np.stack([values[[epochs.index(epoch) for epoch in common]] for epochs, values in every])
    if found.shape[2] < 1:
        raise AnalysisError("needs a layer with a gradient")
    return found


def _luck(*arms: Arm) -> Between:
    """Pooled over layers too."""
    found = between(arms)
    cells = found.variance.size
    return Between(np.full(cells, found.variance.mean()), np.zeros(cells), found.df * cells, found.of)


def measured(terms: Terms) -> Measured:
    return contrast(terms, _luck(*(arm for _, arm in terms)))


def _arm(name: str, values: np.ndarray) -> Arm:
    return Arm.of_parameters(name, values.reshape(len(values), -1))


def _check_moved(change: Arm, what: str) -> None:
    """Where some layer moved the same way in all seeds; one seed has nothing to say of it."""
    moved = measured([(1.0, change)])
    if moved.seeds_df and not holm(2 * np.minimum(moved.above_zero, moved.below_zero), LEVEL * 2).any():
        raise AnalysisError(
            f"{what} did not leave where it began, in any layer and all seeds alike: nothing was learned"
        )


def _alpha_smooth(study: Given, claim: Claim) -> Finding:
    alpha = _logged(study, "mlin", "alpha")
    if alpha.shape[1] <= _LEAST_EPOCHS:
        raise AnalysisError(f"needs α of at least {_LEAST_EPOCHS} epochs after the first, got {alpha.shape[1] - 1}")
    _check_moved(_arm("mlin", alpha[:, -1] - alpha[:, 0]), "α")
    way, width = np.abs(np.diff(alpha, axis=1)).sum(1), np.ptp(alpha, axis=1)
    turns = np.where(width > 0, way / np.where(width > 0, width, 1.0), 1.0)
    arm = _arm("mlin", claim.options["threshold"] - turns)
    side = measured([(1.0, arm)])
    observed = f"way over range {turns.mean(0).min():.2f} to {turns.mean(0).max():.2f}"
    return Finding((side,), observed=observed, interval=span(side), seeds=seeds_told([arm]))


def _alpha_peaks(study: Given, claim: Claim) -> Finding:
    alpha = _logged(study, "mlin", "alpha")
    if alpha.shape[2] < _LEAST_LAYERS:
        raise AnalysisError(f"needs at least {_LEAST_LAYERS} layers with a gradient, got {alpha.shape[2]}")
    _check_moved(_arm("mlin", alpha[:, -1] - alpha[:, 0]), "α")
    last, grown = _arm("mlin", alpha[:, -1]), _arm("mlin", alpha[:, -1] - alpha[:, 0])
    layers = np.arange(1, alpha.shape[2] + 1)
    of = Finding((measured([(1.0, last)]),), seeds=seeds_told([last]))
    found = peaked({"": [(1.0, last)], UNTRAINED: [(1.0, grown)]}, layers, claim.options["third"], of)
    return replace(
        found,
        interval=f"{found.interval}; α {signed(last.values.mean(0).min())} to {signed(last.values.mean(0).max())}",
    )


def _phi(study: Given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Δ (grid,), φ at the end and at the beginning (seeds, layers, grid)."""
    phi = _logged(study, "mmlp", "phi")
    return phi_grid(runs_of(study, "mmlp")[0]), phi[:, -1], phi[:, 0]


def _of_shape(now: np.ndarray, before: np.ndarray, threshold: float, observed: str, change: Arm) -> Finding:
    """A shape of curves, (seeds, cells): above its threshold, and above what it was before training."""
    _check_moved(change, "φ")
    ours, theirs = _arm("mmlp", now), _arm("mmlp", before)
    side = measured([(1.0, ours)]).shifted(-threshold)
    left = measured([(1.0, ours.minus(theirs))])
    return Finding((side,), {UNTRAINED: left}, observed=observed, interval=span(side), seeds=seeds_told([ours]))


def _strength(delta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """(..., grid) -> (...) mean |φ(Δ) - φ(0)|."""
    return np.asarray(np.abs(phi - phi[..., [np.abs(delta).argmin()]]).mean(-1))


def _bends(delta: np.ndarray, phi: np.ndarray, beyond: float) -> np.ndarray:
    """(..., grid) -> (..., 2) distance from the line left and right of ±beyond, over the curve's range."""
    bends = []
    for there in (delta <= -beyond, delta >= beyond):
        line = np.polynomial.polynomial.polyvander(delta[there], 1)
        hat = line @ np.linalg.pinv(line)
        bends.append(np.abs(phi[..., there] @ (np.eye(len(hat)) - hat)).max(-1))
    width = np.ptp(phi, axis=-1)
    return np.asarray(np.stack(bends, -1) / np.where(width > 0, width, 1.0)[..., None])


def _phi_straight(study: Given, claim: Claim) -> Finding:
    delta, phi, first = _phi(study)
    now, before = (_bends(delta, each, claim.options["beyond"]) for each in (phi, first))
    observed = f"bend over range {now.mean(0).min():.2f} to {now.mean(0).max():.2f}"
    change = _arm("mmlp", _strength(delta, phi) - _strength(delta, first))
    return _of_shape(-now, -before, -claim.options["threshold"], observed, change)


def _phi_turns(study: Given, claim: Claim) -> Finding:
    """The share of a curve's turning (changes of slope) within `beyond` of 0."""
    delta, phi, first = _phi(study)
    near = np.abs(delta[1:-1]) <= claim.options["beyond"] + 1e-9

    def share(curves: np.ndarray) -> np.ndarray:
        turning = np.abs(np.diff(curves, 2, axis=-1))
        whole = turning.sum(-1)
        return np.asarray(turning[..., near].sum(-1) / np.where(whole > 0, whole, 1.0))

    now, before = share(phi), share(first)
    observed = f"{100 * now.mean(0).min():.0f} to {100 * now.mean(0).max():.0f} % of the turning near 0"
    change = _arm("mmlp", _strength(delta, phi) - _strength(delta, first))
    return _of_shape(now, before, claim.options["threshold"], observed, change)


def _phi_early_stronger(study: Given, claim: Claim) -> Finding:
    delta, phi, first = _phi(study)
    if phi.shape[1] < _LEAST_LAYERS:
        raise AnalysisError(f"needs at least {_LEAST_LAYERS} layers with a gradient, got {phi.shape[1]}")
    strength, began = _strength(delta, phi), _strength(delta, first)

    def correlation(each: np.ndarray) -> np.ndarray:
        ranks = pd.DataFrame(each).rank(axis=1).to_numpy()
        order = np.arange(each.shape[1])
        spread = ranks.std(1) * order.std()
        across = ((ranks - ranks.mean(1, keepdims=True)) * (order - order.mean())).mean(1)
        return np.asarray(np.where(spread > 0, across / np.where(spread > 0, spread, 1.0), 0.0))[:, None]

    now, before = correlation(strength), correlation(began)
    observed = f"rank correlation {signed(now.mean())}; mean |φ(Δ) − φ(0)| by layer {list_of(strength.mean(0))}"
    return _of_shape(-now, -before, -claim.options["threshold"], observed, _arm("mmlp", strength - began))


def _phi_draws(study: Given, claim: Claim) -> Finding:
    """φ's slope on |Δ|, left and right of 0; s_h < 0 makes a φ that falls with |Δ| a score that rises with it."""
    delta, phi, first = _phi(study)

    def slopes(curves: np.ndarray) -> np.ndarray:
        sides = []
        for there in (delta <= 0, delta >= 0):
            x = np.abs(delta[there]) - np.abs(delta[there]).mean()
            sides.append(curves[..., there] @ x / (x @ x))
        return np.stack(sides, -1)

    now, before = (_arm("mmlp", slopes(each)) for each in (phi, first))
    _check_moved(now.minus(before), "φ")
    side, left = measured([(-1.0, now)]), measured([(-1.0, now.minus(before))])
    observed = f"φ falls with |Δ| on {int((side.value > 0).sum())} of {side.value.size} sides of layers"
    return Finding(
        (side,), {UNTRAINED: left}, observed=observed, interval=f"slopes {span(side.turned())}", seeds=seeds_told([now])
    )


def _delta_near_zero(study: Given, claim: Claim) -> Finding:
    """Of the images that the model's curves are drawn over; no training is in it."""
    found = dumps_of(study, claim.options["model"])[0]
    shares = share_within(found, claim.options["limit"])
    arm = Arm.of_samples("the images", shares[np.isfinite(shares)][None])
    side = replace(contrast([(1.0, arm)]), seeds_df=np.inf).shifted(-claim.options["threshold"])
    return Finding(
        (side,),
        observed=f"{100 * arm.values.mean():.0f} % of pairs within {claim.options['limit']:g} z",
        interval=span(side),
    )


RULES: dict[str, Rule] = {
    "alpha_smooth": _alpha_smooth,
    "alpha_peaks": _alpha_peaks,
    "phi_straight": _phi_straight,
    "phi_turns": _phi_turns,
    "phi_early_stronger": _phi_early_stronger,
    "phi_draws": _phi_draws,
    "delta_near_zero": _delta_near_zero,
}
