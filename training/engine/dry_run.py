"""`--dry-run`: what a run would take, from a few real steps that leave nothing behind."""

import resource
import shutil
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from training.engine.describe import count_macs
from training.engine.machine import Machine, choose_device, describe_device, slow_precision
from training.engine.ranks import Ranks
from training.engine.resume import Hold, earlier_checkpoint
from training.engine.share import Share, check_batch_size
from training.engine.step import TrainingStep
from training.engine.task import Task
from training.models.attention import set_attention

_WARM, _TIMED = 2, 3  # steps


@dataclass(frozen=True)
class RunEstimate:
    """What a run takes on this machine, by a few real steps; evaluations are left out."""

    num_steps: int
    step_s: float
    num_parameters: int
    disk_bytes: int  # of the checkpoints at the end


def estimate(task: Task[Any, Any], ranks: Ranks) -> RunEstimate:
    """Take a few steps that leave nothing behind; under torchrun every rank takes its part, as in the run itself.

    The task's data are open.
    """
    config, num_steps = task.config, task.epochs.num_steps
    share = Share.of(config, ranks.rank, ranks.world_size)
    torch.manual_seed(config.seed)
    model = task.build()
    set_attention(model, config.runtime.attention)
    if config.init is not None:
        task.initialise(model)
    training = TrainingStep(task, model, Machine.here(config, ranks), share)
    ran = min(num_steps, _WARM + _TIMED)
    loader = task.loader(share, 0, ran)
    seconds: list[float] = []
    for step in range(ran):
        start = time.perf_counter()
        training(islice(loader, share.pieces), step, 0.0)
        seconds.append(time.perf_counter() - start)
    snapshots = sum(epoch <= config.optim.epochs for epoch in config.runtime.snapshot_epochs) + 1
    return RunEstimate(
        num_steps=num_steps,
        step_s=sorted(seconds[-_TIMED:])[len(seconds[-_TIMED:]) // 2],
        num_parameters=sum(p.numel() for p in model.parameters()),
        disk_bytes=config.runtime.keep_checkpoints * _num_bytes(training.state())
        + snapshots * _num_bytes(training.weights()),
    )


def dry_run(task: Task[Any, Any], data: str, out: Path) -> Table | None:
    """Steps, time, memory and disk, as a table of the first rank."""
    config = task.config
    if not (out / "run.json").exists():
        earlier_checkpoint(out, False, Hold(out), print)  # refuses what a run would refuse
    ranks = Ranks.join(choose_device(config)[0].type)
    task.open(data)
    check_batch_size(config.optim, task.num_train, task.smaller_batch)
    found = estimate(task, ranks)
    device = choose_device(config, ranks.local_rank)[0]
    steps, step_s, share = found.num_steps, found.step_s, Share.of(config, ranks.rank, ranks.world_size)
    evaluations = sum(task.is_due(epoch) or epoch == config.optim.epochs for epoch in range(1, config.optim.epochs + 1))
    free = shutil.disk_usage(next(p for p in (out, *out.absolute().parents) if p.exists())).free
    precision = slow_precision(config, device)
    title = f"dry run: {config.model.name} on {task.num_train:,} images, {config.preset}"
    table = Table("what", "value", title=title, caption=precision)
    batch, ways = config.optim.batch_size, f"{ranks.world_size} x {share.pieces} x {share.piece}"
    for what, value in (
        (
            "parameters, multiply-accumulates an image",
            f"{found.num_parameters:,}, {count_macs(task) / 1e9:.2f} G",
        ),
        ("batch: ranks x pieces x samples", f"{batch}: {ways}"),
        ("steps, of which an epoch", f"{steps:,}, {steps / config.optim.epochs:,.1f}"),
        (
            f"a step on this {describe_device(device)}",
            f"{step_s:.2f} s, {batch / step_s:,.0f} images/s",
        ),
        ("training, without evaluation", _duration(steps * step_s)),
        ("peak memory of a rank", f"{_peak_bytes(device) / 1e9:,.1f} GB"),
        ("checkpoints at the end", f"{found.disk_bytes / 1e9:,.2f} GB, free: {free / 1e9:,.1f} GB"),
        ("evaluations", f"{evaluations:,} of {task.num_val:,} images"),
    ):
        table.add_row(what, value)
    ranks.leave()
    return table if ranks.first else None


def _num_bytes(state: object) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(_num_bytes(value) for value in state.values())
    return sum(_num_bytes(value) for value in state) if isinstance(state, list) else 0


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
