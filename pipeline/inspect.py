"""Looking at shards: a verification that reads everything, and contact sheets for people."""

import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from pipeline import shards
from pipeline.progress import Meter
from pipeline.shards import DEPTH_FIELDS, ShardError, Split
from pipeline.standardize import Standardisation

_TILE = 160  # px
_MARGIN = 6
_HEADER = 22


def verify(data: Path, console: Console) -> tuple[list[str], int, int]:
    """Problems found (each names shard and key), samples and shards read."""
    problems: list[str] = []
    num_samples = num_shards = 0
    for name in shards.SPLITS:
        if (data / name).is_dir() and not (data / name / "index.json").exists():
            problems.append(f"{data / name} has no index.json: the job is not finished, run it again")
    for split in shards.splits_of(data):
        problems += _constants_changed(data, split)
        keys: set[str] = set()
        counted = 0
        with Meter(console, f"verify {split.index.split}", len(split)) as meter:
            for summary in split.index.shards:
                num_shards += 1
                try:
                    record = shards.load_record(split.folder / f"{summary.name}.json")
                except ShardError as error:
                    problems.append(str(error))
                    continue
                problems += _verify_shard(split, summary, record, keys, meter)
                counted += len(record.samples)
                keys.update(entry.key for entry in record.samples)
                if record.num_listed != len(record.samples) + len(record.rejects):
                    problems.append(f"{split.folder / record.name}.json: kept + rejected differs from listed")
        if counted != len(split) and not problems:
            problems.append(f"{split.folder}/index.json counts {len(split)} samples, the shards hold {counted}")
        index = split.index
        if index.num_listed != index.num_samples + index.num_rejects:
            problems.append(f"{split.folder}/index.json: kept + rejected differs from listed")
        num_samples += counted
    return problems, num_samples, num_shards


