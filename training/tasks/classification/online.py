"""The `online` depth source: what the paper did. Its teacher sees every batch as the model does, augmented and mixed.

We precompute depth of the clean image instead, and share geometry, mixing ratio and boxes; this exists for runs beside
each other, and as the speed baseline. The teacher runs at the model's image size (rounded to its patch), in fp16 on a
GPU as in the paper.
"""

import torch
from torch import Tensor

from pipeline.teachers import TeacherError, open_teacher
from training.tasks.classification.config import Config


class OnlineDepth:
    """z-standardised depth (batch, 1, size, size), farther is larger, of normalised RGB (batch, 3, size, size).

    NaN where a teacher that masks has none.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        teacher = open_teacher(config.data.teacher, device.type)
        online = getattr(teacher, "online", None)
        if online is None:
            raise TeacherError(f"data.teacher {teacher.name!r} cannot be asked while training: label with it first")
        self.depth, self.identity = online(device), teacher.identity()
        self.polarity, self.unit = teacher.polarity, teacher.unit
        self.mean, self.std = config.data.teacher_stats
        self.sign = -1.0 if teacher.polarity == "closer_is_larger" else 1.0

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        return self.sign * (self.depth(rgb)[:, None] - self.mean) / self.std
