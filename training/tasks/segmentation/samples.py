"""From the bytes of a sample to what a segmenter sees: decoded, checked, flipped, scaled, cropped or padded.

Depth enters as z, or as the authors of DFormer prepare it (`inputs = "dformer-greys"`): 8-bit codes between the image's
own minimum and maximum, near dark, (code / 255 - 0.48) / 0.28; and RGB as BGR under RGB's mean and std. Their published
weights expect that. Their files of NYU's depth went through matplotlib's `Greys_r`, which is not linear: up to 29 codes
brighter, 16.6 on average. `dformer-linear` is the same without that.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import shards
from training.loading.augment.geometry import resize
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.loading.decode import decode_rgb
from training.random_numbers import generator
from training.tasks.segmentation.batch import SegBatch
from training.tasks.segmentation.config import FinetuneConfig

_CODE_MEAN, _CODE_STD = 0.48, 0.28  # DFormer's, of depth codes over 255
# Greys_r, reversed from matplotlib's definition of Greys: nine greys evenly apart, linear between them, cut to 8 bits.
_GREYS = (0, 37, 82, 115, 150, 189, 217, 240, 255)
GREYS_R = np.interp(np.arange(256), np.linspace(0, 255, len(_GREYS)), _GREYS).astype(np.uint8)
_NUMBERS = 4  # flip, scale, top, left


def fields_of(depth_field: str) -> tuple[str, ...]:
    """The members that a sample needs."""
    return ("rgb", depth_field, "seg")


def train_batch(
    samples: Iterable[tuple[int, shards.Members]], count: int, config: FinetuneConfig, first: int
) -> SegBatch:
    """`count` samples, each with its epoch, at the crop's size."""
    height, width = config.augment.crop
    rgb = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    depth = torch.full((count, 1, height, width), torch.nan)
    label = torch.full((count, height, width), shards.VOID, dtype=torch.uint8)
    inside, keys = torch.zeros(count, 4, dtype=torch.int64), []
    for place, (epoch, members) in enumerate(samples):
        numbers = generator(config.seed, epoch, members.key).random(_NUMBERS).tolist()
        planes = _augmented(decode(members, config.data.depth, config), config, numbers[:2])
        (source_y, y, rows), (source_x, x, columns) = (
            _placed(have, want, number)
            for have, want, number in zip(planes[2].shape[1:], (height, width), numbers[2:], strict=True)
        )
        for plane, canvas in zip(planes, (rgb[place], depth[place], label[place][None]), strict=True):
            part = plane[:, source_y : source_y + rows, source_x : source_x + columns]
            canvas[:, y : y + rows, x : x + columns] = part
        inside[place] = torch.tensor([y, x, y + rows, x + columns])
        keys.append(members.key)
    return SegBatch(rgb, depth, label, inside, keys, first)


def _augmented(planes: tuple[Tensor, Tensor, Tensor], config: FinetuneConfig, numbers: Sequence[float]) -> list[Tensor]:
    """RGB, depth and labels, mirrored or not, at one of the scales."""
    augment = config.augment
    scale = augment.scales[int(numbers[1] * len(augment.scales))]
    size = (max(1, round(planes[0].shape[1] * scale)), max(1, round(planes[0].shape[2] * scale)))
    if numbers[0] < augment.flip:
        planes = (planes[0].flip(2), planes[1].flip(2), planes[2].flip(2))
    rules = ("rgb", "depth", "labels")
    return [resize(plane, rule, size) for plane, rule in zip(planes, rules, strict=True)]  # type: ignore[arg-type]


def _placed(have: int, want: int, number: float) -> tuple[int, int, int]:
    """Where the crop begins in the image, where the image begins in the crop, and how much of it is there.

    A larger image is cut at random, a smaller one padded evenly on both sides.
    """
    if have >= want:
        return int(number * (have - want + 1)), 0, want
    return 0, (want - have) // 2, have


