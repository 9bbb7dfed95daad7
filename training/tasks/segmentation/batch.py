"""What the loader of fine-tuning hands to the trainer."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SegBatch:
    """rgb uint8 (batch, 3, height, width); depth (batch, 1, height, width), NaN invalid; label uint8, 255 void.

    `inside` (batch, 4): top, left, bottom, right of what is image and not padding; it stays on the CPU. `first` is the
    position of the first sample in the stream, or in the split.
    """

    rgb: Tensor
    depth: Tensor
    label: Tensor
    inside: Tensor
    keys: list[str]
    first: int = 0

    def _each(self, change: Callable[[Tensor], Tensor]) -> "SegBatch":
        return SegBatch(change(self.rgb), change(self.depth), change(self.label), self.inside, self.keys, self.first)

    def to(self, device: object) -> "SegBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))  # type: ignore[call-overload]

    def pin_memory(self) -> "SegBatch":
        return self._each(Tensor.pin_memory)
