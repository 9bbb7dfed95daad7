"""How a network of metric depth sees a training image: mirrored, turned, resized, cut, in other light.

Geometry is one for RGB and depth; what has no depth afterwards is NaN. A crop keeps the focal length, in pixels, that
depth in metres belongs to; `scale` changes it.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.loading.augment.geometry import Box, crop, resize
from training.tasks.sparse_depth.config import AugmentConfig

_GEOMETRY = 5  # numbers drawn of flip, rotation, scale, top, left
_PHOTOMETRY = 8  # of gamma, brightness, contrast, saturation, hue and three channels


class TooSmall(ValueError):
    """An image that the crop does not fit into."""


def augmented(rgb: Tensor, depth: Tensor, config: AugmentConfig, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """RGB uint8 (3, height, width) and metres (1, height, width), NaN unknown, at the crop's size.

    As many numbers are drawn whatever is asked for: an option changes nothing else. Raises TooSmall.
    """
    numbers = random.random(_GEOMETRY + _PHOTOMETRY).tolist()
    rgb, depth = moved(rgb, depth, config, numbers[:_GEOMETRY])
    return lit(rgb, config, numbers[_GEOMETRY:]), depth


def moved(rgb: Tensor, depth: Tensor, config: AugmentConfig, numbers: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Mirrored, resized, turned about the image's centre, then cut."""
    flip, turn, zoom, down, across = numbers
    if flip < config.flip:
        rgb, depth = rgb.flip(2), depth.flip(2)
    if config.scale != (1.0, 1.0):
        scale = _between(config.scale, zoom)
        size = round(rgb.shape[1] * scale), round(rgb.shape[2] * scale)
        rgb, depth = resize(rgb, "rgb", size), resize(depth, "depth", size)
        if config.scale_depth:
            depth = depth / scale
    (height, width), have = config.crop, rgb.shape[1:]
    if have[0] < height or have[1] < width:
        resized = " once resized" if config.scale != (1.0, 1.0) else ""
        raise TooSmall(
            f"augment.crop must fit into every image{resized}, got {height}x{width} of {have[0]}x{have[1]} px "
            "(height x width): lower it, or make the shards with larger images"
        )
    box = Box(int(down * (have[0] - height + 1)), int(across * (have[1] - width + 1)), height, width)
    if not config.rotation:
        return crop(rgb, box), crop(depth, box)
    return turned(rgb, depth, _between((-config.rotation, config.rotation), turn), box)


def turned(rgb: Tensor, depth: Tensor, degrees: float, box: Box) -> tuple[Tensor, Tensor]:
    """The box of an image turned about its centre, by one grid: RGB bilinear, depth of the nearest pixel.

    What lies beyond the image has no depth; its RGB is the border's.
    """
    height, width = rgb.shape[1:]
    y = torch.arange(box.top, box.top + box.height, dtype=torch.float32)[:, None] - (height - 1) / 2
    x = torch.arange(box.left, box.left + box.width, dtype=torch.float32) - (width - 1) / 2
    angle = torch.deg2rad(torch.tensor(degrees))
    cos, sin = angle.cos(), angle.sin()
    # From the centre in pixels to grid_sample's -1 .. 1 from edge to edge.
    grid = torch.stack([2 * (cos * x - sin * y) / width, 2 * (sin * x + cos * y) / height], -1)[None]
    light = F.grid_sample(rgb[None].float(), grid, "bilinear", "border", align_corners=False)[0]
    metres = F.grid_sample(depth[None], grid, "nearest", "zeros", align_corners=False)[0]
    return light.round().to(torch.uint8), torch.where(metres > 0, metres, torch.nan)


def lit(rgb: Tensor, config: AugmentConfig, numbers: Sequence[float]) -> Tensor:
    """Gamma, brightness, contrast, saturation, hue, then each channel by its own factor, in this order.

    The first, second and last are BTS' (Lee 2019), of every image where theirs are of every second; the others are
    torchvision's ColorJitter, whose order is drawn.
    """
    from torchvision.transforms.v2 import functional

    gamma, brightness, contrast, saturation, hue, *channels = numbers
    image = rgb.float() / 255
    for change, factors, number in (
        (functional.adjust_gamma, config.gamma, gamma),
        (functional.adjust_brightness, config.brightness, brightness),
        (functional.adjust_contrast, config.contrast, contrast),
        (functional.adjust_saturation, config.saturation, saturation),
    ):
        if factors != (1.0, 1.0):
            image = change(image, _between(factors, number))
    if config.hue:
        image = functional.adjust_hue(image, _between((-config.hue, config.hue), hue))
    if config.colour != (1.0, 1.0):
        image = image * torch.tensor([_between(config.colour, number) for number in channels])[:, None, None]
    return (255 * image).round_().clamp_(0, 255).to(torch.uint8)


def _between(ends: tuple[float, float], number: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * number
