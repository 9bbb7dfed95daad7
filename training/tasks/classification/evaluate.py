"""Top-1, top-5 and mean-class accuracy of a model on a split, every sample counted once."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import shards
from training.engine.found import At, refuse_diverged
from training.engine.machine import Machine
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.models.vit import VisionTransformer
from training.records import EvalLine, Evaluation
from training.tasks.classification.config import Config
from training.tasks.classification.data import eval_loader

EVAL_BATCH = 256


@dataclass(frozen=True)
class Outcome:
    """Per sample, in the split's order; shares follow."""

    correct1: list[bool]
    correct5: list[bool]
    labels: list[int]
    loss: float  # mean cross-entropy, no smoothing
    seconds: float

    @property
    def top1(self) -> float:
        return sum(self.correct1) / len(self.correct1)

    @property
    def top5(self) -> float:
        return sum(self.correct5) / len(self.correct5)

    @property
    def largest_class(self) -> float:
        return largest_class(Counter(self.labels))

    def recall(self, num_classes: int) -> list[float | None]:
        """Of each class the share of its samples that the first guess has right; None where it has no sample."""
        total, right = Counter(self.labels), Counter(compress(self.labels, self.correct1))
        return [right[label] / total[label] if total[label] else None for label in range(num_classes)]

    @property
    def mean_class(self) -> float:
        """Mean recall of the classes that have samples."""
        return fmean(each for each in self.recall(max(self.labels) + 1) if each is not None)

    @property
    def score(self) -> float:
        return self.top1

    def line(self, step: int, epoch: int) -> EvalLine:
        return EvalLine(
            step=step, epoch=epoch, top1=self.top1, top5=self.top5, mean_class=self.mean_class, loss=self.loss,
            num_samples=len(self.correct1), seconds=self.seconds,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"top-1 {self.top1:.1%}  top-5 {self.top5:.1%}  mean-class {self.mean_class:.1%}  loss {self.loss:.3f}"


@torch.no_grad()
def evaluate(
    model: VisionTransformer,
    split: shards.Split,
    config: Config,
    depth_field: str,
    machine: Machine,
    *,
    teacher: Callable[[Tensor], Tensor] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """The whole split, shared between ranks, each sample once; the same outcome on every rank.

    `teacher` gives depth of normalised RGB where the split's is not used. `advance` is told of every batch's size.
    """
    start, ranks = time.perf_counter(), machine.ranks
    model.eval()
    batch_size = min(EVAL_BATCH, math.ceil(len(split) / ranks.world_size))
    loader = eval_loader(split, config, depth_field, batch_size, ranks.rank, ranks.world_size)
    mine: dict[int, tuple[list[bool], list[bool], float, list[int]]] = {}
    for _ in range(math.ceil(math.ceil(len(split) / batch_size) / ranks.world_size)):
        machine.between()
        if (batch := next(loader, None)) is None:
            continue  # the last round has no batch left for every rank
        on_device = batch.to(machine.device)
        rgb = normalise(on_device.rgb, RGB_MEAN, RGB_STD)
        depth = teacher(rgb) if teacher else on_device.depth
        with machine.autocast():
            logits = model(rgb, depth).float()
        mine[batch.first] = (*judge(logits, on_device.label), batch.label.tolist())
        advance(len(batch.keys))
    everyone = {first: found for part in ranks.gather(mine) for first, found in part.items()}
    ordered = [everyone[first] for first in sorted(everyone)]
    correct1 = [hit for found in ordered for hit in found[0]]
    correct5 = [hit for found in ordered for hit in found[1]]
    assert len(correct1) == len(split), "an evaluation must count every sample once"
    loss = sum(found[2] for found in ordered) / len(split)
    labels = [label for found in ordered for label in found[3]]
    return Outcome(correct1, correct5, labels, loss, time.perf_counter() - start)


def as_evaluation(
    outcome: Outcome,
    config: Config,
    split: shards.Split,
    depth_field: str,
    at: At,
    other_depth: Sequence[str] = (),
) -> Evaluation:
    refuse_diverged(outcome.loss, f"{config.model.name}, {at.checkpoint}")
    return Evaluation(
        model=config.model.name,
        checkpoint=at.checkpoint,
        epoch=at.epoch,
        data=split.data,
        split=split.index.split,
        fingerprint=split.index.fingerprint,
        depth_field=depth_field,
        num_samples=len(split),
        top1=outcome.top1,
        top5=outcome.top5,
        loss=outcome.loss,
        correct1="".join("01"[hit] for hit in outcome.correct1),
        correct5="".join("01"[hit] for hit in outcome.correct5),
        largest_class=outcome.largest_class,
        mean_class=outcome.mean_class,
        classes=split.index.class_names,
        class_recall=outcome.recall(len(split.index.class_names)),
        other_depth=list(other_depth),
    )


def largest_class(labels: Counter[int]) -> float:
    """The share of samples that are right if the most frequent class is the answer to all."""
    return max(labels.values()) / labels.total()


def judge(logits: Tensor, label: Tensor) -> tuple[list[bool], list[bool], float]:
    """Of logits (batch, classes): right with the first guess, within five, and the summed cross-entropy."""
    loss = F.cross_entropy(logits, label, reduction="sum").item()
    hits = logits.topk(min(5, logits.shape[1]), 1).indices == label[:, None]
    return hits[:, 0].tolist(), hits.any(1).tolist(), loss
