"""Figures 9 and 12: how well patch depth z can be read off a layer's tokens h by a line, w'h + b.

Everything follows exactly from the dump's sums over tokens [h, z, z', 1]'[h, z, z', 1], a matrix G a fold of images, so
that held-out errors need no second pass: the summed squared error of a fold is v'Gv with v = (-w, 1, 0, -b). z' is the
depth of another image at the same place, the control of Hewitt and Liang (2019).

A probe is a filter of the eigenvalues of the training folds' centred h'h, of which one of a family is chosen by
cross-validation inside the training folds (nested: the held-out fold has no part in it):
- `ridge`: 1 / (e + λ), λ from 1e-4 to 1e4 times the mean eigenvalue; the intercept is not penalised.
- `literal`, what training a linear layer does: (1 - (1 - ηe)^t) / e is gradient descent from zero after t full-batch
  steps of size η = 1 / the largest eigenvalue, stopped at the t (of 1, 2, 4, ...) that inner folds like best. As t
  grows it becomes ridge with λ = 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import linalg

from analysis.load import AnalysisError
from training.dumps.arrays import unpacked
from training.intervals import Jackknife, ratio

if TYPE_CHECKING:
    from training.dumps.store import Dump

Filter = Callable[[np.ndarray], np.ndarray]  # eigenvalues (width,) -> (settings, width)
ProbeVariant = Literal["ridge", "literal"]

PENALTIES = 10.0 ** np.arange(-4, 5)  # times the mean eigenvalue
STEPS = 2.0 ** np.arange(0, 25)


def ridge(eigenvalues: np.ndarray) -> np.ndarray:
    """(PENALTIES, width)"""
    return 1 / (eigenvalues + PENALTIES[:, None] * (max(eigenvalues.mean(), 0.0) or 1.0))  # 1: all tokens are equal


def gradient_descent(eigenvalues: np.ndarray) -> np.ndarray:
    """(STEPS, width)"""
    largest = max(eigenvalues.max(), 0.0) or 1.0
    share = np.maximum(eigenvalues, 0) / largest
    with np.errstate(divide="ignore"):  # the largest eigenvalue is done in one step: log 0
        done = -np.expm1(STEPS[:, None] * np.log1p(-share))
    return np.where(share > 1e-15, done / np.where(share > 1e-15, share, 1.0), STEPS[:, None]) / largest


FILTERS: dict[ProbeVariant, Filter] = {"ridge": ridge, "literal": gradient_descent}
SETTINGS: dict[ProbeVariant, np.ndarray] = {"ridge": PENALTIES, "literal": STEPS}


def errors(vectors: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Summed squared errors v'Gv of (..., size) vectors."""
    return np.einsum("...i,...i->...", vectors @ moments, vectors)


def fitted(moments: np.ndarray, filters: Filter, width: int | None = None) -> np.ndarray:
    """v of the probes for z and z', (settings, 2, size), from the training sums (size, size).

    `width`: of the tokens' principal components the first so many, of the training folds, take h's place.
    """
    size = len(moments) - 3
    mean = moments[-1, :-1] / moments[-1, -1]
    covariance = moments[:-1, :-1] - moments[-1, -1] * np.outer(mean, mean)
    kept = None if width is None or width >= size else (size - width, size - 1)
    eigenvalues, basis = linalg.eigh(covariance[:size, :size], subset_by_index=kept, check_finite=False)
    projected = basis.T @ covariance[:size, size:]
    weights = basis @ (filters(eigenvalues)[:, :, None] * projected)  # (settings, size, 2)
    vectors = np.zeros((len(weights), 2, size + 3))
    vectors[..., :size] = -weights.swapaxes(1, 2)
    vectors[:, [0, 1], [size, size + 1]] = 1
    vectors[..., -1] = mean[:size] @ weights - mean[size:]
    return vectors


