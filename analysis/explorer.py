"""The report's example explorer: for a patch of an image, where it attends, |Δ|, and its scores after distance.

From a dump's raw tier. Attention is softmax(scores + depth bias) over all tokens, mean over heads; the residual is the
head-mean score (with the bias) minus its mean over the keys of its query, minus the dump's mean of that at the same
exact distance. Both are stored in 8 bits, so that the page stays small: attention by its logarithm down to 1/10,000 of
the layer's largest, the residual linearly. `analysis/explorer.js` draws it.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from analysis import html
from analysis.html import Html
from analysis.load import Loaded, depth_order, model_order, seed_of
from analysis.packing import deflated, quantised
from training.dumps.from_raw import bias_mode, raw_bias, raw_depth
from training.dumps.pairs import distances

if TYPE_CHECKING:
    from training.dumps.store import Dump

BUDGET_BYTES = 4_000_000  # of the explorer's data in the page
_MAX_IMAGES, _MIN_IMAGES, _MIN_LAYERS = 12, 2, 3
_DECADES = 4.0  # attention below 10^-4 of a layer's largest shows as that


def explorer_section(study: Loaded) -> Html:
    """The section, or a line that says what is lacking."""
    title = "Explorer: one patch, what it attends to, and depth"
    dumps, left_out = comparable_examples(study)
    if not dumps:
        lacking = "No dump holds raw scores: 'train dump RUN --data SHARDS --raw 16' keeps those of 16 images."
        return html.section("explorer", title, html.lacking(lacking))
    data = pack(dumps)
    models = [(index, model["name"]) for index, model in enumerate(data["models"])]
    images = [(index, image["name"]) for index, image in enumerate(data["images"])]
    layers = [(index, f"{layer}") for index, layer in enumerate(data["layers"])]
    note = (
        f"The first {len(images)} of {data['num_common']} images that every dump below holds raw scores of (at most "
        f"{_MAX_IMAGES}, and what fits in {BUDGET_BYTES / 1e6:.0f} MB), the same for all models; layers "
        f"{', '.join(name for _, name in layers)} of {dumps[0].info.num_layers}. "
    )
    if left_out:
        note += f"Left out, since they share no images with the others: {', '.join(left_out)}. "
    return html.section(
        "explorer",
        title,
        html.paragraph(
            "Click a patch in the photograph or in its depth to make it the query; point at any patch to read its "
            "numbers as a key. Depth is larger where it is farther. Keyboard: Tab reaches a grid; arrows move the "
            "query in the first two and the key in the others."
        ),
        html.of(
            '<p class="lacking unscripted">This part needs JavaScript; the rest of the page does not.</p>\n'
            '<div id="explorer-view" class="explorer"><div class="controls">{}{}{}</div><div class="grids">{}</div>'
            '<div class="readout" aria-live="polite"></div></div>',
            _select("model", models),
            _select("image", images),
            _select("layer", layers),
            html.join((_grid(*grid) for grid in _GRIDS), ""),
        ),
        html.caption(
            note + "Attention: after softmax over all tokens, mean over heads, colours by its logarithm, within 2 %. "
            "Residual after distance: head-mean score (with the model's depth bias, if it has one) minus its mean over "
            "the query's keys, minus the mean of that over the dump's pairs at the same distance; short strokes mark "
            "values below zero, a diagonal what is undefined, as for patches without depth."
        ),
        html.data("explorer-data", data),
    )


_GRIDS = (
    ("rgb", "photograph", "choose the query patch; arrow keys move it"),
    ("depth", "patch depth (z)", "choose the query patch; arrow keys move it"),
    ("attention", "attention", "point at a key patch; arrow keys move it"),
    ("delta", "|Δ| (z)", "point at a key patch; arrow keys move it"),
    ("residual", "score after distance", "point at a key patch; arrow keys move it"),
)


def _grid(name: str, title: str, how: str) -> Html:
    legend = html.of('<div class="legend"><span></span><canvas width="128" height="8"></canvas><span></span></div>')
    return html.of(
        '<div class="grid" data-grid="{}"><h4>{}</h4>'
        '<canvas class="patches" tabindex="0" role="application" aria-label="{}: {}"></canvas>{}</div>',
        name, title, title, how, "" if name == "rgb" else legend,
    )  # fmt: skip


def _select(name: str, options: Sequence[tuple[int, str]]) -> Html:
    inside = html.join((html.of('<option value="{}">{}</option>', *option) for option in options), "")
    return html.of('<label>{} <select data-choice="{}">{}</select></label>', name, name, inside)


def comparable_examples(study: Loaded) -> "tuple[list[Dump], list[str]]":
    """Last dumps with raw scores, lowest seed of each model and depth; and names of those that share no image."""
    chosen: dict[Any, Dump] = {}
    for dump in sorted(study.dumps, key=lambda dump: (-seed_of(dump), dump.info.epoch)):
        if dump.info.num_raw:
            chosen[dump.info.model, dump.info.depth_field] = dump
    dumps = sorted(chosen.values(), key=lambda d: (depth_order(d.info.depth_field), model_order(d.info.model)))
    common = set(_raw_keys(dumps[0])) if dumps else set()
    kept: list[Dump] = []
    for dump in dumps:
        shared = common & set(_raw_keys(dump)) if _alike(dump, dumps[0]) else set()
        if shared:
            common = shared
            kept.append(dump)
    return kept, [_label(dump) for dump in dumps if dump not in kept]


def _alike(dump: "Dump", other: "Dump") -> bool:
    ours, theirs = (
        (each.fingerprint, each.split, each.grid, each.image_size, each.num_layers) for each in (dump.info, other.info)
    )
    return ours == theirs


def _raw_keys(dump: "Dump") -> list[str]:
    return dump.keys()[: dump.info.num_raw]


def _label(dump: "Dump") -> str:
    return f"{dump.info.model}, {dump.info.depth_field} depth"


def pack(dumps: "list[Dump]", budget: int = BUDGET_BYTES) -> dict[str, Any]:
    """What the page needs: as many layers as leave room for two images, then as many images as fit."""
    keys = [_raw_keys(dump) for dump in dumps]
    common = [key for key in keys[0] if all(key in others for others in keys[1:])]
    first = min(dump.info.first_attention_layer for dump in dumps)
    layers = list(range(first, dumps[0].info.num_layers))
    expected = [mean_at_distance(dump) for dump in dumps]

    def examples(key: str) -> list[dict[str, Any]]:
        return [
            _example(dump, of_dump.index(key), layers, mean)
            for dump, of_dump, mean in zip(dumps, keys, expected, strict=True)
        ]

    packed = [examples(common[0])]
    size = _size(packed[0])
    wanted = min(_MIN_IMAGES, len(common))
    if wanted * size > budget and len(layers) > _MIN_LAYERS:
        fitting = max(_MIN_LAYERS, int(0.95 * budget / (wanted * size) * len(layers)))
        layers = [
            layers[place] for place in np.linspace(0, len(layers) - 1, min(fitting, len(layers))).round().astype(int)
        ]
        packed = [examples(common[0])]
        size = _size(packed[0])
    for key in common[1:_MAX_IMAGES]:
        if size * (len(packed) + 1) / len(packed) > budget:
            break
        packed.append(examples(key))
        size += _size(packed[-1])
    shown = common[: len(packed)]
    return {
        "grid": dumps[0].info.grid,
        "tokens": dumps[0].info.num_patches + dumps[0].info.num_prefix,
        "layers": [layer + 1 for layer in layers],
        "num_common": len(common),
        "images": [{"name": key, **_image(dumps[0], keys[0].index(key))} for key in shown],
        "models": [
            {
                "name": _label(dump),
                "skipped": sum(layer < dump.info.first_attention_layer for layer in layers),
                "images": [image[number] for image in packed],
            }
            for number, dump in enumerate(dumps)
        ],
    }


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
    keys = [_raw_keys(dump) for dump in dumps]
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


def _size(examples: list[dict[str, Any]]) -> int:
    return sum(len(example["data"]) for example in examples)


def _image(dump: "Dump", image: int) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.fromarray(dump.read("raw/rgb", image)).save(buffer, "JPEG", quality=88, subsampling=0)
    rgb = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"class": _class(dump, "labels", image), "rgb": rgb}


def _class(dump: "Dump", name: str, image: int) -> str:
    """The image's class, or what the model takes it for (`predicted`); by number where the dump knows no names."""
    number, names = int(dump.read(f"statistics/{name}", image)), dump.info.class_names
    if number < 0:
        return "no label"
    return names[number] if number < len(names) else f"class {number}"


