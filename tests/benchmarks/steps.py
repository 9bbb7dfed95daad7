"""What does a training step of every variant cost over m3ch's? Ours, and the same model the way others write it.

    python tests/benchmarks/steps.py                  # writes steps.json beside itself; ten minutes on 2 idle cores
    python tests/benchmarks/steps.py --device cuda    # blocks.py first, then steps-cuda.json; eight minutes in all

Where the project is not installed, PYTHONPATH=. before it. A step is `training.engine.step.TrainingStep` without MixUp
and CutMix: normalise, forward, backward, clip, AdamW, on random batches that already lie on the device. Sizes: `small`
(width 384, 6 heads) and `base` (ViT-B/16), 12 blocks, 224 px, 1000 classes. Beside the variants at their default
attention:

- m3ch again: a second m3ch, whose ratio is what noise looks like;
- timm, torchvision: the same plain ViT of theirs;
- explicit, triton: another attention path;
- mlin, dense mask: (batch, heads, query, key) in fp32 a block, by autograd, given to PyTorch's fused attention;
- mmlp, dense mask: the same, φ as Linear(1, 32), ReLU, Linear(32, 1) over every pair of patches;
- mdf1, mgem, literal: the blocks of tests/training/literal_blocks.py (mgem's loops over the batch in Python), with
  PyTorch's LayerNorm, as their authors have;
- m4ch, online: the paper's protocol, a DepthAnythingV2-Small (random weights) at 224 px inside the step.

Arm and m3ch take turns. Each turn of an arm is divided by the mean of m3ch's turns before and after it; `ratio` is the
median of these, `from` and `to` the extremes, `cpu ratio` the median of the same ratios of the process's CPU time.
Above 1 is slower than m3ch. Beside busy neighbours `cpu ratio` is the better one, if not a fine one: with twice as many
busy threads as cores single wall ratios of two equal models lay between 0.7 and 1.3, medians of CPU time within 0.05 of
1. What is no farther from 1 than `m3ch again` in a few runs is no difference.

Limits. On a CPU the batches are small: the optimizer, which does not grow with the batch, is a larger part of a step
than in a real one and draws ratios toward those of the parameters. The goals are for one H200: nothing on a CPU tells
whether they are met. MFU is 6 MACs (matrix products and convolutions of the variant) over the time and the rate of an
8192 x 8192 x 8192 bf16 product in the same run; the teacher's part of an online step is not in it. Peak memory is
PyTorch's allocations of the arm alone. On a GPU arms that the eight minutes do not reach are listed as such.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from training.engine.describe import count_macs
from training.engine.machine import Machine
from training.engine.share import Share
from training.engine.step import TrainingStep
from training.models.attention import set_attention
from training.models.patch_depth import patch_depth, signed_difference
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import Config, resolve
from training.tasks.classification.task import PreTraining

HERE = Path(__file__).parent
WIDTHS = {"small": (384, 6), "base": (768, 12)}  # width, heads
TIMM = {"small": "vit_small_patch16_224", "base": "vit_base_patch16_224"}
GOALS = {"m4ch": 1.02, "mlin": 1.05, "mmlp": 1.08, "mgem": 1.15, "mdf1": 1.30}  # step time over m3ch's on one H200
SECONDS_A_TURN = {"cpu": 0.0, "cuda": 0.4}  # at least one step
CUDA_SECONDS = 7 * 60  # no arm starts later; one that has to be compiled takes most of a minute
CEILING_SIDE = 8192

# ---------------------------------------------------------------------------------------------------------------- arms


class RgbOnly(nn.Module):
    """Another library's model in the place of ours."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.model(rgb)


@dataclass(frozen=True)
class DenseBias:
    """What a block adds to its scores, made anew in every block and left to autograd."""

    head_scale: Tensor  # (heads,)
    depths: Tensor  # (batch, patches)
    of_difference: Callable[[Tensor], Tensor]  # (batch, patches, patches) -> same

    def mask(self, dtype: torch.dtype) -> Tensor:
        pairs = self.of_difference(signed_difference(self.depths)).float()
        mask = self.head_scale[:, None, None] * F.pad(pairs, (1, 0, 1, 0))[:, None]
        return mask if torch.is_autocast_enabled(mask.device.type) else mask.to(dtype)  # autocast casts it itself


