"""What do sparse-query depth networks cost? Encoders and decoders, sparse and dense, beside DepthAnythingV2-Small.

    python tests/benchmarks/sparse.py      # writes sparse.json (on a GPU sparse-cuda.json) beside itself; ten minutes

One image at a time, fp32, random weights, CPU time; arms take turns, ROUNDS times, and a ratio is the median over
rounds with its extremes. K = 784 is what online depth asks of a 224 px image.

- v15.2 at 350 x 476 and at 224 x 224. `decoder` is neck, global path and local path; its time is held against its
  encoder's: asked sparsely (bar 0.15) and densely (0.75). How a query's keys and values are had: `as written` projects
  each of its 75 tokens, `of maps` projects whole maps and looks those up, `absorbed` makes none (what the product does;
  the others are here alone). How the dense map is made: by shifted views (the product's), or by unfolding all tokens in
  chunks of ten rows. Whole networks: DepthAnythingV2-Small at the same pixels over ours (bar 1.15 at 350 x 476).
- v13.1 at 480 x 640 beside the same teacher at 476 x 630: from which number of queries on the teacher is cheaper, by
  time and by multiply-accumulates; its document estimates 480 for a GPU.
  Both decoders here make no keys and values of a query's own tokens, which is a quarter of the documents' work; so a
  break-even by multiply-accumulates lies four times as far as theirs. By time it does not: a convolutional encoder gets
  less out of a CPU than a transformer, and a query's work is in small pieces.
- Peak memory of encoding and mapping densely, weights counted, over encoding alone (bar 1.5): the kernel's record of
  resident memory, less that of a process that only imported and built the network's classes, plus its weights.
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
import torch.nn.functional as F
from blocks import kernel_kb
from rich.console import Console
from rich.table import Table
from steps import machine
from torch import Tensor

from pipeline.teachers.sparse import Encoded, SparseNetwork, look_up, neighbours, normalised
from pipeline.teachers.spd_v13 import SpdV13
from pipeline.teachers.spd_v15 import SpdV15, _resized, _tokens

ROUNDS, SECONDS_A_TURN, QUERIES = 5, 0.3, 784
SIZES = ((350, 476), (224, 224))
V13_SIZE, TEACHER_SIZE = (480, 640), (476, 630)
V13_QUERIES = (1, 64, 256, 784, 2048)
MACS_OF_TEACHER = 66.7e9  # DepthAnythingV2-Small at 476 x 630
Arms = dict[str, Callable[[], Any]]


def seconds(call: Callable[[], Any], repeats: int, device: str) -> float:
    """A call's CPU time; on a GPU, the wall's."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


@torch.inference_mode()
def turns(arms: Arms, device: str) -> dict[str, list[float]]:
    """Seconds of each arm in each round."""
    repeats = {}
    for name, call in arms.items():
        call()
        repeats[name] = max(1, round(SECONDS_A_TURN / max(1e-6, seconds(call, 1, device))))
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, call in arms.items():
            found[name].append(seconds(call, repeats[name], device))
    return found


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    each = [a / b for a, b in zip(over, under, strict=True)]
    return {"ratio": round(statistics.median(each), 3), "from": round(min(each), 3), "to": round(max(each), 3)}


def added(*parts: list[float]) -> list[float]:
    return [sum(round_) for round_ in zip(*parts, strict=True)]


def milliseconds(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(1e3 * statistics.median(each), 2) for name, each in found.items()}


def teacher(device: str) -> Callable[[Tensor], Any]:
    """DepthAnythingV2-Small of transformers, random weights."""
    import transformers

    backbone = transformers.Dinov2Config(
        image_size=518, patch_size=14, hidden_size=384, num_hidden_layers=12, num_attention_heads=6, mlp_ratio=4,
        out_indices=[3, 6, 9, 12], reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )  # fmt: skip
    network = transformers.DepthAnythingForDepthEstimation(config).eval().to(device)
    return lambda images: network(pixel_values=images).predicted_depth


def drawn(size: tuple[int, int], number: int, device: str) -> Tensor:
    return torch.rand(1, number, 2, device=device) * torch.tensor([size[1] - 1.0, size[0] - 1.0], device=device)


# --- v15.2, other ways ------------------------------------------------------------------------------------------------


