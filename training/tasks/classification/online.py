"""The `online` depth source: what the paper did. Its teacher sees every batch as the model does, augmented and mixed.

We precompute depth of the clean image instead, and share geometry, mixing ratio and boxes; this exists for runs beside
each other, and as the speed baseline. The teacher runs at the model's image size (rounded to its patch), in fp16 on a
GPU as in the paper.

A model that reads depth at the centres of its patches alone (`patch_depth = "center4"`) asks a teacher that answers
where it is asked for these pixels: four a patch, one where its side is odd. The others are NaN, which nobody reads.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.teachers import THESIS_STATS, TeacherError, open_teacher
from training.models.patch_depth import centre_pixels
from training.tasks.classification.config import Config


class OnlineDepth:
    """z-standardised depth (batch, 1, size, size), farther is larger, of normalised RGB (batch, 3, size, size).

    NaN where a teacher that masks has none.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        teacher = open_teacher(config.data.teacher, device.type, given_as="data.teacher")
        online = getattr(teacher, "online", None)
        if online is None:
            raise TeacherError(f"data.teacher {teacher.name!r} cannot be asked while training: label with it first")
        self.depth: Callable[[Tensor], Tensor] = online(device)
        online_at = getattr(teacher, "online_at", None)
        if online_at is not None and getattr(config.model, "patch_depth", None) == "center4":
            self.depth = _at_centres(online_at(device), config.model.patch_size)
        self.identity, self.polarity, self.unit = teacher.identity(), teacher.polarity, teacher.unit
        self.mean, self.std = config.data.teacher_stats
        own = getattr(teacher, "stats", None)
        if own is not None and config.data.teacher_stats == THESIS_STATS:  # the default, which is another teacher's
            self.mean, self.std = own
        self.sign = -1.0 if teacher.polarity == "closer_is_larger" else 1.0

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        return self.sign * (self.depth(rgb)[:, None] - self.mean) / self.std


def _at_centres(answers: Callable[[Tensor, Tensor], Tensor], patch_size: int) -> Callable[[Tensor], Tensor]:
    """Depth (batch, height, width) of RGB at the centres of patches, NaN elsewhere."""

    def depth(rgb: Tensor) -> Tensor:
        height, width = rgb.shape[2:]
        rows, columns = (centre_pixels(side, patch_size, rgb.device) for side in (height, width))
        down, right = torch.meshgrid(rows, columns, indexing="ij")
        found = answers(rgb, torch.stack([right, down], -1).view(-1, 2).float())
        asked = found.new_full((len(rgb), height, width), torch.nan)
        asked[:, down, right] = found.view(len(rgb), *down.shape)
        return asked

    return depth
