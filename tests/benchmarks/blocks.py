"""What does writing the fusion blocks and φ anew save? Ours against literal transcriptions, forward and backward.

    python tests/benchmarks/blocks.py      # writes blocks.json (on a GPU blocks-cuda.json) beside itself; two minutes

- mgem: a GeminiFusion block at the width of ViT-B/16 (two branches of 384, 14 x 14 tokens each) against the public
  code's loop over the batch with `nn.MultiheadAttention` over two keys;
- mdf1: a DFormer block (768 and 384 channels, 14 x 14) against the public code's steps, each with its copies;
- φ: mmlp's function of all 196 x 196 differences of an image against Linear(1, 32), ReLU, Linear(32, 1) over the pairs.

The first two literals are of tests/training/literal_blocks.py and share the parameters of our block; their LayerNorm is
PyTorch's here, as their authors have it. Gradients are those of inputs (φ has none) and of every parameter. Ours and
the literal take turns of at least a quarter of a second; `ratio` is literal over ours, the median over neighbouring
turns, with its extremes: above 1 ours is faster. `cpu ratio` is the same of the process's CPU time, which neighbours on
the machine disturb less. On a GPU all runs in bf16 autocast, at batch 192.

Peak memory is what a forward and backward adds to the process: on a CPU the kernel's record of resident memory in a
process of its own, after a pass of batch 1, on a GPU PyTorch's. What a block keeps for backward inside a whole model
is in steps.py, and so is what blocks mean for a step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from steps import machine, made_literal
from torch import Tensor, nn

from training.models.fusion.mmlp import Phi
from training.models.patch_depth import signed_difference
from training.tasks.classification.config import resolve

BATCHES = {"cpu": (1, 4, 16), "cuda": (16, 192)}
SECONDS_A_TURN, ROUNDS = 0.25, 7
ARMS = ("ours", "literal")


class LiteralPhi(nn.Module):
    def __init__(self, phi: Phi) -> None:
        super().__init__()
        self.layers = nn.Sequential(phi.fc1, nn.ReLU(), phi.fc2)

    def forward(self, depths: Tensor) -> Tensor:
        difference = signed_difference(depths)
        return self.layers(difference.reshape(-1, 1)).view_as(difference)


def modules(what: str, device: str) -> dict[str, nn.Module]:
    """Ours and the literal, with the same parameters."""
    torch.manual_seed(0)
    if what == "φ":
        phi = Phi().to(device)
        return {"ours": phi, "literal": LiteralPhi(phi)}
    settings = ["model.num_classes=1", "model.depth=3", "model.fusion_blocks=2"]  # the first of two: no dead tail
    model = resolve("thesis", what, settings).model.build().to(device)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.ones_(parameter)
    ours = model.fusion[0]
    return {"ours": ours, "literal": made_literal(model).fusion[0]}


def inputs(what: str, batch: int, device: str) -> tuple[Tensor, ...]:
    shapes = {"φ": [(batch, 196)], "mgem": [(2, batch, 196, 384)], "mdf1": [(batch, 14, 14, 768), (batch, 14, 14, 384)]}
    return tuple(torch.randn(shape, device=device).requires_grad_(what != "φ") for shape in shapes[what])


def forward_backward(module: nn.Module, tensors: tuple[Tensor, ...], *more: object) -> Callable[[], None]:
    wanted = [tensor for tensor in (*tensors, *module.parameters()) if tensor.requires_grad]
    device = tensors[0].device.type
    gradients: list[Tensor] = []

    def call() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            out = module(*tensors, *more)
        outputs = list(out) if isinstance(out, tuple) else [out]
        if not gradients:
            gradients.extend(torch.randn_like(output) for output in outputs)
        torch.autograd.grad(outputs, wanted, gradients)

    return call


def seconds(call: Callable[[], None], repeats: int, device: str) -> tuple[float, float]:
    """A call, of the wall clock and of this process's CPU time."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats, (time.process_time() - cpu_start) / repeats


def measured(what: str, batch: int, device: str) -> dict[str, Any]:
    tensors = inputs(what, batch, device)
    more = ((14, 14),) if what == "mgem" else ()
    calls = {name: forward_backward(module, tensors, *more) for name, module in modules(what, device).items()}
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(SECONDS_A_TURN / seconds(call, 2, device)[0]))
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    for _ in range(ROUNDS):
        for name in ARMS:
            turns[name].append(seconds(calls[name], repeats[name], device))
    ratios, cpu_ratios = (
        [literal[kind] / ours[kind] for ours, literal in zip(*turns.values(), strict=True)] for kind in range(2)
    )
    return {
        **{f"{name}_ms": round(1000 * statistics.median(turn[0] for turn in turns[name]), 2) for name in ARMS},
        "ratio": round(statistics.median(ratios), 2),
        "from": round(min(ratios), 2),
        "to": round(max(ratios), 2),
        "cpu ratio": round(statistics.median(cpu_ratios), 2),
    }


def peak_mb(what: str, name: str, batch: int, device: str) -> float:
    if device == "cuda":
        call = forward_backward(modules(what, device)[name], inputs(what, batch, device))
        call()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    command = [sys.executable, __file__, "--peak", what, name, str(batch)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def added_mb(what: str, name: str, batch: int) -> float:
    module = modules(what, "cpu")[name]
    forward_backward(module, inputs(what, 1, "cpu"))()
    call = forward_backward(module, inputs(what, batch, "cpu"))
    before = kernel_kb("VmRSS")
    call()
    return (kernel_kb("VmHWM") - before) * 1024 / 1e6


def kernel_kb(field: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(added_mb(given.peak[0], given.peak[1], int(given.peak[2])))
        return
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {
        "what": "fusion blocks and φ at the width of ViT-B/16, forward and backward; ratio: literal over ours",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(device),
        "parameters": {
            "rounds": ROUNDS,
            "dtype": "bfloat16 autocast" if device == "cuda" else "float32",
            "num_threads": torch.get_num_threads(),
            "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        },
        "measured": {},
    }
    table = Table(
        "", "batch", "ours ms", "literal ms", "ratio", "from", "to", "cpu ratio", "ours peak MB", "literal peak MB"
    )
    for what in ("mgem", "mdf1", "φ"):
        rows = result["measured"][what] = {}
        for batch in BATCHES[device]:
            row = rows[f"batch {batch}"] = measured(what, batch, device)
            if batch == BATCHES[device][-1]:
                row |= {f"{name}_peak_mb": round(peak_mb(what, name, batch, device)) for name in ARMS}
            table.add_row(what, str(batch), *(f"{value:g}" for value in row.values()))
    result["machine"]["load_at_end"] = round(os.getloadavg()[0], 1)
    name = "blocks.json" if device == "cpu" else "blocks-cuda.json"
    (Path(__file__).parent / name).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    Console(width=120).print(table)


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    main()
