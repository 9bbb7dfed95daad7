"""What a model does when depth is changed and the photograph is not: its scores, its answers, what it still knows.

The changes are those of `train dump --causal` (training/dumping/interventions.py). They are off what the model was
trained on, so associations are reported beside them, not instead.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.attention import layer_slopes
from analysis.load import AnalysisError, seed_of
from analysis.nulls import partners_together
from analysis.probes import cross_validated, errors, ridge
from analysis.tables import points
from training.dumps.arrays import unpacked
from training.intervals import (
    Estimate,
    Jackknife,
    mcnemar,
    mean_of_sums,
    over_units,
    ratio,
    rows_of_mean,
    without_each,
)

if TYPE_CHECKING:
    from training.dumps.store import Dump


def _check(dump: "Dump") -> None:
    if not dump.info.num_causal:
        raise AnalysisError(
            f"{dump.path} holds no changed depth: make it again with 'train dump RUN --data SHARDS --causal 500'"
        )


def swap_slopes(dump: "Dump") -> Estimate:
    """(layers,) Σ(S' - S)(Δ' - Δ) / Σ(Δ' - Δ)² of row-centred head-mean scores, bias included.

    A first difference: what colour and position do to a score is in S and in S' and cancels. Partners exchange their
    depths, so they are left out together.
    """
    return swap_jackknife(dump).estimate()


def swap_jackknife(dump: "Dump") -> Jackknife:
    """The same, with pairs of partners left out in turn."""
    _check(dump)
    across = dump["causal/swap/rows"]
    pairs = np.broadcast_to(dump["causal/swap/pairs"][:, None], across.shape)
    rows = partners_together(np.stack([across, pairs], -1))
    return without_each(rows, lambda sums: ratio(sums[..., 0], sums[..., 1]))


def top1_jackknife(dump: "Dump", change: str) -> Jackknife:
    """(1,) top-1 under one change minus unchanged, a share: below 0 for a loss; as in `effects`."""
    _check(dump)
    if not dump.info.labelled or change not in dump.info.interventions:
        raise AnalysisError(
            f"{dump.path} holds no {change} of labelled images: make it again with 'train dump RUN --data SHARDS "
            "--causal 500'"
        )
    correct = dump["causal/outcomes"][:, dump.info.interventions.index(change), dump.info.outcomes.index("correct")]
    terms = rows_of_mean(correct.astype(float)[:, None] - dump["causal/base"].astype(float)[:, None])
    return without_each(partners_together(terms) if change == "swap" else terms, mean_of_sums)


def beside_association(dump: "Dump") -> pd.DataFrame:
    """One row a layer: the slope of a swap, and the gauge-fixed slope over pairs of the same scores."""
    swap, seen = swap_slopes(dump), layer_slopes(dump, "gauge_fixed", dump.info.parts[-1])
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "part": dump.info.parts[-1],
            "variant": "causal",
            "layer": dump.info.attention_layers,
            "slope": swap.value,
            "low": swap.low,
            "high": swap.high,
            "association": seen.value,
            "association_low": seen.low,
            "association_high": seen.high,
            "num_images": dump.info.num_causal,
        }
    )


def effects(dump: "Dump") -> pd.DataFrame:
    """One row a change: what it does to top-1 and how far it moves the logits, over the dump's causal images.

    accuracy and top1_change are shares 0..1, the latter changed minus unchanged, below 0 for a loss; kl is
    KL(unchanged || changed) in nats, logit_mae the mean |Δ logit|; all three with intervals over images, in which
    partners that swapped their depths are left out together. p: McNemar's mid-p, images taken as independent. changed:
    the share of images whose prediction is another. Without labels accuracy, top1_change and p are NaN.
    """
    _check(dump)
    values = {name: dump["causal/outcomes"][..., place].astype(float) for place, name in enumerate(dump.info.outcomes)}
    if dump.info.labelled:
        values["top1_change"] = values["correct"] - dump["causal/base"].astype(float)[:, None]
    kinds = [kind for kind in _MEASURED if kind in values]
    rows = []
    for place, name in enumerate(dump.info.interventions):
        terms = rows_of_mean(np.stack([values[kind][:, place] for kind in kinds], -1))
        found = over_units(partners_together(terms) if name == "swap" else terms, mean_of_sums)
        measured = {f"{kind}{end}": float("nan") for kind in _MEASURED for end in _ENDS}
        for k, kind in enumerate(kinds):
            measured |= {column: values[k] for column, values in found.columns(kind).items()}
        rows.append(
            {
                "model": dump.info.model,
                "depth_field": dump.info.depth_field,
                "seed": seed_of(dump),
                "epoch": dump.info.epoch,
                "change": name,
                **(_accuracy(dump, values["correct"][:, place]) if dump.info.labelled else _UNKNOWN),
                **measured,
                "changed": values["changed"][:, place].mean(),
                "num_images": dump.info.num_causal,
            }
        )
    return pd.DataFrame(rows)


_ENDS = ("", "_low", "_high")
_MEASURED = ("top1_change", "kl", "logit_mae")
_UNKNOWN = dict.fromkeys(("accuracy", "unchanged", "p"), float("nan"))


def _accuracy(dump: "Dump", correct: np.ndarray) -> dict[str, float]:
    base = dump["causal/base"].astype(float)
    p = mcnemar(int((correct > base).sum()), int((correct < base).sum()))
    return {"accuracy": float(correct.mean()), "unchanged": float(base.mean()), "p": p}


def readable_effects(frame: pd.DataFrame) -> pd.DataFrame:
    """`effects` as people read them, all text."""
    rows = list(frame.to_dict("records"))

    def of_labels(told: Callable[[Any], str]) -> list[str]:
        return ["no labels" if np.isnan(row["accuracy"]) else told(row) for row in rows]

    return pd.DataFrame(
        {
            "model": frame["model"],
            "intervention": frame["change"],
            "top-1 %": of_labels(lambda row: f"{100 * row['accuracy']:.1f}"),
            "change, points": of_labels(lambda row: points(*(row[f"top1_change{end}"] for end in _ENDS))),
            "p": of_labels(lambda row: f"{row['p']:.3f}" if row["p"] >= 0.001 else "<0.001"),
            "KL, nats": [f"{row['kl']:.3f} [{row['kl_low']:.3f}, {row['kl_high']:.3f}]" for row in rows],
            "mean |Δ logit|": [f"{row['logit_mae']:.3f}" for row in rows],
            "other answer": [f"{100 * row['changed']:.1f} %" for row in rows],
        }
    )


def refitted(dump: "Dump") -> pd.DataFrame:
    """One row a block: R² of a probe for depth, refitted at the last block, where depth was erased after that block.

    Erasing takes out all that is linear in z; what is read afterwards the later blocks have made again. `unerased` is
    the same probe, of the same images, without erasing.
    """
    _check(dump)
    *erased, unerased = (_r2(unpacked(dump["causal/refit/moments"][:, k])) for k in range(_num_refits(dump)))
    layers = dump.info.attention_layers
    return pd.DataFrame(
        [
            {"model": dump.info.model, "erased_after": layer, "r2_last": r2, "unerased": unerased}
            for layer, r2 in zip(layers, erased, strict=True)
        ]
    )


def _num_refits(dump: "Dump") -> int:
    return dump.info.num_attention_layers + 1


def _r2(folds: np.ndarray) -> float:
    """Held-out R² of ridge from moments (folds, size, size); NaN where a fold has no token."""
    size = folds.shape[-1]
    if not (folds[:, -1, -1] > 0).all():
        return float("nan")
    vectors, _ = cross_validated(folds, ridge)
    others = folds.sum(0) - folds
    means = np.zeros_like(vectors)
    means[..., size - 3] = 1
    means[..., -1] = -(others[:, -1, size - 3] / others[:, -1, -1])[:, None]
    return float(1 - errors(vectors, folds)[:, 0].sum() / errors(means, folds)[:, 0].sum())


def _two_places(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")  # + 0.0: no negative zero


def readable_refitted(frame: pd.DataFrame) -> pd.DataFrame:
    """`refitted` as people read it: one row a model, a column a block after which depth was erased."""
    rows = []
    for model, group in frame.groupby("model", sort=False):
        row = {"model": str(model), "not erased": _two_places(group["unerased"].iloc[0])}
        rows.append(row | {f"after {r.erased_after}": _two_places(r.r2_last) for r in group.itertuples()})
    return pd.DataFrame(rows).fillna("–")
