"""What do a dump's statistics cost: beside the forward pass, beside dumping everything, in memory as images grow?

    python tests/benchmarks/dumps.py                  # writes dumps.json beside itself; some ten minutes
    python tests/benchmarks/dumps.py --device cuda    # dumps-cuda.json: the first part

Where the project is not installed, PYTHONPATH=. before it.

`pass`: all statistics of a batch of images (`training.dumping.observe`: the explicit path, every layer and head,
scores, patterns, probes, Grams of 16 images where a dump of thousands takes 250; nothing written) over the bare
forward pass of the same images, fused attention, fp32; 16 images, which is a dump's batch. Both work in turns in one
process; `ratio` is the median of turns, `cpu ratio` the same of CPU time, the better one beside busy neighbours.
`explicit ratio` is the forward pass through the explicit path, which anything that looks at scores needs. Goal: 1.5.
`once_s`: what is done once a dump, whatever the number of images (finishing and writing the sums).

`peer`: one pass against the plain way, for m4ch at ViT-B/16 on the same images: dump every score, pattern and block
output as .npy, then compute some of the same numbers with numpy, an image after the other (`plain_statistics`: slopes
on |Δ|, maps, pair sums, probes' moments, Grams; none of the other regressors, nulls, groups or folds). A process each;
seconds, peak resident memory less what torch and the model take, bytes on disk. Where both compute a number they must
agree, or the benchmark fails.

`memory`: peak resident memory of `train dump` and of `analyze` (Figures 1, 9, 10 and 11, and the report) on 64 and on
1,024 toy rooms, 16 of them raw, of m3ch and m4ch.

`page`: `analyze report` of all six models with the paper's 12 layers, 12 heads and 196 patches (width 96, on images of
56 px in patches of 4, hardly trained): seconds, peak resident memory, size of the page.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from blocks import kernel_kb
from rich.console import Console
from rich.table import Table
from steps import machine

from training.dumping.dump import biases_of, streams_of
from training.dumping.observe import Views, observe
from training.dumps.pairs import BIN_WIDTH, NUM_BINS, distances, num_distances, partner
from training.dumps.schema import DumpInfo
from training.dumps.statistics import Statistics
from training.dumps.store import DumpWriter, open_dump
from training.dumps.tokens import gram_batch
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.models.attention import Recorder
from training.models.patch_depth import patch_depth
from training.models.registry import MONIKERS
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import Config, resolve

HERE = Path(__file__).parent
GOAL = 1.5
PEER_IMAGES = 64


def info_of(config: Config, model: Any, num_images: int) -> DumpInfo:
    shape = config.model
    return DumpInfo(
        model=shape.name, run="benchmark", config=config.model_dump(mode="json"), study_hash="", checkpoint="latest",
        checkpoint_sha256="", epoch=0, data="random", split="val", fingerprint="", classes_sha256="", class_names=[],
        depth_field="pseudo", standardisation={}, patch_depth="mean", scale=(shape.width // shape.heads) ** -0.5,
        bias=biases_of(model)[0].stored if model.has_bias else None, num_prefix=1, num_layers=shape.depth,
        first_attention_layer=shape.depth - shape.num_blocks, streams=streams_of(config), num_heads=shape.heads,
        grid=shape.grid, image_size=shape.image_size, num_images=num_images, num_raw=0, num_groups=min(50, num_images),
        gram_batch=gram_batch(num_images), dtype="float32", max_fused_difference=0.0,
    )  # fmt: skip


def images(size: int, count: int, seed: int, device: str) -> ImageBatch:
    """Random colours, and depth that is smooth as depth is."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    depth = torch.nn.functional.interpolate(
        torch.randn(count, 1, 6, 6, generator=generator), (size, size), mode="bicubic"
    )
    keys = [f"{seed}-{place}" for place in range(count)]
    return ImageBatch(rgb, depth, torch.zeros(count, dtype=torch.long), keys, 0).to(torch.device(device))


def made(preset: str, moniker: str, device: str) -> tuple[Config, Any]:
    torch.manual_seed(0)
    config = resolve(preset, moniker)
    return config, config.model.build().eval().to(device)


def timed(work: Callable[[], Any], device: str) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


