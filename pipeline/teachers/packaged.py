"""Teachers whose networks are in the PyPI package `depth-estimation` (MIT), opened by name; Depth Anything 3 is here.

`--teacher da3-small` takes the weights from the hub, `--teacher da3-small=WHERE` from a folder, a file or another hub
repository. Of the package we use the networks alone: its pipeline stretches each map to its own minimum and maximum,
and what it loads loosely keeps random weights. Photographs are shown one by one, each a batch of its own: alone and in
company an estimate differs in its last bits, and labels must not depend on the batch or on ranks.
"""

import importlib.metadata
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.ranks import usable_cpus
from pipeline.teachers import PACKAGED, TeacherError, TeacherOptions, UnfitImage
from pipeline.teachers.device import (
    check_threads,
    device_name,
    one_line_when_memory_is_short,
    resolve_device,
    resolve_dtype,
    using_threads,
)
from pipeline.teachers.view import IMAGENET_MEAN, IMAGENET_STD, check_multiple, check_view
from pipeline.teachers.weights import digest, fill, located, one_line, package, refuse_another

PATCH_PX = 14
_SKY, _SKY_PIXELS, _SKY_QUANTILE = 0.3, 10, 0.99  # depth_anything_3/model/da3.py, _process_mono_sky_estimation
_CANONICAL_FOCAL_PX = 300.0  # depth_anything_3/utils/alignment.py, apply_metric_scaling


class Packaged(ABC):
    """What Depth Anything 3 and MoGe share."""

    file: str  # of the weights, in a folder or repository
    masks: bool
    net: Any

    def __init__(
        self,
        name: str,
        device: str = "auto",
        *,
        size: int | None = None,
        aspect: str = "keep",
        dtype: str = "auto",
        compile: bool = False,
        revision: str | None = None,
        threads: int | None = None,
        fov: float | None = None,
    ) -> None:
        check_view(size, aspect)
        check_threads(threads)
        check_multiple(name, size, PATCH_PX)
        if fov is not None and not 1 <= fov < 180:
            raise TeacherError(f"--teacher-fov must be 1 to less than 180 degrees, got {fov}")
        if compile:
            raise TeacherError(f"teacher {name} is not compiled: leave out --compile")
        self.name, self.size, self.aspect, self.fov = name, size, aspect, fov
        self.model_name, _, where = name.partition("=")
        self.facts = PACKAGED[self.model_name]
        self.polarity, self.unit = "farther_is_larger", self.facts["unit"]
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.threads = None if self.device.type == "cuda" else threads or usable_cpus()
        self._check()
        path, self.revision = located(name, where or self.facts["hub"], self.file, revision)
        with torch.random.fork_rng(devices=[]):  # what a network draws before its weights are there is nobody's concern
            self.net, self._network = self._open(path)
        self._weights_sha256 = digest(self.net)
        self.net.to(self.device).eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Everything the estimates depend on besides the pixels."""
        return {
            "name": self.name, "model": self.model_name, "revision": self.revision,
            "weights_sha256": self._weights_sha256, "network": self._network, "size": self.size, "aspect": self.aspect,
            "fov": self.fov, "polarity": self.polarity, "unit": self.unit, "device": device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."), "num_threads": self.threads, "torch": torch.__version__,
            "depth_estimation": importlib.metadata.version("depth-estimation"),
        }  # fmt: skip

    def estimate(self, pixels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
        """Depth of prepared images, each at its (height, width), one by one."""
        maps = []
        with using_threads(self.threads), one_line_when_memory_is_short("one image", "--teacher-size"):
            for image, size in zip(pixels, sizes, strict=True):
                with torch.inference_mode():
                    maps.append(self._depth(image[None].to(self.device), [size])[0].float().cpu().numpy())
        return maps

    def online(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """As the protocol says; a whole batch at once, at the size that the RGB has."""
        self.device = device
        self.net.to(device)
        return self._online

    @abstractmethod
    def prepare(self, rgb: NDArray[np.uint8]) -> Tensor: ...

    @abstractmethod
    def _check(self) -> None:
        """Refuse what this family does not do."""

    @abstractmethod
    def _open(self, path: Path) -> tuple[Any, str]:
        """The network with the weights of `path`, and what tells its architecture apart."""

    @abstractmethod
    def _depth(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Of prepared images (batch, 3, h, w), each at its (height, width)."""

    @abstractmethod
    def _online(self, rgb: Tensor) -> Tensor: ...


