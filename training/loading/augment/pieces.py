"""Batches in the pieces that a device works on at a time."""

from collections.abc import Iterator

from torch import Tensor


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors' images one by one on a CPU, so that every pass but the first finds them in its cache; else whole.

    Elementwise arithmetic gives the same bits either way.
    """
    if tensors[0].device.type == "cpu":
        yield from zip(*(tensor.unbind() for tensor in tensors), strict=True)
    else:
        yield tensors
