"""What a run is: its description, and its model read back."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline import shards
from pipeline.errors import UserError
from training.config import Config, validate
from training.engine import checkpoint, log
from training.engine.task import Machine
from training.models.attention import set_attention
from training.models.pretrained import Report
from training.models.segmentation import Segmenter
from training.models.vit import VisionTransformer, built_for
from training.records import RunRecord, ShardsSeen, parse
from training.tasks.segmentation.config import FinetuneConfig
from training.tasks.segmentation.config import validate as validate_finetune

AnyConfig = Config | FinetuneConfig
_AnyConfig = TypeVar("_AnyConfig", Config, FinetuneConfig)


class TrainingError(UserError):
    """The run cannot start or go on; one line that names the cause and the fix."""


def choose_device(
    config: AnyConfig, local_rank: int = 0
) -> tuple[torch.device, Callable[[], AbstractContextManager[None]]]:
    """The device and the autocast context of a runtime: bf16 where it helps (a GPU), fp32 elsewhere."""
    wanted = config.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("runtime.device is cuda but this machine has no usable GPU: --set runtime.device=cpu")
    device = torch.device("cpu")
    if wanted != "cpu" and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise TrainingError(f"local rank {local_rank} has no GPU: there are {torch.cuda.device_count()} here")
        device = torch.device("cuda", local_rank)
    precision = config.runtime.precision
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return device, partial(torch.autocast, device.type, torch.bfloat16)
    return device, nullcontext


def slow_precision(config: AnyConfig, device: torch.device) -> str | None:
    """What to say of bf16 on a CPU, where it is asked for."""
    if device.type != "cpu" or config.runtime.precision != "bf16":
        return None
    return (
        "note: bf16 on a CPU is slower than fp32 and rounds to three digits (tests/benchmarks/precision.json): "
        "--set runtime.precision=auto takes fp32 here"
    )


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def count_macs(config: AnyConfig) -> int:
    """Multiply-accumulates of matmuls and convolutions, one image, by PyTorch's counter on explicit attention."""
    with torch.device("meta"):
        if isinstance(config, FinetuneConfig):
            model: nn.Module = Segmenter(config.model, config.head, config.augment.crop).eval()
            height, width = config.augment.crop
        else:
            model, height, width = config.model.build(), config.model.image_size, config.model.image_size
        set_attention(model, "explicit")
        rgb, depth = torch.zeros(1, 3, height, width), torch.zeros(1, 1, height, width)
    with FlopCounterMode(display=False) as counter:
        model(rgb, depth)
    return counter.get_total_flops() // 2


def describe(
    config: AnyConfig,
    name: str,
    seen: ShardsSeen,
    model: nn.Module,
    steps_per_epoch: int,
    num_steps: int,
    machine: Machine,
    report: Report | None,
) -> RunRecord:
    """run.json of a run that is about to begin."""
    return RunRecord(
        name=name,
        created=log.now(),
        preset=config.preset,
        model=config.model.name,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        study_hash=config.study_hash(),
        shards=seen,
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(config),
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        git=log.git_state(),
        versions=log.versions(),
        machine={
            "device": describe_device(machine.device),
            "cores": os.cpu_count(),
            "world_size": machine.ranks.world_size,
        },
        init_sha256=report.sha256 if report else None,
        init_rows=[asdict(row) for row in report.rows] if report else [],
        init_note=report.note if report else "",
    )


def check_classes_fit(config: Config, split: shards.Split) -> None:
    have = len(split.index.class_names)
    if config.model.num_classes < have:
        raise TrainingError(
            f"model.num_classes must be at least the {have} classes of {split.store}, got {config.model.num_classes}"
        )


def load_model(run: Path, name: str) -> tuple[Config, RunRecord, checkpoint.Checkpoint, VisionTransformer]:
    """The model of a pre-training run's checkpoint (`latest`, `best`, `epoch-<n>`, `step-<n>`), on the CPU; averaged
    weights where the run kept an average."""
    record = parse(RunRecord, run / "run.json")
    if record.task != "classification":
        raise TrainingError(f"{run} must be a run of train pretrain, not of train finetune: give what it began from")
    config = _anywhere(validate(record.config))
    saved = _own(checkpoint.load(checkpoint.find(run, name)), record, run)
    model = built_for(config.model.build, saved.weights, str(saved.folder))
    return config, record, saved, model


def load_segmenter(run: Path, name: str) -> tuple[FinetuneConfig, RunRecord, checkpoint.Checkpoint, Segmenter]:
    """The same of a fine-tuning run."""
    record = parse(RunRecord, run / "run.json")
    if record.task != "segmentation":
        raise TrainingError(f"{run} must be a run of train finetune, train pretrain made it: fine-tune it first")
    config = _anywhere(validate_finetune(record.config))
    saved = _own(checkpoint.load(checkpoint.find(run, name)), record, run)
    build = partial(Segmenter, config.model, config.head, config.augment.crop)
    model = built_for(build, saved.weights, str(saved.folder))
    return config, record, saved, model


def _anywhere(config: _AnyConfig) -> _AnyConfig:
    """The run's configuration for this machine: whatever it was trained on, what is here will do."""
    here = {"device": "auto", "workers": min(config.runtime.workers, os.cpu_count() or 1)}
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=here)})


def _own(saved: checkpoint.Checkpoint, record: RunRecord, run: Path) -> checkpoint.Checkpoint:
    if saved.info.study_hash != record.study_hash:
        raise TrainingError(f"{saved.folder} belongs to another run than {run}: restore this run's own checkpoints")
    return saved
