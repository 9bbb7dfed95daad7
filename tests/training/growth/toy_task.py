"""A task as somebody would add one: the mean depth of an image, told from its RGB. Copied to training/tasks/toy/."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from pipeline import shards
from training.config import Section, StudyConfig, apply, preset, validated
from training.engine.found import Scores
from training.engine.share import Share
from training.engine.task import Task
from training.loading.data import load, load_pieces
from training.loading.decode import decode_rgb
from training.loading.pieces import Pieces


class Model(Section):
    name: str = "mean-depth"
    width: int = 8


class Data(Section):
    depth: str = "exact"


class Config(StudyConfig):
    model: Model = Model()
    data: Data = Data()


@dataclass(frozen=True)
class Batch:
    rgb: torch.Tensor
    mean: torch.Tensor
    keys: list[str]
    first: int

    def to(self, device):
        return replace(self, rgb=self.rgb.to(device), mean=self.mean.to(device))

    def pin_memory(self):
        return replace(self, rgb=self.rgb.pin_memory(), mean=self.mean.pin_memory())


class Batches(Pieces):
    fields = ("rgb", "exact")

    def made(self, samples, first):
        found = [
            (m.key, m.decode("rgb", decode_rgb), torch.from_numpy(m.decode("exact")).nanmean()) for _, m in samples
        ]
        keys, rgb, mean = zip(*found, strict=True)
        return Batch(torch.stack(rgb), torch.stack(mean), keys, first)


class Toy(Task):
    kind, schema, made_by = "toy", Config, "train task toy"

    @classmethod
    def of(cls, asked, say):
        values = preset(asked.preset, "toy")
        for setting in asked.settings:
            apply(values, setting, Config)
        return cls(validated(values, Config))

    def build(self):
        width = self.config.model.width
        return nn.Sequential(
            nn.Conv2d(3, width, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)
        )

    def example(self):
        return (torch.zeros(1, 3, 48, 48),)

    def inputs(self, batch):
        return batch.rgb / 255, batch.mean

    def loss(self, forward, rgb, mean):
        return (forward(rgb)[:, 0] - mean).square().sum()

    def open(self, data):
        self.data, (self.train, self.val) = data, [shards.open_split(data, split) for split in shards.SPLITS]
        self.num_train, self.num_val = len(self.train), len(self.val)

    def splits(self):
        return self.train, self.val

    def loader(self, share, first_step, num_steps):
        return load_pieces(Batches(self.train, self.config.seed, share), first_step, num_steps, self.config.runtime)

    @torch.no_grad()
    def evaluate(self, model, machine):
        model.eval()
        everything = Share(0, 1, self.num_val, 1)
        [batch] = load(Batches(self.val, 0, everything), range(1), self.config.runtime)
        error = self.loss(model, *self.inputs(batch.to(machine.device))).item() / self.num_val
        return Scores({"mse": error}, 1 / (1 + error), error, self.num_val)
