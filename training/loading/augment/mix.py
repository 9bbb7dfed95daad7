"""CutMix and MixUp inside groups of consecutive samples, on RGB, depth and soft target together.

torchvision's own, after default_collate, mix the first tensor and the labels and leave depth as it was, silently.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from training.loading.augment.config import AugmentConfig
from training.loading.decode import is_one_number
from training.random_numbers import generator


def mix(
    rgb: Tensor, depth: Tensor, target: Tensor, config: AugmentConfig, seed: int, first_group: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each group of `mix_group` samples of normalised RGB, z (NaN invalid) and targets (batch, classes).

    Each sample's partner is its neighbour in the group's own rotation; λ, box and method are drawn per group, a
    function of (seed, group number). Depth that is one number for all (none was read) stays as it is.
    """
    given = (rgb, target) if is_one_number(depth) else (rgb, depth, target)
    mixed = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in given]
    for number in range(-(-len(rgb) // config.mix_group)):
        group = slice(number * config.mix_group, (number + 1) * config.mix_group)
        _mix_group(given, mixed, group, config, seed, first_group + number)
    return mixed[0], depth if len(given) == 2 else mixed[1], mixed[-1]


def _mix_group(
    given: tuple[Tensor, ...], mixed: list[Tensor], group: slice, config: AugmentConfig, seed: int, number: int
) -> None:
    rng = generator(seed, "mix", number)
    use_cutmix = rng.random() < 0.5 if config.mixup_alpha > 0 and config.cutmix_alpha > 0 else config.cutmix_alpha > 0
    alpha = config.cutmix_alpha if use_cutmix else config.mixup_alpha
    share = float(rng.beta(alpha, alpha))
    *pictures, target = [tensor[group] for tensor in given]
    *outs, target_out = [tensor[group] for tensor in mixed]
    if use_cutmix:
        height, width = pictures[0].shape[2:]
        cut = math.sqrt(1 - share)
        cy, cx = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(0, cy - int(height * cut) // 2), min(height, cy + int(height * cut) // 2)
        left, right = max(0, cx - int(width * cut) // 2), min(width, cx + int(width * cut) // 2)
        box = (..., slice(top, bottom), slice(left, right))
        for picture, out in zip(pictures, outs, strict=True):
            out.copy_(picture)
            out[box] = picture[box].roll(1, 0)
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        for channel, (picture, out) in enumerate(zip(pictures, outs, strict=True)):
            for one, partner, mixture in _pairs(picture, out):
                torch.mul(one, share, out=mixture).add_(partner * (1 - share))
                if channel == 1:  # depth: where one of the two is missing, the other
                    missing = mixture.isnan()
                    if one.device.type != "cpu" or missing.any():
                        mixture.copy_(torch.where(missing, torch.where(one.isnan(), partner, one), mixture))
    target_out.copy_(share * target + (1 - share) * target.roll(1, 0))


def _pairs(picture: Tensor, out: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """(samples, their partners, where their mixtures go); a CPU takes them one by one and is spared the rolled copy."""
    if picture.device.type == "cpu":
        ones = picture.unbind()
        yield from zip(ones, (ones[-1], *ones[:-1]), out.unbind(), strict=True)
    else:
        yield picture, picture.roll(1, 0), out
