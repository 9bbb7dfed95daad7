"""MoGe-2: metric depth with a mask, whose network is in the package `depth-estimation`."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from pipeline.teachers import TeacherError, UnfitImage
from pipeline.teachers.packaged import PATCH_PX, Packaged, row
from pipeline.teachers.view import IMAGENET_MEAN, IMAGENET_STD
from pipeline.teachers.weights import fill, one_line, package

_GRID = (64, 64)  # moge/utils/geometry_torch.py, recover_focal_shift


class MoGe2(Packaged):
    """Metric depth, and a mask of what has none (sky): NaN. It sees a photograph at its own aspect, in patches.

    `size` is the side of the square that has as many patches; by default as many as the network allows. The shift that
    makes a depth of its points is found as in the original, by scipy: the package's own search stops short of it.
    """

    file, masks = "model.pt", True

    def _check(self) -> None:
        if self.aspect != "keep":
            raise TeacherError(f"teacher {self.name} sees a photograph at its own aspect: leave out --teacher-aspect")
        if self.dtype == torch.bfloat16:
            raise TeacherError(f"teacher {self.name} runs in fp16 or fp32, got --dtype bf16")

    def _open(self, path: Path) -> tuple[Any, str]:
        networks, _ = package("moge")
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            config, weights = stored["model_config"], dict(stored["model"])
            net = networks._MoGeModelV2(**config)
        except Exception as error:  # whatever unpickling, or a network of odd widths, raises
            raise TeacherError(f"teacher {self.name}: {path} is no MoGe-2 checkpoint ({one_line(error)})") from None
        if not (hasattr(net, "points_head") and hasattr(net, "scale_head") and hasattr(net, "mask_head")):
            raise TeacherError(f"teacher {self.name}: {path} has no metric scale or no mask: it is not of MoGe-2")
        fill(self.name, net, weights)
        self.num_patches = (self.size // PATCH_PX) ** 2 if self.size else max(config.get("num_tokens_range", [3600]))
        return net, hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()

    def prepare(self, rgb: NDArray[np.uint8]) -> Tensor:
        """uint8 (height, width, 3) to (3, height, width) float32 from 0 to 1: the network resizes by itself."""
        height, width = rgb.shape[:2]
        if round((self.num_patches * min(height / width, width / height)) ** 0.5) < 1:
            raise UnfitImage(f"{width}x{height} pixels: too thin for the teacher")
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255

    def _depth(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        with torch.autocast(images.device.type, torch.float16, enabled=self.dtype == torch.float16):
            found = self.net(images, num_tokens=self.num_patches)
        scales, depths = found["metric_scale"].float(), []
        for points, likely, scale in zip(found["points"].float(), found["mask"].float(), scales, strict=True):
            seen = ~(likely <= 0.5)
            depth = scale * (points[..., 2] + _shift(points, seen, self.fov))
            depth = depth.nan_to_num(torch.inf, torch.inf, -torch.inf)  # what overflowed is a fault, and no hole
            depths.append(torch.where(seen & (depth > 0), depth, torch.nan))
        return depths

    def _online(self, rgb: Tensor) -> Tensor:
        images = (rgb * row(IMAGENET_STD, rgb.device) + row(IMAGENET_MEAN, rgb.device)).clamp(0, 1)
        return torch.stack(self._depth(images, []))


def _shift(points: Tensor, seen: Tensor, fov: float | None) -> float:
    """What to add to z so that points (height, width, 3) project to their pixels; NaN where they are not finite.

    Least squares over a coarse grid of the seen ones, by the focal length of `fov` or else the one that fits best.
    """
    height, width = points.shape[:2]
    diagonal = math.hypot(width, height)
    rows, columns = (torch.arange(n) * side // n for n, side in zip(_GRID, (height, width), strict=True))
    grid = np.ix_(rows.numpy(), columns.numpy())
    chosen = seen.cpu().numpy()[grid]
    x, y, z = points.cpu().numpy()[grid][chosen].T.astype(np.float64)
    if len(z) < 2:
        return 0.0
    column, row = np.meshgrid(columns.numpy(), rows.numpy())
    u, v = ((2 * column + 1 - width) / diagonal)[chosen], ((2 * row + 1 - height) / diagonal)[chosen]
    focal = None if fov is None else width / diagonal / math.tan(math.radians(fov) / 2)

    def residual(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        across, down = x / (z + shift), y / (z + shift)
        length = focal or float((across * u + down * v).sum() / (across**2 + down**2).sum())
        return np.concatenate([length * across - u, length * down - v])

    with np.errstate(all="ignore"):
        if not np.isfinite(residual(np.zeros(1))).all():
            return math.nan
        return float(least_squares(residual, 0.0, ftol=1e-3, method="lm").x[0])