def _constants_changed(data: Path, split: Split) -> list[str]:
    """The index must standardise as the job's stats.json says."""
    path = data / "stats.json"
    if not path.exists():
        return []
    try:
        constants = json.loads(path.read_bytes())["constants"]
        expected = {name: Standardisation(**values) for name, values in constants.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{path} is damaged"]
    found = {name: depth.standardisation for name, depth in split.index.depth.items()}
    return [] if found == expected else [f"{split.folder}/index.json: depth constants differ from stats.json"]


def _verify_shard(
    split: Split, summary: shards.ShardSummary, record: shards.ShardRecord, keys: set[str], meter: Meter
) -> list[str]:
    path = split.folder / f"{summary.name}.tar"
    if not path.exists():
        return [f"{path} is missing"]
    problems = []
    if record.sha256 != summary.sha256:
        problems.append(f"{split.folder / record.name}.json does not belong to index.json (sha256 differs)")
    if shards.file_sha256(path) != record.sha256:
        problems.append(f"{path}: sha256 differs from {record.name}.json")
    with open(path, "rb") as file:
        for entry in record.samples:
            meter.advance()
            if entry.key in keys:
                problems.append(f"{path}, key {entry.key}: the key occurs twice")
            shapes = set()
            for extension, (offset, length, crc) in entry.members.items():
                file.seek(offset)
                data = file.read(length)
                where = f"{path}, key {entry.key}, member {extension}"
                if len(data) != length or zlib.crc32(data) != crc:
                    problems.append(f"{where}: damaged (checksum differs)")
                    continue
                try:
                    value = shards.decode_member(extension, data)
                except (OSError, ValueError) as error:
                    problems.append(f"{where}: does not decode ({error})")
                    continue
                if isinstance(value, np.ndarray):
                    shapes.add(value.shape[:2])
            if len(shapes) > 1:
                problems.append(f"{path}, key {entry.key}: RGB, depth and labels differ in size ({shapes})")
    if not problems:
        problems += _walk_headers(path, record)
    return problems


def _walk_headers(path: Path, record: shards.ShardRecord) -> list[str]:
    """What a plain tar reader sees must be what the JSON says."""
    expected = [f"{entry.key}.{extension}" for entry in record.samples for extension in sorted(entry.members)]
    with tarfile.open(path) as tar:
        found = tar.getnames()
    return [] if found == expected else [f"{path}: tar members differ from {record.name}.json"]


# --- contact sheet -------------------------------------------------------------------------------------------------


def contact_sheet(data: Path, split_name: str, num_samples: int, out: Path) -> None:
    """A PNG with one row a sample, evenly spaced over the split: RGB | depth fields | labels."""
    split = shards.open_split(data, split_name)
    columns = ["rgb", *(f for f in DEPTH_FIELDS if f in split.index.depth)]
    if split.index.seg_names:
        columns.append("seg")
    chosen = np.unique(np.linspace(0, len(split) - 1, min(num_samples, len(split))).round().astype(int))
    pitch = _TILE + _MARGIN
    label_height = 18
    legend_height = 24 + 20 * len(split.index.seg_names) if split.index.seg_names else 24
    width = max(len(columns) * pitch + _MARGIN, 640)
    height = _HEADER + len(chosen) * (pitch + label_height) + legend_height + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, name in enumerate(columns):
        draw.text((_MARGIN + column * pitch, 4), _TITLES.get(name, name), "black", font)
    for row, position in enumerate(chosen):
        sample = split.read(int(position))
        top = _HEADER + row * (pitch + label_height)
        for column, name in enumerate(columns):
            tile = _tile(name, sample[name], len(split.index.seg_names))
            sheet.paste(tile, (_MARGIN + column * pitch, top + label_height))
        draw.text((_MARGIN, top + 1), _caption(split, sample), "black", font)
    bottom = _HEADER + len(chosen) * (pitch + label_height)
    _draw_legend(draw, font, split, bottom)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    sheet.save(partial, "PNG")
    partial.replace(out)


_TITLES = {"rgb": "RGB", "pseudo": "pseudo (teacher)", "real": "real (sensor)", "raw": "raw (sensor)", "seg": "labels"}


def _tile(name: str, values: NDArray[np.generic], num_labels: int) -> Image.Image:
    if name == "seg":
        pixels = label_colours(num_labels)[values]
    elif name == "rgb":
        pixels = values
    else:
        pixels = depth_colours(values.astype(np.float32))
    image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    scale = _TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resample = Image.Resampling.NEAREST if scale > 1 or name == "seg" else Image.Resampling.BOX
    return image.resize(size, resample)


def depth_colours(z: NDArray[np.float32]) -> NDArray[np.uint8]:
    """z to colours, each map on its own range (2nd to 98th percentile): bright is near, dark far, red not measured."""
    valid = np.isfinite(z)
    low, high = np.percentile(z[valid], (2, 98)) if valid.any() else (0.0, 1.0)
    near = 1 - np.clip((np.nan_to_num(z) - low) / max(high - low, 1e-6), 0, 1)
    anchors = np.array([[0, 34, 77], [65, 77, 107], [124, 123, 120], [188, 174, 108], [255, 234, 70]])  # cividis
    position = near * (len(anchors) - 1)
    below = np.minimum(position.astype(int), len(anchors) - 2)
    share = (position - below)[..., None]
    pixels = (1 - share) * anchors[below] + share * anchors[below + 1]
    pixels[~valid] = (200, 30, 30)
    return pixels.round().astype(np.uint8)


def label_colours(count: int) -> NDArray[np.uint8]:
    """(256, 3) colours of label values; 255 (void) is white."""
    hues = (np.arange(256) * 0.618034) % 1.0
    lightness = np.where(np.arange(256) % 2, 200, 140)
    channels = [np.abs(((hues * 6 + shift) % 6) - 3) - 1 for shift in (0, 4, 2)]
    colours = np.stack([np.clip(c, 0, 1) for c in channels], 1) * lightness[:, None] + 40
    colours[0] = 70
    colours[shards.VOID] = 255
    return colours.round().astype(np.uint8)


def _caption(split: Split, sample: shards.Sample) -> str:
    name = split.index.class_names[sample["cls"]] if "cls" in sample and split.index.class_names else ""
    parts = [name, sample["key"]]
    for field in split.index.depth:
        z = sample[field]
        parts.append(f"{field} z {np.nanmin(z):.1f}..{np.nanmax(z):.1f}")
    return "   ".join(part for part in parts if part)


def _draw_legend(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, split: Split, top: int
) -> None:
    draw.text(
        (_MARGIN, top + 2), "depth: bright = near, dark = far, each on its own range; red = not measured", "black", font
    )
    colours = label_colours(len(split.index.seg_names))
    for number, name in enumerate(split.index.seg_names):
        y = top + 22 + 20 * number
        draw.rectangle((_MARGIN, y, _MARGIN + 14, y + 14), fill=tuple(int(c) for c in colours[number]))
        draw.text((_MARGIN + 20, y), name, "black", font)