@torch.inference_mode()
def one_pass(preset: str, moniker: str, count: int, rounds: int, device: str) -> dict[str, Any]:
    config, model = made(preset, moniker, device)
    info = info_of(config, model, 64)
    batch = images(config.model.image_size, count, 0, device)
    rgb = normalise(batch.rgb, RGB_MEAN, RGB_STD)
    nowhere = SimpleNamespace(write=lambda *given: None, write_keys=lambda *given: None)
    made_statistics = Statistics(info, nowhere.write, torch.zeros(0, device=device))
    arms: dict[str, Callable[[], Any]] = {
        "forward": lambda: model(rgb, batch.depth),
        "explicit": lambda: model(rgb, batch.depth, lambda name, tensor: tensor),
        "observed": lambda: observe(model, Views(batch, batch.depth.flip(0), None), made_statistics, nowhere),
    }
    for work in arms.values():
        timed(work, device)
    turns = [{name: timed(work, device) for name, work in arms.items()} for _ in range(rounds)]

    def ratio(name: str, kind: int) -> float:
        return round(statistics.median(turn[name][kind] / turn["forward"][kind] for turn in turns), 2)

    with tempfile.TemporaryDirectory() as folder:
        writer = DumpWriter(Path(folder) / "d.zarr", info)
        with writer:
            made_statistics.write = writer.write
            once = timed(made_statistics.finish, device)[0]
    return {
        "images": count,
        "forward_ms": round(1000 * statistics.median(turn["forward"][0] for turn in turns) / count, 2),
        "ratio": ratio("observed", 0),
        "cpu ratio": ratio("observed", 1),
        "explicit ratio": ratio("explicit", 0),
        "explicit cpu ratio": ratio("explicit", 1),
        "once_s": round(once, 2),
    }


# --- one pass against dumping everything ----------------------------------------------------------------------------


@torch.inference_mode()
def peer_one_pass(folder: Path) -> dict[str, np.ndarray]:
    config, model = made("thesis", "m4ch", "cpu")
    info = info_of(config, model, PEER_IMAGES)
    with DumpWriter(folder / "d.zarr", info) as writer:
        found = Statistics(info, writer.write, torch.zeros(0))
        for first in range(0, PEER_IMAGES, 16):
            batch = _numbered(images(config.model.image_size, 16, first, "cpu"), first)
            other = images(config.model.image_size, 16, partner(first, PEER_IMAGES), "cpu").depth
            observe(model, Views(batch, other, None), found, writer)
        found.finish()
    dump = open_dump(folder / "d.zarr")
    rows = dump["statistics/content/head_rows"].sum(0)
    return {
        "c_delta": rows[..., -8],
        "bins": dump["statistics/content/bins/sum"],
        "pattern": dump["statistics/pattern/bins/sum"],
        "two_way": dump["statistics/content/two_way/sum"],
    }


def _numbered(batch: ImageBatch, first: int) -> ImageBatch:
    return ImageBatch(batch.rgb, batch.depth, batch.label, batch.keys, first)


@torch.inference_mode()
def peer_plain(folder: Path) -> dict[str, np.ndarray]:
    """Everything to disk in fp16 (outputs) and fp32 (scores), as a script would; then numpy."""
    config, model = made("thesis", "m4ch", "cpu")
    shape = config.model
    for first in range(0, PEER_IMAGES, 16):
        batch = images(shape.image_size, 16, first, "cpu")
        seen = Recorder()
        model(normalise(batch.rgb, RGB_MEAN, RGB_STD), batch.depth, seen)
        np.save(folder / f"depth-{first}.npy", patch_depth(batch.depth, shape.patch_size, "mean").numpy())
        for name, tensor in seen.items():
            np.save(folder / f"{name}-{first}.npy", tensor.numpy().astype("f2" if "resid" in name else "f4"))
    return plain_statistics(folder, shape.depth, shape.heads, shape.grid, shape.width)


