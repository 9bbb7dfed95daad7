"""What do fine-tuning and its evaluation cost at 480 x 640: time and memory of a step, of heads, of scales?

    python tests/benchmarks/segmentation.py                  # writes segmentation.json beside itself; some ten minutes
    python tests/benchmarks/segmentation.py --device cuda    # segmentation-cuda.json

Where the project is not installed, PYTHONPATH=. before it. A step is `training.engine.step.TrainingStep` of --preset
dformer-nyu (forward, backward, AdamW) on random images, depth and 40 labels that already lie on the device: the models
of the paper's Table 3 with the ham head, ViT-B/16 and the two DFormers; then m4ch with the other heads. Batch 1 in
fp32 on a CPU, the recipe's (16, DFormer-Tiny 8) in bf16 on a GPU.

Every arm is a process of its own, and so is the m3ch it is compared with; both work in turns and wait otherwise.
`ratio` is the arm's time an image over the mean of m3ch's turns before and after, the median of turns; `cpu ratio` the
same of the processes' CPU time, the better one beside busy neighbours. Above 1 is slower. With one turn an arm (the
default on a CPU) there is no spread: `m3ch again`, a second m3ch, says what a ratio of equals can be. The first step,
which makes the optimizer's state, is of small images and not counted.

`peak_gb`: on a CPU the process's largest resident memory less what it had before the model was built; on a GPU
PyTorch's allocations. `gmacs`: matrix products and convolutions of one image forward.

Evaluation: images/s of DFormer-Tiny, single-scale and multi-scale (five scales, each mirrored too). Memory of
multi-scale evaluation: resident peak of one process after 8, 64 and 654 images (NYU's test split has as many) of eight
labels, seen by a tiny m4ch at two scales, so that it takes minutes: what is kept of an image does not depend on the
model. --memory measures this part alone again and keeps the rest of the result.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blocks import kernel_kb
from rich.console import Console
from rich.table import Table
from steps import machine

from pipeline import depth_codec, index, shards
from pipeline.standardize import Moments, Standardisation
from training.engine.describe import count_macs
from training.engine.machine import Machine
from training.engine.share import Share
from training.engine.step import TrainingStep
from training.models.segmenter import Segmenter
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import FinetuneConfig, resolve
from training.tasks.segmentation.data import Part, open_labelled
from training.tasks.segmentation.evaluate import evaluate
from training.tasks.segmentation.task import FineTuning

HERE = Path(__file__).parent
HEIGHT, WIDTH, CLASSES = 480, 640, 40
SMALL = 64  # px, of the step that is not counted
NUM_IMAGES = (8, 64, 654)
MEMORY_CLASSES, MEMORY_SCALES = 8, (0.5, 1.0)
METRES = Standardisation(5.0, 0.6, "farther_is_larger")


@dataclass(frozen=True)
class Arm:
    model: str
    head: str = "ham"


ARMS = {
    "m3ch again": Arm("m3ch"),
    "m4ch": Arm("m4ch"),
    "mlin": Arm("mlin"),
    "mmlp": Arm("mmlp"),
    "mdf1": Arm("mdf1"),
    "mgem": Arm("mgem"),
    "dformer-tiny": Arm("dformer-tiny"),
    "dformerv2-small": Arm("dformerv2-small"),
    "m4ch, linear": Arm("m4ch", "linear"),
    "m4ch, pyramid": Arm("m4ch", "pyramid"),
}

# --------------------------------------------------------------------------------------------------------------- steps


def config_of(arm: Arm, device: str, crop: tuple[int, int], quick: bool) -> FinetuneConfig:
    settings = [f"runtime.device={device}", f"augment.crop={list(crop)}"]
    settings += ["optim.batch_size=1"] if device == "cpu" else []
    if quick and not arm.model.startswith("dformer"):
        settings += ["model.width=48", "model.depth=3", "model.heads=4"]
        settings += ["model.fusion_blocks=1"] if arm.model in ("mdf1", "mgem") else []
    return resolve("dformer-nyu", {"name": arm.model}, settings, num_classes=CLASSES, head=arm.head)


def random_batch(size: int, height: int, width: int) -> SegBatch:
    """A tenth of the depth and of the labels is missing."""
    depth = torch.randn(size, 1, height, width)
    depth[torch.rand_like(depth) < 0.1] = torch.nan
    label = torch.randint(0, CLASSES, (size, height, width), dtype=torch.uint8)
    label[torch.rand(label.shape) < 0.1] = shards.VOID
    rgb = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8)
    inside = torch.tensor([[0, 0, height, width]]).expand(size, 4)
    return SegBatch(rgb, depth, label, inside, [f"random {number}" for number in range(size)])


def serve(arm: Arm, device_name: str, crop: tuple[int, int], quick: bool) -> None:
    """Answer lines on stdin: a number runs as many steps; the end of the input asks for the peak."""
    imported_kb = kernel_kb("VmRSS")
    config = config_of(arm, device_name, crop, quick)
    machine = Machine.here(config)
    torch.manual_seed(0)
    task, device = FineTuning(config), machine.device
    model = task.build()
    size = config.optim.batch_size
    batch = random_batch(size, *crop).to(device)
    training = TrainingStep(task, model, machine, Share.of(config))
    training([random_batch(size, SMALL, SMALL).to(device)], 0, 1.0)
    say(
        {
            "parameters": sum(p.numel() for p in model.parameters()),
            "gmacs": round(count_macs(task) / 1e9, 2),
            "batch": size,
        }
    )
    for line in sys.stdin:
        steps = int(line)
        synchronize(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        for step in range(steps):
            training([batch], step, 1.0)
        synchronize(device)
        say({"wall": (time.perf_counter() - start) / steps, "cpu": (time.process_time() - cpu_start) / steps})
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * (kernel_kb("VmHWM") - imported_kb)
    say({"peak_gb": round(peak / 1e9, 2)})


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Worker:
    """An arm's process, as its parent sees it."""

    def __init__(self, arm: Arm, device: str, crop: tuple[int, int], quick: bool) -> None:
        command = [sys.executable, __file__, "--serve", json.dumps([asdict(arm), device, crop, quick])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self.heard()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.process.args!r} ended")
        return dict(json.loads(line))

    def turn(self, steps: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.heard()

    def ended(self) -> dict[str, Any]:
        """The peak; what the process had is free again."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = self.heard()
        self.process.wait()
        return peak


@contextmanager
def working(arm: Arm, device: str, crop: tuple[int, int], quick: bool) -> Iterator[Worker]:
    worker = Worker(arm, device, crop, quick)
    try:
        yield worker
    finally:
        worker.process.kill()  # it has ended, unless something failed
        worker.process.wait()


def steps_of(
    arms: Sequence[str], device: str, crop: tuple[int, int], rounds: int, steps: int, quick: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every arm beside m3ch, then m3ch itself."""
    with working(Arm("m3ch"), device, crop, quick) as m3ch:
        before = m3ch.turn(steps)
        of_m3ch, batch = [before], m3ch.facts["batch"]
        for name in arms:
            with working(ARMS[name], device, crop, quick) as arm:
                turns, ratios = [], []
                for _ in range(rounds):
                    turn, after = arm.turn(steps), m3ch.turn(steps)
                    more = batch / arm.facts["batch"]  # images that m3ch sees for one of the arm's
                    ratios.append({kind: 2 * more * turn[kind] / (before[kind] + after[kind]) for kind in turn})
                    turns.append(turn)
                    of_m3ch.append(after)
                    before = after
                yield name, row_of(arm, turns, ratios, device)
        yield "m3ch", row_of(m3ch, of_m3ch, [], device)


def row_of(
    worker: Worker, turns: Sequence[dict[str, float]], ratios: Sequence[dict[str, float]], device: str
) -> dict[str, Any]:
    wall = statistics.median(turn["wall"] for turn in turns)
    cpu = statistics.median(turn["cpu"] for turn in turns)
    row: dict[str, Any] = {**worker.facts, **worker.ended(), "step_s": round(wall, 4)}
    row["images_per_s"] = round(worker.facts["batch"] / wall, 3)
    row |= {"ratio": round(statistics.median(r["wall"] for r in ratios), 3) if ratios else 1.0}
    if device == "cpu":
        row |= {"cpu_s": round(cpu, 2), "images_per_cpu_s": round(worker.facts["batch"] / cpu, 4)}
        row["cpu ratio"] = round(statistics.median(r["cpu"] for r in ratios), 3) if ratios else 1.0
    return row


# ---------------------------------------------------------------------------------------------------------- evaluation


def write_shards(out: Path, count: int, height: int, width: int, num_classes: int) -> None:
    """`count` samples of smooth random images with holes in their depth; a few images, each many times."""
    rng, moments, samples = np.random.default_rng(0), Moments(), []
    made = []
    for _ in range(4):
        planes = torch.from_numpy(rng.normal(size=(1, 5, 6, 8)))
        fine = torch.nn.functional.interpolate(planes, (height, width), mode="bicubic")[0].numpy()
        z = fine[3].astype(np.float32)
        z[rng.random(z.shape) < 0.1] = np.nan
        labels = np.digitize(fine[4], np.linspace(-1.5, 1.5, num_classes - 1)).astype(np.uint8)
        rgb = np.ascontiguousarray(np.clip(128 + 50 * fine[:3], 0, 255).astype(np.uint8).transpose(1, 2, 0))
        moments = moments.merge(Moments.of(METRES.invert(z)))
        depth = {f"real.{depth_codec.EXTENSION}": depth_codec.encode(z, 1e-3)}
        made.append({"rgb.png": shards.png_bytes(rgb), "seg.png": shards.png_bytes(labels), "json": b"{}"} | depth)
    samples = [(f"image-{number:05d}", made[number % len(made)]) for number in range(count)]
    store = shards.open_store(out / "val")
    record = shards.write_shard(
        store, "shard-000000", samples, listing="", num_listed=count, rejects=[], moments={"real": moments},
        constants={"real": METRES},
    )  # fmt: skip
    names = [f"label {number}" for number in range(num_classes)]
    config = {"source": {"name": "random"}, "teacher": None}
    built = index.build("val", [index.Finished.of(record, "")], config, {"real": "given"}, [], names, [])
    shards.publish(store, "index.json", built.model_dump_json().encode())


def evaluated(data: str, device_name: str, counts: Sequence[int], quick: bool) -> None:
    """Peak memory after every number of images, in one process."""
    settings = ["model.image_size=224", "model.patch_size=16", "augment.crop=[480, 640]", "runtime.workers=0"]
    settings += [f"runtime.device={device_name}"]
    config = resolve("tiny", {"name": "m4ch"}, settings, num_classes=MEMORY_CLASSES)
    machine = Machine.here(config)
    torch.manual_seed(0)
    device = machine.device
    model = Segmenter(config.model, config.head, config.augment.crop).to(device)
    split = open_labelled(data, "val", "real")
    before = kernel_kb("VmRSS")
    for count in counts:
        part = Part(split, np.arange(count))
        cpu_start = time.process_time()
        outcome = evaluate(model, part, config, "real", machine, scales=MEMORY_SCALES)
        on_gpu = device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * (kernel_kb("VmHWM") - before)
        cpu_s = round(time.process_time() - cpu_start, 1)
        say({"images": count, "peak_mb": round(peak / 1e6), "seconds": round(outcome.seconds, 1), "cpu_s": cpu_s})


def memory_of(data: Path, device: str, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """With glibc's allocator as it is, which keeps some of what was freed, and with large blocks given back at once."""
    for allocator, more in (("as it is", {}), ("gives back", {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)})):
        for row in memory_with(more, data, device, counts):
            yield {"allocator": allocator, **row}


def memory_with(
    environment: dict[str, str], data: Path, device: str, counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    command = [sys.executable, __file__, "--evaluated", json.dumps([str(data), device, list(counts)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"evaluation ended with code {process.returncode}")


def evaluation_rates(data: Path, device_name: str, count: int, quick: bool) -> dict[str, Any]:
    """Images/s of the same images single-scale and multi-scale; the multi-scale pass includes the single-scale one."""
    arm = Arm("m4ch" if quick else "dformer-tiny")
    config = config_of(arm, device_name, (HEIGHT, WIDTH), quick)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"workers": 0})})
    machine = Machine.here(config)
    torch.manual_seed(0)
    device = machine.device
    model = Segmenter(config.model, config.head, config.augment.crop).to(device)
    part = Part(open_labelled(str(data), "val", "real"), np.arange(count))
    row: dict[str, Any] = {"model": arm.model, "images": count}
    for name, scales in (("single", ()), ("multi", config.test.scales)):
        start, cpu_start = time.perf_counter(), time.process_time()
        evaluate(model, part, config, "real", machine, scales=scales)
        synchronize(device)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        row[f"{name}_images_per_s"] = round(count / wall, 3)
        row[f"{name}_cpu_s_an_image"] = round(cpu / count, 2)
    row["ratio"] = round(row["multi_cpu_s_an_image"] / max(row["single_cpu_s_an_image"], 1e-9), 2)
    return row