def eval_batch(
    samples: Iterable[shards.Members], config: FinetuneConfig, depth_field: str, first: int
) -> list[SegBatch]:
    """Whole images as they are, one batch each size: consecutive samples of one size share a batch."""
    batches: list[list[tuple[str, tuple[Tensor, Tensor, Tensor]]]] = []
    for members in samples:
        planes = decode(members, depth_field, config)
        if not batches or batches[-1][0][1][0].shape != planes[0].shape:
            batches.append([])
        batches[-1].append((members.key, planes))
    made, start = [], first
    for group in batches:
        rgb, depth, label = (torch.stack([planes[part] for _, planes in group]) for part in range(3))
        inside = torch.tensor([[0, 0, *rgb.shape[2:]]]).expand(len(group), 4)
        made.append(SegBatch(rgb, depth, label[:, 0], inside, [key for key, _ in group], start))
        start += len(group)
    return made


def decode(members: shards.Members, depth_field: str, config: FinetuneConfig) -> tuple[Tensor, Tensor, Tensor]:
    """RGB uint8 (3, h, w), depth float32 (1, h, w), labels uint8 (1, h, w); ShardError names a fault."""
    rgb = members.decode("rgb", decode_rgb)
    size = tuple(rgb.shape[1:])

    def decode_depth(extension: str, data: bytes) -> Tensor:
        z = shards.decode_depth(data)
        if z.shape != size:
            raise ValueError(
                f"depth must be of the RGB's size {size[0]}x{size[1]}, got {z.shape[0]}x{z.shape[1]}: "
                "make the shards again"
            )
        return torch.from_numpy(prepared(z, config.model.input_convention))[None]

    def decode_labels(extension: str, data: bytes) -> Tensor:
        labels: NDArray[np.uint8] = np.array(shards.decode_member(extension, data))
        if labels.shape != size or labels.dtype != np.uint8:
            got = "x".join(map(str, labels.shape))
            raise ValueError(
                f"labels must be 8-bit and of the RGB's size {size[0]}x{size[1]}, got {labels.dtype} {got}"
            )
        wrong = labels[(labels >= config.head.num_classes) & (labels != shards.VOID)]
        if wrong.size:
            raise ValueError(
                f"labels must be 0 to {config.head.num_classes - 1} or {shards.VOID} (void), got {wrong.max()} in "
                f"{wrong.size:,} pixels: map the source's labels and make the shards again"
            )
        return torch.from_numpy(labels)[None]

    return rgb, members.decode(depth_field, decode_depth), members.decode("seg", decode_labels)


def prepared(z: NDArray[np.float32], inputs: str) -> NDArray[np.float32]:
    """Depth under an input convention: z itself, or codes as DFormer's code normalises them.

    NaN stays NaN; an image of one depth, or none, is at code 0.
    """
    if inputs == "z":
        return z
    there = np.isfinite(z)
    valid = z[there]
    low, high = (float(valid.min()), float(valid.max())) if valid.size else (0.0, 0.0)
    share = (valid - low) / (high - low) if high > low else np.zeros_like(valid)
    greys = GREYS_R[np.minimum(256 * share, 255).astype(np.uint8)]  # 256 equal parts, as colour maps have
    codes = np.full(z.shape, np.nan, np.float32)
    codes[there] = greys if inputs == "dformer-greys" else np.floor(255 * share)
    return ((codes / 255 - _CODE_MEAN) / _CODE_STD).astype(np.float32)


def model_inputs(batch: SegBatch, config: FinetuneConfig) -> tuple[Tensor, Tensor]:
    """Normalised RGB, 0 where padded, and depth with NaN, on the batch's device."""
    pixels = batch.rgb if config.model.input_convention == "z" else batch.rgb.flip(1)
    rgb = normalise(pixels, RGB_MEAN, RGB_STD)
    height, width = rgb.shape[2:]
    whole = torch.tensor([0, 0, height, width])
    for place in (batch.inside != whole).any(1).nonzero()[:, 0].tolist():
        top, left, bottom, right = batch.inside[place].tolist()
        rgb[place, :, :top], rgb[place, :, bottom:] = 0, 0
        rgb[place, :, :, :left], rgb[place, :, :, right:] = 0, 0
    return rgb, batch.depth
