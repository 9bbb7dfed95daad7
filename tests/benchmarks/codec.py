"""How should a depth map be stored? Size, rates and error of the candidates, over what teachers and sensors give.

    python tests/benchmarks/codec.py PHOTOS      # writes codec.json beside itself; two to three minutes, one thread

PHOTOS is searched for photographs (.jpg, .jpeg, .png), which are brought to short side 256. There are no weights of a
trained Depth Anything here, so its maps are stood in for: by the toy teacher (trained, smooth), by a
DepthAnythingV2-Small with random weights (rough everywhere), by smooth fields with cut-out objects (sharp edges), and
by the photographs' own luminance, textured and noisy as no depth map is. Metric depth is of rendered rooms.
"""

import argparse
import io
import json
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numcodecs import Blosc, Zstd, blosc
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline import depth_codec
from pipeline.scenes import SceneConfig, fill, render
from pipeline.teachers.hub import HubTeacher

Map = NDArray[np.float32]  # (height, width), z, NaN = invalid

MAX_ERROR_Z, MAX_KB, MIN_DECODES_PER_S = 0.005, 100, 1500  # what pseudo-depth at short side 256 asks for


@dataclass
class Candidate:
    name: str
    encode: Callable[[Map], Any]  # bytes, or a tuple that holds them and what a header would
    decode: Callable[[Any], Map]


@dataclass
class MapSet:
    what: str
    maps: Sequence[Map]
    std_m: float | None = None  # metres per z, of metric depth


# ---------------------------------------------------------------------------------------------------------- candidates


def candidates(step: float, bits: int, steps: Sequence[float] = ()) -> list[Candidate]:
    """`step` is that of the fixed-step candidates, `bits` those of a per-map range; `steps` are more for the codec."""
    byte, bit, no = Blosc.SHUFFLE, Blosc.BITSHUFFLE, Blosc.NOSHUFFLE
    zstd3, lz4 = partial(Blosc, "zstd", 3), partial(Blosc, "lz4", 5)
    fixed = partial(_fixed_step, step)
    return [
        Candidate("float16 .npy", _npy_bytes, lambda data: np.load(io.BytesIO(data)).astype(np.float32)),
        _float16(zstd3(byte)),
        _range_codes(bits, Blosc("zstd", 3, bit)),
        _picture(16),
        _picture(8),
        _picture(8, jpeg=True),
        fixed("no prediction, zstd 3, bytes", "", zstd3(byte)),
        fixed("left, zstd 3, bytes", "left", zstd3(byte)),
        fixed("above, zstd 3, bytes", "above", zstd3(byte)),
        fixed("left+above, zstd 3, bytes", "left above", zstd3(byte)),
        fixed("left+above, zstd 3, bits", "left above", zstd3(bit)),
        fixed("above, zstd 3, bits", "above", zstd3(bit)),
        fixed("above, zstd 3, unshuffled", "above", zstd3(no)),
        fixed("above, lz4 5, bytes", "above", lz4(byte)),
        fixed("above, lz4 5, bits", "above", lz4(bit)),
        fixed("above, zstd 1, bytes", "above", Blosc("zstd", 1, byte)),
        fixed("above, zstd 5, bytes", "above", Blosc("zstd", 5, byte)),
        fixed("above, zstd 9, bytes", "above", Blosc("zstd", 9, byte)),
        fixed("above, plain zstd 1, planes", "above", Zstd(1, checksum=True)),
        fixed("above, plain zstd 9, planes", "above", Zstd(9, checksum=True)),
        *(_chosen(value) for value in (steps or [step])),
    ]


def _chosen(step: float) -> Candidate:
    power = np.log2(step)
    name = f"pdz, step 2**{power:.0f}" if power == round(power) else "pdz, step 1 mm"
    return Candidate(name, lambda z: depth_codec.encode(z, step), depth_codec.decode)


