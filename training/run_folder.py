"""What a run is: its description, and its model read back."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import shards
from training import checkpoint, run_log
from training.config import Config, validate
from training.data import classes_sha256
from training.evaluate import Outcome
from training.models.vit import VisionTransformer, load_checked
from training.online import OnlineDepth
from training.records import SCHEMA_VERSION, Evaluation, RunRecord, ShardsSeen, parse


class TrainingError(ValueError):
    """The run cannot start or go on; one line that names the cause and the fix."""


def choose_device(
    config: Config, local_rank: int = 0
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


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def count_macs(config: Config) -> int:
    """Multiply-accumulates of matmuls and convolutions, one image, by PyTorch's counter on explicit attention."""
    with torch.device("meta"):
        model = config.model.build()
        size = config.model.image_size
        rgb, depth = torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size)
    with FlopCounterMode(display=False) as counter:
        model(rgb, depth, taps={})
    return counter.get_total_flops() // 2


def describe(
    config: Config,
    name: str,
    data: str,
    train: shards.Split,
    val: shards.Split,
    model: VisionTransformer,
    num_steps: int,
    device: torch.device,
    world_size: int,
    init_sha256: str | None,
    teacher: OnlineDepth | None,
) -> RunRecord:
    """run.json of a run that is about to begin."""
    index = train.index
    depth = teacher or index.depth[config.data.depth]
    named = config.data.teacher if teacher else (index.teacher or {}).get("name")
    keep = ("mean", "std", "polarity", "unit")
    return RunRecord(
        name=name,
        created=run_log.now(),
        preset=config.preset,
        model=config.model.name,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        study_hash=config.study_hash(),
        shards=ShardsSeen(
            path=data,
            source=index.source,
            train_fingerprint=index.fingerprint,
            val_fingerprint=val.index.fingerprint,
            num_train=len(train),
            num_val=len(val),
            num_classes=len(index.class_names),
            classes_sha256=classes_sha256(train),
            depth_field=config.data.depth,
            standardisation={name: getattr(depth, name) for name in keep},
            teacher=named,
        ),
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(config),
        steps_per_epoch=-(-len(train) // config.optim.batch_size),
        num_steps=num_steps,
        git=run_log.git_state(),
        versions=run_log.versions(),
        machine={
            "device": describe_device(device),
            "cores": os.cpu_count(),
            "world_size": world_size,
        },
        init_sha256=init_sha256,
        online_teacher=teacher.identity if teacher else None,
    )


def check_classes_fit(config: Config, split: shards.Split) -> None:
    have = len(split.index.class_names)
    if config.model.num_classes < have:
        raise TrainingError(
            f"model.num_classes must be at least the {have} classes of {split.store}, got {config.model.num_classes}"
        )


def load_model(run: Path, name: str) -> tuple[Config, RunRecord, checkpoint.Checkpoint, VisionTransformer]:
    """The model of a run's checkpoint (`latest`, `best`, `epoch-<n>`, `step-<n>`), on the CPU; averaged weights where
    the run kept an average."""
    record = parse(RunRecord, run / "run.json")
    # Whatever it was trained on: what is here will do.
    runtime = record.config["runtime"]
    workers = min(runtime["workers"], os.cpu_count() or 1)
    config = validate(record.config | {"runtime": runtime | {"device": "auto", "workers": workers}})
    saved = checkpoint.load(checkpoint.find(run, name))
    model = config.model.build()
    load_checked(model, saved.weights, str(saved.folder))
    return config, record, saved, model


def as_evaluation(
    outcome: Outcome, config: Config, split: shards.Split, depth_field: str, name: str, epoch: int
) -> Evaluation:
    return Evaluation(
        schema_version=SCHEMA_VERSION,
        model=config.model.name,
        checkpoint=name,
        epoch=epoch,
        data=split.data,
        split=split.index.split,
        fingerprint=split.index.fingerprint,
        depth_field=depth_field,
        num_samples=len(split),
        top1=outcome.top1,
        top5=outcome.top5,
        loss=outcome.loss,
        correct1="".join("01"[hit] for hit in outcome.correct1),
        correct5="".join("01"[hit] for hit in outcome.correct5),
    )
