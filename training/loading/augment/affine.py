"""RandAugment's geometric operations: one nearest-neighbour affine map per image, for all of its planes.

A pixel takes the value of the pixel nearest to where the map sends it. Where two are equally near (shear does that to
whole rows at some strengths), even wins here; in torchvision rounding errors of its normalised grid decide.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def matrix(operation: str, strength: float, height: int, width: int) -> tuple[float, ...]:
    """(a, b, c, d, e, f): output pixel (x, y) shows input pixel (a x + b y + c, d x + e y + f), counted from 0."""
    x, y = (width - 1) / 2, (height - 1) / 2
    match operation:
        case "translate_x":
            return 1, 0, -strength, 0, 1, 0
        case "translate_y":
            return 1, 0, 0, 0, 1, -strength
        case "shear_x":  # about the outer corner of the first pixel, as AutoAugment's original does
            return 1, strength, strength / 2, 0, 1, 0
        case "shear_y":
            return 1, 0, 0, strength, 1, strength / 2
        case "rotate":  # degrees, counter-clockwise about the centre
            cos, sin = math.cos(math.radians(strength)), math.sin(math.radians(strength))
            return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
    raise AssertionError(operation)


def move(planes: Sequence[Tensor], fills: Sequence[float], matrices: NDArray[np.floating]) -> list[Tensor]:
    """Planes (batch, channels, height, width), moved alike by `matrices` (batch, 6); `fills` come in from outside."""
    batch, _, height, width = planes[0].shape
    device = planes[0].device
    a, b, c, d, e, f = sent(np.asarray(matrices, np.float32), device)[:, :, None, None].unbind(1)
    right = torch.arange(width, dtype=torch.float32, device=device)
    down = torch.arange(height, dtype=torch.float32, device=device)[:, None]
    x = (a * right + (b * down + c)).round_().clamp_(-1, width).add_(1)
    y = (d * right + (e * down + f)).round_().clamp_(-1, height).add_(1)
    # Into planes with a border of fill, so that nothing need be asked of each pixel; whole numbers below 2**24.
    index = y.mul_(width + 2).add_(x).view(batch, 1, -1).to(torch.int64)
    moved = []
    for plane, fill in zip(planes, fills, strict=True):
        bordered = F.pad(plane, (1, 1, 1, 1), value=fill).flatten(2)
        moved.append(bordered.gather(2, index.expand(-1, plane.shape[1], -1)).view_as(plane))
    return moved


def sent(numbers: NDArray[np.generic], device: torch.device) -> Tensor:
    """On the device, without waiting for it: from pinned memory."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