def cross_validated(folds: np.ndarray, filters: Filter, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """v of the probes tested on each fold, (folds, 2, size), and the chosen setting's index, (folds, 2).

    A setting is chosen by its summed error over the other folds, each predicted from the rest without the tested one.
    """
    num_folds, total = len(folds), folds.sum(0)
    inner: np.ndarray | float = 0.0
    for first in range(num_folds):
        for second in range(first):
            vectors = fitted(total - folds[first] - folds[second], filters, width)
            if isinstance(inner, float):
                inner = np.zeros((num_folds, *vectors.shape[:2]))
            inner[first] += errors(vectors, folds[second])
            inner[second] += errors(vectors, folds[first])
    chosen = np.argmin(inner, 1)
    outer = [fitted(total - folds[fold], filters, width)[chosen[fold], [0, 1]] for fold in range(num_folds)]
    return np.stack(outer), chosen


@dataclass(frozen=True)
class Probes:
    """Sums over held-out tokens: (layers, folds), but for `count` and `error_position` (folds,).

    `error`: squared error of the probe; `total`: of the training folds' mean z; both also `_within` images, where each
    image's mean is taken off z and prediction; `_control`: of the probe for z'.
    """

    count: np.ndarray
    error: np.ndarray
    total: np.ndarray
    error_within: np.ndarray
    total_within: np.ndarray
    error_control: np.ndarray
    total_control: np.ndarray
    error_position: np.ndarray  # of the mean z at each position in the training folds
    error_centred: np.ndarray  # of ridge on h and z minus their means at each position; NaN for other variants
    setting: np.ndarray  # penalty (times the mean eigenvalue) or number of steps

    def mse(self) -> Jackknife:
        """z², (layers,). As the others, with folds left out in turn."""
        return self._over_folds(lambda kept: self.error[:, kept].sum(1) / self.count[kept].sum())

    def mse_control(self) -> Jackknife:
        """Of the probe for z'."""
        return self._over_folds(lambda kept: self.error_control[:, kept].sum(1) / self.count[kept].sum())

    def r2(self) -> Jackknife:
        """1 - error / that of the training mean: at 0 or below the probe reads nothing."""
        return self._over_folds(lambda kept: 1 - ratio(self.error[:, kept].sum(1), self.total[:, kept].sum(1)))

    def r2_within(self) -> Jackknife:
        """R² of the same probe within images: an image's mean depth counts for nothing."""
        return self._over_folds(
            lambda kept: 1 - ratio(self.error_within[:, kept].sum(1), self.total_within[:, kept].sum(1))
        )

    def r2_control(self) -> Jackknife:
        return self._over_folds(
            lambda kept: 1 - ratio(self.error_control[:, kept].sum(1), self.total_control[:, kept].sum(1))
        )

    def selectivity(self) -> Jackknife:
        """R² for z minus R² for z': what is read beyond what any image's depth has in common at a position."""
        return self._over_folds(
            lambda kept: (
                ratio(self.error_control[:, kept].sum(1), self.total_control[:, kept].sum(1))
                - ratio(self.error[:, kept].sum(1), self.total[:, kept].sum(1))
            )
        )

    def skill(self) -> Jackknife:
        """1 - error / that of the mean depth at each position, which needs no image."""
        return self._over_folds(lambda kept: 1 - ratio(self.error[:, kept].sum(1), self.error_position[kept].sum()))

    def skill_centred(self) -> Jackknife:
        """`skill` of a probe that may use the position as it likes, for it reads h minus its mean at the position."""
        return self._over_folds(
            lambda kept: 1 - ratio(self.error_centred[:, kept].sum(1), self.error_position[kept].sum())
        )

    def _over_folds(self, statistic: Callable[[np.ndarray], np.ndarray]) -> Jackknife:
        folds = np.arange(len(self.count))
        return Jackknife(statistic(folds), np.array([statistic(folds[folds != fold]) for fold in folds]))


STATISTICS: dict[str, Callable[[Probes], Jackknife]] = {
    "mse": Probes.mse,
    "mse_control": Probes.mse_control,
    "r2": Probes.r2,
    "r2_within": Probes.r2_within,
    "r2_control": Probes.r2_control,
    "selectivity": Probes.selectivity,
    "skill": Probes.skill,
    "skill_centred": Probes.skill_centred,
}


def position_errors(position: np.ndarray) -> np.ndarray:
    """(folds,) squared errors of predicting each position's mean over the other folds, from (folds, positions, 3)."""
    count, total, squares = np.moveaxis(position, -1, 0)
    mean = position_means(position[..., 1:2], count)[..., 0]
    return (squares - 2 * mean * total + mean**2 * count).sum(1)


def position_means(sums: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(folds, positions, width): mean at each position over the other folds; over all positions where none is there."""
    others, number = sums.sum(0) - sums, (count.sum(0) - count)[..., None]
    overall = others.sum(1, keepdims=True) / number.sum(1, keepdims=True)
    return np.where(number > 0, others / np.maximum(number, 1), overall)


def centred_errors(
    folds: np.ndarray, position: np.ndarray, position_sum: np.ndarray, penalties: np.ndarray
) -> np.ndarray:
    """(folds,) errors of ridge on what is left of h and z after each position's mean over the training folds.

    That is ridge with a free offset a position. `penalties` (folds,): λ over the mean eigenvalue.
    """
    width = folds.shape[-1] - 3
    count = position[..., 0]
    sums = np.concatenate([position_sum, position[..., 1:2]], -1)
    means = position_means(sums, count)
    squares = folds[:, : width + 1, : width + 1]
    found = []
    for fold, mean in enumerate(means):
        each = []
        for kept in (np.arange(len(folds)) != fold, np.arange(len(folds)) == fold):
            cross = sums[kept].sum(0).T @ mean
            each.append(squares[kept].sum(0) - cross - cross.T + (mean.T * count[kept].sum(0)) @ mean)
        training, tested = each
        penalty = penalties[fold] * np.trace(training[:width, :width]) / width
        weights = linalg.solve(
            training[:width, :width] + penalty * np.eye(width), training[:width, width], assume_a="pos"
        )
        found.append(errors(np.append(-weights, 1.0), tested))
    return np.array(found)


def probe(dump: "Dump", stream: str = "tokens", variant: ProbeVariant = "ridge", width: int | None = None) -> Probes:
    """Probes of every layer of a stream, cross-validated over the dump's folds of images.

    `width`: after reducing the tokens to so many principal components of the training folds. What was computed once is
    kept with the opened dump: a layer costs fifteen eigendecompositions of its width.
    """
    known: dict[tuple[str, ProbeVariant, int | None], Probes] = vars(dump).setdefault("_probes", {})
    key = (stream, variant, width)
    if key not in known:
        known[key] = _probe(dump, *key)
    return known[key]


def _probe(dump: "Dump", stream: str, variant: ProbeVariant, width: int | None) -> Probes:
    where = f"statistics/probe/{stream}"
    position = dump["statistics/probe/position"]
    count = position[..., 0].sum(1)
    if not (count > 0).all():
        raise AnalysisError(
            f"{dump.path}: a probe needs patches with a depth in each of its {len(count)} folds of images, got "
            f"{int((count > 0).sum())} such folds: make the dump again with more --images"
        )
    moments, image_moments = dump[f"{where}/moments"], dump[f"{where}/image_moments"]
    position_sum = dump[f"{where}/position_sum"]
    layers = []
    for layer in range(moments.shape[1]):
        folds = unpacked(moments[:, layer])
        layers.append(_probe_layer(folds, unpacked(image_moments[:, layer]), variant, width))
        centred = np.full(len(folds), np.nan)
        if variant == "ridge" and width is None:
            centred = centred_errors(folds, position, position_sum[:, layer], layers[-1]["setting"])
        layers[-1]["error_centred"] = centred
    stacked = {name: np.stack([each[name] for each in layers]) for name in layers[0]}
    return Probes(count=count, error_position=position_errors(position), **stacked)


def _probe_layer(
    folds: np.ndarray, image_moments: np.ndarray, variant: ProbeVariant, width: int | None
) -> dict[str, np.ndarray]:
    """The fields of `Probes` that one layer's moments give, (folds,) each."""
    size = folds.shape[-1]
    vectors, chosen = cross_validated(folds, FILTERS[variant], width)
    others = folds.sum(0) - folds
    means = np.zeros_like(vectors)  # v of the training mean
    means[:, [0, 1], [size - 3, size - 2]] = 1
    means[..., -1] = -others[:, -1, size - 3 : size - 1] / others[:, -1, -1:]
    within = folds - image_moments
    error, total = errors(vectors, folds), errors(means, folds)
    return {
        "error": error[:, 0],
        "total": total[:, 0],
        "error_control": error[:, 1],
        "total_control": total[:, 1],
        "error_within": errors(vectors[:, 0, None], within)[:, 0],
        "total_within": within[:, size - 3, size - 3],
        "setting": SETTINGS[variant][chosen[:, 0]],
    }
