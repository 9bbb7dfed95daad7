"""Contact sheets: shards to look at before anything is trained on them."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline import files, shards, sheets
from pipeline.colours import DEPTH_LEGEND, class_colours, depth_colours, field_line
from pipeline.depth_field import DepthField
from pipeline.shards import DEPTH_FIELDS, Sample, Split
from pipeline.survey import IMAGES, Survey

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HISTOGRAM_HEIGHT = 340
_HISTOGRAM_PIXELS = 100_000  # about as many of each map, evenly spaced
_MANY_LABELS = 12  # above it the legend lists only labels that occur on the sheet
_TITLES = {"rgb": "RGB", "pseudo": "pseudo (teacher)", "real": "real (sensor)", "raw": "raw (sensor)", "seg": "labels"}


def contact_sheet(data: Path | str, split_name: str, num_samples: int, out: Path) -> None:
    """Write `sheet` of a split as a PNG."""
    files.check_writable(out)
    image = sheet(shards.open_split(data, split_name), num_samples)
    files.folder_in(out.parent)
    with files.writing(out) as file:
        image.save(file, "PNG")


def survey(split: Split) -> Survey:
    """Numbers of every depth field over a few samples, evenly spaced, as they were before they were standardised."""
    index = split.index
    origins = {name: index.provenance(name) for name in index.depth}
    fields = {
        name: DepthField(origins[name].kind, origins[name].by, depth.unit, depth.polarity)
        for name, depth in index.depth.items()
    }
    found = Survey(fields)
    for place in np.unique(np.linspace(0, len(split) - 1, min(IMAGES, len(split))).round().astype(int)):
        sample = split.read(int(place), tuple(fields))
        found.add({name: index.depth[name].standardisation.invert(sample[name]) for name in fields})
    return found


def sheet(split: Split, num_samples: int) -> Image.Image:
    """One row a sample, evenly spaced over the split: RGB | depth fields | labels; below, legend and histograms."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(num_samples, len(split))).round().astype(int))
    columns = ["rgb", *shown_fields(split)]
    if split.index.seg_names:
        columns.append("seg")
    font = sheets.font()
    z: dict[str, list[NDArray[np.float32]]] = {field: [] for field in shown_fields(split)}
    labels: set[int] = set()
    parts: list[Image.Image] = []
    tile = width = 0
    for position in chosen:
        sample = split.read(int(position))
        if not parts:
            tile = sheets.tile_of(sample["rgb"])
            width = sheets.width_of(len(columns), tile)
            parts.append(sheets.header([_TITLES.get(name, name) for name in columns], width, tile, font))
        tiles = [_tile(split, sample, name, tile) for name in columns]
        parts.append(sheets.row(_caption(split, sample), tiles, width, tile, font))
        labels.update(np.unique(sample["seg"]).tolist() if "seg" in sample else ())
        for field, values in z.items():
            some = sample[field].ravel()[:: max(1, sample[field].size // _HISTOGRAM_PIXELS)]
            values.append(some[np.isfinite(some)])
    parts.append(_legend(split, labels, width, font))
    parts.append(_histograms(split, {field: np.concatenate(values) for field, values in z.items()}, width))
    return sheets.stacked(parts, width)


def shown_fields(split: Split) -> list[str]:
    """The known ones in their order, then whatever else there is."""
    known = {field: place for place, field in enumerate(DEPTH_FIELDS)}
    return sorted(split.index.depth, key=lambda field: (known.get(field, len(known)), field))


def _tile(split: Split, sample: Sample, name: str, tile: int) -> Image.Image:
    if name == "rgb":
        pixels = sample[name]
    elif name == "seg":
        pixels = class_colours(len(split.index.seg_names))[sample[name]]
    else:
        pixels = depth_colours(sample[name], *_range(split, sample, name))
    return sheets.resized(pixels, tile, exact=name == "seg")


def _range(split: Split, sample: Sample, name: str) -> tuple[float, float]:
    """2nd to 98th percentile of z over all fields of this sample that share the field's unit and constants."""
    like = split.index.depth[name]
    fields = [
        field
        for field, depth in split.index.depth.items()
        if (depth.unit, depth.standardisation) == (like.unit, like.standardisation)
    ]
    z = np.concatenate([sample[field].ravel() for field in fields])
    valid = z[np.isfinite(z)]
    if valid.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(valid, (2, 98))
    return float(low), float(high)


def _caption(split: Split, sample: Sample) -> str:
    """Class, key, scene, and the range of each depth field: metres where it is metric, else z."""
    name = split.index.class_names[sample["cls"]] if "cls" in sample and split.index.class_names else ""
    parts = [name, sample["key"], str(sample.get("json", {}).get("scene", ""))]
    for field in shown_fields(split):
        depth, valid, unit = split.index.depth[field], sample[field][np.isfinite(sample[field])], "z"
        if depth.unit == "m":
            valid, unit = depth.standardisation.invert(valid), "m"
        extent = f"{valid.min():.1f} to {valid.max():.1f} {unit}" if valid.size else "nothing measured"
        parts.append(f"{field} {extent}")
    return "   ".join(part for part in parts if part)


def _legend(split: Split, present: Collection[int], width: int, font: sheets.Font) -> Image.Image:
    """What the depth colours mean; a swatch a label, in columns."""
    names = split.index.seg_names
    shown = list(range(len(names)))
    lines = [f"depth: {DEPTH_LEGEND}; ranges by row and unit"]
    if note := shards.teacher_note(split.index.source, (split.index.teacher or {}).get("name")):
        lines.append(f"pseudo: {note}")
    num_columns = max(1, (width - sheets.MARGIN) // 150)
    if names:
        lines.append("labels; white = void")
        if len(names) > _MANY_LABELS:
            shown = [number for number in shown if number in present]
            lines[-1] = f"labels: the {len(shown)} of {len(names)} that occur above; white = void"
    num_rows = -(-len(shown) // num_columns)
    part = Image.new("RGB", (width, sheets.LINE * (len(lines) + num_rows) + 2 * sheets.MARGIN), "white")
    draw = ImageDraw.Draw(part)
    for line, text in enumerate(lines):
        draw.text(
            (sheets.MARGIN, 2 + line * sheets.LINE),
            sheets.shortened(draw, text, width - 2 * sheets.MARGIN, font),
            "black",
            font,
        )
    colours = class_colours(len(names))
    for position, number in enumerate(shown):
        left = sheets.MARGIN + position // num_rows * 150
        top = 2 + sheets.LINE * (len(lines) + position % num_rows)
        draw.rectangle((left, top, left + 14, top + 14), tuple(int(c) for c in colours[number]), "#888888")
        draw.text((left + 20, top), sheets.shortened(draw, names[number], 126, font), "black", font)
    return part


def _histograms(split: Split, z: dict[str, NDArray[np.float32]], width: int) -> Image.Image:
    """Valid pixels of the sheet's samples: in each native unit, then z beside the standard normal density."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depth = split.index.depth
    native = {field: depth[field].standardisation.invert(values) for field, values in z.items()}
    units = list(dict.fromkeys(depth[field].unit for field in z))
    figure = Figure((width / 100, _HISTOGRAM_HEIGHT / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    *before, after = figure.subplots(1, len(units) + 1, squeeze=False)[0]
    for axes, unit in zip(before, units, strict=True):
        _draw_histogram(axes, {field: native[field] for field in native if depth[field].unit == unit})
        axes.set_title("in metres" if unit == "m" else "as the teacher gives it", fontsize=9)
        axes.set_xlabel(unit, fontsize=8)
    figure.suptitle("density of the depth measured in the images above", x=0.005, ha="left", fontsize=9)
    _draw_histogram(after, z)
    left, right = after.get_xlim()
    steps = np.linspace(left, right, 200)
    after.plot(steps, np.exp(-(steps**2) / 2) / np.sqrt(2 * np.pi), color="0.55", linewidth=1, label="mean 0, std 1")
    after.axvline(0, color="0.8", linewidth=1, zorder=0)
    after.set_title("standardised, as stored", fontsize=9)
    after.set_xlabel("z (farther is larger)", fontsize=8)
    for axes in (*before, after):
        axes.tick_params(labelsize=8)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        if axes.has_data():  # else nothing was measured
            axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_histogram(axes: "Axes", values: dict[str, NDArray[np.float32]]) -> None:
    """One outline a field, bins shared: the 0.2nd to 99.8th percentile of them all; mean and std beside the name."""
    some = [field_values for field_values in values.values() if field_values.size]
    if not some:
        return
    low, high = np.percentile(np.concatenate(some), (0.2, 99.8))
    edges = np.linspace(low, max(high, low + 1e-3), 61)
    for field, field_values in values.items():
        if field_values.size:
            density = np.histogram(field_values, edges)[0] / (field_values.size * (edges[1] - edges[0]))
            colour, style = field_line(field)
            label = f"{field}: mean {field_values.mean():.2f}, std {field_values.std():.2f}"
            axes.stairs(density, edges, color=colour, linestyle=style, linewidth=1.3, label=label)