def _fixed_step(step: float, name: str, predict: str, compressor: Blosc | Zstd) -> Candidate:
    """Codes of one step for all maps, differenced, through Blosc or, as two byte planes, through Zstandard alone."""
    planes = isinstance(compressor, Zstd)
    # 128 more keeps the high bytes of small differences 0; the planes of bits gain nothing by it.
    offset = np.int16(128 if planes or compressor.shuffle != Blosc.BITSHUFFLE else 0)

    def encode(z: Map) -> tuple[bytes, tuple[int, ...]]:
        nearest = np.rint(z.astype(np.float64) / step)
        levels = np.where(np.isnan(nearest), -32768, nearest).astype(np.int16)
        if "above" in predict:
            levels = np.diff(levels, axis=0, prepend=np.int16(0))
        if "left" in predict:
            levels = np.diff(levels, axis=1, prepend=np.int16(0))
        levels = levels + offset
        if planes:
            levels = np.stack([levels.view(np.uint16) >> 8, levels.view(np.uint16) & 0xFF]).astype(np.uint8)
        return bytes(compressor.encode(np.ascontiguousarray(levels))), z.shape

    def decode(coded: tuple[bytes, tuple[int, ...]]) -> Map:
        if planes:
            high, low = np.frombuffer(compressor.decode(coded[0]), np.uint8).reshape(2, *coded[1])
            levels = high.astype(np.int16)
            levels <<= 8
            levels |= low
        else:
            levels = np.empty(coded[1], np.int16)
            compressor.decode(coded[0], out=levels)
        levels -= offset
        if "left" in predict:
            np.add.accumulate(levels, axis=1, out=levels)
        if "above" in predict:
            levels = depth_codec._sum_down(levels)
        z = levels.astype(np.float32)
        z *= np.float32(step)
        z[levels == -32768] = np.nan
        return z

    return Candidate(name, encode, decode)


def _npy_bytes(z: Map) -> bytes:
    file = io.BytesIO()
    np.save(file, z.astype(np.float16))
    return file.getvalue()


def _float16(compressor: Blosc) -> Candidate:
    def decode(coded: tuple[bytes, tuple[int, ...]]) -> Map:
        return np.frombuffer(compressor.decode(coded[0]), np.float16).reshape(coded[1]).astype(np.float32)

    return Candidate(
        "float16, blosc zstd 3, bytes", lambda z: (bytes(compressor.encode(z.astype(np.float16))), z.shape), decode
    )


def _to_range(z: Map, bits: int) -> tuple[NDArray[np.uint16], float, float]:
    """Codes 1 to 2**bits - 1 over the map's own range, 0 where invalid; the lowest value and the step."""
    lowest, highest = float(np.nanmin(z)), float(np.nanmax(z))
    step = (highest - lowest) / (2**bits - 2)
    return np.where(np.isnan(z), 0, np.rint((z.astype(np.float64) - lowest) / step) + 1).astype(np.uint16), lowest, step


def _from_range(codes: NDArray[Any], lowest: float, step: float, reserved: bool = True) -> Map:
    z = codes.astype(np.float32)
    z *= np.float32(step)
    z += np.float32(lowest - step)
    if reserved:
        z[codes == 0] = np.nan
    return z


def _range_codes(bits: int, compressor: Blosc) -> Candidate:
    """What this project stored at first: the bound depends on the map's range."""

    def encode(z: Map) -> tuple[bytes, tuple[int, ...], float, float]:
        codes, lowest, step = _to_range(z, bits)
        return bytes(compressor.encode(np.diff(codes, axis=1, prepend=np.uint16(0)))), z.shape, lowest, step

    def decode(coded: tuple[bytes, tuple[int, ...], float, float]) -> Map:
        data, shape, lowest, step = coded
        codes = np.frombuffer(compressor.decode(data), np.uint16).reshape(shape)
        return _from_range(np.add.accumulate(codes, axis=1, dtype=np.uint16), lowest, step)

    return Candidate(f"{bits} bits of range, left, blosc zstd 3, bits", encode, decode)


def _picture(bits: int, jpeg: bool = False) -> Candidate:
    options: dict[str, Any] = {"format": "JPEG", "quality": 90} if jpeg else {"format": "PNG"}

    def encode(z: Map) -> tuple[bytes, float, float]:
        codes, lowest, step = _to_range(z, bits)
        file = io.BytesIO()
        Image.fromarray(codes if bits == 16 else codes.astype(np.uint8)).save(file, **options)
        return file.getvalue(), lowest, step

    def decode(coded: tuple[bytes, float, float]) -> Map:
        codes = np.asarray(Image.open(io.BytesIO(coded[0])))
        return _from_range(codes, *coded[1:], reserved=not jpeg)  # ringing reaches every code

    return Candidate("JPEG q90" if jpeg else f"PNG, {bits} bits of range", encode, decode)


