"""From the bytes of samples to a batch: decoded, seen through one box, written straight into the batch's tensors.

One decoder per format everywhere, training, evaluation and dumps alike. Depth is decoded within the box alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import shards
from training.config import ONLINE
from training.loading.augment import geometry, rand_augment
from training.loading.decode import decode_rgb, sendable
from training.random_numbers import generator
from training.tasks.classification.batch import ImageBatch
from training.tasks.classification.config import Config


def fields_of(depth_field: str, labelled: bool = True) -> tuple[str, ...]:
    """The members that a sample needs."""
    return ("rgb", *(() if depth_field == ONLINE else (depth_field,)), *(("cls",) if labelled else ()))


class _Canvas:
    """The tensors of a batch to be, filled sample by sample."""

    def __init__(self, count: int, size: int, depth_field: str, channels_last: bool = False) -> None:
        order = torch.channels_last if channels_last else torch.contiguous_format
        self.rgb = sendable((count, 3, size, size), torch.uint8, order)
        if depth_field == ONLINE:
            self.depth = torch.full((1, 1, 1, 1), torch.nan).expand(count, 1, size, size)
        else:
            self.depth = sendable((count, 1, size, size), torch.float32, torch.contiguous_format)
        self.label = torch.empty(count, dtype=torch.int64)
        self.keys: list[str] = []

    def batch(self, first: int, draws: Tensor | None = None) -> ImageBatch:
        return ImageBatch(self.rgb, self.depth, self.label, self.keys, first, draws)


def train_batch(
    samples: Iterable[tuple[int, shards.Members]], count: int, config: Config, first: int, leave_draws: bool
) -> ImageBatch:
    """`count` samples, each with its epoch: random crop and flip; RandAugment, or its draws where they are left."""
    size, augment = config.model.image_size, config.augment
    # As it comes from resizing, where nothing else is done here: model_inputs makes it contiguous on the device.
    canvas = _Canvas(count, size, config.data.depth, channels_last=leave_draws)
    numbers = np.empty((count, geometry.CROP_NUMBERS + 1 + 2 * augment.rand_augment_ops))
    for place, (epoch, members) in enumerate(samples):
        numbers[place] = generator(config.seed, epoch, members.key).random(numbers.shape[1])
        uniform = numbers[place, : geometry.CROP_NUMBERS + 1].tolist()
        rgb = members.decode("rgb", decode_rgb)
        height, width = rgb.shape[1:]
        box = geometry.random_box(height, width, augment, uniform, uniform[-1] < augment.flip)
        canvas.rgb[place] = geometry.resize(geometry.crop(rgb, box), "rgb", (size, size))
        if config.data.depth != ONLINE:
            z = members.decode(config.data.depth, _Within(box, height, width))
            canvas.depth[place] = geometry.resize(z, "depth", (size, size))
        _finish(canvas, place, members)
    if augment.rand_augment_ops == 0:
        return canvas.batch(first)
    uniform_draws = numbers[:, geometry.CROP_NUMBERS + 1 :].reshape(count, augment.rand_augment_ops, 2)
    draws = rand_augment.draw(uniform_draws, augment.rand_augment_magnitude, size)
    if leave_draws:
        return canvas.batch(first, draws)
    rand_augment.apply(canvas.rgb, [canvas.depth] if config.data.depth != ONLINE else [], draws)
    return canvas.batch(first)


def eval_batch(
    samples: Iterable[shards.Members], count: int, config: Config, depth_field: str, first: int
) -> ImageBatch:
    """`count` samples: the short side resized, the centre cropped; labels are -1 where they are read without."""
    size, share = config.model.image_size, config.augment.eval_crop
    canvas = _Canvas(count, size, depth_field)
    for place, members in enumerate(samples):
        rgb = members.decode("rgb", decode_rgb)
        canvas.rgb[place] = geometry.centre(rgb, "rgb", size, share)
        if depth_field != ONLINE:
            height, width = rgb.shape[1:]
            z = members.decode(depth_field, _Within(geometry.Box(0, 0, height, width), height, width))
            canvas.depth[place] = geometry.centre(z, "depth", size, share)
        _finish(canvas, place, members)
    return canvas.batch(first)


def eval_depth(samples: Iterable[shards.Members], config: Config, depth_field: str) -> Tensor:
    """The depth alone that `eval_batch` gives: (samples, 1, size, size)."""
    size, share = config.model.image_size, config.augment.eval_crop
    found = [geometry.centre(members.decode(depth_field, _whole), "depth", size, share) for members in samples]
    return torch.stack(found)


def leaves_draws(config: Config) -> bool:
    """Whether workers leave RandAugment to the device (`runtime.augment`; auto: where that is a GPU)."""
    where, device = config.runtime.augment, config.runtime.device
    if where != "auto":
        return where == "device"
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def _finish(canvas: _Canvas, place: int, members: shards.Members) -> None:
    canvas.label[place] = members.decode("cls") if "cls" in members.data else -1
    canvas.keys.append(members.key)


def _whole(extension: str, data: bytes) -> Tensor:
    return torch.from_numpy(shards.decode_depth(data))[None]


@dataclass(frozen=True)
class _Within:
    """Decodes the box of a depth member of the RGB's size."""

    box: geometry.Box
    height: int
    width: int

    def __call__(self, extension: str, data: bytes) -> Any:
        return torch.from_numpy(shards.decode_depth(data, self.box.window, (self.height, self.width)))[None]