class DepthAnything3(Packaged):
    """One view at a time. A photograph's long side becomes `size` (504 by default, as in its own processor).

    Sides are rounded to multiples of 14. With aspect "square" it is squeezed. What the network calls sky gets the 0.99
    quantile of the rest, as in the original, which draws 100,000 pixels of the rest at random; we take all.

    `da3metric-large` gives metres only for a known focal length: with `fov` its unit is m, without it the depth that a
    camera with a focal length of 300 px would have seen.
    """

    file, masks, own_size = "model.safetensors", False, 504

    def _check(self) -> None:
        metric = self.facts["network"] == "metric_large"
        if self.fov is not None and not metric:
            raise TeacherError(f"teacher {self.name} gives no metres: leave out --teacher-fov")
        if self.fov is not None:
            self.unit = "m"

    def _open(self, path: Path) -> tuple[Any, str]:
        networks, configs = package("depth_anything_v3")
        refuse_another(self.name, self.model_name, path)
        net = networks._DepthAnythingV3Net(configs.DepthAnythingV3Config(backbone=self.facts["network"]))
        try:
            stored = load_file(path)
        except (SafetensorError, OSError) as error:
            raise TeacherError(f"teacher {self.name}: {path} cannot be read ({one_line(error)})") from None
        prefix = "model."  # as the authors save it
        fill(self.name, net, {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
        return net, self.facts["network"]

    def prepare(self, rgb: NDArray[np.uint8]) -> Tensor:
        """uint8 (height, width, 3) to (3, h, w) float32, antialiased, ImageNet-normalised."""
        height, width = rgb.shape[:2]
        size = self.size or self.own_size
        scale = size / max(height, width)
        seen = (size, size)
        if self.aspect == "keep":
            seen = (rounded(height * scale), rounded(width * scale))
        if min(seen) < PATCH_PX:
            raise UnfitImage(f"{width}x{height} pixels: too thin for the teacher, whose patch is {PATCH_PX} px")
        image = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float()
        with using_threads(1):  # many of us run at once
            if seen != (height, width):
                image = F.interpolate(image, seen, mode="bicubic", align_corners=False, antialias=True).clamp_(0, 255)
            return ((image / 255 - row(IMAGENET_MEAN)) / row(IMAGENET_STD))[0]

    def _depth(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        height, width = images.shape[2:]
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            layers, _ = self.net.backbone(images[:, None], export_feat_layers=[])  # (batch, one view, ...)
        layers = [(tokens.float(), camera) for tokens, camera in layers]  # the head works in float32, as the authors'
        found = self.net.head(layers, height, width, patch_start_idx=0)
        depths = list(found["depth"][:, 0])
        if "sky" in found:
            depths = [_sky_filled(depth, sky >= _SKY) for depth, sky in zip(depths, found["sky"][:, 0], strict=True)]
        if self.fov is not None:
            depths = [depth * self._focal(size, (height, width)) for depth, size in zip(depths, sizes, strict=True)]
        return [
            F.interpolate(depth[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            for depth, size in zip(depths, sizes, strict=True)
        ]

    def _focal(self, size: tuple[int, int], seen: tuple[int, int]) -> float:
        """Of the image that the network sees, over 300 px; the photograph's own pixels are square."""
        assert self.fov is not None
        focal_px = size[1] / 2 / math.tan(math.radians(self.fov) / 2)
        return focal_px * (seen[0] / size[0] + seen[1] / size[1]) / 2 / _CANONICAL_FOCAL_PX

    def _online(self, rgb: Tensor) -> Tensor:
        height, width = size = rgb.shape[2], rgb.shape[3]
        seen = max(PATCH_PX, rounded(height)), max(PATCH_PX, rounded(width))
        images = rgb if seen == size else F.interpolate(rgb, seen, mode="bicubic", align_corners=False)
        return torch.stack(self._depth(images.float(), [size] * len(rgb)))


def rounded(side: float) -> int:
    """To the nearest multiple of the patch, up from the middle."""
    return math.floor(side / PATCH_PX + 0.5) * PATCH_PX


def row(values: Sequence[float], device: torch.device | None = None) -> Tensor:
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _sky_filled(depth: Tensor, sky: Tensor) -> Tensor:
    rest = depth[~sky]
    if min(rest.numel(), int(sky.sum())) <= _SKY_PIXELS:
        return depth
    return torch.where(sky, torch.quantile(rest, _SKY_QUANTILE), depth)


def open_packaged(
    name: str, device: str = "auto", *, fov: float | None = None, **options: Unpack[TeacherOptions]
) -> Packaged:
    """The teacher of that name: one of PACKAGED, or `NAME=WHERE`. Raises TeacherError."""
    from pipeline.teachers.moge import MoGe2  # which is made of Packaged

    family = PACKAGED[name.partition("=")[0]]["family"]
    return {"da3": DepthAnything3, "moge": MoGe2}[family](name, device, fov=fov, **options)
