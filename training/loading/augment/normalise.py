"""Pixels as models take them: zero mean and unit variance of ImageNet."""

from functools import lru_cache

import torch
from torch import Tensor

import data_manifests
from training.loading.augment.pieces import pieces

_RGB = data_manifests.load("imagenet1k")
RGB_MEAN, RGB_STD = tuple(_RGB["rgb_mean"]), tuple(_RGB["rgb_std"])


def normalise(rgb: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (batch, 3, h, w) to zero mean and unit variance of the data set."""
    scale, shift = _scale_and_shift(mean, std, rgb.device)
    out = torch.empty(rgb.shape, device=rgb.device)
    for part, whole in pieces(rgb, out):
        torch.mul(part, scale, out=whole).sub_(shift)
    return out


@lru_cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept on the device: making them anew would wait for it each time."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(3, 1, 1)
    return scale, torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(3, 1, 1)
