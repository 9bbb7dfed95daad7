"""Raw scores in memory, and what follows from them by loops."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import softmax

from training.dumps.pairs import NUM_BINS, distances, patch_distance
from training.dumps.scores import ROWS

GRID, IMAGES, LAYERS, HEADS, FIRST = (3, 4), 6, 2, 2, 1
PATCHES = GRID[0] * GRID[1]
INVALID = 5  # patch of image 0 without depth
HEAD_SCALE = np.array([-0.3, -0.05], np.float32)
ALPHA = np.array([1.5, -0.5], np.float32)
PHI = np.random.default_rng(3).normal(0, 0.5, (LAYERS, 3, 32)).astype(np.float32)


@dataclass
class Held:
    """A dump in memory."""

    info: SimpleNamespace
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    path: Path = Path("held.zarr")

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def read(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        return self.arrays[name][rows]

    def keys(self) -> list[str]:
        return self.info.keys


def held(model: str = "mlin", *, offset: int = 0, num_raw: int = IMAGES) -> Held:
    """Scores fall with |Δ| and distance; image keys start at `offset`."""
    generator = np.random.default_rng(8)
    bias = {"mlin": "linear", "mmlp": "table"}.get(model)
    depth = generator.normal(size=(IMAGES, PATCHES)).astype(np.float32)
    depth[0, INVALID] = np.inf
    scores = generator.normal(size=(IMAGES, LAYERS, HEADS, PATCHES + 1, PATCHES + 1))
    away = -0.3 * patch_distance(GRID) - 0.4 * np.abs(signed(depth))[:, None, None]
    scores[..., 1:, 1:] += away
    scores -= scores.mean(-1, keepdims=True)
    info = SimpleNamespace(
        model=model, run=model, study_hash=model, config={"seed": 0, "model": {"patch_depth": "mean"}}, epoch=5,
        own_data=True,
        checkpoint="latest", fingerprint="f", split="val", depth_field="pseudo", standardisation={}, patch_depth="mean",
        bias=bias, has_bias=bias is not None, parts=("content", "total") if bias else ("content",), num_prefix=1,
        num_layers=LAYERS + FIRST, num_attention_layers=LAYERS, first_attention_layer=FIRST, num_heads=HEADS, grid=GRID,
        num_patches=PATCHES, image_size=48, num_images=IMAGES,
        num_raw=num_raw, num_causal=0, num_groups=IMAGES, class_names=["bed", "sofa"], classes_sha256="c",
        keys=[f"image-{number + offset}" for number in range(IMAGES)],
    )  # fmt: skip
    dump = Held(info)
    dump.arrays = {
        "raw/scores_pre_bias": scores.astype(np.float16),
        "raw/patch_depth/mean": depth,
        "raw/rgb": np.tile(np.arange(48, dtype=np.uint8)[None, :, None, None] * 5, (IMAGES, 1, 48, 3)),
        "statistics/labels": np.arange(IMAGES) % 2,
        "statistics/predicted": np.full(IMAGES, int(model == "mlin")),
        "parameters/head_scale": HEAD_SCALE,
        "parameters/alpha": ALPHA,
        "parameters/phi": PHI,
    }
    for part in info.parts:
        _add_statistics(dump, part)
    return dump


def signed(depth: np.ndarray) -> np.ndarray:
    z = np.where(np.isfinite(depth), depth, 0.0).astype(np.float64)
    return z[..., :, None] - z[..., None, :]


def literal_scores(dump: Held, image: int, layer: int, head: int, part: str) -> np.ndarray:
    """(tokens, tokens) by loops, as the contract defines the bias."""
    scores = dump["raw/scores_pre_bias"][image, layer, head].astype(np.float64)
    if part == "content" or dump.info.bias is None:
        return scores
    depth = dump["raw/patch_depth/mean"][image].astype(np.float64)
    for i in range(PATCHES):
        for j in range(PATCHES):
            if not (np.isfinite(depth[i]) and np.isfinite(depth[j])):
                continue
            delta = depth[i] - depth[j]
            if dump.info.bias == "linear":
                value = ALPHA[layer] * abs(delta)
            else:
                w, b, a = PHI[layer].astype(np.float64)
                value = sum(a[k] * max(w[k] * delta + b[k], 0.0) for k in range(32))
            scores[1 + i, 1 + j] += HEAD_SCALE[head] * value
    return scores


def pairs_of(dump: Held, image: int) -> np.ndarray:
    seen = np.isfinite(dump["raw/patch_depth/mean"][image])
    return seen[:, None] & seen[None] & ~np.eye(PATCHES, dtype=bool)


def centred(values: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Minus the mean over a row's pairs; NaN off the pairs."""
    kept = np.where(pair, values, np.nan)
    rows = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else 0.0 for row in kept])
    return kept - rows[:, None]


def _add_statistics(dump: Held, part: str) -> None:
    """head_rows and bins of the contract, from their definitions."""
    number = distances(GRID)[1]
    num_distances = number.max() + 1
    rows = np.zeros((IMAGES, LAYERS, HEADS, len(ROWS)))
    moments = np.zeros((IMAGES, 28))
    bins = np.zeros((LAYERS, HEADS, NUM_BINS, num_distances))
    count = np.zeros((NUM_BINS, num_distances))
    for image in range(IMAGES):
        pair = pairs_of(dump, image)
        delta = np.abs(signed(dump["raw/patch_depth/mean"][image]))
        within = centred(delta, pair)
        moments[image, 0] = np.nansum(within**2)
        cell = np.minimum((delta / 0.1).astype(int), NUM_BINS - 1)
        np.add.at(count, (cell[pair], number[pair]), 1)
        for layer in range(LAYERS):
            for head in range(HEADS):
                scores = centred(literal_scores(dump, image, layer, head, part)[1:, 1:], pair)
                rows[image, layer, head, ROWS.index("c_delta")] = np.nansum(scores * within)
                rows[image, layer, head, ROWS.index("cc")] = np.nansum(scores**2)
                np.add.at(bins[layer, head], (cell[pair], number[pair]), scores[pair])
    dump.arrays["statistics/pairs/centred"] = moments
    dump.arrays["statistics/bins/count"] = count
    dump.arrays[f"statistics/{part}/head_rows"] = rows  # one image a group
    dump.arrays[f"statistics/{part}/bins/sum_centred"] = bins


def literal_attention(dump: Held, image: int, layer: int) -> np.ndarray:
    each = [softmax(literal_scores(dump, image, layer, head, "total"), axis=-1) for head in range(HEADS)]
    return np.mean(each, 0)[1:, 1:]


def literal_residual(dump: Held, image: int, layer: int) -> np.ndarray:
    def head_mean(number: int) -> np.ndarray:
        scores = [literal_scores(dump, number, layer, head, "total")[1:, 1:] for head in range(HEADS)]
        return centred(np.mean(scores, 0), pairs_of(dump, number))

    every = np.stack([head_mean(number) for number in range(IMAGES)])
    own = head_mean(image)
    apart = patch_distance(GRID)
    for distance in np.unique(apart):
        same = np.isclose(apart, distance)
        own[same] -= np.nanmean(every[:, same]) if distance else 0.0
    return own
