"""Segmentation of a split, every pixel counted once: as it is, or summed over scales and their mirror images.

An image's sides are rounded up to what the model can take (multiples of its coarsest stride), by resizing. Memory does
not grow with the number of images: of each its counts are kept.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import shards
from training.engine.found import At, refuse_diverged
from training.engine.machine import Autocast, Machine
from training.engine.share import DataError
from training.models.segmenter import Segmenter
from training.records import SegmentationEvaluation, SegmentationLine, SegmentationScores
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import FinetuneConfig
from training.tasks.segmentation.data import Part, eval_loader
from training.tasks.segmentation.samples import model_inputs
from training.tasks.segmentation.scores import Counts, class_iou, commonest_miou, confusion, counts_of

EVAL_BATCH = 8  # images read together, whatever the number of ranks; those of one size go through the model together

Look = Callable[[SegBatch, Tensor], None]  # is told of a batch and its predicted classes


@dataclass(frozen=True)
class Outcome:
    """Counts at the image's own scale, and of the sum over scales where there were several."""

    single: Counts
    multi: Counts | None
    loss: float  # mean cross-entropy over labelled pixels, at the image's own scale
    seconds: float

    @property
    def score(self) -> float:
        return self.single.miou

    def line(self, step: int, epoch: int) -> SegmentationLine:
        return SegmentationLine(
            step=step, epoch=epoch, miou=self.single.miou, pixel_accuracy=self.single.pixel_accuracy, loss=self.loss,
            num_samples=len(self.single.per_image), seconds=self.seconds,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"mIoU {self.single.miou:.1%}  pixels {self.single.pixel_accuracy:.1%}  loss {self.loss:.3f}"


@torch.no_grad()
def evaluate(
    model: Segmenter,
    part: Part,
    config: FinetuneConfig,
    depth_field: str,
    machine: Machine,
    *,
    scales: Sequence[float] = (),
    advance: Callable[[int], None] = lambda count: None,
    look: Look = lambda batch, predicted: None,
) -> Outcome:
    """The whole part, shared between ranks, each image once; the same outcome on every rank.

    `scales`: those of multi-scale evaluation, each also mirrored; none for the image's own alone. `advance` is told of
    every batch's size; `look` sees every batch of this rank with its prediction (the sum's, where there is one).
    """
    start, ranks = time.perf_counter(), machine.ranks
    model.eval()
    classes = config.head.num_classes
    total = [np.zeros((classes, classes), np.int64) for _ in range(2)]
    counts: dict[int, list[np.ndarray]] = {}
    loss, labelled = 0.0, 0
    loader = eval_loader(part, config, depth_field, EVAL_BATCH, ranks.rank, ranks.world_size)
    for _ in range(math.ceil(math.ceil(len(part) / EVAL_BATCH) / ranks.world_size)):
        machine.between()
        for batch in next(loader, []):
            on_device = batch.to(machine.device)
            rgb, depth = model_inputs(on_device, config)
            with machine.autocast():
                single = segmented(model, rgb, depth)
            target = on_device.label.long()
            loss += F.cross_entropy(single, target, ignore_index=shards.VOID, reduction="sum").item()
            labelled += int((target != shards.VOID).sum())
            predictions = [single.argmax(1)]
            if scales:
                predictions.append(_summed(model, rgb, depth, scales, single, machine.autocast).argmax(1))
            for place in range(len(batch.keys)):
                found = [confusion(each[place], on_device.label[place], classes) for each in predictions]
                counts[batch.first + place] = [counts_of(image) for image in found]
                for sums, image in zip(total, found, strict=False):
                    sums += image
            look(batch, predictions[-1].cpu())
            advance(len(batch.keys))
    everyone = ranks.gather((counts, total, loss, labelled))
    merged = {first: found for part_counts, *_ in everyone for first, found in part_counts.items()}
    assert len(merged) == len(part), "an evaluation must count every image once"
    both = [
        Counts(sum(each[1][kind] for each in everyone), np.stack([merged[first][kind] for first in sorted(merged)]))
        for kind in range(2 if scales else 1)
    ]
    if not (pixels := sum(each[3] for each in everyone)):
        raise DataError(f"{part.split.store} has no labelled pixel to be evaluated on: give shards that have some")
    loss = sum(each[2] for each in everyone) / pixels
    return Outcome(both[0], both[1] if scales else None, loss, time.perf_counter() - start)


def segmented(model: Segmenter, rgb: Tensor, depth: Tensor, scale: float = 1.0) -> Tensor:
    """Logits (batch, classes, height, width) of images seen at a scale, sides rounded up to the model's multiple."""
    own = rgb.shape[2:]
    size = tuple(math.ceil(side * scale / model.multiple - 1e-9) * model.multiple for side in own)
    if size != tuple(own):
        rgb, depth = resized(rgb, size), resized_depth(depth, size)
    logits = model(rgb, depth).float()
    return logits if size == tuple(own) else F.interpolate(logits, own, mode="bilinear", align_corners=False)


def _summed(
    model: Segmenter,
    rgb: Tensor,
    depth: Tensor,
    scales: Sequence[float],
    own: Tensor,
    autocast: Autocast,
) -> Tensor:
    """Softmax summed over scales and mirror images; `own` are the logits at scale 1, which are not computed again."""
    total = torch.zeros_like(own)
    for scale, mirrored in _views(scales):
        with autocast():
            if scale == 1.0 and not mirrored:
                logits = own
            elif mirrored:
                logits = segmented(model, rgb.flip(3), depth.flip(3), scale).flip(3)
            else:
                logits = segmented(model, rgb, depth, scale)
        total += logits.softmax(1)
    return total


def _views(scales: Sequence[float]) -> Iterator[tuple[float, bool]]:
    return ((scale, mirrored) for scale in scales for mirrored in (False, True))


def resized(planes: Tensor, size: tuple[int, ...]) -> Tensor:
    """(batch, channels, height, width) at `size`, antialiased where it shrinks."""
    shrinks = size[0] < planes.shape[2] or size[1] < planes.shape[3]
    return F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=shrinks)