def as_written(network: SpdV15, encoded: Encoded, queries: Tensor) -> Tensor:
    """Keys and values of each token."""

    def pairs(stage: Any, names: tuple[str, ...], near: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([look_up(encoded.maps[name], near) for name in names], 2) + network._embedding(names)
        return stage.key(tokens), stage.value(tokens)

    return _by_pairs(network, encoded, queries, pairs)


def of_maps(network: SpdV15, encoded: Encoded, queries: Tensor) -> Tensor:
    """Keys and values of whole maps, looked up."""

    def pairs(stage: Any, names: tuple[str, ...], near: Tensor) -> tuple[Tensor, ...]:
        weight, bias = (torch.cat([getattr(stage.key, n), getattr(stage.value, n)]) for n in ("weight", "bias"))
        found = []
        for name in names:
            rows = F.linear(encoded.maps[name].permute(0, 2, 3, 1), weight, bias)
            found.append(look_up(rows.permute(0, 3, 1, 2), near))
        both = torch.cat(found, 2) + F.linear(network._embedding(names), weight)
        return both.chunk(2, -1)

    return _by_pairs(network, encoded, queries, pairs)


def _by_pairs(network: SpdV15, encoded: Encoded, queries: Tensor, pairs: Callable[..., Any]) -> Tensor:
    points = normalised(queries, encoded.size, torch.float32)[:, :, None]
    found = look_up(encoded.maps["s8"], points)[:, :, 0]
    for stage, names in network._stages():
        spacing = encoded.maps[names[0]].shape[2:]
        key, value = pairs(stage, names, points + neighbours((spacing[0], spacing[1]), 2, points))
        key, value = (each.unflatten(-1, (stage.heads, -1)).transpose(2, 3) for each in (key, value))
        query = stage._query(found).unflatten(-1, (stage.heads, 1, -1))
        read = (query @ key.transpose(-1, -2)).softmax(-1) @ value
        found = stage._end(found, read.flatten(2))
    return network._metres(found)


def unfolded(network: SpdV15, encoded: Encoded, rows: int = 10) -> Tensor:
    """The dense map with all tokens of ten rows of cells at a time."""
    height, width = encoded.size
    h, w = 4 * (height // 14), 4 * (width // 14)
    full = {name: _resized(each, (h, w)) for name, each in encoded.maps.items()}
    steps = {name: h // each.shape[2] for name, each in encoded.maps.items()}
    padded = {name: F.pad(each, (2 * steps[name],) * 4, mode="replicate") for name, each in full.items()}
    start = _tokens(full["s8"]).unflatten(1, (h, w))
    parts = []
    for top in range(0, h, rows):
        found = start[:, top : top + rows].flatten(1, 2)
        for stage, names in network._stages():
            tokens = []
            for name in names:
                step = steps[name]
                part = padded[name][:, :, top : top + min(rows, h - top) + 4 * step]
                tokens.append(F.unfold(part.contiguous(), 5, dilation=step).unflatten(1, (-1, 25)).permute(0, 3, 2, 1))
            seen = torch.cat(tokens, 2) + network._embedding(names)
            key, value = (each(seen).unflatten(-1, (stage.heads, -1)).transpose(2, 3)
                          for each in (stage.key, stage.value))  # fmt: skip
            query = stage._query(found).unflatten(-1, (stage.heads, 1, -1))
            found = stage._end(found, ((query @ key.transpose(-1, -2)).softmax(-1) @ value).flatten(2))
        parts.append(network._metres(found))
    return torch.cat(parts, 1).unflatten(1, (h, w))


# --- what is measured -------------------------------------------------------------------------------------------------


def v15(size: tuple[int, int], device: str, beside: Callable[[Tensor], Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    network = SpdV15().eval().to(device)
    images, queries = torch.randn(1, 3, *size, device=device), drawn(size, QUERIES, device)
    with torch.inference_mode():
        taps = network.tapped(images)
        encoded = network.encode(images)
        wanted = network.at(encoded, queries)
        for other in (as_written, of_maps):
            torch.testing.assert_close(other(network, encoded, queries), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(unfolded(network, encoded), network.dense(encoded), rtol=1e-4, atol=1e-4)
    found = turns(
        {
            "encoder": lambda: network.tapped(images),
            "neck and global path": lambda: network.fused(taps),
            "local, sparse": lambda: network.at(encoded, queries),
            "local, sparse, as written": lambda: as_written(network, encoded, queries),
            "local, sparse, of maps": lambda: of_maps(network, encoded, queries),
            "local, dense": lambda: network.dense(encoded),
            "local, dense, unfolded": lambda: unfolded(network, encoded),
            "whole, sparse": lambda: network(images, queries),
            "whole, dense": lambda: network(images),
            "DepthAnythingV2-Small": lambda: beside(images),
        },
        device,
    )
    neck, encoder = found["neck and global path"], found["encoder"]
    return {
        "ms": milliseconds(found),
        "decoder over encoder, sparse": ratio(added(neck, found["local, sparse"]), encoder),
        "decoder over encoder, dense": ratio(added(neck, found["local, dense"]), encoder),
        "as written over absorbed": ratio(found["local, sparse, as written"], found["local, sparse"]),
        "of maps over absorbed": ratio(found["local, sparse, of maps"], found["local, sparse"]),
        "unfolded over shifted views": ratio(found["local, dense, unfolded"], found["local, dense"]),
        "whole network, dense over sparse": ratio(found["whole, dense"], found["whole, sparse"]),
        "DepthAnythingV2-Small over ours, sparse": ratio(found["DepthAnythingV2-Small"], found["whole, sparse"]),
        "DepthAnythingV2-Small over ours, dense": ratio(found["DepthAnythingV2-Small"], found["whole, dense"]),
        "macs": {
            "query, as written": network.macs_of_query(),
            "query": network.macs_of_query(as_written=False),
            "dense local path": network.macs_of_dense(size),
        },
    }


def v13(device: str, beside: Callable[[Tensor], Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    network = SpdV13().eval().to(device)
    images = torch.randn(1, 3, *V13_SIZE, device=device)
    theirs = torch.randn(1, 3, *TEACHER_SIZE, device=device)
    with torch.inference_mode():
        encoded = network.encode(images)
    arms: Arms = {"encode": lambda: network.encode(images), "DepthAnythingV2-Small": lambda: beside(theirs)}
    for number in V13_QUERIES:
        arms[f"{number} queries"] = lambda queries=drawn(V13_SIZE, number, device): network.at(encoded, queries)
    found = turns(arms, device)
    most = V13_QUERIES[-1]
    each = [many / most for many in found[f"{most} queries"]]
    left = [t - e for t, e in zip(found["DepthAnythingV2-Small"], found["encode"], strict=True)]
    even = [spare / one for spare, one in zip(left, each, strict=True)]
    as_done = (MACS_OF_TEACHER - network.macs_of_image(V13_SIZE, as_written=False)) / network.macs_of_query(
        V13_SIZE, as_written=False
    )
    as_documented = (MACS_OF_TEACHER - network.macs_of_image(V13_SIZE)) / network.macs_of_query(V13_SIZE)
    return {
        "ms": milliseconds(found),
        "ms a query": round(1e3 * statistics.median(each), 3),
        "break-even queries": {
            "by time": round(statistics.median(even)), "from": round(min(even)), "to": round(max(even)),
            "by macs": round(as_done), "by macs, as written": round(as_documented), "the document's, for a GPU": 480,
        },
        "macs": {
            "image": network.macs_of_image(V13_SIZE, as_written=False),
            "query": network.macs_of_query(V13_SIZE, as_written=False),
            "query, as written": network.macs_of_query(V13_SIZE),
        },
    }  # fmt: skip


def peak_mb(what: str, size: tuple[int, int], dense: bool) -> float:
    """Of a process of its own: weights and what a pass adds, over one that has only imported all this."""
    command = [sys.executable, __file__, "--peak", what, str(size[0]), str(size[1]), str(int(dense))]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@torch.inference_mode()
def own_peak_mb(what: str, size: tuple[int, int], dense: bool) -> float:
    torch.ones(8, 8) @ torch.ones(8, 8)  # what libraries take at their first call is no network's
    before = kernel_kb("VmRSS")
    network: SparseNetwork = {"v15": SpdV15, "v13": SpdV13}[what]().eval()
    encoded = network.encode(torch.randn(1, 3, *size))
    if dense:
        network.dense(encoded)
    return (kernel_kb("VmHWM") - before) * 1024 / 1e6


def memory(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what, size in (("v15", SIZES[0]), ("v13", V13_SIZE)):
        if device == "cuda":
            values = [_cuda_peak(what, size, dense) for dense in (False, True)]
        else:
            values = [statistics.median(peak_mb(what, size, dense) for _ in range(3)) for dense in (False, True)]
        found[f"{what} at {size[0]} x {size[1]}"] = {
            "encode_mb": round(values[0]), "encode_and_dense_mb": round(values[1]),
            "ratio": round(values[1] / values[0], 2),
        }  # fmt: skip
    return found


@torch.inference_mode()
def _cuda_peak(what: str, size: tuple[int, int], dense: bool) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    network: SparseNetwork = {"v15": SpdV15, "v13": SpdV13}[what]().eval().cuda()
    encoded = network.encode(torch.randn(1, 3, *size, device="cuda"))
    if dense:
        network.dense(encoded)
    return torch.cuda.max_memory_allocated() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        what, height, width, dense = given.peak
        print(own_peak_mb(what, (int(height), int(width)), dense == "1"))
        return
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {
        "what": "sparse-query depth networks, one image, fp32, random weights",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(device),
        "parameters": {"rounds": ROUNDS, "queries": QUERIES, "clock": "wall" if device == "cuda" else "CPU time"},
        "measured": {},
    }
    beside = teacher(device)
    table = Table("", "threads", "what", "ratio", "from", "to")
    for threads in (1, 2) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        for size in SIZES:
            row = result["measured"][f"v15.2 at {size[0]} x {size[1]}, {threads} threads"] = v15(size, device, beside)
            for name, value in row.items():
                if "ratio" in value:
                    table.add_row(f"v15.2 {size[0]} x {size[1]}", str(threads), name, *map(str, value.values()))
        row = result["measured"][f"v13.1 at 480 x 640, {threads} threads"] = v13(device, beside)
        even = row["break-even queries"]
        table.add_row("v13.1", str(threads), "break-even queries", *(str(even[k]) for k in ("by time", "from", "to")))
    result["memory"] = memory(device)
    for name, value in result["memory"].items():
        table.add_row(name, "", "encoding and dense over encoding, peak memory", str(value["ratio"]), "", "")
    result["machine"]["load_at_end"] = round(os.getloadavg()[0], 1)
    name = "sparse.json" if device == "cpu" else "sparse-cuda.json"
    (Path(__file__).parent / name).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    Console(width=140).print(table)


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # as the command line sets it; it is read when torch is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    main()
