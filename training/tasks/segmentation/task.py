"""Fine-tuning as a task: the checkpoint of the best mIoU on scenes set aside (or on the test split) counts."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from pipeline import shards
from training import provenance
from training.config import ConfigError
from training.engine import checkpoint, frozen
from training.engine.found import At, Found
from training.engine.machine import Machine
from training.engine.share import DataError, Share
from training.engine.task import Asked, Examination, LoadedRun, Result, Task
from training.models.backbone import FigureParameters
from training.models.pretrained import Report
from training.models.segmenter import Segmenter
from training.models.vit import load_checked
from training.records import SegmentationEvaluation
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import KIND, FinetuneConfig
from training.tasks.segmentation.data import (
    Part,
    carved,
    check_labels,
    labels_sha256,
    open_labelled,
    train_loader,
    whole,
)
from training.tasks.segmentation.evaluate import Outcome, as_evaluation, evaluate
from training.tasks.segmentation.finetune import prepared
from training.tasks.segmentation.grouping import freeze
from training.tasks.segmentation.samples import model_inputs
from training.tasks.segmentation.sheet import Sheet
from training.tasks.segmentation.start import HEADS, Start


class FineTuning(Task[FinetuneConfig, SegBatch]):
    """Cross-entropy; a mean over the labelled pixels of the global batch, zero where there are none.

    `start` holds the weights it begins with; none where a run goes on or is read back, whose config names them.
    """

    kind = KIND
    schema = FinetuneConfig
    made_by = "train finetune"
    chosen = "best"
    smaller_batch = "--set it or select.share lower"
    counts = True  # labelled pixels
    draws = True  # dropout, drop path

    split: shards.Split
    test: shards.Split
    train: Part
    val: Part

    def __init__(self, config: FinetuneConfig, start: Start | None = None) -> None:
        super().__init__(config)
        self.start = start
        self.kept_back: list[str] = []  # parameters that the authors' grouping does not train

    @classmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> Self:
        return cls(*prepared(asked, say))

    def build(self) -> Segmenter:
        model = Segmenter(self.config.model, self.config.head, self.config.augment.crop)
        self.kept_back = freeze(model) if self.config.optim.grouping == "dformer-compat" else []
        return model

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("backbone",) if self.config.model.freeze == "backbone" else ()

    def initialise(self, model: nn.Module) -> Report:
        assert isinstance(model, Segmenter) and self.config.init is not None
        model_config = self.config.model.model_dump(mode="json")
        start = self.start or Start(self.config.init, model_config, None, None, allow_unexpected=["*"])
        report = start.load(model)
        if self.frozen and (fresh := [row.what for row in report.rows if row.how == "fresh" and row.what not in HEADS]):
            raise ConfigError(
                f"model.freeze=backbone keeps the weights of --init, but {self.config.init} has none for "
                f"{', '.join(fresh)}: give a run or export of a {self.config.model.name}, or train the backbone"
            )
        return report

    def example(self) -> tuple[Tensor, ...]:
        height, width = self.config.augment.crop
        return torch.zeros(1, 3, height, width), torch.zeros(1, 1, height, width)

    def figure_parameters(self, model: nn.Module) -> FigureParameters:
        assert isinstance(model, Segmenter)
        return model.figure_parameters()

    def inputs(self, batch: SegBatch) -> tuple[Tensor, ...]:
        return *model_inputs(batch, self.config), batch.label.long()

    def loss(self, forward: Callable[..., Any], *inputs: Tensor) -> Tensor:
        rgb, depth, target = inputs
        return F.cross_entropy(forward(rgb, depth).float(), target, ignore_index=shards.VOID, reduction="sum")

    def count(self, batch: SegBatch) -> int:
        return int((batch.label != shards.VOID).sum())

    def open(self, data: str) -> None:
        config, depth, self.data = self.config, self.config.data.depth, data
        self.split, self.test = open_labelled(data, "train", depth), open_labelled(data, "val", depth)
        if labels_sha256(self.test) != labels_sha256(self.split):
            raise DataError(f"{data}: train and val must have the same labels: make both from one source")
        provenance.check_splits(self.split, self.test, depth)
        if len(self.split.index.seg_names) != config.head.num_classes:
            raise DataError(
                f"head.num_classes must be the {len(self.split.index.seg_names)} labels of {data}, got "
                f"{config.head.num_classes}"
            )
        if config.select.rule == "best-on-test":
            self.train, self.val = whole(self.split), whole(self.test)
        else:
            self.train, self.val = carved(self.split, config.select.share, config.seed)
        self.num_train, self.num_val = len(self.train), len(self.val)

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[SegBatch]:
        return train_loader(self.train, self.config, share, first_step, num_steps)

    def is_due(self, epoch: int) -> bool:
        return epoch % self.config.select.every == 0

    def splits(self) -> tuple[shards.Split, shards.Split]:
        return self.split, self.test

    @property
    def classes(self) -> tuple[int, str]:
        return len(self.split.index.seg_names), labels_sha256(self.split)

    def facts(self) -> dict[str, Any]:
        return {"frozen": self.kept_back, "started_from": self.start.origin if self.start else None}

    def evaluate(self, model: nn.Module, machine: Machine) -> Outcome:
        assert isinstance(model, Segmenter)
        return evaluate(model, self.val, self.config, self.config.data.depth, machine)

    def record(self, found: Any, at: At, other_depth: Sequence[str] = ()) -> SegmentationEvaluation:
        return as_evaluation(found, self.config, self.test, self.config.data.depth, at, other_depth=other_depth)

    def conclude(self, found: Found, out: Path, at: At, machine: Machine) -> SegmentationEvaluation:
        """The best checkpoint on the whole test split."""
        machine.ranks.gather(None)  # the first rank has written it
        best = checkpoint.load(out / "checkpoints" / "best")
        model = self.build()
        if self.frozen:
            self.initialise(model)
        load_checked(model, frozen.whole(best.weights, model, self.frozen), str(best.folder))
        return self.record(
            evaluate(model.to(machine.device), whole(self.test), self.config, self.config.data.depth, machine),
            At.of(best),
        )

    def examine(self, loaded: LoadedRun, asked: Examination) -> Result:
        """With a contact sheet of predictions to look at."""
        target, machine, field = asked.target, asked.machine, asked.target.depth or self.config.data.depth
        split = open_labelled(target.data, asked.split, field)
        check_labels(split, loaded.record.shards.classes_sha256)
        other = target.opened(loaded.record.shards, split, field)
        scales = self.config.test.scales if asked.multi_scale else ()
        sheet = Sheet(list(split.index.seg_names), len(split))
        with asked.meter("evaluate", len(split)) as advance:
            model = loaded.model.to(machine.device)
            found = evaluate(
                model, whole(split), self.config, field, machine, scales=scales, advance=advance, look=sheet.look
            )
        sheet.rows = {place: row for rows in machine.ranks.gather(sheet.rows) for place, row in rows.items()}
        record = as_evaluation(found, self.config, split, field, At.of(loaded.saved), scales, other)
        scores = record.multi or record.single
        views = f", {2 * len(scales)} views summed" if record.multi else ""
        title = (
            f"{record.model}, trained with {loaded.record.shards.depth_field} depth, on {asked.split} with "
            f"{field}{views}: mIoU {scores.miou:.1%}"
        )
        name = f"{asked.split}-{field}-{loaded.saved.name}{'-multi' if asked.multi_scale else ''}"
        place = target.place(name, loaded.record.shards, split)

        def draw(place: Path) -> Path:
            picture = place.with_name(f"{place.name}.png")
            sheet.write(picture, title)
            return picture

        return Result(record, place, draw, [classes_table(record)])

    @classmethod
    def tables(cls, result: Any) -> list[Table]:
        chosen = {
            "best-on-val": ", chosen by scenes set aside from the training split",
            "best-on-test": ", chosen by the test split",
        }.get(result.selection, "")
        caption = f"checkpoint {result.checkpoint}, epoch {result.epoch}{chosen}"
        table = Table("model", "depth", "images", "mIoU", "pixels right", "seen", caption=caption)
        for seen, scores in (("as they are", result.single), (f"{2 * len(result.scales)} views", result.multi)):
            if scores is not None:
                table.add_row(
                    result.model, result.depth_field, f"{result.num_samples:,}", f"{scores.miou:.2%}",
                    f"{scores.pixel_accuracy:.2%}", seen,
                )  # fmt: skip
        return [table]


def classes_table(result: SegmentationEvaluation) -> Table:
    """IoU of each class, of the best way to predict there is, with its share of the labelled pixels."""
    scores = result.multi or result.single
    table = Table("class", "IoU", "of the labelled pixels", title="the sum's" if result.multi else None)
    total = max(1, sum(map(sum, scores.confusion)))
    for name, iou, row in zip(result.classes, scores.class_iou, scores.confusion, strict=True):
        table.add_row(name, "–" if iou is None else f"{iou:.1%}", f"{sum(row) / total:.2%}")
    return table