def resized_depth(depth: Tensor, size: tuple[int, ...]) -> Tensor:
    """The same over valid pixels only; NaN where under half are."""
    valid = ~depth.isnan()
    if bool(valid.all()):
        return resized(depth, size)
    z, share = resized(depth.nan_to_num(0.0), size), resized(valid.to(depth.dtype), size)
    return torch.where(share >= 0.5, z / share.clamp_min(0.5), torch.nan)


def as_evaluation(
    outcome: Outcome,
    config: FinetuneConfig,
    split: shards.Split,
    depth_field: str,
    at: At,
    scales: Sequence[float] = (),
    other_depth: Sequence[str] = (),
) -> SegmentationEvaluation:
    """The record of an evaluation of the whole of `split`."""
    refuse_diverged(outcome.loss, f"{config.model.name}, {at.checkpoint}")
    return SegmentationEvaluation(
        model=config.model.name,
        checkpoint=at.checkpoint,
        checkpoint_sha256=at.sha256,
        epoch=at.epoch,
        selection=config.select.rule if at.checkpoint == "best" else "none",
        data=split.data,
        split=split.index.split,
        fingerprint=split.index.fingerprint,
        depth_field=depth_field,
        depth_fingerprint=split.depth_fingerprint(depth_field) if depth_field in split.sidecars else "",
        inputs=config.model.input_convention,
        num_samples=len(split),
        keys=[split.key(position) for position in range(len(split))],
        classes=split.index.seg_names,
        loss=outcome.loss,
        single=_scores(outcome.single),
        multi=_scores(outcome.multi) if outcome.multi else None,
        scales=list(scales),
        commonest_miou=commonest_miou(outcome.single.confusion),
        other_depth=list(other_depth),
    )


def _scores(counts: Counts) -> SegmentationScores:
    iou = class_iou(counts.per_image.sum(0))
    return SegmentationScores(
        miou=counts.miou,
        pixel_accuracy=counts.pixel_accuracy,
        class_iou=[None if np.isnan(value) else float(value) for value in iou],
        confusion=counts.confusion.tolist(),
        per_image=[
            {int(c): tuple(image[c].tolist()) for c in np.flatnonzero(image.any(1))} for image in counts.per_image
        ],
    )
