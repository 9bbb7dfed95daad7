"""Fine-tuning as a task: the checkpoint of the best mIoU on scenes set aside (or on the test split) counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from training import provenance
from training.engine import checkpoint
from training.engine.share import DataError, Share
from training.engine.task import Found, Machine
from training.models.pretrained import Report
from training.models.segmentation import Segmenter
from training.models.vit import load_checked
from training.records import RunRecord, SegmentationEvaluation, ShardsSeen
from training.runs import describe
from training.tasks.classification.online import OnlineDepth
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import FinetuneConfig
from training.tasks.segmentation.data import carved, labels_sha256, open_labelled, train_loader, whole
from training.tasks.segmentation.evaluate import Outcome, as_evaluation, evaluate
from training.tasks.segmentation.grouping import freeze
from training.tasks.segmentation.start import Start


class FineTuning:
    """`start` holds the weights it begins with; none where a run goes on."""

    def __init__(self, config: FinetuneConfig, data: str, start: Start | None = None) -> None:
        self.config, self.data, self.start = config, data, start
        depth = config.data.depth
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
        if config.optim.batch_size > self.num_train:
            raise DataError(
                f"optim.batch_size must be at most the {self.num_train} training samples, got "
                f"{config.optim.batch_size}: --set it or select.share lower"
            )
        self.num_steps = config.optim.epochs * config.optim.steps_per_epoch
        self.frozen: list[str] = []

    @property
    def label(self) -> str:
        return f"{self.config.model.name} ({self.config.data.depth})"

    def build(self) -> Segmenter:
        model = Segmenter(self.config.model, self.config.head, self.config.augment.crop)
        self.frozen = freeze(model) if self.config.optim.grouping == "dformer-compat" else []
        return model

    def initialise(self, model: nn.Module) -> Report:
        assert isinstance(model, Segmenter) and self.start is not None
        return self.start.load(model)

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[SegBatch]:
        return train_loader(self.train, self.config, share, first_step, num_steps)

    def epoch_at(self, step: int) -> float:
        return step / self.config.optim.steps_per_epoch

    def epochs_done(self, step: int) -> int:
        return step // self.config.optim.steps_per_epoch

    def is_due(self, epoch: int) -> bool:
        return epoch % self.config.select.every == 0

    def describe(
        self, name: str, model: nn.Module, machine: Machine, report: Report | None, teacher: OnlineDepth | None
    ) -> RunRecord:
        index = self.split.index
        seen = ShardsSeen(
            path=self.data,
            source=index.source,
            train_fingerprint=index.fingerprint,
            val_fingerprint=self.test.index.fingerprint,
            num_train=self.num_train,
            num_val=len(self.test),
            num_classes=len(index.seg_names),
            classes_sha256=labels_sha256(self.split),
            depth_field=self.config.data.depth,
            **provenance.seen(index, self.config.data.depth),
        )
        every = self.config.optim.steps_per_epoch
        record = describe(self.config, name, seen, model, every, self.num_steps, machine, report)
        more: dict[str, Any] = {"frozen": self.frozen}
        if self.start is not None:
            more["started_from"] = self.start.origin
        return record.model_copy(update=more | {"task": "segmentation"})

    def evaluate(self, model: nn.Module, machine: Machine, teacher: OnlineDepth | None) -> Outcome:
        assert isinstance(model, Segmenter)
        return evaluate(
            model, self.val, self.config, self.config.data.depth, machine.device, machine.autocast,
            ranks=machine.ranks, between=machine.between,
        )  # fmt: skip

    def conclude(self, found: Found, out: Path, step: int, machine: Machine) -> SegmentationEvaluation:
        """The best checkpoint on the whole test split."""
        machine.ranks.gather(None)  # the first rank has written it
        best = checkpoint.load(out / "checkpoints" / "best")
        model = self.build()
        load_checked(model, best.weights, str(best.folder))
        outcome = evaluate(
            model.to(machine.device), whole(self.test), self.config, self.config.data.depth, machine.device,
            machine.autocast, ranks=machine.ranks, between=machine.between,
        )  # fmt: skip
        return as_evaluation(outcome, self.config, self.test, self.config.data.depth, best)
