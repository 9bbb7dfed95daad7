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
from pipeline.terminal import make_console

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
            meet(found, "nccl" if device_type == "cuda" else "gloo")
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
    place: str  # for messages
    by_slurm: bool


def started(environment: Mapping[str, str] = os.environ) -> Started | None:
    """This process among several: torchrun's variables, else those of an srun of several tasks; None where it is alone.

    A batch script's own step has SLURM_PROCID too, but is one process: SLURM_STEP_NUM_TASKS is srun's alone.
    """
    try:
        if (size := int(environment.get("WORLD_SIZE", "1"))) != 1:
            ranks = Ranks(int(environment["RANK"]), int(environment.get("LOCAL_RANK", "0")), size)
            host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
            found = Started(ranks, "env://", f"{host}:{port}", False)
        elif "WORLD_SIZE" in environment or (size := int(environment.get("SLURM_STEP_NUM_TASKS", "1"))) == 1:
            return None
        else:
            local, gpus = int(environment["SLURM_LOCALID"]), torch.cuda.device_count()
            ranks = Ranks(int(environment["SLURM_PROCID"]), 0 if gpus == 1 else local, size)  # 1: each task has its own
            host = environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"])
            port = int(environment.get("MASTER_PORT") or 20000 + int(environment["SLURM_JOB_ID"]) % 20000)
            found = Started(ranks, f"tcp://{host}:{port}", f"{host}:{port}", True)
    except (KeyError, ValueError) as error:
        raise RanksError(
            f"the variables that make this process one of several cannot be read ({error}): start it with torchrun or "
            "srun"
        ) from None
    if not 0 <= ranks.rank < size:
        raise RanksError(f"the rank must be 0 to the number of processes less 1, got rank {ranks.rank} of {size}")
    return found


def meet(found: Started, backend: str) -> None:
    """Wait for the other processes; RanksError where they do not come."""
    ranks = found.ranks
    if found.by_slurm:  # torchrun meets before it starts them
        make_console(stderr=True).print(
            f"rank {ranks.rank} of {ranks.world_size}: meeting the others at {found.place}, for "
            f"{_PATIENCE.seconds // 60} minutes at most",
            soft_wrap=True,
        )
    try:
        dist.init_process_group(backend, found.meet_at, _PATIENCE, rank=ranks.rank, world_size=ranks.world_size)
    except (RuntimeError, ValueError) as error:  # torch's DistErrors are the former
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise RanksError(
            f"rank {ranks.rank} of {ranks.world_size} could not meet the others at {found.place} ({reason}): see that "
            "all were started, and that this host is reached"
        ) from None


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
