"""`train teacher`: a small Depth Anything model from shards that hold rendered depth; it made the embedded toy teacher.

The result is an ordinary `transformers` folder (closer is larger, no unit) that `pipeline.teachers` loads like any
other teacher, plus `training.json` with the command, the machine and the metrics. `measure` defines the metrics.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import files, shards
from pipeline.teachers import TeacherError
from pipeline.teachers.device import resolve_device
from pipeline.terminal import make_console
from training.tasks.depth.metrics import measure

_PATCH_PX = 14
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_POSITION_SCENES = 4096  # scenes that the position-only baseline averages over


def train_teacher(
    data: Path,
    out: Path,
    *,
    epochs: int = 3,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "auto",
    size_px: int = 112,
) -> dict[str, float]:
    """Train on `data`/train, measure on `data`/val, save to the new or replaced folder `out`; returns the metrics."""
    if size_px < _PATCH_PX or size_px % _PATCH_PX:
        raise TeacherError(f"--size-px must be a multiple of {_PATCH_PX} (the patch size), got {size_px}.")
    if epochs < 1 or batch_size < 1 or not lr > 0:
        raise TeacherError(f"--epochs, --batch-size and --lr must be positive, got {epochs}, {batch_size} and {lr}.")
    if out.exists() and not (out.is_dir() and ((out / "training.json").exists() or not files.listed(out))):
        raise TeacherError(
            f"--out {out} must be a new or empty folder or an earlier result of train teacher; choose another."
        )
    files.check_writable(out)
    train, val = InverseDepths(shards.open_split(data, "train")), InverseDepths(shards.open_split(data, "val"))
    where = resolve_device(device)
    started = time.perf_counter()
    torch.manual_seed(seed)
    model = build(size_px).to(where, memory_format=torch.channels_last)
    fit(model, train, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, size_px=size_px)
    train_s = time.perf_counter() - started
    metrics = measure(_estimates(model, val, size_px), position_mean(train))
    facts = {
        "command": " ".join(["train", *sys.argv[1:]]),
        "scenes": {"train": len(train), "val": len(val), "source": train.split.index.config.get("source")},
        "settings": {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "size_px": size_px},
        "num_parameters": sum(weight.numel() for weight in model.parameters()),
        "train_s": round(train_s, 1),
        "machine": {"device": where.type, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                    "python": platform.python_version()},
        "versions": {module.__name__: module.__version__ for module in (np, torch, transformers)},
        "metrics": metrics,
    }  # fmt: skip
    save(model, out, size_px, facts)
    return metrics


class Rooms(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]: ...


class InverseDepths:
    """Samples of one size: rgb (height, width, 3), 1 / exact depth in 1/m (height, width; NaN = unknown), seg."""

    def __init__(self, split: shards.Split) -> None:
        self.split = split
        if "exact" not in split.index.depth:
            raise TeacherError(
                f"{split.store} must hold 'exact' depth, got {', '.join(split.index.depth) or 'none'}: "
                "make it with precompute-depth toyrooms."
            )
        self.depth = split.index.depth["exact"]
        self.shape = split.read(0, ("rgb",))["rgb"].shape

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
        sample = self.split.read(position, ("rgb", "exact", "seg"))
        if sample["rgb"].shape != self.shape:
            raise TeacherError(f"{self.split.store}: {sample['key']} must be {self.shape}, got {sample['rgb'].shape}.")
        depth_m = self.depth.mean + self.depth.sign * self.depth.std * sample["exact"]
        return sample["rgb"], 1 / np.maximum(depth_m, 0.1, dtype=np.float32), sample["seg"]


def build(size_px: int = 112) -> transformers.DepthAnythingForDepthEstimation:
    """A Depth Anything of 0.59 M parameters: DINOv2 of width 96 and depth 4, DPT neck and head.

    transformers' own initialisation ends in a dead ReLU (constant 0): every weight is drawn anew as N(0, 1/fan_in) and
    the last bias starts at 2.
    """
    backbone = transformers.Dinov2Config(
        image_size=size_px, patch_size=_PATCH_PX, hidden_size=96, num_hidden_layers=4, num_attention_heads=3,
        mlp_ratio=4, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=_PATCH_PX, reassemble_hidden_size=96, neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    model = transformers.DepthAnythingForDepthEstimation(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    nn.init.constant_(model.head.conv3.bias, 2.0)
    model.set_attn_implementation("eager")  # at 65 tokens a third faster to train on CPU than the fused kernel
    embeddings = model.backbone.embeddings
    for tokens in (embeddings.cls_token, embeddings.position_embeddings):
        nn.init.normal_(tokens, std=0.02)
    return model


def prepare(rgb: Tensor, size_px: int) -> Tensor:
    """What `DPTImageProcessor` does, on tensors: uint8 (batch, height, width, 3) to normalised (batch, 3, h, w).

    One side becomes `size_px`, the one that changes less, and both are made multiples of 14.
    """
    height, width = rgb.shape[1:3]
    scale = min(size_px / height, size_px / width, key=lambda scale: abs(1 - scale))
    size = [max(_PATCH_PX, round(side * scale / _PATCH_PX) * _PATCH_PX) for side in (height, width)]
    pixels = rgb.permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)
    pixels = pixels.round().clamp(0, 255) / 255
    mean, std = (pixels.new_tensor(c).view(1, 3, 1, 1) for c in (_IMAGENET_MEAN, _IMAGENET_STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def estimate(model: nn.Module, rgb: Tensor, size_px: int) -> Tensor:
    """Relative inverse depth (batch, height, width) of `rgb` (batch, height, width, 3)."""
    depth = model(pixel_values=prepare(rgb, size_px)).predicted_depth
    return F.interpolate(depth[:, None].float(), size=rgb.shape[1:3], mode="bicubic", align_corners=False)[:, 0]


def ssi_loss(estimated: Tensor, inverse_depth: Tensor) -> Tensor:
    """Scale-and-shift-invariant L1 plus gradient matching at 4 scales (MiDaS, Ranftl 2020, eqs. 5, 6 and 11).

    Both maps (batch, height, width) are brought to mean 0 and mean absolute deviation 1 (the mean for MiDaS' median:
    these maps are clean, and it costs no sort). NaN in `inverse_depth` = unknown, left out.
    """
    valid = inverse_depth.isfinite()
    target = _normalise(torch.where(valid, inverse_depth, 0), valid)
    error = torch.where(valid, _normalise(estimated, valid) - target, 0)
    loss = error.abs().sum() / valid.sum()
    for scale in range(4):
        step = error[:, :: 2**scale, :: 2**scale]
        known = valid[:, :: 2**scale, :: 2**scale]
        both_x, both_y = known[:, :, 1:] & known[:, :, :-1], known[:, 1:] & known[:, :-1]
        gradient = (step.diff(dim=2).abs() * both_x).sum() + (step.diff(dim=1).abs() * both_y).sum()
        loss = loss + 0.5 * gradient / known.sum()
    return loss


def _normalise(depth: Tensor, valid: Tensor) -> Tensor:
    count = valid.sum((1, 2), keepdim=True).clamp_min(1)
    centred = depth - (depth * valid).sum((1, 2), keepdim=True) / count
    return centred / ((centred.abs() * valid).sum((1, 2), keepdim=True) / count).clamp_min(1e-4)


def _load(rooms: Rooms, positions: list[int]) -> tuple[Tensor, ...]:
    """Stacked rgb, inverse depth and seg."""
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*(rooms[i] for i in positions), strict=True))


def _batches(rooms: Rooms, order: list[int], batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    """Batches in `order`, read a few ahead in a thread."""
    ahead: deque[Future[tuple[Tensor, ...]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for start in range(0, len(order), batch_size):
            ahead.append(reader.submit(_load, rooms, order[start : start + batch_size]))
            if len(ahead) > 4:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def fit(
    model: nn.Module, train: Rooms, *, epochs: int, batch_size: int, lr: float, seed: int, size_px: int
) -> None:  # fmt: skip
    """AdamW, one-cycle cosine, random mirror images, bf16 autocast; bitwise repeatable for a seed and thread count."""
    device = next(model.parameters()).device
    dice = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, len(train))
    weights = [w for w in model.parameters() if w.ndim > 1]
    scalars = [w for w in model.parameters() if w.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": scalars, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr, weight_decay=0.02)
    steps = epochs * (len(train) // batch_size)

    def rate(step: int) -> float:
        return min(1, (step + 1) / min(300, 0.1 * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    model.train()
    losses: deque[Tensor] = deque(maxlen=50)
    used = len(train) // batch_size * batch_size
    orders = (torch.randperm(len(train), generator=dice)[:used].tolist() for _ in range(epochs))
    batches = (batch for order in orders for batch in _batches(train, order, batch_size))
    for rgb, inverse_depth, _ in _shown(batches, steps, batch_size, losses):
        rgb, inverse_depth = rgb.to(device, non_blocking=True), inverse_depth.to(device, non_blocking=True)
        mirrored = torch.rand(len(rgb), generator=dice).to(device) < 0.5
        rgb = torch.where(mirrored[:, None, None, None], rgb.flip(2), rgb)
        inverse_depth = torch.where(mirrored[:, None, None], inverse_depth.flip(2), inverse_depth)
        with torch.autocast(device.type, torch.bfloat16):
            estimated = estimate(model, rgb, size_px)
        loss = ssi_loss(estimated.float(), inverse_depth)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())


def _shown(batches: Iterator[Any], steps: int, batch_size: int, losses: deque[Tensor]) -> Iterator[Any]:
    """The batches, with a bar on a terminal and a line every ten seconds elsewhere."""
    console = make_console(stderr=True)
    columns = TextColumn("scenes {task.fields[text]}"), BarColumn(), TimeRemainingColumn()
    started = last_line = time.perf_counter()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("scenes", total=steps, text="")
        for step, batch in enumerate(batches, 1):
            yield batch
            now = time.perf_counter()
            if (step % 20 and step < steps) or (not console.is_terminal and now - last_line < 10 and step < steps):
                continue
            rate, last_line = step * batch_size / (now - started), now
            loss = float(torch.stack(tuple(losses)).mean())
            text = f"{step * batch_size:,}/{steps * batch_size:,}  {rate:,.0f}/s  loss {loss:.4f}"
            bar.update(task, completed=step, text=text)
            if not console.is_terminal:
                eta_s = (steps - step) * batch_size / rate
                console.print(f"scenes {text}  ETA {eta_s:,.0f} s", highlight=False)


def position_mean(train: Rooms) -> NDArray[np.float64]:
    """Mean inverse depth of each pixel position, 1/m: what can be said without looking at the picture."""
    chosen = np.linspace(0, len(train) - 1, min(len(train), _POSITION_SCENES)).astype(int)
    return np.nanmean([train[int(i)][1] for i in chosen], axis=0)


@torch.inference_mode()
def _estimates(model: nn.Module, rooms: Rooms, size_px: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of estimated and true inverse depth and seg, for `measure`."""
    device = next(model.parameters()).device
    model.eval()
    for rgb, inverse_depth, seg in _batches(rooms, list(range(len(rooms))), 64):
        estimated = estimate(model, rgb.to(device), size_px).cpu().numpy().astype(np.float64)
        yield estimated, inverse_depth.numpy(), seg.numpy()


def save(model: transformers.PreTrainedModel, out: Path, size_px: int, facts: dict[str, Any]) -> None:
    """Write everything beside `out`, then put it in its place: `out` never holds half a teacher."""
    with files.making(out) as made:
        transformers.utils.logging.disable_progress_bar()
        model.to("cpu", memory_format=torch.contiguous_format).save_pretrained(made)
        transformers.DPTImageProcessor(
            size={"height": size_px, "width": size_px}, keep_aspect_ratio=True, ensure_multiple_of=_PATCH_PX,
            image_mean=list(_IMAGENET_MEAN), image_std=list(_IMAGENET_STD), do_pad=False,
        ).save_pretrained(made)  # fmt: skip
        (made / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
