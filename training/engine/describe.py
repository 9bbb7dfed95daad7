"""run.json of a run that is about to begin: what it is, of which code, on which machine, and what it costs."""

import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.engine.log import now
from training.engine.machine import Machine, describe_device
from training.engine.task import Task
from training.models.attention import set_attention
from training.models.pretrained import Report
from training.records import RunRecord


def describe(name: str, task: Task[Any, Any], model: nn.Module, machine: Machine, report: Report | None) -> RunRecord:
    config, epochs = task.config, task.epochs
    return RunRecord(
        name=name,
        created=now(),
        preset=config.preset,
        task=task.kind,
        model=config.model.name,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        study_hash=config.study_hash(),
        shards=task.seen(),
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(task),
        steps_per_epoch=epochs.num_steps_each,
        num_steps=epochs.num_steps,
        git=git_state(),
        versions=versions(),
        machine={
            "device": describe_device(machine.device),
            "cores": os.cpu_count(),
            "world_size": machine.ranks.world_size,
        },
        init_sha256=report.sha256 if report else None,
        init_rows=[asdict(row) for row in report.rows] if report else [],
        init_note=report.note if report else "",
        **task.facts(),
    )


def count_macs(task: Task[Any, Any]) -> int:
    """Multiply-accumulates of matmuls and convolutions, one image, by PyTorch's counter on explicit attention."""
    with torch.device("meta"):
        model = task.build().eval()
        set_attention(model, "explicit")
        inputs = task.example()
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("pseudodepth", "torch", "torchvision", "numpy", "zarr")
    }


def git_state() -> dict[str, Any]:
    """Revision and dirty flag of the code that runs, None where it is no checkout."""
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"revision": None, "dirty": None}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