def with_dense_masks(model: Any) -> nn.Module:
    """An mlin or mmlp whose biases are dense; the same parameters."""

    def of_difference(block: int) -> Callable[[Tensor], Tensor]:
        if hasattr(model, "alpha"):
            return lambda difference: model.alpha[block] * difference.abs()
        phi = model.phi[block]
        return lambda difference: phi.fc2(phi.fc1(difference.reshape(-1, 1)).relu()).view_as(difference)

    def biases(depth: Tensor) -> list[DenseBias]:
        depths = patch_depth(depth, model.config.patch_size, model.patch_depth_mode)
        return [DenseBias(model.head_scale, depths, of_difference(block)) for block in range(len(model.blocks))]

    model.biases = biases
    return model


def made_literal(model: nn.Module) -> nn.Module:
    if (folder := str(HERE.parent / "training")) not in sys.path:
        sys.path.append(folder)
    import literal_blocks

    literal_blocks.layer_norm = lambda x, norm: norm(x)  # by hand there, for fp64; their authors use PyTorch's
    return literal_blocks.made_literal(model)


def of_timm(model: Any) -> nn.Module:
    [name] = [TIMM[size] for size, (width, _) in WIDTHS.items() if width == model.config.width]
    return RgbOnly(timm.create_model(name, pretrained=False))


def of_torchvision(model: Any) -> nn.Module:
    config = model.config
    return RgbOnly(
        torchvision.models.VisionTransformer(
            config.image_size, config.patch_size, config.depth, config.heads, config.width, 4 * config.width
        )
    )


@dataclass(frozen=True)
class Arm:
    moniker: str
    change: Callable[[Any], nn.Module] = lambda model: model
    attention: str = "auto"
    online: bool = False


ARMS = {
    "m3ch again": Arm("m3ch"),
    "m4ch": Arm("m4ch"),
    "mlin": Arm("mlin"),
    "mmlp": Arm("mmlp"),
    "mgem": Arm("mgem"),
    "mdf1": Arm("mdf1"),
    "timm": Arm("m3ch", of_timm),
    "torchvision": Arm("m3ch", of_torchvision),
    "m3ch, triton": Arm("m3ch", attention="triton"),
    "mlin, triton": Arm("mlin", attention="triton"),
    "mmlp, triton": Arm("mmlp", attention="triton"),
    "m3ch, explicit": Arm("m3ch", attention="explicit"),
    "mlin, explicit": Arm("mlin", attention="explicit"),
    "mmlp, explicit": Arm("mmlp", attention="explicit"),
    "mlin, dense mask": Arm("mlin", with_dense_masks),
    "mmlp, dense mask": Arm("mmlp", with_dense_masks),
    "mdf1, literal": Arm("mdf1", made_literal),
    "mgem, literal": Arm("mgem", made_literal),
    "m4ch, online": Arm("m4ch", online=True),
}
VARIANTS = ("m4ch", "mlin", "mmlp", "mgem", "mdf1")
TRITON = ("mlin, triton", "mmlp, triton", "m3ch, triton")
EXPLICIT = ("m3ch, explicit", "mlin, explicit", "mmlp, explicit")
OTHERS = ("m4ch, online", "mlin, dense mask", "mmlp, dense mask", "mgem, literal", "mdf1, literal")


@dataclass(frozen=True)
class Stage:
    """Arms that share one m3ch, in one process: what breaks a CUDA context ends the stage alone."""

    size: str
    device: str
    precision: str
    compile: bool
    batch: int
    rounds: int
    arms: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.size}, {self.precision}, {'compiled' if self.compile else 'eager'}"


