"""Where a run runs: its device, the precision there, and its ranks."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from pipeline.errors import UserError
from training.config import StudyConfig
from training.engine.ranks import Ranks

Autocast = Callable[[], AbstractContextManager[None]]


class TrainingError(UserError):
    """The run cannot start or go on; one line that names the cause and the fix."""


@dataclass(frozen=True)
class Machine:
    """`between` is called between batches of an evaluation, as often on every rank; it may raise."""

    device: torch.device
    autocast: Autocast
    ranks: Ranks = Ranks()  # noqa: RUF009 (frozen)
    between: Callable[[], None] = lambda: None

    @classmethod
    def here(cls, config: StudyConfig, ranks: Ranks = Ranks(), between: Callable[[], None] = lambda: None) -> "Machine":
        return cls(*choose_device(config, ranks.local_rank), ranks, between)


def choose_device(config: StudyConfig, local_rank: int = 0) -> tuple[torch.device, Autocast]:
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


def slow_precision(config: StudyConfig, device: torch.device) -> str | None:
    """What to say of bf16 on a CPU, where it is asked for."""
    if device.type != "cpu" or config.runtime.precision != "bf16":
        return None
    return (
        "note: bf16 on a CPU is slower than fp32 and rounds to three digits (tests/benchmarks/precision.json): "
        "--set runtime.precision=auto takes fp32 here"
    )


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
