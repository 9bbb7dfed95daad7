"""Training a teacher as a task: inverse depth from rendered scenes, in a folder that labels like any other."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.table import Table
from torch import Tensor, nn

from pipeline import shards
from training import provenance
from training.engine import checkpoint
from training.engine.found import At, Scores
from training.engine.machine import Machine
from training.engine.share import DataError, Share
from training.engine.task import Asked, Task
from training.loading.metric import open_metric
from training.models.vit import load_checked
from training.tasks.depth import network
from training.tasks.depth.config import KIND, DepthConfig, resolve
from training.tasks.depth.data import EVAL_BATCH, DepthBatch, eval_loader, position_mean, train_loader
from training.tasks.depth.loss import ssi_loss
from training.tasks.depth.metrics import collected, means

TEACHER = "teacher"  # the folder of a run that precompute-depth --teacher takes


class TeacherTraining(Task[DepthConfig, DepthBatch]):
    """Scale- and shift-invariant loss; a mean over the images that have depth."""

    kind = KIND
    schema = DepthConfig
    made_by = "train teacher"
    counts = True  # images that have depth

    train: shards.Split
    val: shards.Split
    _positions: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, asked: Asked, say: Callable[[str], None]) -> Self:
        return cls(resolve(asked.preset, asked.settings, asked.depth, asked.init))

    def build(self) -> nn.Module:
        return network.build(self.config.model.size_px)

    def example(self) -> tuple[Tensor, ...]:
        side = self.config.model.size_px
        return (torch.zeros(1, 3, side, side),)

    def inputs(self, batch: DepthBatch) -> tuple[Tensor, ...]:
        return batch.rgb, batch.inverse_depth

    def loss(self, forward: Callable[..., Any], *inputs: Tensor) -> Tensor:
        rgb, inverse_depth = inputs
        return ssi_loss(network.estimate(forward, rgb, self.config.model.size_px), inverse_depth).sum()

    def count(self, batch: DepthBatch) -> int:
        return int(batch.inverse_depth.isfinite().flatten(1).any(1).sum())

    def open(self, data: str) -> None:
        self.data, field = data, self.config.data.depth
        self.train, self.val = open_metric(data, "train", field), open_metric(data, "val", field)
        provenance.check_splits(self.train, self.val, field)
        self.num_train, self.num_val = len(self.train), len(self.val)

    def splits(self) -> tuple[shards.Split, shards.Split]:
        return self.train, self.val

    def loader(self, share: Share, first_step: int, num_steps: int) -> Iterator[DepthBatch]:
        return train_loader(self.train, self.config, share, first_step, num_steps)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, machine: Machine) -> Scores:
        start, ranks = time.perf_counter(), machine.ranks
        if self._positions is None:
            self._positions = position_mean(self.train, self.config.data.depth)
        model.eval()
        loader = eval_loader(self.val, self.config, ranks.rank, ranks.world_size)
        values: dict[str, list[float]] = {}
        loss, count = 0.0, 0
        for _ in range(math.ceil(math.ceil(self.num_val / EVAL_BATCH) / ranks.world_size)):
            machine.between()
            if (batch := next(loader, None)) is None:
                continue
            on_device = batch.to(machine.device)
            with machine.autocast():
                estimated = network.estimate(model, on_device.rgb, self.config.model.size_px)
            loss += ssi_loss(estimated, on_device.inverse_depth).sum().item()
            count += self.count(batch)
            maps = (estimated.double().cpu().numpy(), batch.inverse_depth.numpy(), batch.seg.numpy())
            for name, found in collected([maps], self._positions).items():
                values.setdefault(name, []).extend(found)
        everyone = ranks.gather((values, loss, count))
        if not (images := sum(each[2] for each in everyone)):
            raise DataError(f"{self.val.store} has no image with {self.config.data.depth} depth: give other shards")
        merged: dict[str, list[float]] = {}
        for own, *_ in everyone:
            for name, found in own.items():
                merged.setdefault(name, []).extend(found)
        total = sum(each[1] for each in everyone) / images
        scores = means(merged)
        return Scores(scores, scores["residual_spearman"], total, images, time.perf_counter() - start)

    def conclude(self, found: Any, out: Path, at: At, machine: Machine) -> BaseModel:
        """The last weights become the teacher in OUT/teacher."""
        result = self.record(found, at)
        if machine.ranks.first:
            saved = checkpoint.load(out / "checkpoints" / at.checkpoint)
            model = self.build()
            load_checked(model, saved.weights, str(saved.folder))
            facts = {"run": out.name, "checkpoint": at.checkpoint, "data": self.data, "metrics": found.scores}
            network.save(model, out / TEACHER, self.config.model.size_px, facts)
        return result

    @classmethod
    def tables(cls, result: Any) -> list[Table]:
        table = Table(
            "score", "teacher", "mean of each position", title=f"{result.model}, {result.num_samples:,} images"
        )
        for name, value in result.scores.items():
            if not name.startswith("position_"):
                beside = result.scores.get(f"position_{name}")
                table.add_row(name, f"{value:.4f}", "" if beside is None else f"{beside:.4f}")
        return [table]