def stages(device: str, sizes: Sequence[str], precision: str, batch: int | None, rounds: int | None) -> list[Stage]:
    """In the order of importance."""
    if device == "cpu":
        arms = ("m3ch again", *VARIANTS, "timm", "torchvision", *OTHERS)
        plan = {"small": (4, 5, (*arms, *EXPLICIT)), "base": (2, 3, arms)}  # batch, rounds
        return [
            Stage(size, device, precision, False, batch or plan[size][0], rounds or plan[size][1], plan[size][2])
            for size in sizes
        ]
    plans = [
        (False, ("m3ch again", *VARIANTS, "timm")),
        (False, TRITON),
        (True, ("mlin", "mmlp", "timm", "mgem", "mdf1", "m4ch", "m3ch again")),
        (True, TRITON),
        (False, ("torchvision", *OTHERS, *EXPLICIT)),
    ]
    return [
        Stage(size, device, precision, compiled, batch or 192, rounds or 5, arms)
        for size in sizes
        for compiled, arms in plans
    ]


# ------------------------------------------------------------------------------------------------------------- measure


class Steps:
    """A model, its optimizer and batches: `turn` times steps."""

    def __init__(self, arm: Arm, stage: Stage) -> None:
        width, heads = WIDTHS[stage.size]
        settings = [f"model.width={width}", f"model.heads={heads}", f"optim.batch_size={stage.batch}"]
        settings += ["augment.mixup_alpha=0", "augment.cutmix_alpha=0", f"runtime.device={stage.device}"]
        settings += [f"runtime.precision={stage.precision}", f"runtime.compile={str(stage.compile).lower()}"]
        if arm.online:
            settings += ["data.depth=online", f"data.teacher={random_teacher().name}"]
        self.config: Config = resolve("thesis", arm.moniker, settings)
        machine = Machine.here(self.config)
        device = machine.device
        torch.manual_seed(0)
        own = self.config.model.build()
        set_attention(own, arm.attention)  # type: ignore[arg-type]
        # A zero head gives zero gradients, and zeros are no work like any other; so is LayerScale at 1e-6.
        nn.init.normal_(own.head.weight, std=0.02)
        for name, parameter in own.named_parameters():
            if "layer_scale" in name:
                nn.init.ones_(parameter)
        share = Share.of(self.config)
        self.training = TrainingStep(PreTraining(self.config), arm.change(own), machine, share)
        self.device, self.count = device, 0
        self.batches = [random_batch(stage.batch, self.config.model.image_size).to(device) for _ in range(2)]

    def turn(self, steps: int) -> tuple[float, float]:
        """Seconds a step: of the wall clock, and of this process's CPU time."""
        self.synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.training([self.batches[self.count % len(self.batches)]], self.count, 1.0)
            self.count += 1
        self.synchronize()
        return (time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_batch(size: int, side: int) -> ImageBatch:
    """Depth is constant in a patch and of unit variance; a tenth of the patches have none."""
    depth = torch.randn(size, 1, side // 16, side // 16)
    depth[torch.rand_like(depth) < 0.1] = torch.nan
    depth = F.interpolate(depth, scale_factor=16.0, mode="nearest")
    rgb = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
    return ImageBatch(rgb, depth, torch.randint(0, 1000, (size,)), [f"random {number}" for number in range(size)])


@cache
def random_teacher() -> tempfile.TemporaryDirectory[str]:
    """The folder of a DepthAnythingV2-Small with random weights, as long as this process lives."""
    import transformers
    from codec import random_depth_anything  # it needs more packages than the rest

    transformers.utils.logging.disable_progress_bar()
    folder = tempfile.TemporaryDirectory(prefix="teacher-")
    for part in random_depth_anything():
        part.save_pretrained(folder.name)
    return folder


def measured(arm_name: str, stage: Stage, m3ch: Steps) -> dict[str, Any]:
    """The arm and m3ch in turns, m3ch first and last."""
    on_gpu = stage.device == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    start = time.perf_counter()
    arm = Steps(ARMS[arm_name], stage)
    arm.turn(1)
    first_s = time.perf_counter() - start
    step_s, _ = arm.turn(2 if on_gpu else 1)
    steps = max(1, round(SECONDS_A_TURN[stage.device] / step_s))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        arm.turn(1)
        peak = torch.cuda.max_memory_allocated() - before
    reference, turns = [m3ch.turn(steps)], []
    for _ in range(stage.rounds):
        turns.append(arm.turn(steps))
        reference.append(m3ch.turn(steps))

    def ratios(kind: int) -> list[float]:
        return [
            2 * turn[kind] / (earlier[kind] + later[kind])
            for turn, earlier, later in zip(turns, reference[:-1], reference[1:], strict=True)
        ]

    wall = ratios(0)
    step_s = statistics.median(turn[0] for turn in turns)
    row: dict[str, Any] = {
        "ratio": round(statistics.median(wall), 3),
        "from": round(min(wall), 3),
        "to": round(max(wall), 3),
        "cpu ratio": round(statistics.median(ratios(1)), 3),
        "step_ms": round(1000 * step_s, 1),
        "m3ch_step_ms": round(1000 * statistics.median(turn[0] for turn in reference), 1),
        "images_per_s": round(stage.batch / step_s, 2),
        "first_step_s": round(first_s, 1),
    }
    if on_gpu:
        del row["cpu ratio"]
        row["tflops"] = round(6e-12 * count_macs(PreTraining(arm.config)) * stage.batch / step_s, 1)
        row["peak_gb"] = round(peak / 1e9, 2)
    return row


def run_stage(stage: Stage, deadline: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was measured of each arm; why not, where it failed or time ran out."""
    if stage.compile:
        torch._dynamo.config.recompile_limit = 64  # all models share one forward
    m3ch = Steps(Arm("m3ch"), stage)
    m3ch.turn(2)
    for name in stage.arms:
        if time.time() > deadline:
            yield name, {"not measured": "out of time"}
            continue
        try:
            row = measured(name, stage, m3ch)
        except Exception as error:  # one arm's; a GPU is not lent again for the others
            row = {"not measured": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        yield name, row
        gc.collect()
        if stage.device == "cuda":
            torch.cuda.empty_cache()


def matmul_tflops() -> float:
    """The fastest of a few turns of a square bf16 product on random data."""
    a, b = (torch.randn(CEILING_SIDE, CEILING_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            a @ b
        end.record()
        end.synchronize()
        rates.append(10 * 2 * CEILING_SIDE**3 / (start.elapsed_time(end) / 1000) / 1e12)
    return round(max(rates[1:]), 1)


# ---------------------------------------------------------------------------------------------------------------- main


@contextmanager
def child(stage: Stage, deadline: float) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows of a stage as a process of its own gives them; it is killed if it goes on too long."""
    command = [sys.executable, __file__, "--stage", json.dumps(asdict(stage)), "--deadline", str(deadline)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(max(1.0, deadline + 40 - time.time()), process.kill)
    timer.start()
    assert process.stdout is not None
    try:
        yield (json.loads(line) for line in process.stdout if line.startswith("{"))
    finally:
        timer.cancel()
        process.kill()  # it has ended, unless we are interrupted
        process.wait()


def machine(device: str) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {}
    packages = [name for name in ("torch", "torchvision", "timm", "transformers", "triton") if find_spec(name)]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        **gpu,
        "load_at_start": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def verdict(result: dict[str, Any]) -> dict[str, Any]:
    """Goals beside what was measured; met or not is said of a GPU alone."""
    on_gpu = "gpu" in result["machine"]
    kind = "ratio" if on_gpu else "cpu ratio"
    rows: dict[str, Any] = {}
    for stage, arms in result["measured"].items():
        ratios = {name: row[kind] for name, row in arms.items() if kind in row and stage.startswith("base")}
        for name, ratio in ratios.items():
            moniker = name.removesuffix(", triton")
            if moniker in GOALS:
                rows[f"{name} ({stage})"] = {"goal": GOALS[moniker], "measured": ratio, "met": ratio <= GOALS[moniker]}
            if name == "timm":  # m3ch is to be no slower
                rows[f"{name} ({stage})"] = {"goal": 1.0, "measured": ratio, "met": ratio >= 1}
    if not on_gpu:
        for row in rows.values():
            del row["met"]
    return {
        "what": "step time over m3ch's on one H200; timm at least, the others at most",
        "measured": "on this GPU" if on_gpu else "CPU time on this CPU, about which the goals say nothing",
        "rows": rows,
    }


def show(result: dict[str, Any], console: Console) -> None:
    for stage, arms in result["measured"].items():
        columns = list(dict.fromkeys(column for row in arms.values() for column in row if column != "not measured"))
        table = Table("", *columns, title=f"{stage}, batch {result['parameters']['batch'][stage]}: over m3ch")
        for name, row in arms.items():
            cells = [str(row.get(column, "")) for column in columns]
            table.add_row(name, *([row["not measured"]] if "not measured" in row else cells))
        console.print(table)
    if result["goals"]["rows"]:
        table = Table("", "goal on an H200", "measured", "met", title=f"measured: {result['goals']['measured']}")
        for name, row in result["goals"]["rows"].items():
            table.add_row(name, str(row["goal"]), f"{row['measured']:.3f}", str(row.get("met", "")))
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", help="small, base or small,base; by default both on a CPU, base on a GPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: bf16 on a GPU")
    parser.add_argument("--batch", type=int, help="by default 4 (small) and 2 (base) on a CPU, 192 on a GPU")
    parser.add_argument("--rounds", type=int, help="turns of each arm, by default 5, but 3 for base on a CPU")
    parser.add_argument("--quick", action="store_true", help="one round, small unless --sizes: does it run?")
    parser.add_argument("--out", type=Path, help="by default steps.json or steps-cuda.json beside this file")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        fields = json.loads(given.stage)
        for name, row in run_stage(Stage(**fields | {"arms": tuple(fields["arms"])}), given.deadline):
            print(json.dumps({"arm": name} | row), flush=True)
        return
    started = time.time()
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    sizes = (given.sizes or ("small" if given.quick else "small,base" if device == "cpu" else "base")).split(",")
    precision = given.precision if given.precision != "auto" else "bf16" if device == "cuda" else "fp32"
    plan = stages(device, sizes, precision, given.batch, 1 if given.quick else given.rounds)
    out = given.out or HERE / ("steps.json" if device == "cpu" else "steps-cuda.json")
    console = Console(width=130)
    if device == "cuda" and not given.quick:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, HERE / "blocks.py", "--device", "cuda"], timeout=120, check=False)
    result: dict[str, Any] = {
        "what": "a training step over m3ch's: forward, backward, clip, AdamW",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(device),
        "parameters": {
            "batch": {stage.name: stage.batch for stage in plan},
            "rounds": {stage.name: stage.rounds for stage in plan},
            "image_size": 224,
            "num_threads": torch.get_num_threads(),
            "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        },
        "measured": {},
    }
    if device == "cuda":
        result["ceiling_tflops"] = matmul_tflops()
        torch.cuda.empty_cache()
    deadline = started + (CUDA_SECONDS if device == "cuda" else 24 * 3600)
    for stage in plan:
        rows = result["measured"].setdefault(stage.name, {})
        with child(stage, deadline) as arms:
            for row in arms:
                name = row.pop("arm")
                if "tflops" in row and name != "m4ch, online":
                    row["mfu"] = round(row["tflops"] / result["ceiling_tflops"], 3)
                rows[name] = row
                told = f"{row['ratio']:.3f} of m3ch's step" if "ratio" in row else row["not measured"]
                console.print(f"{time.time() - started:5.0f} s  {stage.name}: {name}: {told}", highlight=False)
                result["seconds"], result["goals"] = round(time.time() - started), verdict(result)
                if not given.quick:
                    out.write_text(json.dumps(result, indent=1) + "\n")
        for name in stage.arms:
            rows.setdefault(name, {"not measured": "the process ended before"})
    result["machine"]["load_at_end"] = round(os.getloadavg()[0], 1)
    result["goals"] = verdict(result)
    if not given.quick:
        out.write_text(json.dumps(result, indent=1) + "\n")
    show(result, console)


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    main()
