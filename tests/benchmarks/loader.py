"""What does a sample cost? The loader against a thesis-style one, and each of its steps, on one core.

    python tests/benchmarks/loader.py PHOTOS      # writes loader.json beside it; three minutes on an idle core

PHOTOS is searched for photographs; shards of short side 256 are made of them by the toy teacher (or give --shards).
Arms, all on the same core, in turn, one turn after another; medians are reported:

- thesis: Pillow decodes the original photograph, then torchvision.transforms.v2 as the paper lists it, on Pillow
  images: RandomResizedCrop(224), RandomHorizontalFlip, RandAugment(2, 9), to tensor, Normalize, default_collate. No
  depth, no mixing;
- device: what our worker does where RandAugment, mixing and normalisation are the device's: RGB and depth;
- CPU: everything on the CPU, in one process: the same, then RandAugment; and with normalisation and mixing, which the
  thesis-style loader leaves to the trainer, on top.

Then the steps of a sample, the main process's part (fetching a finished batch; model_inputs), and images/s through a
DataLoader with one worker process, which may use a second core.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec import cpu_model
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from pipeline import shards
from training.engine.share import Share
from training.loading.augment import geometry, rand_augment
from training.loading.augment.mix import mix
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.random_numbers import generator
from training.tasks.classification import samples
from training.tasks.classification.config import Config, resolve
from training.tasks.classification.data import TrainBatches, train_loader
from training.tasks.classification.inputs import model_inputs

SHORT_SIDE, SIZE, BATCH, TURNS = 256, 224, 64, 7
SETTINGS = [f"optim.batch_size={BATCH}", f"augment.mix_group={BATCH}", "runtime.workers=1"]


class ThesisStyle(Dataset[Any]):
    def __init__(self, paths: list[Path], count: int) -> None:
        self.paths, self.count = paths, count
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(SIZE),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(2, 9),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(RGB_MEAN, RGB_STD),
            ]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.paths[index % len(self.paths)], "rb") as file:
            return self.transform(Image.open(file).convert("RGB")), index


def config(where: str, classes: int) -> Config:
    return resolve("thesis", "m4ch", [*SETTINGS, f"runtime.augment={where}"], classes)


def cpu_ms(call: Callable[[], Any], count: int) -> float:
    """CPU milliseconds of one of `count` samples; what other processes do disturbs it less than the clock."""
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start) / count


def medians(arms: dict[str, Callable[[int], Any]], count: int) -> dict[str, dict[str, Any]]:
    """Each arm is called with the turn's number, in an order that turns around; CPU ms a sample."""
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(-1, TURNS):  # the first warms up
        for name in list(arms) if turn % 2 else reversed(arms):
            found[name].append(cpu_ms(lambda name=name, turn=turn: arms[name](turn + 1), count))
    return {
        name: {
            "cpu_ms": round(statistics.median(found[name][1:]), 3),
            "samples_per_s_per_core": round(1000 / statistics.median(found[name][1:])),
            "turns_ms": [round(ms, 3) for ms in found[name][1:]],
        }
        for name in arms
    }


def arms(paths: list[Path], split: shards.Split, classes: int) -> dict[str, dict[str, Any]]:
    batches = {where: TrainBatches(split, config(where, classes), Share.of(config(where, classes))) for where in WHERE}
    thesis = ThesisStyle(paths, len(paths))

    def loaded(turn: int) -> Any:
        return default_collate([thesis[turn * BATCH + place] for place in range(BATCH)])

    return medians(
        {
            "thesis-style, RGB": loaded,
            "ours, RGB-D, the rest on the device": lambda turn: batches["device"][turn],
            "ours, RGB-D, RandAugment too": lambda turn: batches["worker"][turn],
            "ours, RGB-D, RandAugment and normalised": lambda turn: normalise(
                batches["worker"][turn].rgb, RGB_MEAN, RGB_STD
            ),
            "ours, RGB-D, RandAugment, normalised and mixed": lambda turn: model_inputs(
                batches["worker"][turn], config("worker", classes)
            ),
        },
        BATCH,
    )


WHERE = ("device", "worker")


def steps(split: shards.Split, classes: int) -> dict[str, float]:
    """CPU ms a sample of each step, medians; a step's inputs are made before its clock starts."""
    settings = config("device", classes)
    found: dict[str, list[float]] = defaultdict(list)
    fields = samples.fields_of("pseudo")
    for turn in range(TURNS + 1):
        places = [(turn * BATCH + place) % len(split) for place in range(BATCH)]
        made: dict[str, Any] = {}

        def timed(name: str, make: Callable[[], Any], made: dict[str, Any] = made) -> Any:
            def call() -> None:
                made[name] = make()

            found[name].append(cpu_ms(call, BATCH))
            return made[name]

        members = timed("read and check", lambda: [split.members(place, fields) for place in places])  # noqa: B023
        numbers = timed(
            "draw",
            lambda: [generator(0, 0, m.key).random(geometry.CROP_NUMBERS + 5) for m in members],  # noqa: B023
        )
        rgb = timed("decode RGB", lambda: [m.decode("rgb", samples.decode_rgb) for m in members])  # noqa: B023
        boxes = [
            geometry.random_box(*image.shape[1:], settings.augment, row.tolist(), bool(row[22] < 0.5))
            for image, row in zip(rgb, numbers, strict=True)
        ]
        depth = timed(
            "decode depth, within the crop",
            lambda: [
                torch.from_numpy(shards.decode_depth(m.data["pseudo"][1], box.window))[None]
                for m, box in zip(members, boxes, strict=True)  # noqa: B023
            ],
        )
        canvas = torch.empty(BATCH, 3, SIZE, SIZE, dtype=torch.uint8)
        z = torch.empty(BATCH, 1, SIZE, SIZE)

        def fill_rgb(canvas: torch.Tensor = canvas, rgb: Any = rgb, boxes: Any = boxes) -> None:
            for out, image, box in zip(canvas, rgb, boxes, strict=True):
                out.copy_(geometry.resize(geometry.crop(image, box), "rgb", (SIZE, SIZE)))

        def fill_depth(z: torch.Tensor = z, depth: Any = depth) -> None:
            for out, plane in zip(z, depth, strict=True):
                out.copy_(geometry.resize(plane, "depth", (SIZE, SIZE)))

        timed("crop, flip, resize RGB", fill_rgb)
        timed("resize depth", fill_depth)
        uniform = np.stack(numbers)[:, 23 : 23 + 4].reshape(BATCH, 2, 2)
        draws = rand_augment.draw(uniform, 9, SIZE)
        timed("RandAugment, RGB-D", lambda: rand_augment.apply(canvas, [z], draws))  # noqa: B023
        normal = timed("normalise", lambda: normalise(canvas, RGB_MEAN, RGB_STD))  # noqa: B023
        target = torch.eye(BATCH, classes)
        timed("mix, RGB-D", lambda: mix(normal, z, target, settings.augment, 0, turn))  # noqa: B023
    return {name: round(statistics.median(values[1:]), 3) for name, values in found.items()}


