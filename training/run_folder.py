"""What a run is: its description, what may not change on a resume, and its model read back."""

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
from training.records import SCHEMA_VERSION, Evaluation, RunRecord, ShardsSeen, parse


class TrainingError(ValueError):
    """The run cannot start or go on; one line that names the cause and the fix."""


def choose_device(config: Config) -> tuple[torch.device, Callable[[], AbstractContextManager[None]]]:
    """The device and the autocast context of a runtime: bf16 where it helps (a GPU), fp32 elsewhere."""
    wanted = config.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("runtime.device is cuda but this machine has no usable GPU: --set runtime.device=cpu")
    device = torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
    precision = config.runtime.precision
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return device, partial(torch.autocast, device.type, torch.bfloat16)
    return device, nullcontext


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
    data: Path,
    train: shards.Split,
    val: shards.Split,
    model: VisionTransformer,
    num_steps: int,
    device: torch.device,
) -> RunRecord:
    """run.json of a run that is about to begin."""
    index = train.index
    depth = index.depth[config.data.depth]
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
            path=str(data),
            source=index.source,
            train_fingerprint=index.fingerprint,
            val_fingerprint=val.index.fingerprint,
            num_train=len(train),
            num_val=len(val),
            num_classes=len(index.class_names),
            classes_sha256=classes_sha256(train),
            depth_field=config.data.depth,
            standardisation={name: getattr(depth, name) for name in keep},
            teacher=index.teacher["name"] if index.teacher else None,
        ),
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(config),
        steps_per_epoch=-(-len(train) // config.optim.batch_size),
        num_steps=num_steps,
        git=run_log.git_state(),
        versions=run_log.versions(),
        machine={
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "cores": os.cpu_count(),
            "world_size": 1,
        },
    )


def refuse_changes(earlier: RunRecord, now: RunRecord) -> None:
    changed = []
    for section, old in earlier.config.items():
        new = now.config[section]
        if section == "runtime" or old == new:
            continue
        if isinstance(old, dict):
            keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
            changed += [f"{section}.{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in keys]
        else:
            changed.append(f"{section} was {old!r}, now {new!r}")
    for name in ("train_fingerprint", "val_fingerprint"):
        if getattr(earlier.shards, name) != getattr(now.shards, name):
            changed.append(f"the {name.split('_')[0]} shards are not the ones the run began with")
    if changed:
        raise TrainingError(f"cannot resume {now.name}: {'; '.join(changed)}. Use what it began with, or another --out")


def load_model(run: Path, name: str) -> tuple[Config, RunRecord, checkpoint.Checkpoint, VisionTransformer]:
    """The model of a run's checkpoint (`latest`, `epoch-<n>`, `step-<n>`), on the CPU."""
    record = parse(RunRecord, run / "run.json")
    config = validate(record.config)
    saved = checkpoint.load(checkpoint.find(run, name))
    model = config.model.build()
    load_checked(model, saved.state["model"], str(saved.folder))
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
