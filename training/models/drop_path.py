"""Stochastic depth (Huang et al. 2016): in training a residual branch is left out for a whole sample now and then."""

import torch
from torch import nn


def drop_path(rate: float) -> nn.Module:
    """Leaves what it is given out for a sample with probability `rate`, in training; scaled, so that the mean stays."""
    from torchvision.ops import StochasticDepth  # two seconds, of which other models need none

    return StochasticDepth(rate, mode="row")


def rates(last: float, count: int) -> list[float]:
    """Of `count` blocks: from 0 at the first linearly to `last` at the last."""
    return torch.linspace(0, last, count, device="cpu").tolist()