# ---------------------------------------------------------------------------------------------------------------- maps


def photographs(folder: Path, short_side: int = 256) -> list[NDArray[np.uint8]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"PHOTOS must hold photographs, got {folder} without any")
    pictures = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        scale = min(1.0, short_side / min(picture.size))
        pictures.append(np.asarray(picture.resize([round(side * scale) for side in picture.size])))
    return pictures


def standardised(maps: Sequence[Map], sign: int = 1) -> tuple[list[Map], float]:
    finite = np.concatenate([depth[np.isfinite(depth)] for depth in maps]).astype(np.float64)
    mean, std = float(finite.mean()), float(finite.std())
    return [(sign * (depth - mean) / std).astype(np.float32) for depth in maps], std


def estimates(model: Any, processor: Any, pictures: Sequence[NDArray[np.uint8]]) -> list[Map]:
    """z of each photograph at its size, as pipeline.teachers estimates."""
    maps = []
    for rgb in pictures:
        channels_first = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
        pixels = processor(channels_first, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
        with torch.inference_mode():
            outputs = model(pixel_values=pixels)
        depth = processor.post_process_depth_estimation(outputs, target_sizes=[rgb.shape[:2]])[0]["predicted_depth"]
        maps.append(depth.reshape(rgb.shape[:2]).clamp_min(0).numpy())
    return standardised(maps, sign=-1)[0]


def random_depth_anything() -> tuple[Any, Any]:
    """DepthAnythingV2-Small's architecture; default weights would give a constant, so they are drawn again."""
    backbone = transformers.Dinov2Config(
        image_size=518,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
    )
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=384, neck_hidden_sizes=[48, 96, 192, 384]
        )
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
        model.head.conv3.bias.fill_(2)
    processor = transformers.DPTImageProcessor(
        size={"height": 224, "width": 224},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return model, processor


def cut_out_fields(count: int, height: int = 256, width: int = 342) -> list[Map]:
    """A receding ground, a gentle field, thirty slanted discs and rectangles in front, edges one pixel sharp."""
    rng = np.random.default_rng(0)
    down, right = np.mgrid[0:height, 0:width].astype(np.float32) / height
    maps = []
    for _ in range(count):
        field = Image.fromarray(rng.normal(size=(10, 13)).astype(np.float32))
        depth = -3 * down + 0.3 * np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))
        for _ in range(30):
            y, x, size = rng.random(), rng.random() * width / height, rng.uniform(0.03, 0.3)
            away = np.hypot(down - y, right - x) if rng.random() < 0.5 else np.maximum(abs(down - y), abs(right - x))
            slanted = -3 * y - rng.uniform(0, 3) + rng.normal() * (down - y) + rng.normal() * (right - x)
            depth = np.where(away < size, slanted.astype(np.float32), depth)
        maps.append(depth)
    return standardised(maps)[0]


