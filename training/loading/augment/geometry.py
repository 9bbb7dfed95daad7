"""Crop, flip and resize: one box for every plane of a sample, each plane by its own rule.

| rule   | plane                                       | resized                                                   |
|--------|---------------------------------------------|-----------------------------------------------------------|
| rgb    | uint8 (3, height, width)                    | bilinear, antialiased                                     |
| depth  | float32 z (1, height, width), NaN invalid   | the same over valid pixels only, NaN where under half are |
| labels | uint8 (1, height, width)                    | nearest                                                   |
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.loading.augment.config import AugmentConfig

ResizeRule = Literal["rgb", "depth", "labels"]
_TRIES = 10
CROP_NUMBERS = 2 * _TRIES + 2  # uniform numbers that `random_box` takes


class Box(NamedTuple):
    """Pixels of the stored image that become the view, left and right exchanged where `flip`."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    @property
    def window(self) -> tuple[slice, slice]:
        """The box as slices of (rows, columns); a flip reads the columns backwards."""
        rows, right = slice(self.top, self.top + self.height), self.left + self.width
        if self.flip:
            return rows, slice(right - 1, self.left - 1 if self.left else None, -1)
        return rows, slice(self.left, right)


def random_box(height: int, width: int, config: AugmentConfig, numbers: Sequence[float], flip: bool) -> Box:
    """RandomResizedCrop's box, of CROP_NUMBERS uniform `numbers` in [0, 1)."""
    (small, large), low = config.crop_scale, math.log(config.crop_ratio[0])
    high = math.log(config.crop_ratio[1])
    for attempt in range(_TRIES):
        area = height * width * (small + (large - small) * numbers[2 * attempt])
        ratio = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            down, right = numbers[2 * _TRIES], numbers[2 * _TRIES + 1]
            return Box(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w, flip)
    ratio = min(max(width / height, config.crop_ratio[0]), config.crop_ratio[1])
    h, w = max(1, min(height, round(width / ratio))), max(1, min(width, round(height * ratio)))
    return Box((height - h) // 2, (width - w) // 2, h, w, flip)


def crop(plane: Tensor, box: Box) -> Tensor:
    """The box of a plane (channels, height, width), flipped where the box says so."""
    cut = plane[:, box.top : box.top + box.height, box.left : box.left + box.width]
    return cut.flip(2) if box.flip else cut


def resize(plane: Tensor, rule: ResizeRule, size: tuple[int, int]) -> Tensor:
    """A plane (channels, height, width) at `size`, by its rule."""
    if tuple(plane.shape[1:]) == size:
        return plane
    match rule:
        case "rgb":  # the CPU's fast path for bytes wants a pixel's channels side by side
            return _bilinear(plane[None].contiguous(memory_format=torch.channels_last), size)[0]
        case "depth":
            if not math.isnan(plane.sum().item()):
                return _bilinear(plane[None], size)[0]
            valid = ~plane.isnan()
            z, share = _bilinear(torch.stack([plane.nan_to_num(0.0), valid.float()]), size)
            return torch.where(share >= 0.5, z / share.clamp_min(0.5), torch.nan)
        case "labels":
            return F.interpolate(plane[None], size, mode="nearest-exact")[0]


def _bilinear(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased; where nothing shrinks that is plain interpolation, which is faster for floats."""
    shrinks = planes.shape[2] > size[0] or planes.shape[3] > size[1]
    return F.interpolate(planes, size, mode="bilinear", antialias=shrinks or planes.dtype == torch.uint8)


def centre(plane: Tensor, rule: ResizeRule, size: int, share: float) -> Tensor:
    """Evaluation's view: the short side resized to size / share, then the central (size, size).

    In torchvision's arithmetic (Resize, CenterCrop), so that accuracies are of the same pixels.
    """
    height, width = plane.shape[1:]
    short = max(size, round(size / share))
    long = int(short * max(height, width) / min(height, width))
    resized = resize(plane, rule, (short, long) if height <= width else (long, short))
    top, left = (round((side - size) / 2.0) for side in resized.shape[1:])
    return resized[:, top : top + size, left : left + size]
