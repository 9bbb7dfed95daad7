"""Figures 4 and 14: what noise on depth costs. z' = z + sigma * eps, on what the model sees of standardised depth.

eps is standard normal, one number a pixel or one a patch, and a function of (seed, sample key, size) alone: the same
for every sigma, every model and every checkpoint, so that differences between them are not those of the draw. Invalid
pixels stay invalid.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pipeline import shards
from pipeline.errors import UserError
from training.engine.found import At, refuse_diverged
from training.engine.machine import Machine
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.models.vit import VisionTransformer
from training.random_numbers import generator
from training.records import NoiseSweep
from training.tasks.classification.config import Config
from training.tasks.classification.data import eval_loader
from training.tasks.classification.evaluate import EVAL_BATCH, judge, largest_class

Kind = Literal["pixel", "patch"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_MOST_SIGMAS = 100


class NoiseError(UserError):
    """Noise that cannot be; one line that names the option and the fix."""


@dataclass(frozen=True)
class Noise:
    """Where the Gaussians come from."""

    kind: Kind
    seed: int

    def draw(self, keys: Sequence[str], size: int, patch_size: int) -> Tensor:
        """eps (batch, 1, size, size), float32, of the samples called `keys`."""
        return torch.from_numpy(np.stack([self._one(key, size, patch_size) for key in keys]))[:, None]

    def _one(self, key: str, size: int, patch_size: int) -> np.ndarray:
        side = size if self.kind == "pixel" else size // patch_size
        numbers = generator("noise", self.kind, self.seed, size, key).standard_normal((side, side), np.float32)
        return numbers if self.kind == "pixel" else numbers.repeat(patch_size, 0).repeat(patch_size, 1)


def noisy(depth: Tensor, sigma: float, eps: Tensor) -> Tensor:
    """z + sigma * eps; the very same tensor for sigma 0."""
    return depth + sigma * eps if sigma else depth


def parse_kind(text: str) -> Kind:
    for kind in KINDS:
        if kind == text:
            return kind
    raise NoiseError(f"--noise must be one of {', '.join(KINDS)}, got {text!r}")


def parse_sigmas(text: str | None) -> tuple[float, ...]:
    """`0,0.5,1` as rising numbers, each once; the grid of the figures where nothing is given."""
    if text is None:
        return SIGMAS
    try:
        sigmas = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise NoiseError(f"--sigma takes numbers between commas, such as 0,0.5,1, got {text[:80]!r}") from None
    if wrong := [sigma for sigma in sigmas if not 0 <= sigma <= 1000]:
        raise NoiseError(f"--sigma must be numbers from 0 to 1000, in units of z, got {wrong[0]:g}")
    if len(sigmas) > _MOST_SIGMAS:
        raise NoiseError(f"--sigma takes at most {_MOST_SIGMAS} numbers, got {len(sigmas)}")
    return tuple(sigma + 0.0 for sigma in sigmas)  # -0 is 0


@torch.no_grad()
def sweep(
    model: VisionTransformer,
    split: shards.Split,
    config: Config,
    depth_field: str,
    machine: Machine,
    noise: Noise,
    sigmas: Sequence[float],
    *,
    at: At,
    other_depth: Sequence[str] = (),
    advance: Callable[[int], None] = lambda count: None,
) -> NoiseSweep:
    """The whole split once, every sample decoded once and judged at every sigma; at sigma 0 as `evaluate` would."""
    model.eval()
    size, patch_size = config.model.image_size, config.model.patch_size
    correct1: list[list[bool]] = [[] for _ in sigmas]
    num_correct5, loss = [0] * len(sigmas), [0.0] * len(sigmas)
    labels: Counter[int] = Counter()
    for batch in eval_loader(split, config, depth_field, min(EVAL_BATCH, len(split))):
        on_device = batch.to(machine.device)
        rgb = normalise(on_device.rgb, RGB_MEAN, RGB_STD)
        eps = noise.draw(batch.keys, size, patch_size).to(machine.device)
        for place, sigma in enumerate(sigmas):
            with machine.autocast():
                logits = model(rgb, noisy(on_device.depth, sigma, eps)).float()
            first, among5, summed = judge(logits, on_device.label)
            correct1[place] += first
            num_correct5[place] += sum(among5)
            loss[place] += summed
        labels.update(batch.label.tolist())
        advance(len(batch.keys))
    refuse_diverged(sum(loss), f"{config.model.name}, {at.checkpoint}")
    count = len(split)
    assert all(len(hits) == count for hits in correct1), "a sweep must count every sample once"
    return NoiseSweep(
        model=config.model.name,
        checkpoint=at.checkpoint,
        epoch=at.epoch,
        data=split.data,
        split=split.index.split,
        fingerprint=split.index.fingerprint,
        depth_field=depth_field,
        noise=noise.kind,
        noise_seed=noise.seed,
        image_size=size,
        patch_size=patch_size,
        num_samples=count,
        sigmas=list(sigmas),
        top1=[sum(hits) / count for hits in correct1],
        top5=[number / count for number in num_correct5],
        loss=[total / count for total in loss],
        correct1=["".join("01"[hit] for hit in hits) for hits in correct1],
        largest_class=largest_class(labels),
        other_depth=list(other_depth),
    )
