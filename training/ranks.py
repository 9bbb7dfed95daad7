"""The processes of one training run: one per GPU, started by torchrun; alone without it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# A rank that waits longer than this for the others gives up. Nothing in a run keeps ranks apart for minutes: every
# rank evaluates its part, and the first one's checkpoints take seconds.
_PATIENCE = timedelta(minutes=10)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls, device_type: str) -> "Ranks":
        """Meet the other processes where torchrun (or anything that sets its variables) started some."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        ranks = cls(int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0")), world_size)
        if device_type == "cuda":
            torch.cuda.set_device(ranks.local_rank)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=_PATIENCE)
        return ranks

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
