"""From a loader's batch to what a model takes, on the model's device."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

import data_manifests
from training.config import Config
from training.loading.augment import rand_augment
from training.loading.augment.mix import mix
from training.loading.augment.pieces import pieces
from training.loading.batch import Batch

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


def model_inputs(batch: Batch, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """What is left to do on the device: RandAugment where the batch brings its draws, normalise, mix.

    Normalised RGB (batch, 3, h, w), z (batch, 1, h, w) with NaN, soft targets (batch, classes); the batch stays as it
    is. Depth that was not read (data.depth=online) stays NaN: the teacher looks at the mixed RGB.
    """
    rgb, depth = batch.rgb, batch.depth
    if batch.draws is not None:
        read = config.data.depth != "online"
        rgb = rgb.clone(memory_format=torch.contiguous_format)
        rgb, moved = rand_augment.apply(rgb, [depth.clone()] if read else [], batch.draws)
        depth = moved[0] if read else depth
    rgb = normalise(rgb, RGB_MEAN, RGB_STD)
    target = F.one_hot(batch.label, config.model.num_classes).to(rgb.dtype)
    if config.augment.mixes:
        group = batch.first // config.augment.mix_group
        rgb, depth, target = mix(rgb, depth, target, config.augment, config.seed, group)
    return rgb, depth, target
