"""What a step computes of a batch: pre-training classifies images, fine-tuning labels pixels."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import shards
from training.config import Config
from training.loading import augment
from training.loading.batch import Batch
from training.tasks.classification.online import OnlineDepth
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import FinetuneConfig
from training.tasks.segmentation.samples import model_inputs


class Objective(Protocol):
    """The loss of a batch is a sum over targets; the trainer divides by how many the global batch has."""

    draws: bool  # whether the model draws random numbers (dropout); the step then seeds them
    counts: bool  # whether targets must be counted, or are one a sample

    @property
    def teacher(self) -> OnlineDepth | None:
        """That of online depth."""

    def inputs(self, piece: Any) -> tuple[Tensor, Tensor, Tensor]:
        """RGB, depth and targets of a piece on the model's device."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Summed."""

    def count(self, piece: Any) -> int:
        """Targets of a piece."""


class Classification:
    """Cross-entropy of soft targets, smoothed; a mean over samples."""

    draws = counts = False

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.teacher: OnlineDepth | None = OnlineDepth(config, device) if config.data.depth == "online" else None

    def inputs(self, piece: Batch) -> tuple[Tensor, Tensor, Tensor]:
        rgb, depth, target = augment.model_inputs(piece, self.config)
        return rgb, self.teacher(rgb) if self.teacher else depth, target

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        smoothing = self.config.optim.label_smoothing
        return F.cross_entropy(logits.float(), target, label_smoothing=smoothing, reduction="sum")

    def count(self, piece: Batch) -> int:
        return len(piece.keys)


class Segmentation:
    """Cross-entropy; a mean over the labelled pixels of the global batch, zero where there are none."""

    draws = counts = True
    teacher = None

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    def inputs(self, piece: SegBatch) -> tuple[Tensor, Tensor, Tensor]:
        return *model_inputs(piece, self.config), piece.label.long()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), target, ignore_index=shards.VOID, reduction="sum")

    def count(self, piece: SegBatch) -> int:
        return int((piece.label != shards.VOID).sum())


def objective_of(config: Config | FinetuneConfig, device: torch.device) -> Objective:
    return Segmentation(config) if isinstance(config, FinetuneConfig) else Classification(config, device)
