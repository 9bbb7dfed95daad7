"""Figures 7 and 8: what the learned biases on depth came to, from the parameters a run logs. Layers count from 1.

A head's bias is s_h α |Δ| (mlin) or s_h φ(Δ) (mmlp) with s_h = log γ_h < 0 fixed: the same factors in every layer. The
last block's α and φ get no gradient in pre-training, since the logits read the class token alone and it has no bias.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.load import AnalysisError, Given, depth_of, depth_order
from training.records import ParametersLine, Run

if TYPE_CHECKING:
    from training.dumps.store import Dump

DENSITY_WIDTH, DENSITY_LIMIT = 0.1, 4.0  # z
_BLOCK = 64  # images at once


def head_scale(config: dict[str, Any]) -> np.ndarray:
    """(heads,) s_h = log(1 - 2^(-initial_value - decay_range h / heads)), all below 0."""
    model = config["model"]
    heads = np.arange(model["heads"]) / model["heads"]
    return np.log(1 - 2.0 ** (-model["initial_value"] - model["decay_range"] * heads))


def run_of(study: Given, model: str, depth: str | None = None) -> Run:
    """The run of `model` with the lowest seed, on one depth field."""
    runs = [run for run in study.runs if run.record.model == model]
    if not runs:
        raise AnalysisError(
            f"no run of {model} was given: make one with 'train pretrain --preset PRESET --model {model} --data SHARDS "
            "--out RUN'"
        )
    fields = sorted({depth_of(run) for run in runs}, key=depth_order)
    chosen = depth or ("pseudo" if "pseudo" in fields else fields[0] if len(fields) == 1 else None)
    if chosen not in fields:
        raise AnalysisError(f"--depth must be one of {', '.join(fields)} (what {model} was trained on), got {depth}")
    return min((run for run in runs if depth_of(run) == chosen), key=lambda run: run.record.seed)


def _logged(run: Run, name: str) -> list[ParametersLine]:
    lines = [line for line in run.lines(ParametersLine) if name in line.values]
    if not lines:
        raise AnalysisError(
            f"{run.folder / 'metrics.jsonl'} holds no {name} of {run.record.model}: it is logged at the end of each "
            "epoch by 'train pretrain'"
        )
    last = {line.epoch: line for line in lines}  # of an epoch that a resumed run went through again
    return [last[epoch] for epoch in sorted(last)]


def alpha_by_epoch(run: Run) -> pd.DataFrame:
    """One row an epoch and layer: α; α times |s_h|, the fall of the score per 1 z: mean, least, most over heads."""
    scale = -head_scale(run.record.config)
    frames = []
    for line in _logged(run, "alpha"):
        alpha = np.asarray(line.values["alpha"], float)
        by_head = alpha[:, None] * scale
        frames.append(
            pd.DataFrame(
                {
                    "model": run.record.model,
                    "depth_field": depth_of(run),
                    "seed": run.record.seed,
                    "epoch": line.epoch,
                    "layer": np.arange(1, len(alpha) + 1),
                    "alpha": alpha,
                    "effective": by_head.mean(1),
                    "effective_low": by_head.min(1),
                    "effective_high": by_head.max(1),
                    "trained": np.arange(1, len(alpha) + 1) < len(alpha),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def phi_curves(run: Run) -> pd.DataFrame:
    """One row a layer and Δ = z_query - z_key of the last epoch logged: φ; the bias φ s_h, negative to attend less.

    `paper_delta`: Δ as the paper signs it. Its depth is nearer-is-larger, ours farther-is-larger.
    """
    last = _logged(run, "phi")[-1]
    grid, curves = np.asarray(last.values["phi_grid"], float), np.asarray(last.values["phi"], float)
    bias = curves[..., None] * head_scale(run.record.config)  # (layers, grid, heads)
    layers, points = np.indices(curves.shape)
    return pd.DataFrame(
        {
            "model": run.record.model,
            "depth_field": depth_of(run),
            "seed": run.record.seed,
            "epoch": last.epoch,
            "layer": layers.ravel() + 1,
            "delta": grid[points.ravel()],
            "paper_delta": -grid[points.ravel()],
            "phi": curves.ravel(),
            "effective": bias.mean(2).ravel(),
            "effective_low": bias.min(2).ravel(),
            "effective_high": bias.max(2).ravel(),
            "trained": layers.ravel() + 1 < len(curves),
        }
    )


def of_parameters(run: Run, name: str) -> tuple[list[int], np.ndarray]:
    """Epochs, and `alpha` (epochs, layers) or `phi` (epochs, layers, grid) of the layers that get a gradient."""
    lines = _logged(run, name)
    return [line.epoch for line in lines], np.asarray([line.values[name] for line in lines], float)[:, :-1]


def phi_grid(run: Run) -> np.ndarray:
    return np.asarray(_logged(run, "phi")[-1].values["phi_grid"], float)


def share_within(dump: "Dump", limit: float) -> np.ndarray:
    """(images,) share of an image's pairs of patches with |Δ| below `limit`; NaN where it has no pair."""
    counts = [(np.sum(delta < limit, 1), np.isfinite(delta).sum(1)) for delta in _pair_deltas(dump)]
    within, counted = (np.concatenate(each) for each in zip(*counts, strict=True))
    return np.where(counted > 0, within / np.maximum(counted, 1), np.nan)


def density_of_delta(dump: "Dump") -> pd.DataFrame:
    """Share of ordered pairs of patches with a depth per 1 z of Δ, by bin; even in Δ by construction.

    Pairs with |Δ| of 4 and more count, but have no bin.
    """
    num_bins = round(DENSITY_LIMIT / DENSITY_WIDTH)
    counts, num_pairs = np.zeros(num_bins + 1), 0
    for delta in _pair_deltas(dump):
        known = delta[np.isfinite(delta)]
        counts += np.bincount(np.minimum(known / DENSITY_WIDTH, num_bins).astype(int), minlength=num_bins + 1)
        num_pairs += known.size
    each = counts[:-1] / max(num_pairs, 1) / 2 / DENSITY_WIDTH  # a pair is counted once a direction
    edges = np.linspace(-DENSITY_LIMIT, DENSITY_LIMIT, 2 * num_bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1], "high": edges[1:], "density": np.concatenate([each[::-1], each]),
            "num_images": dump.info.num_images,
        }
    )  # fmt: skip


def _pair_deltas(dump: "Dump") -> Iterator[np.ndarray]:
    """(some images, pairs of patches) |Δ|, each pair once, NaN where either has no depth; images in blocks."""
    query, key = np.triu_indices(dump.info.num_patches, 1)
    for first in range(0, dump.info.num_images, _BLOCK):
        rows = slice(first, min(first + _BLOCK, dump.info.num_images))
        z = dump.read("statistics/patch_depth", rows).astype(np.float64)
        z[~np.isfinite(z)] = np.nan
        yield np.abs(z[:, query] - z[:, key])