# ---------------------------------------------------------------------------------------------------------------- main


def show(result: dict[str, Any], console: Console) -> None:
    columns = list(dict.fromkeys(column for row in result["steps"].values() for column in row))
    table = Table("", *columns, title=f"a training step at {HEIGHT} x {WIDTH}; ratios over m3ch")
    for name, row in result["steps"].items():
        cells = [f"{row[c]:,}" if c == "parameters" else str(row.get(c, "")) for c in columns]
        table.add_row(name, *cells)
    console.print(table)
    console.print("evaluation:", result["evaluation"])
    console.print("memory of multi-scale evaluation:", *result["memory"], sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--memory", action="store_true", help="only the memory of evaluation; keep the other results")
    parser.add_argument("--rounds", type=int, help="turns of each arm, by default 1 on a CPU, 5 on a GPU")
    parser.add_argument(
        "--quick", action="store_true", help="narrow models, small images: does it run? Writes no result"
    )
    parser.add_argument(
        "--out", type=Path, help="by default segmentation.json or segmentation-cuda.json beside this file"
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--evaluated", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        fields, device, crop, quick = json.loads(given.serve)
        serve(Arm(**fields), device, tuple(crop), quick)
        return
    if given.evaluated:
        data, device, counts = json.loads(given.evaluated)
        evaluated(data, device, counts, given.quick)
        return
    started, console = time.time(), Console(width=150)
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu, quick = device == "cuda", given.quick
    rounds, steps = given.rounds or (5 if on_gpu and not quick else 1), 5 if on_gpu else 1
    crop = (SMALL, 2 * SMALL) if quick else (HEIGHT, WIDTH)
    out = given.out or HERE / ("segmentation-cuda.json" if on_gpu else "segmentation.json")
    result: dict[str, Any] = {
        "what": "fine-tuning and its evaluation at 480 x 640: a step over m3ch's, heads, scales, memory",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(device),
        "parameters": {
            "crop": list(crop), "classes": CLASSES, "rounds": rounds, "steps_a_turn": steps,
            "dtype": "bfloat16 autocast" if on_gpu else "float32", "num_threads": torch.get_num_threads(),
            "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        },
        "steps": {}, "evaluation": {}, "memory": [],
    }  # fmt: skip

    def note(told: str) -> None:
        console.print(f"{time.time() - started:5.0f} s  {told}", highlight=False)
        result["seconds"] = round(time.time() - started)
        result["machine"]["load_at_end"] = round(os.getloadavg()[0], 1)
        if not quick:
            out.write_text(json.dumps(result, indent=1) + "\n")

    if given.memory:
        result |= {"memory": []} if quick else json.loads(out.read_text()) | {"memory": []}
    for name, row in () if given.memory else steps_of(list(ARMS), device, crop, rounds, steps, quick):
        result["steps"][name] = row
        note(f"{name}: {row.get('cpu ratio', row['ratio']):.3f} of m3ch's step, {row['peak_gb']} GB")
    with tempfile.TemporaryDirectory(prefix="segmentation-") as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        counts = (2, 4) if quick else NUM_IMAGES
        write_shards(few, 32, *crop, CLASSES)
        write_shards(many, max(counts), *crop, MEMORY_CLASSES)
        if not given.memory:
            result["evaluation"] = evaluation_rates(few, device, 32 if on_gpu and not quick else 2, quick)
            note(f"multi-scale evaluation: {result['evaluation']['ratio']} of single-scale")
        for row in memory_of(many, device, counts):
            result["memory"].append(row)
            note(f"multi-scale evaluation of {row['images']} images: peak {row['peak_mb']} MB")
    show(result, console)


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    main()
