"""Images that dumps hold raw scores of: which of them several hold, where a patch attends, what its scores are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.load import Given, depth_order, model_order, seed_of
from training.dumps.from_raw import bias_mode, raw_bias, raw_depth
from training.dumps.pairs import distances

if TYPE_CHECKING:
    from training.dumps.store import Dump


def comparable_examples(study: Given) -> "tuple[list[Dump], list[str]]":
    """Last dumps with raw scores, lowest seed of each model and depth; and names of those that share no image."""
    chosen: dict[Any, Dump] = {}
    for dump in sorted(study.dumps, key=lambda dump: (-seed_of(dump), dump.info.epoch)):
        if dump.info.num_raw:
            chosen[dump.info.model, dump.info.depth_field] = dump
    dumps = sorted(chosen.values(), key=lambda d: (depth_order(d.info.depth_field), model_order(d.info.model)))
    common = set(raw_keys(dumps[0])) if dumps else set()
    kept: list[Dump] = []
    for dump in dumps:
        shared = common & set(raw_keys(dump)) if _alike(dump, dumps[0]) else set()
        if shared:
            common = shared
            kept.append(dump)
    return kept, [label_of(dump) for dump in dumps if dump not in kept]


def _alike(dump: "Dump", other: "Dump") -> bool:
    ours, theirs = (
        (each.fingerprint, each.split, each.grid, each.image_size, each.num_layers) for each in (dump.info, other.info)
    )
    return ours == theirs


def raw_keys(dump: "Dump") -> list[str]:
    return dump.keys()[: dump.info.num_raw]


def label_of(dump: "Dump") -> str:
    return f"{dump.info.model}, {dump.info.depth_field} depth"


@dataclass(frozen=True)
class Example:
    """One patch of one image as several models attend from it; grids are (rows, columns)."""

    key: str
    rgb: np.ndarray  # (height, width, 3)
    depth: np.ndarray  # z, not finite where unknown
    query: int  # the patch, counted along rows
    attention: dict[str, np.ndarray]  # model -> mean over heads and layers, of the query to each patch


def example_of(dumps: "list[Dump]") -> Example:
    """Of the images that all hold raw scores of, the one whose depth varies most; its query is the patch whose depth
    differs most from its neighbours'.
    """
    keys = [raw_keys(dump) for dump in dumps]
    common = [key for key in keys[0] if all(key in others for others in keys[1:])]
    first = dumps[0]
    depths = [_patch_depth(first, keys[0].index(key)) for key in common]
    image = int(np.argmax([np.std(depth[np.isfinite(depth)]) if np.isfinite(depth).any() else -1 for depth in depths]))
    depth = depths[image]
    attention = {}
    query = int(np.argmax(_away_from_neighbours(depth)))
    for dump, of_dump in zip(dumps, keys, strict=True):
        weights = attention_of(total_scores(dump, of_dump.index(common[image])), dump.info.num_patches)
        attention[dump.info.model] = weights.mean(0)[query].reshape(dump.info.grid)
    rgb = first.read("raw/rgb", keys[0].index(common[image]))
    return Example(common[image], rgb, depth, query, attention)


def _patch_depth(dump: "Dump", image: int) -> np.ndarray:
    depth = dump.read(f"raw/patch_depth/{dump.info.patch_depth}", image)
    return np.asarray(depth, np.float64).reshape(dump.info.grid)


def _away_from_neighbours(depth: np.ndarray) -> np.ndarray:
    """(patches,) |z - mean z of the up to four beside it|, -1 where either is unknown."""
    known = np.isfinite(depth)
    padded, there = np.pad(np.where(known, depth, 0.0), 1), np.pad(known.astype(float), 1)
    beside = [(slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1))]
    beside += [(columns, rows) for rows, columns in beside]
    sums, counts = sum(padded[place] for place in beside), sum(there[place] for place in beside)
    away = np.abs(np.where(known, depth, 0.0) - sums / np.maximum(counts, 1))
    return np.asarray(np.where(known & (counts > 0), away, -1.0)).ravel()


def total_scores(dump: "Dump", image: int) -> np.ndarray:
    """(layers, heads, patches, tokens): scores of patch queries with the depth bias, up to a constant a row."""
    info = dump.info
    scores = dump.read("raw/scores_pre_bias", image).astype(np.float32)[:, :, info.num_prefix :]
    depth = raw_depth(dump, bias_mode(info), slice(image, image + 1))
    for layer in range(len(scores)):
        bias = raw_bias(dump, layer, depth, slice(image, image + 1))
        if bias is not None:
            scores[layer] += bias.head_scale[:, None, None] * bias.table[0, info.num_prefix :]
    return scores


def attention_of(scores: np.ndarray, num_patches: int) -> np.ndarray:
    """(layers, heads, patches, tokens) -> (layers, patches, patches): softmax over tokens, mean over heads."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True))[..., -num_patches:].mean(1)


def mean_at_distance(dump: "Dump") -> np.ndarray:
    """(layers, patches, patches): mean centred head-mean score over the dump's pairs at each pair's exact distance."""
    part = "total" if dump.info.bias is not None else "content"
    count = dump["statistics/bins/count"].sum(0)
    centred = dump[f"statistics/{part}/bins/sum_centred"].mean(1).sum(1)
    means = np.where(count > 0, centred / np.where(count > 0, count, 1.0), np.nan)
    number = distances(dump.info.grid)[1]  # -1: a patch and itself, where nothing is expected
    return np.concatenate([means, np.full((len(means), 1), np.nan)], 1)[:, number]


def residual_of(scores: np.ndarray, depth: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(layers, patches, patches) head-mean score minus its row's mean minus `expected`; NaN where there is no pair."""
    num_patches = len(depth)
    seen = np.isfinite(depth)
    pair = seen[:, None] & seen[None] & ~np.eye(num_patches, dtype=bool)
    mean = scores[..., -num_patches:].mean(1, dtype=np.float64)
    row = (mean * pair).sum(-1, keepdims=True) / np.maximum(pair.sum(-1), 1)[:, None]
    return np.where(pair, mean - row - expected, np.nan)
