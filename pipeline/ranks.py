"""Which part of the job this process does: under torchrun, under SLURM, or as it is told."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.claim import JobError


@dataclass(frozen=True)
class Rank:
    """Rank `rank` of `world_size` owns every shard whose number leaves the remainder `rank`."""

    rank: int = 0
    world_size: int = 1
    local: int = 0  # the rank on its machine: chooses the GPU
    told_by: str = field(default="", compare=False)  # the environment's variables, "" where the options say it

    def owns(self, shard: int) -> bool:
        return shard % self.world_size == self.rank

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


def resolve(rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ) -> Rank:
    """The options where given, else torchrun's variables, else SLURM's (tasks of an array count as more ranks)."""
    if rank is not None or world_size is not None:
        if rank is None or world_size is None:
            raise JobError("--rank and --world-size go together: give both or neither")
        return _checked(rank, world_size, rank, "--rank and --world-size", "")
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            origin, local = "RANK and WORLD_SIZE", int(environment.get("LOCAL_RANK", 0))
            rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        elif "SLURM_PROCID" in environment or "SLURM_ARRAY_TASK_ID" in environment:
            origin, local = "SLURM's variables", int(environment.get("SLURM_LOCALID", 0))
            task, tasks = (int(environment.get(f"SLURM_{name}", d)) for name, d in (("PROCID", 0), ("NTASKS", 1)))
            array = {n: int(environment.get(f"SLURM_ARRAY_TASK_{n}", d)) for n, d in _ARRAY_DEFAULTS.items()}
            rank = (array["ID"] - array["MIN"]) // max(array["STEP"], 1) * tasks + task
            world_size = array["COUNT"] * tasks
        else:
            return Rank()
    except ValueError as error:
        raise JobError(
            f"the scheduler's rank variables cannot be read ({error}): give --rank and --world-size"
        ) from None
    return _checked(rank, world_size, local, origin, origin)


def announced(rank: Rank) -> str:
    """The first line of one process of several: an environment may make it one without anybody's wish."""
    part = f"{rank}: shards {rank.rank}, {rank.rank + rank.world_size}, ..."
    if not rank.told_by:
        return part
    return f"{part} by {rank.told_by} alone; to do the whole in this process: --rank 0 --world-size 1"


_ARRAY_DEFAULTS = {"ID": 0, "MIN": 0, "STEP": 1, "COUNT": 1}


def usable_cpus() -> int:
    """The cores this process may use, which a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(rank: int, world_size: int, local: int, origin: str, told_by: str) -> Rank:
    if world_size < 1 or not 0 <= rank < world_size:
        raise JobError(
            f"{origin}: the rank must be 0 to world size - 1, got rank {rank} of {world_size}; number an array evenly "
            "(--array=0-7), or give --rank and --world-size"
        )
    return Rank(rank, world_size, local, told_by)
