"""Top-1 and top-5 of a model on a split, every sample counted once."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline import shards
from training.augment import RGB_MEAN, RGB_STD, normalise
from training.config import Config
from training.data import eval_loader
from training.models.vit import VisionTransformer

EVAL_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """Per sample, in the split's order; shares follow."""

    correct1: list[bool]
    correct5: list[bool]
    loss: float  # mean cross-entropy, no smoothing
    seconds: float

    @property
    def top1(self) -> float:
        return sum(self.correct1) / len(self.correct1)

    @property
    def top5(self) -> float:
        return sum(self.correct5) / len(self.correct5)


@torch.no_grad()
def evaluate(
    model: VisionTransformer,
    split: shards.Split,
    config: Config,
    depth_field: str,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[None]],
    advance: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Run the whole split; `advance` is told of every batch's size."""
    start = time.perf_counter()
    model.eval()
    correct1: list[bool] = []
    correct5: list[bool] = []
    loss = 0.0
    top = min(5, config.model.num_classes)
    for batch in eval_loader(split, config, depth_field, EVAL_BATCH):
        on_device = batch.to(device)
        with autocast():
            logits = model(normalise(on_device.rgb, RGB_MEAN, RGB_STD), on_device.depth).float()
        loss += F.cross_entropy(logits, on_device.label, reduction="sum").item()
        hits = logits.topk(top, 1).indices == on_device.label[:, None]
        correct1 += hits[:, 0].tolist()
        correct5 += hits.any(1).tolist()
        advance(len(batch.keys))
    assert len(correct1) == len(split), "an evaluation must count every sample once"
    model.train()
    return Outcome(correct1, correct5, loss / len(split), time.perf_counter() - start)
