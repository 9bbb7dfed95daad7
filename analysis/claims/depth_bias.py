"""Figures 7 and 8: rules on learned biases. They are a run's parameters, so there is no interval; the last block's are
left out, because they get no gradient."""

import numpy as np
import pandas as pd

from analysis.claims.finding import DEPTH, Claim, Finding, Rule, Verdict, of_records, share, signed
from analysis.depth_bias import alpha_by_epoch, phi_curves, run_of
from analysis.load import Study

_LEAST_EPOCHS, _LEAST_LAYERS = 5, 3


def _alpha(study: Study) -> pd.DataFrame:
    """(epochs, trained layers)"""
    frame = alpha_by_epoch(run_of(study, "mlin", DEPTH))
    return frame[frame["trained"]].pivot(index="epoch", columns="layer", values="alpha")


def _alpha_smooth(study: Study, claim: Claim) -> Finding:
    alpha = _alpha(study).to_numpy()
    if len(alpha) < _LEAST_EPOCHS or not alpha.size:
        return Finding("not tested", f"needs α of at least {_LEAST_EPOCHS} epochs, got {len(alpha)}")
    way, width = np.abs(np.diff(alpha, axis=0)).sum(0), np.ptp(alpha, axis=0)
    turns = np.where(width > 0, way / np.where(width > 0, width, 1.0), 1.0)
    verdict, observed = share(turns <= claim["threshold"], "layers")
    return Finding(verdict, observed, f"way over range {turns.min():.2f} to {turns.max():.2f}")


def _alpha_peaks_early(study: Study, claim: Claim) -> Finding:
    last = _alpha(study).iloc[-1]
    if len(last) < _LEAST_LAYERS:
        return Finding("not tested", f"needs at least {_LEAST_LAYERS} layers with a gradient, got {len(last)}")
    num_layers, peak = len(last) + 1, int(last.idxmax())
    verdict: Verdict = (
        "reproduced" if peak <= np.ceil(num_layers / 3) else "partly" if peak <= num_layers / 2 else "not"
    )
    return Finding(verdict, f"layer {peak} of {num_layers}", f"α {signed(last.min())} to {signed(last.max())}")


def _phi(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Δ (grid,) and φ (trained layers, grid)."""
    frame = phi_curves(run_of(study, "mmlp", DEPTH))
    table = frame[frame["trained"]].pivot(index="layer", columns="delta", values="phi")
    return table.columns.to_numpy(float), table.to_numpy()


def _phi_straight(study: Study, claim: Claim) -> Finding:
    delta, phi = _phi(study)
    if not phi.size:
        return Finding("not tested", "needs a layer with a gradient")
    bends = []
    for beyond in (delta <= -claim["beyond"], delta >= claim["beyond"]):
        x, y = delta[beyond], phi[:, beyond]
        line = np.polynomial.polynomial.polyvander(x, 1)
        fit = line @ np.linalg.lstsq(line, y.T, rcond=None)[0]
        bends.append(np.abs(y.T - fit).max(0))
    width = np.ptp(phi, axis=1)
    bent = np.stack(bends) / np.where(width > 0, width, 1.0)
    verdict, observed = share(bent <= claim["threshold"], "sides of layers")
    return Finding(verdict, observed, f"bend over range {bent.min():.2f} to {bent.max():.2f}")


def _phi_early_stronger(study: Study, claim: Claim) -> Finding:
    delta, phi = _phi(study)
    if len(phi) < _LEAST_LAYERS:
        return Finding("not tested", f"needs at least {_LEAST_LAYERS} layers with a gradient, got {len(phi)}")
    strength = np.abs(phi - phi[:, [np.abs(delta).argmin()]]).mean(1)
    ranks = pd.Series(strength).rank().to_numpy()
    order = np.arange(len(ranks))
    correlation = float(np.corrcoef(order, ranks)[0, 1]) if np.ptp(ranks) else 0.0
    verdict: Verdict = "reproduced" if correlation <= claim["threshold"] else "partly" if correlation < 0 else "not"
    return Finding(verdict, f"rank correlation {signed(correlation)}", f"mean |φ(Δ) − φ(0)| by layer {_list(strength)}")


def _phi_negative(study: Study, claim: Claim) -> Finding:
    _, phi = _phi(study)
    if not phi.size:
        return Finding("not tested", "needs a layer with a gradient")
    below = (phi < 0).mean(1)
    verdict: Verdict = "reproduced" if below.max() >= claim["threshold"] else "partly" if below.max() > 0 else "not"
    return Finding(verdict, f"{int((below > 0).sum())} of {len(below)} layers", f"least φ {signed(phi.min())}")


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


RULES: dict[str, Rule] = {
    "alpha_smooth": of_records(_alpha_smooth),
    "alpha_peaks_early": of_records(_alpha_peaks_early),
    "phi_straight": of_records(_phi_straight),
    "phi_early_stronger": of_records(_phi_early_stronger),
    "phi_negative": of_records(_phi_negative),
}
