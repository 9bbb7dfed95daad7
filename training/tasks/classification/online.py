"""The `online` depth source: what the paper did. Its teacher sees every batch as the model does, augmented and mixed.

We precompute depth of the clean image instead, and share geometry, mixing ratio and boxes; this exists for runs beside
each other, and as the speed baseline. The teacher runs at the model's image size (rounded to its patch), in fp16 on a
GPU as in the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.teachers import TeacherError, open_teacher
from training.loading.augment.normalise import RGB_MEAN, RGB_STD
from training.tasks.classification.config import Config


class OnlineDepth:
    """z-standardised depth (batch, 1, size, size), farther is larger, of normalised RGB (batch, 3, size, size)."""

    def __init__(self, config: Config, device: torch.device) -> None:
        from pipeline.teachers.hub import HubTeacher  # transformers takes long to import, and few runs need it

        teacher = open_teacher(config.data.teacher, device.type)
        if not isinstance(teacher, HubTeacher) or teacher.model.config.model_type != "depth_anything":
            raise TeacherError(f"data.teacher must be a DepthAnything model for online depth, got {teacher.name!r}")
        self.model, self.dtype, self.identity = teacher.model.to(device), teacher.dtype, teacher.identity()
        self.polarity, self.unit = teacher.polarity, teacher.unit
        self.patch_px = teacher.model.config.patch_size
        self.mean, self.std = config.data.teacher_stats
        self.sign = -1.0 if teacher.polarity == "closer_is_larger" else 1.0
        processor = teacher.processor
        own_mean, own_std = _row(processor.image_mean, device), _row(processor.image_std, device)
        our_mean, our_std = _row(RGB_MEAN, device), _row(RGB_STD, device)
        self.scale, self.shift = our_std / own_std, (our_mean - own_mean) / own_std

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        height, width = rgb.shape[2:]
        pixels = rgb * self.scale + self.shift
        size = [max(1, round(side / self.patch_px)) * self.patch_px for side in (height, width)]
        if size != [height, width]:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False)
        depth = self.model(pixel_values=pixels.to(self.dtype)).predicted_depth.float()[:, None]
        if depth.shape[2:] != rgb.shape[2:]:
            depth = F.interpolate(depth, size=(height, width), mode="bicubic", align_corners=False)
        return self.sign * (depth - self.mean) / self.std


def _row(values: "tuple[float, ...] | list[float]", device: torch.device) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float32).view(1, 3, 1, 1)
