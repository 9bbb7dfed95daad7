"""Images and their classes as a task: top-1, top-5 and mean-class on val, the last checkpoint counts.

It pre-trains; finetune.py has how fine-tuning begins, which is otherwise the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from pipeline import shards
from training import provenance
from training.config import ONLINE, ConfigError
from training.engine.found import At
from training.engine.machine import Machine
from training.engine.results import MeasureError
from training.engine.share import DataError, Share
from training.engine.task import Asked, Examination, LoadedRun, Result, Task
from training.models.backbone import FigureParameters
from training.models.pretrained import Report
from training.models.registry import MONIKERS
from training.models.vit import VisionTransformer
from training.records import Evaluation
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import KIND, Config, resolve
from training.tasks.classification.data import check_classes, classes_sha256, open_shards, train_loader
from training.tasks.classification.evaluate import Outcome, as_evaluation, evaluate
from training.tasks.classification.inputs import model_inputs
from training.tasks.classification.online import OnlineDepth
from training.weights import initialise


class PreTraining(Task[Config, ImageBatch]):
    """Cross-entropy of soft targets, smoothed; a mean over samples."""

    kind = KIND
    schema = Config
    made_by = "train pretrain"
    draws = True  # drop path

    train: shards.Split
    val: shards.Split
    teacher: OnlineDepth | None = None  # of online depth

    @classmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> Self:
        index = shards.open_split(asked.data, "train").index
        classes = len(index.class_names) or None
        if asked.model is None:
            raise ConfigError(f"--model must be given, one of {', '.join(MONIKERS)}")
        model = asked.model

        def made(settings: list[str]) -> Config:
            return resolve(asked.preset, model, settings, num_classes=classes, init=asked.init, depth=asked.depth)

        return cls(capped(made, asked.settings, index.num_samples, say))

    def build(self) -> VisionTransformer:
        return self.config.model.build()

    def initialise(self, model: nn.Module) -> Report:
        assert isinstance(model, VisionTransformer)
        report = self.load(model)
        fresh = [row.what for row in report.rows if row.how == "fresh" and row.what != "head"]
        if self.frozen and fresh:
            raise ConfigError(
                f"model.freeze=backbone keeps the weights of --init, but {self.config.init} has none for "
                f"{', '.join(fresh)}: give a run or export of a {self.config.model.name}, or train the backbone"
            )
        return report

    def load(self, model: VisionTransformer) -> Report:
        assert self.config.init is not None
        return initialise(model, self.config.init)

    @property
    def frozen(self) -> tuple[str, ...]:
        """All but the head."""
        if self.config.model.freeze == "none":
            return ()
        with torch.device("meta"):
            names = self.build().state_dict()
        return tuple(dict.fromkeys(part for name in names if (part := name.split(".")[0]) != "head"))

    def example(self) -> tuple[Tensor, ...]:
        size = self.config.model.image_size
        return torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size)

    def figure_parameters(self, model: nn.Module) -> FigureParameters:
        assert isinstance(model, VisionTransformer)
        return model.figure_parameters()

    def place(self, device: torch.device) -> None:
        if self.config.data.depth == ONLINE:
            self.teacher = OnlineDepth(self.config, device)

    def inputs(self, batch: ImageBatch) -> tuple[Tensor, ...]:
        rgb, depth, target = model_inputs(batch, self.config)
        return rgb, self.teacher(rgb) if self.teacher else depth, target

    def loss(self, forward: Callable[..., Any], *inputs: Tensor) -> Tensor:
        rgb, depth, target = inputs
        smoothing = self.config.optim.label_smoothing
        return F.cross_entropy(forward(rgb, depth).float(), target, label_smoothing=smoothing, reduction="sum")

    def open(self, data: str) -> None:
        config, self.data = self.config, data
        self.train = open_shards(data, "train", config.data.depth)
        self.val = open_shards(data, "val", config.data.depth)
        if config.model.num_classes < (have := len(self.train.index.class_names)):
            raise DataError(
                f"model.num_classes must be at least the {have} classes of {self.train.store}, got "
                f"{config.model.num_classes}"
            )
        if classes_sha256(self.val) != classes_sha256(self.train):
            both = f"{have} and {len(self.val.index.class_names)}"
            raise DataError(f"{data}: train and val must have the same classes, got {both}: make both from one source")
        if config.data.depth != ONLINE:
            provenance.check_splits(self.train, self.val, config.data.depth)
        self.num_train, self.num_val = len(self.train), len(self.val)

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[ImageBatch]:
        return train_loader(self.train, self.config, share, first_step, num_steps)

    def splits(self) -> tuple[shards.Split, shards.Split]:
        return self.train, self.val

    @property
    def classes(self) -> tuple[int, str]:
        return len(self.train.index.class_names), classes_sha256(self.train)

    def depth_seen(self) -> dict[str, Any]:
        if self.teacher is None:
            return super().depth_seen()
        teacher = self.teacher
        constants = {"mean": teacher.mean, "std": teacher.std, "polarity": teacher.polarity, "unit": teacher.unit}
        return {
            "standardisation": constants,
            "teacher": self.config.data.teacher,
            "teacher_sha256": teacher.identity["weights_sha256"],
        }

    def facts(self) -> dict[str, Any]:
        return {"online_teacher": self.teacher.identity if self.teacher else None}

    def evaluate(self, model: nn.Module, machine: Machine) -> Outcome:
        assert isinstance(model, VisionTransformer)
        return evaluate(model, self.val, self.config, self.config.data.depth, machine, teacher=self.teacher)

    def record(self, found: Any, at: At, other_depth: Sequence[str] = ()) -> Evaluation:
        return as_evaluation(found, self.config, self.val, self.config.data.depth, at, other_depth)

    def examine(self, loaded: LoadedRun, asked: Examination) -> Result:
        target, machine, field = asked.target, asked.machine, asked.target.depth or self.config.data.depth
        if asked.multi_scale:
            raise MeasureError(f"--multi-scale is for runs that label pixels, {loaded.folder} classifies: leave it out")
        split = open_shards(target.data, asked.split, field)
        check_classes(split, loaded.record.shards.classes_sha256)
        other = target.opened(loaded.record.shards, split, field)
        with asked.meter("evaluate", len(split)) as advance:
            teacher = OnlineDepth(self.config, machine.device) if field == ONLINE else None
            model = loaded.model.to(machine.device)
            found = evaluate(model, split, self.config, field, machine, teacher=teacher, advance=advance)
        record = as_evaluation(found, self.config, split, field, At.of(loaded.saved), other)
        name = f"{asked.split}-{field}-{loaded.saved.name}"
        return Result(record, target.place(name, loaded.record.shards, split))

    @classmethod
    def tables(cls, result: Any) -> list[Table]:
        table = Table("model", "depth", "samples", "top-1", "top-5", "mean-class", caption=left_out(result))
        mean_class = "–" if result.mean_class is None else f"{result.mean_class:.2%}"
        table.add_row(
            result.model, result.depth_field, f"{result.num_samples:,}", f"{result.top1:.2%}", f"{result.top5:.2%}",
            mean_class,
        )  # fmt: skip
        return [table]


def capped(
    made: Callable[[list[str]], Config], settings: Sequence[str], num_samples: int, say: Callable[[str], None]
) -> Config:
    """The configuration that `made` makes of settings; a preset's batch, which nobody chose, fits the data."""
    chosen = any(setting.partition("=")[0].strip() == "optim.batch_size" for setting in settings)
    config = made([*settings])
    most = num_samples // config.mix_group * config.mix_group
    if chosen or not 0 < most < config.optim.batch_size:
        return config
    say(
        f"note: optim.batch_size is {most}, as there are {num_samples} training samples; preset {config.preset} has "
        f"{config.optim.batch_size}"
    )
    return made([*settings, f"optim.batch_size={most}"])


def left_out(result: Evaluation) -> str | None:
    """Which classes the mean is not over, if any."""
    classes, recall = result.classes or [], result.class_recall or []
    absent = [name for name, value in zip(classes, recall, strict=True) if value is None]
    if not absent:
        return None
    more = ", ..." if len(absent) > 8 else ""
    return (
        f"mean-class is over {len(classes) - len(absent)} of {len(classes)} classes: no sample here of "
        f"{', '.join(absent[:8])}{more}"
    )
