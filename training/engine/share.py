"""Which part of every global batch a rank makes, and in how many pieces."""

import math
from dataclasses import dataclass

from pipeline.errors import UserError
from training.config import Config
from training.tasks.segmentation.config import FinetuneConfig


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
    def of(cls, config: Config | FinetuneConfig, rank: int = 0, world_size: int = 1) -> "Share":
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


def num_steps(config: Config, count: int) -> int:
    """Whole batches in all epochs of `count` samples: epochs follow each other without a gap.

    The last epoch is short by what does not fill a batch.
    """
    batch = config.optim.batch_size
    if batch > count:
        raise DataError(f"optim.batch_size must be at most the {count} training samples, got {batch}: --set it lower")
    return config.optim.epochs * count // batch
