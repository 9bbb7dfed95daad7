"""What 16-bit floats cost on this machine: how far a teacher's z moves, and how long labelling and training take.

    python tests/benchmarks/precision.py [--rounds 5] [--out tests/benchmarks/precision.json]

z of each precision against fp32, of the toy teacher on rendered rooms; a training step of a tiny m4ch. Arms are
interleaved in one process; ratios are medians over rounds.
"""

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline import scenes
from pipeline.standardize import Moments, Standardisation
from pipeline.teachers import open_teacher
from training.models.vit import VisionTransformer
from training.tasks.classification.config import resolve

DTYPES = ("float32", "float16", "bfloat16")


def labelling(count: int, rounds: int, device: str) -> list[dict[str, object]]:
    """Of each precision: |z - z of fp32| on average and at most, and seconds over those of fp32."""
    rooms = [scenes.render(0, index, scenes.SceneConfig(size_px=64)).rgb for index in range(count)]
    teachers = {dtype: open_teacher("toy", device, dtype=dtype) for dtype in DTYPES}
    seconds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    maps: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for dtype, teacher in teachers.items():
            start = time.process_time() if device == "cpu" else time.perf_counter()
            pixels = [teacher.prepare(rgb) for rgb in rooms]
            maps[dtype] = np.stack(teacher.estimate(pixels, [rgb.shape[:2] for rgb in rooms]))
            seconds[dtype].append((time.process_time() if device == "cpu" else time.perf_counter()) - start)
    own = Moments.of(maps["float32"])
    z = {dtype: Standardisation(own.mean, own.std, teachers[dtype].polarity).apply(m) for dtype, m in maps.items()}
    rows = []
    for dtype in DTYPES:
        moved = np.abs(z[dtype] - z["float32"])
        ratios = [a / b for a, b in zip(seconds[dtype], seconds["float32"], strict=True)]
        rows.append(
            {
                "dtype": dtype,
                "mean_z": round(float(moved.mean()), 5),
                "largest_z": round(float(moved.max()), 4),
                "seconds_over_fp32": round(statistics.median(ratios), 2),
                "spread": [round(min(ratios), 2), round(max(ratios), 2)],
            }
        )
    return rows


def training(rounds: int, device: str) -> dict[str, object]:
    """Seconds of a forward and backward pass in bf16 over those in fp32."""
    config = resolve("tiny", "m4ch", [], num_classes=8)
    model: VisionTransformer = config.model.build().to(device)
    generator = torch.Generator().manual_seed(0)
    size = config.model.image_size
    rgb, depth = (torch.randn(64, channels, size, size, generator=generator).to(device) for channels in (3, 1))

    def step(bf16: bool) -> float:
        start = time.process_time() if device == "cpu" else time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(rgb, depth).float().square().mean()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.process_time() if device == "cpu" else time.perf_counter()) - start

    for bf16 in (False, True):
        step(bf16)
    ratios = []
    for _ in range(rounds):
        fp32 = step(False)
        ratios.append(step(True) / fp32)
    return {"bf16_over_fp32": round(statistics.median(ratios), 2), "spread": [round(f(ratios), 2) for f in (min, max)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rows, step = labelling(options.images, options.rounds, options.device), training(options.rounds, options.device)
    named = torch.cuda.get_device_name() if options.device == "cuda" else torch.backends.cpu.get_cpu_capability()
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {options.device} ({named})",
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "images": options.images,
        "rounds": options.rounds,
        "labelling": rows,
        "training_step": step,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    table = Table("precision", "|z - fp32's|, mean", "largest", "seconds over fp32")
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("dtype", "mean_z", "largest_z", "seconds_over_fp32")))
    Console(width=120).print(table, f"a training step in bf16 over fp32: {step['bf16_over_fp32']}")


if __name__ == "__main__":
    main()