def through_a_worker(paths: list[Path], split: shards.Split, classes: int) -> dict[str, Any]:
    """Images/s by the clock through a DataLoader with one worker, and the main process's CPU ms a sample."""
    num_batches = 12
    rates: dict[str, list[float]] = defaultdict(list)
    main_ms: dict[str, list[float]] = defaultdict(list)
    for _ in range(5):
        for name in ("thesis-style, RGB", *(f"ours, RGB-D, RandAugment by the {where}" for where in WHERE)):
            if name.startswith("thesis"):
                thesis = ThesisStyle(paths, BATCH * (num_batches + 2))
                loader = iter(DataLoader(thesis, BATCH, num_workers=1))
            else:
                settings = config(name.rsplit(" ", 1)[1], classes)
                loader = train_loader(split, settings, Share.of(settings), 0, num_batches + 2)
            for _ in islice(loader, 2):  # the worker has started, and its first batches are behind it
                pass
            start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(num_batches):
                next(loader)
            rates[name].append(num_batches * BATCH / (time.perf_counter() - start))
            main_ms[name].append(1000 * (time.process_time() - cpu_start) / num_batches / BATCH)
            del loader
    return {
        name: {
            "images_per_s": round(statistics.median(rates[name])),
            "runs": [round(rate) for rate in rates[name]],
            "main_process_cpu_ms": round(statistics.median(main_ms[name]), 4),
        }
        for name in rates
    }


def make_shards(photos: Path, out: Path) -> Path:
    command = [Path(sys.executable).parent / "precompute-depth", "folder", photos, out, "--teacher", "toy"]
    command += ["--short-side", SHORT_SIDE, "--val-fraction", 0]
    subprocess.run([*map(str, command)], check=True)
    return out


def show(result: dict[str, Any], console: Console) -> None:
    table = Table("one core", "CPU ms a sample", "samples/s")
    for name, row in result["arms"].items():
        table.add_row(name, f"{row['cpu_ms']:.3f}", f"{row['samples_per_s_per_core']}")
    console.print(table)
    table = Table("step", "CPU ms a sample")
    for name, ms in result["steps_cpu_ms"].items():
        table.add_row(name, f"{ms:.3f}")
    console.print(table)
    console.print(result["ratios"], result["one_worker"])


def main() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--shards", type=Path, help="RGB-D shards of PHOTOS made before")
    given = parser.parse_args()
    suffixes = (".jpg", ".jpeg", ".png")
    photos = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in suffixes)
    if not photos:
        raise SystemExit(f"PHOTOS must hold photographs, got {given.photos} without any")
    torch.set_num_threads(1)
    load_at_start = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        split = shards.open_split(given.shards or make_shards(given.photos, Path(scratch) / "shards"), "train")
        classes = max(1, len(split.index.class_names))
        paths = list(islice(cycle(photos), max(len(photos), BATCH * (TURNS + 2))))
        np.random.default_rng(0).shuffle(paths)
        measured = arms(paths, split, classes)
        step_ms = steps(split, classes)
        one_worker = through_a_worker(paths, split, classes)
    thesis, device, worker, normal, whole = (row["cpu_ms"] for row in measured.values())
    result = {
        "what": "RGB-D from shards of short side 256 against a thesis-style loader of the original photographs, RGB",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_at_start": round(load_at_start, 1),
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "numpy", "pillow", "numcodecs")},
        },
        "parameters": {
            "num_photographs": len(photos),
            "mean_original_px": round(
                float(np.mean([np.prod(Image.open(io.BytesIO(p.read_bytes())).size) for p in photos]))
            ),
            "short_side": SHORT_SIDE,
            "size": SIZE,
            "batch": BATCH,
            "turns": TURNS,
            "threads": 1,
        },
        "ratios": {
            "worker's share over thesis-style (bar: 3)": round(thesis / device, 2),
            "RandAugment on the CPU too": round(thesis / worker, 2),
            "what the thesis-style loader does, with depth, all in the worker (bar: 1.8)": round(thesis / normal, 2),
            "and mixed, which the thesis-style loader does not": round(thesis / whole, 2),
        },
        "arms": measured,
        "steps_cpu_ms": step_ms,
        "one_worker": one_worker,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    show(result, Console(width=120))


if __name__ == "__main__":
    main()
