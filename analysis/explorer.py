"""The report's example explorer: for a patch of an image, where it attends, |Δ|, and its scores after distance.

From a dump's raw tier. Attention is softmax(scores + depth bias) over all tokens, mean over heads; the residual is the
head-mean score (with the bias) minus its mean over the keys of its query, minus the dump's mean of that at the same
exact distance. Both are stored in 8 bits, so that the page stays small: attention by its logarithm down to 1/10,000 of
the layer's largest, the residual linearly. `analysis/explorer.js` draws it.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from analysis import html
from analysis.examples import (
    attention_of,
    comparable_examples,
    label_of,
    mean_at_distance,
    raw_keys,
    residual_of,
    total_scores,
)
from analysis.html import Html
from analysis.load import Given
from analysis.packing import deflated, quantised

if TYPE_CHECKING:
    from training.dumps.store import Dump

BUDGET_BYTES = 4_000_000  # of the explorer's data in the page
_MAX_IMAGES, _MIN_IMAGES, _MIN_LAYERS = 12, 2, 3
_DECADES = 4.0  # attention below 10^-4 of a layer's largest shows as that


def explorer_section(study: Given) -> Html:
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
            "numbers as a key. Depth is larger where it is farther, and brighter where it is nearer. Keyboard: Tab "
            "reaches a grid; arrows move the query in the first two and the key in the others."
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
            "values below zero, a diagonal what is undefined, as for patches without depth, which are red."
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


def pack(dumps: "list[Dump]", budget: int = BUDGET_BYTES) -> dict[str, Any]:
    """What the page needs: as many layers as leave room for two images, then as many images as fit."""
    keys = [raw_keys(dump) for dump in dumps]
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
                "name": label_of(dump),
                "skipped": sum(layer < dump.info.first_attention_layer for layer in layers),
                "images": [image[number] for image in packed],
            }
            for number, dump in enumerate(dumps)
        ],
    }


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
