"""RandAugment's photometric operations: uint8 RGB (batch, 3, height, width), one strength per image (batch,).

Each gives what torchvision's functional of that name gives, within one level of 255, and treats every image alone: the
result does not depend on the rest of the batch. Sums are of whole numbers, products and sums are separate kernels:
no fused multiply-add, so the same bits wherever an image lies in the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Whole numbers must not fall below themselves by rounding before they are cut to bytes.
_NUDGE = 2.0**-10


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _bytes(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _grey(rgb: Tensor) -> Tensor:
    """Luma, cut to whole numbers: float (batch, 1, height, width)."""
    red, green, blue = rgb.float().unbind(1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).floor_()[:, None]


def brightness(rgb: Tensor, strength: Tensor) -> Tensor:
    return _bytes(rgb * _per_image(1 + strength))


def color(rgb: Tensor, strength: Tensor) -> Tensor:
    factor = _per_image(1 + strength)
    return _bytes((rgb * factor).add_(_grey(rgb).mul_(1 - factor)))


def contrast(rgb: Tensor, strength: Tensor) -> Tensor:
    factor = _per_image(1 + strength)
    total = _grey(rgb).to(torch.int32).sum((1, 2, 3))
    mean = (total.double() / rgb[0, 0].numel()).float()
    return _bytes((rgb * factor).add_(_per_image(mean) * (1 - factor)))


def sharpness(rgb: Tensor, strength: Tensor) -> Tensor:
    """Blends with a 3x3 mean whose centre counts five times; the outermost pixels stay."""
    if min(rgb.shape[2:]) <= 2:
        return rgb
    values = rgb.float()
    across = values[..., :-2] + values[..., 1:-1]
    across += values[..., 2:]
    total = across[..., :-2, :] + across[..., 1:-1, :]
    total += across[..., 2:, :]
    inside = values[..., 1:-1, 1:-1]
    blurred = total.add_(inside * 4).mul_(1 / 13).round_()
    inside += blurred.sub_(inside).mul_(_per_image(-strength))
    return _bytes(values)


def posterize(rgb: Tensor, strength: Tensor) -> Tensor:
    """`strength` is the number of high bits that stay."""
    mask = (255 - (2 ** (8 - strength.to(torch.int32))) + 1).to(torch.uint8)
    return rgb & _per_image(mask)


def solarize(rgb: Tensor, strength: Tensor) -> Tensor:
    """Inverts what reaches the threshold `strength`, 0 to 255."""
    threshold = _per_image(strength.ceil().to(torch.uint8))
    return (rgb >= threshold).view(torch.uint8).neg().bitwise_xor_(rgb)  # 0 or 255, many times faster than where


def autocontrast(rgb: Tensor, strength: Tensor) -> Tensor:
    flat = rgb.flatten(2)
    low, high = flat.amin(2).float()[..., None, None], flat.amax(2).float()[..., None, None]
    flat_one = high == low
    scale = torch.where(flat_one, 1.0, 255 / (high - low))
    return _bytes((rgb - torch.where(flat_one, 0.0, low)).mul_(scale).add_(_NUDGE))


def equalize(rgb: Tensor, strength: Tensor) -> Tensor:
    """Pillow's rounding of the cumulative histogram."""
    levels = rgb.flatten(2).long()
    counts = torch.zeros(*rgb.shape[:2], 256, dtype=torch.int32, device=rgb.device)
    counts.scatter_add_(2, levels, counts.new_ones(1).expand_as(levels))
    below = counts.cumsum(2)
    brightest = below.argmax(2, keepdim=True)  # the first that holds all: the highest level there is
    step = (levels.shape[2] - counts.gather(2, brightest)) // 255
    table = F.pad((below[..., :-1] + step // 2) // step.clamp_min(1), (1, 0)).clamp_(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, dtype=table.dtype, device=rgb.device))
    return table.to(torch.uint8).gather(2, levels).view_as(rgb)