def plain_statistics(folder: Path, depth: int, heads: int, grid: tuple[int, int], width: int) -> dict[str, np.ndarray]:
    """Slopes, cells, patterns, fixed effects, probes' moments and Grams, with numpy alone."""
    patches, number = grid[0] * grid[1], distances(grid)[1]
    radii, off = num_distances(grid), ~np.eye(grid[0] * grid[1], dtype=bool)
    found = {
        "c_delta": np.zeros((depth, heads)),
        "bins": np.zeros((depth, heads, NUM_BINS * radii)),
        "pattern": np.zeros((depth, heads, NUM_BINS * radii)),
        "two_way": np.zeros((depth, heads, patches, patches)),
    }
    moments = np.zeros((depth, width + 2, width + 2))
    for layer in range(depth):
        features = []
        for first in range(0, PEER_IMAGES, 16):
            z_all = np.load(folder / f"depth-{first}.npy").astype(np.float64)
            name = f"blocks.{layer}"
            scores = np.load(folder / f"{name}.attn.scores_pre_bias-{first}.npy")[:, :, 1:, 1:].astype(np.float64)
            pattern = np.load(folder / f"{name}.attn.pattern-{first}.npy")[:, :, 1:, 1:].astype(np.float64)
            outputs = np.load(folder / f"{name}.resid_post-{first}.npy")[:, 1:].astype(np.float64)
            features.append(outputs.reshape(len(outputs), -1))
            for z, s, a, h in zip(z_all, scores, pattern, outputs, strict=True):
                delta = abs(z[:, None] - z[None])
                centred = np.where(off, s - (s * off).sum(-1, keepdims=True) / (patches - 1), 0.0)
                delta_c = np.where(off, delta - (delta * off).sum(-1, keepdims=True) / (patches - 1), 0.0)
                found["c_delta"][layer] += (centred * delta_c).sum((1, 2))
                found["two_way"][layer] += centred
                cell = np.clip(np.floor(delta / BIN_WIDTH + 1e-9), 0, NUM_BINS - 1).astype(int) * radii + number
                for head in range(heads):
                    for kind, values in (("bins", s), ("pattern", a)):
                        cells = np.bincount(cell[off], values[head][off], NUM_BINS * radii)
                        found[kind][layer, head] += cells
                design = np.column_stack([h, z, np.ones(patches)])
                moments[layer] += design.T @ design
        flat = np.concatenate(features)
        flat -= flat.mean(0)
        _ = flat @ flat.T
    for kind in ("bins", "pattern"):
        found[kind] = found[kind].reshape(depth, heads, NUM_BINS, radii)
    return found


def measured_alone(which: str) -> None:
    """In a process of its own: do the work, tell what it took."""
    made("thesis", "m4ch", "cpu")  # so that torch and the model's size are in the base
    base = _peak()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        found = {"one_pass": peer_one_pass, "plain": peer_plain}[which](Path(folder))
        took = {
            "seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb": round(_peak() - base),
            "disk_mb": round(sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6),
        }
    sums = {name: [float(np.abs(values).sum()), float((values**2).sum())] for name, values in found.items()}
    print(json.dumps(took | {"sums": sums}))


def _peak() -> float:
    return kernel_kb("VmHWM") / 1000  # of this program: ru_maxrss begins with that of the process that started it


def peer() -> dict[str, Any]:
    rows = {}
    for which in ("plain", "one_pass"):
        done = subprocess.run(
            [sys.executable, __file__, "--alone", which], capture_output=True, text=True, check=True, env=os.environ
        )
        rows[which] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = (rows[name].pop("sums") for name in ("one_pass", "plain"))
    worst = max(abs(a - b) / abs(b) for name in ours for a, b in zip(ours[name], theirs[name], strict=True))
    if not worst < 1e-5:
        raise RuntimeError(f"one pass and plain numpy differ by {worst:.1e} in what both compute")
    return {"images": PEER_IMAGES, **rows, "largest_relative_difference_of_sums": float(f"{worst:.1e}")}


# --- memory as images grow, and the page ------------------------------------------------------------------------------


_COMMANDS = Path(sys.executable).parent
_SHORT = ("data.depth=exact", "optim.epochs=1", "optim.warmup_epochs=0")


def memory(counts: tuple[int, ...] = (64, 1024)) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        rooms = _rooms(Path(folder), 256, max(counts))
        first, run = (_trained(Path(folder), rooms, moniker, _SHORT) for moniker in ("m3ch", "m4ch"))
        for count in counts:
            _, store = _dumped(first, rooms, count)
            dumped, other = _dumped(run, rooms, count)
            drawn = {
                name: _cost_of([_COMMANDS / "analyze", name, *given, "--out", out / name])[0]
                for name, given in (
                    *((f"fig{number}", [other]) for number in (1, 9, 10)),
                    ("fig11", [store, other]),
                    ("report", [first, run]),
                )
            }
            rows.append({"images": count, "dump_mb": dumped, **{f"analyze_{n}_mb": mb for n, mb in drawn.items()}})
    return rows


