"""Pre-training as a task: images and their classes, top-1 and top-5 on val, the last checkpoint counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from training import provenance
from training.config import Config
from training.engine.share import Share, num_steps
from training.engine.task import Found, Machine
from training.loading.batch import Batch
from training.loading.data import check_classes, classes_sha256, open_shards, train_loader
from training.models.pretrained import Report, initialise
from training.models.vit import VisionTransformer
from training.records import Evaluation, RunRecord, ShardsSeen
from training.runs import check_classes_fit, describe
from training.tasks.classification.evaluate import Outcome, as_evaluation, evaluate
from training.tasks.classification.online import OnlineDepth


class PreTraining:
    def __init__(self, config: Config, data: str) -> None:
        self.config, self.data = config, data
        self.train = open_shards(data, "train", config.data.depth)
        self.val = open_shards(data, "val", config.data.depth)
        check_classes_fit(config, self.train)
        check_classes(self.val, classes_sha256(self.train))
        if config.data.depth != "online":
            provenance.check_splits(self.train, self.val, config.data.depth)
        self.num_train, self.num_val = len(self.train), len(self.val)
        self.num_steps = num_steps(config, self.num_train)

    @property
    def label(self) -> str:
        return f"{self.config.model.name} ({self.config.data.depth})"

    def build(self) -> VisionTransformer:
        return self.config.model.build()

    def initialise(self, model: nn.Module) -> Report:
        assert isinstance(model, VisionTransformer) and self.config.init is not None
        return initialise(model, self.config.init)

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[Batch]:
        return train_loader(self.train, self.config, share, first_step, num_steps)

    def epoch_at(self, step: int) -> float:
        return step * self.config.optim.batch_size / self.num_train

    def epochs_done(self, step: int) -> int:
        if step >= self.num_steps:
            return self.config.optim.epochs
        return step * self.config.optim.batch_size // self.num_train

    def is_due(self, epoch: int) -> bool:
        return epoch % self.config.runtime.eval_every == 0

    def describe(
        self, name: str, model: nn.Module, machine: Machine, report: Report | None, teacher: OnlineDepth | None
    ) -> RunRecord:
        index = self.train.index
        if teacher:
            depth: dict[str, Any] = {
                "standardisation": {key: getattr(teacher, key) for key in ("mean", "std", "polarity", "unit")},
                "teacher": self.config.data.teacher,
                "teacher_sha256": teacher.identity["weights_sha256"],
            }
        else:
            depth = provenance.seen(index, self.config.data.depth)
        seen = ShardsSeen(
            path=self.data,
            source=index.source,
            train_fingerprint=index.fingerprint,
            val_fingerprint=self.val.index.fingerprint,
            num_train=self.num_train,
            num_val=self.num_val,
            num_classes=len(index.class_names),
            classes_sha256=classes_sha256(self.train),
            depth_field=self.config.data.depth,
            **depth,
        )
        every = -(-self.num_train // self.config.optim.batch_size)
        identity = teacher.identity if teacher else None
        record = describe(self.config, name, seen, model, every, self.num_steps, machine, report)
        return record.model_copy(update={"online_teacher": identity})

    def evaluate(self, model: nn.Module, machine: Machine, teacher: OnlineDepth | None) -> Outcome:
        assert isinstance(model, VisionTransformer)
        return evaluate(
            model, self.val, self.config, self.config.data.depth, machine.device, machine.autocast,
            ranks=machine.ranks, teacher=teacher, between=machine.between,
        )  # fmt: skip

    def conclude(self, found: Found, out: Path, step: int, machine: Machine) -> Evaluation:
        assert isinstance(found, Outcome)
        epoch = self.config.optim.epochs
        return as_evaluation(found, self.config, self.val, self.config.data.depth, f"step-{step}", epoch)