def map_sets(photos: Path) -> dict[str, MapSet]:
    pictures = photographs(photos)
    toy = HubTeacher("toy", "cpu")
    some = pictures[:: max(1, len(pictures) // 40)]
    luminance = [np.asarray(Image.fromarray(rgb).convert("L"), np.float32) for rgb in some]
    rooms = [render(0, index, SceneConfig(size_px=640)) for index in range(8)]
    exact = [room.exact_m[:480] for room in rooms]
    sensor = [np.ascontiguousarray(room.sensor_m[:480]) for room in rooms]
    return {
        "toy": MapSet("toy teacher", estimates(toy.model, toy.processor, pictures)),
        "random": MapSet("random DepthAnythingV2-Small", estimates(*random_depth_anything(), some)),
        "cut-outs": MapSet("smooth fields with cut-out objects", cut_out_fields(40)),
        "luminance": MapSet("the photographs' luminance", standardised(luminance)[0]),
        "exact": MapSet("rooms 480x640, exact depth", *standardised(exact)),
        "sensor": MapSet("rooms 480x640, sensor depth with holes", *standardised(sensor)),
        "filled": MapSet("rooms 480x640, sensor depth, filled", *standardised([fill(depth) for depth in sensor])),
    }


# ------------------------------------------------------------------------------------------------------------- measure


def fastest_s(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(candidate: Candidate, maps: Sequence[Map], num_timed: int = 10) -> dict[str, float]:
    """Sizes and errors over all maps; rates over some, each at its fastest of a few calls."""
    sizes, squares, largest, num_valid = [], 0.0, 0.0, 0
    for z in maps:
        coded = candidate.encode(z)
        sizes.append(len(coded if isinstance(coded, bytes) else coded[0]))
        decoded = candidate.decode(coded)
        assert "JPEG" in candidate.name or (np.isnan(decoded) == np.isnan(z)).all()  # JPEG can reserve no code
        error = (decoded - z)[np.isfinite(z)].astype(np.float64)
        largest, squares, num_valid = max(largest, abs(error).max()), squares + (error**2).sum(), num_valid + error.size
    timed = maps[:: max(1, len(maps) // num_timed)]
    encode_s = sum(fastest_s(partial(candidate.encode, z), 2) for z in timed) / len(timed)
    decode_s = sum(fastest_s(partial(candidate.decode, candidate.encode(z)), 9) for z in timed) / len(timed)
    return {
        "kb_mean": round(float(np.mean(sizes)) / 1000, 1),
        "kb_p95": round(float(np.percentile(sizes, 95)) / 1000, 1),
        "encodes_per_s": round(1 / encode_s),
        "decodes_per_s": round(1 / decode_s),
        "max_error_z": float(f"{largest:.3g}"),
        "rms_error_z": float(f"{(squares / num_valid) ** 0.5:.3g}"),
    }


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    photos = parser.parse_args().photos
    blosc.use_threads = False
    torch.set_num_threads(1)
    console = Console(width=130)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    sets = map_sets(photos)
    for name, maps in sets.items():
        if maps.std_m:
            tried = candidates(step=depth_codec.METRIC_STEP_M / maps.std_m, bits=16)
        else:
            tried = candidates(step=depth_codec.PSEUDO_STEP, bits=12, steps=[2.0**-power for power in (6, 7, 8, 9)])
        rows[name] = {candidate.name: measure(candidate, maps.maps) for candidate in tried}
        table = Table("candidate", title=f"{maps.what}: {len(maps.maps)} maps")
        for column in ("KB", "KB p95", "encodes/s", "decodes/s", "max error", "RMS error"):
            table.add_column(column, justify="right")
        for candidate, row in rows[name].items():
            if maps.std_m:
                row["max_error_mm"] = round(1000 * row["max_error_z"] * maps.std_m, 3)
            table.add_row(candidate, *(f"{value:g}" for value in list(row.values())[:6]))
        console.print(table)
    chosen = f"pdz, step 2**{np.log2(depth_codec.PSEUDO_STEP):.0f}"
    pseudo = [rows[name][chosen] for name, maps in sets.items() if not maps.std_m]
    metric = [rows[name]["pdz, step 1 mm"] for name, maps in sets.items() if maps.std_m]
    verdict = {
        "pseudo-depth": chosen,
        "metric depth": "pdz, step 1 mm",
        f"max error <= {MAX_ERROR_Z} z": max(row["max_error_z"] for row in pseudo) <= MAX_ERROR_Z,
        f"<= {MAX_KB} KB, 95 of 100 maps": max(row["kb_p95"] for row in pseudo) <= MAX_KB,
        f">= {MIN_DECODES_PER_S} decodes/s": min(row["decodes_per_s"] for row in pseudo) >= MIN_DECODES_PER_S,
        "metric depth within 1 mm": max(row["max_error_mm"] for row in metric) <= 1,
    }
    result = {
        "what": "depth codecs, one thread; sizes in 1000 bytes, errors in z",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            **{package: version(package) for package in ("numpy", "numcodecs", "pillow", "torch", "transformers")},
        },
        "maps": {name: {"what": maps.what, "count": len(maps.maps)} for name, maps in sets.items()},
        "chosen": verdict,
        "measured": rows,
    }
    lines = json.dumps(result, indent=1)
    one_line_each = re.sub(r"\{\s+([^{}]+?)\s+\}", lambda inner: "{" + " ".join(inner[1].split()) + "}", lines)
    Path(__file__).with_suffix(".json").write_text(one_line_each + "\n")
    console.print(verdict)


if __name__ == "__main__":
    main()
