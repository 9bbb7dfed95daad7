"""What a loader hands to the trainer, whatever the task."""

from typing import Protocol, Self

import torch


class Batch(Protocol):
    """Samples of a piece of a step; `keys` name them, `first` is the first one's position in the endless stream."""

    @property
    def keys(self) -> list[str]: ...

    @property
    def first(self) -> int: ...

    def to(self, device: torch.device) -> Self: ...

    def pin_memory(self) -> Self: ...