def page(monikers: tuple[str, ...], count: int) -> dict[str, Any]:
    shape = {"image_size": 56, "patch_size": 4, "width": 96, "depth": 12, "heads": 12}
    settings = (*_SHORT, *(f"model.{name}={value}" for name, value in shape.items()))
    with tempfile.TemporaryDirectory() as folder:
        rooms = _rooms(Path(folder), 128, count)
        runs = [_trained(Path(folder), rooms, moniker, settings) for moniker in monikers]
        for run in runs:
            _dumped(run, rooms, count)
        peak, seconds = _cost_of([_COMMANDS / "analyze", "report", *runs, "--out", Path(folder) / "report"])
        size = (Path(folder) / "report" / "index.html").stat().st_size
    return {
        "models": len(monikers),
        "images": count,
        "seconds": round(seconds, 1),
        "peak_mb": peak,
        "page_mb": round(size / 1e6, 2),
    }


def _rooms(folder: Path, train: int, val: int) -> Path:
    made = ["--teacher", "none", "--samples", train, "--val-samples", val]
    _cost_of([_COMMANDS / "precompute-depth", "toyrooms", folder / "rooms", *made])
    return folder / "rooms"


def _trained(folder: Path, rooms: Path, moniker: str, settings: tuple[str, ...]) -> Path:
    run = folder / moniker
    trained = ["--preset", "tiny", "--model", moniker, "--data", rooms, "--out", run]
    _cost_of([_COMMANDS / "train", "pretrain", *trained, *(word for each in settings for word in ("--set", each))])
    return run


def _dumped(run: Path, rooms: Path, count: int) -> tuple[int, Path]:
    """Peak memory in MB, and the dump: the run's own, which replaces the last."""
    options = ["--images", count, "--raw", 16, "--checkpoint", "latest"]
    peak, _ = _cost_of([_COMMANDS / "train", "dump", run, "--data", rooms, *options])
    [store] = (run / "dumps").glob("*.zarr")
    return peak, store


def _cost_of(words: list[Any]) -> tuple[int, float]:
    """Peak resident memory of a command in MB, its loader's workers apart, and its seconds."""
    program = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""
    line, began = [sys.executable, "-c", program, *map(str, words)], time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    code, peak = done.stdout.split()
    if code != "0":
        raise RuntimeError(f"{' '.join(map(str, words))} failed: {done.stderr.strip().splitlines()[-1:]}")
    return round(int(peak) / 1000), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help="the tiny preset alone: does it run? Writes no result")
    parser.add_argument("--alone", choices=("one_pass", "plain"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        measured_alone(given.alone)
        return
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    on_gpu, console = device == "cuda", Console(width=120)
    result: dict[str, Any] = {
        "what": "statistics of a dump: beside the forward pass, beside dumping everything, memory as images grow",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(device),
        "parameters": {"dtype": "float32", "num_threads": torch.get_num_threads(), "goal": GOAL},
        "pass": {},
    }
    counts, rounds = ((64, 16), 10) if on_gpu else ((16, 16), 3)
    table = Table("preset", "model", "forward ms/image", "ratio", "cpu ratio", "explicit", "once s")
    for preset, count in (("tiny", counts[0]), ("thesis", counts[1])):
        for moniker in MONIKERS if preset == "tiny" or not given.quick else ():
            row = one_pass(preset, moniker, count, rounds, device)
            result["pass"][f"{preset} {moniker}"] = row
            shown = ("forward_ms", "ratio", "cpu ratio", "explicit cpu ratio", "once_s")
            table.add_row(preset, moniker, *(str(row[name]) for name in shown))
    console.print(table)
    if not on_gpu and not given.quick:
        result["peer"] = peer()
        console.print(result["peer"])
    if not on_gpu:
        result["memory"] = memory((64, 256) if given.quick else (64, 1024))
        console.print(result["memory"])
        result["page"] = page(MONIKERS[:2], 16) if given.quick else page(MONIKERS, 64)
        console.print(result["page"])
    result["machine"]["load_at_end"] = round(os.getloadavg()[0], 1)
    if not given.quick:
        out = HERE / ("dumps-cuda.json" if on_gpu else "dumps.json")
        out.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {out}")


if __name__ == "__main__":
    main()