def _example(dump: "Dump", image: int, layers: list[int], expected: np.ndarray) -> dict[str, Any]:
    """One image of one dump: each patch's depth, and for each of `layers` (from 0) attention and residual as bytes."""
    depth = dump.read(f"raw/patch_depth/{dump.info.patch_depth}", image)
    own = dump.info.first_attention_layer  # layers before it have two branches and are skipped
    places = [layer - own for layer in layers if layer >= own]
    scores = total_scores(dump, image)[places]
    attention = np.log10(np.maximum(attention_of(scores, dump.info.num_patches), 1e-30))
    residual = residual_of(scores, depth, expected[places])
    scales, planes = [], []
    for weights, rest in zip(attention, residual, strict=True):
        high = float(weights.max())
        low = max(float(weights.min()), high - _DECADES)
        reach = float(np.nanmax(np.abs(rest), initial=0.0)) or 1.0
        planes += [quantised(weights, low, high), quantised(rest, -reach, reach)]
        scales.append([round(low, 5), round(high, 5), float(f"{reach:.6g}")])
    return {
        "predicted": _class(dump, "predicted", image),
        "depth": [round(float(z), 4) if np.isfinite(z) else None for z in depth],
        "scales": scales,
        "data": deflated(np.stack(planes)),
    }


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
