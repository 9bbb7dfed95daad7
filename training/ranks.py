"""The processes of one training run: one per GPU, started by torchrun; alone without it."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from pipeline.errors import UserError

# A rank that waits longer than this for the others gives up. Nothing in a run keeps ranks apart for minutes: every
# rank evaluates its part, and the first one's checkpoints take seconds.
_PATIENCE = timedelta(minutes=10)

_Result = TypeVar("_Result")


class RanksError(UserError):
    """The processes of a run cannot meet, or are too many; one line that names the cause and the fix."""


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls, device_type: str) -> "Ranks":
        """Meet the other processes where torchrun (or anything that sets its variables) or srun started some."""
        found = started()
        if found is None:
            return cls()
        if device_type == "cuda":
            torch.cuda.set_device(found.ranks.local_rank)
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if device_type == "cuda" else "gloo", found.meet_at, _PATIENCE,
                rank=found.ranks.rank, world_size=found.ranks.world_size,
            )  # fmt: skip
        return found.ranks

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, on every rank; in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))

    def by_first(self, action: Callable[[], _Result]) -> _Result:
        """What `action` returns on the first rank, on every rank. Where it fails there, the others end silently."""
        if not self.first:
            done, result = self.gather(None)[0]
            if not done:
                raise SystemExit(1)
            return result
        try:
            result = action()
        except BaseException:
            self.gather((False, None))
            raise
        self.gather((True, result))
        return result

    def leave(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


class Started(NamedTuple):
    ranks: Ranks
    meet_at: str  # URL
    by_slurm: bool


def started(environment: Mapping[str, str] = os.environ) -> Started | None:
    """This process among several: torchrun's variables, else those of an srun of several tasks; None where it is alone.

    A batch script's own step has SLURM_PROCID too, but is one process: SLURM_STEP_NUM_TASKS is srun's alone.
    """
    try:
        if (size := int(environment.get("WORLD_SIZE", "1"))) > 1:
            ranks = Ranks(int(environment["RANK"]), int(environment.get("LOCAL_RANK", "0")), size)
            return Started(ranks, "env://", False)
        if "WORLD_SIZE" in environment or (size := int(environment.get("SLURM_STEP_NUM_TASKS", "1"))) == 1:
            return None
        local, gpus = int(environment["SLURM_LOCALID"]), torch.cuda.device_count()
        ranks = Ranks(int(environment["SLURM_PROCID"]), 0 if gpus == 1 else local, size)  # 1: each task has its own
        host = environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"])
        port = int(environment.get("MASTER_PORT") or 20000 + int(environment["SLURM_JOB_ID"]) % 20000)
    except (KeyError, ValueError) as error:
        raise RanksError(
            f"the variables that make this process one of several cannot be read ({error}): start it with torchrun"
        ) from None
    return Started(ranks, f"tcp://{host}:{port}", True)


def world_size() -> int:
    """How many processes were started together."""
    found = started()
    return found.ranks.world_size if found else 1


def _first_host(nodes: str) -> str:
    """`gpu[03-05,11]-a,login` -> gpu03-a."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    if not found:
        raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}")
    return "".join(part or "" for part in found.groups())
