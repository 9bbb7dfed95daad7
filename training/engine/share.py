"""Which part of every global batch a rank makes, in how many pieces, and which steps make an epoch."""

import math
from dataclasses import dataclass

from pipeline.errors import UserError
from training.config import OptimConfig, StudyConfig


class DataError(UserError):
    """The shards do not have what the run needs; one line that names it and the fix."""


@dataclass(frozen=True)
class Share:
    """One rank's part of every global batch: consecutive samples, delivered in `pieces` batches a step.

    Mixing groups are never cut: `piece` is a multiple of `mix_group` where there is mixing.
    """

    rank: int
    world_size: int
    piece: int  # samples a batch
    pieces: int  # batches a step

    @classmethod
    def of(cls, config: StudyConfig, rank: int = 0, world_size: int = 1) -> "Share":
        total, group = config.optim.batch_size, config.mix_group
        if total % (world_size * group):
            whole = f"whole mixing groups of {group} " if group > 1 else ""
            raise DataError(
                f"optim.batch_size {total} must divide into {whole}for each of {world_size} ranks: change it, "
                "augment.mix_group or the number of ranks"
            )
        mine = total // world_size
        piece = math.lcm(config.runtime.micro_batch or mine, group)
        if mine % piece:
            raise DataError(
                f"runtime.micro_batch {config.runtime.micro_batch} must divide a rank's {mine} samples of a batch, "
                f"together with augment.mix_group {group}"
            )
        return cls(rank, world_size, piece, mine // piece)

    def first(self, step: int, piece: int) -> int:
        """Position in the stream of the first sample of a piece of a step."""
        return (step * self.world_size + self.rank) * self.piece * self.pieces + piece * self.piece


@dataclass(frozen=True)
class Epochs:
    """Passes over `num_train` samples, which follow each other without a gap, or so many steps each."""

    optim: OptimConfig
    num_train: int

    @property
    def num_steps(self) -> int:
        """Whole batches in all epochs: the last pass is short by what does not fill a batch."""
        if self.optim.steps_per_epoch:
            return self.optim.epochs * self.optim.steps_per_epoch
        return self.optim.epochs * self.num_train // self.optim.batch_size

    @property
    def num_steps_each(self) -> int:
        """Of one epoch; of passes the longest."""
        return self.optim.steps_per_epoch or -(-self.num_train // self.optim.batch_size)

    def at(self, step: int) -> float:
        """The fractional epoch that begins with this step."""
        if self.optim.steps_per_epoch:
            return step / self.optim.steps_per_epoch
        return step * self.optim.batch_size / self.num_train

    def done(self, step: int) -> int:
        """Whole epochs in the first `step` batches; the last step ends the last epoch."""
        if step >= self.num_steps:
            return self.optim.epochs
        if self.optim.steps_per_epoch:
            return step // self.optim.steps_per_epoch
        return step * self.optim.batch_size // self.num_train


def check_batch_size(optim: OptimConfig, num_train: int, fix: str) -> None:
    if optim.batch_size > num_train:
        raise DataError(
            f"optim.batch_size must be at most the {num_train} training samples, got {optim.batch_size}: {fix}"
        )
