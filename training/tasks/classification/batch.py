"""What the loader of pre-training hands to the trainer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.loading.decode import is_one_number


@dataclass(frozen=True)
class ImageBatch:
    """rgb uint8 (batch, 3, size, size); depth z (batch, 1, size, size), NaN invalid; label int64 (batch,).

    `first` is the position of the first sample in the endless stream (in the split, for evaluation). `draws` are
    RandAugment's parameters where it has not been applied yet: (batch, operations, 2), operation and signed strength;
    they stay on the CPU. Depth that was not read is one NaN seen as (batch, 1, size, size), wherever it goes.
    """

    rgb: Tensor
    depth: Tensor
    label: Tensor
    keys: list[str]
    first: int = 0
    draws: Tensor | None = None

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ImageBatch":
        depth = change(self.depth[:1, :1, :1, :1] if is_one_number(self.depth) else self.depth)
        return ImageBatch(
            change(self.rgb), depth.expand(self.depth.shape), change(self.label), self.keys, self.first, self.draws
        )

    def to(self, device: torch.device) -> "ImageBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "ImageBatch":
        return self._each(Tensor.pin_memory)
