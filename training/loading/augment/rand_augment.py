"""RandAugment (arXiv 1909.13719), batched: torchvision's 14 operations, strengths and bins.

torchvision's own refuses a second image. Here what moves RGB moves every other plane, what recolours it leaves them
alone. Numbers are drawn per sample on the CPU; the same function applies them in a loader's worker or on the device.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.loading.augment import affine, photometry

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_RECOLOUR = {
    "brightness": photometry.brightness,
    "color": photometry.color,
    "contrast": photometry.contrast,
    "sharpness": photometry.sharpness,
    "posterize": photometry.posterize,
    "solarize": photometry.solarize,
    "autocontrast": photometry.autocontrast,
    "equalize": photometry.equalize,
}
OPERATIONS = ("identity", *GEOMETRIC, *_RECOLOUR)
SIGNED = {*GEOMETRIC, "brightness", "color", "contrast", "sharpness"}
BINS = 31
VOID = 255  # labels of what comes in from outside
_IN_CACHE = 1 << 18  # values that a CPU works on at a time


@lru_cache
def strengths(magnitude_bin: int, height: int, width: int) -> NDArray[np.float32]:
    """Strength of each of OPERATIONS at a bin of torchvision's table: its own unit, translations in whole px."""

    def at(low: float, high: float) -> float:  # torchvision's own arithmetic, to the last bit
        return float(torch.linspace(low, high, BINS)[magnitude_bin])

    table = {
        "shear_x": at(0.0, 0.3),
        "shear_y": at(0.0, 0.3),
        "translate_x": int(at(0.0, 150.0 / 331.0 * width)),
        "translate_y": int(at(0.0, 150.0 / 331.0 * height)),
        "rotate": at(0.0, 30.0),
        "posterize": 8 - round(4 * magnitude_bin / (BINS - 1)),
        "solarize": 255.0 * at(1.0, 0.0),
    } | dict.fromkeys(("brightness", "color", "contrast", "sharpness"), at(0.0, 0.9))
    return np.array([table.get(operation, 0.0) for operation in OPERATIONS], np.float32)


_NUMBERS_OF_GEOMETRIC = [OPERATIONS.index(operation) for operation in GEOMETRIC]
_HAS_SIGN = np.array([operation in SIGNED for operation in OPERATIONS])


def draw(numbers: NDArray[np.floating], magnitude_bin: int, size: int) -> Tensor:
    """Uniform numbers in [0, 1) (batch, operations, 2) to draws of that shape: operation and signed strength."""
    operation = (numbers[..., 0] * len(OPERATIONS)).astype(np.int64)
    sign = np.where(_HAS_SIGN[operation] & (numbers[..., 1] < 0.5), -1, 1)
    strength = strengths(magnitude_bin, size, size)[operation] * sign
    return torch.from_numpy(np.stack([operation, strength], -1).astype(np.float32))


def apply(rgb: Tensor, planes: Sequence[Tensor], draws: Tensor) -> tuple[Tensor, list[Tensor]]:
    """RandAugment `rgb` (batch, 3, height, width), uint8, in place, and what is moved with it.

    `planes` are z (float, NaN comes in from outside) or labels (uint8, 255 comes in), each (batch, 1, height, width),
    changed in place too; `draws` lie on the CPU whatever the device of the rest, so that nothing waits for it.
    """
    tensors = [rgb, *planes]
    fills = [0.0, *(torch.nan if plane.is_floating_point() else float(VOID) for plane in planes)]
    numbers = draws.numpy()
    at_once = max(1, _IN_CACHE // rgb[0].numel()) if rgb.device.type == "cpu" else len(rgb)
    for step in range(numbers.shape[1]):
        operations, strength = numbers[:, step, 0].astype(np.int64), numbers[:, step, 1]
        for some in _pieces(np.isin(operations, _NUMBERS_OF_GEOMETRIC), at_once):
            matrices = [affine.matrix(OPERATIONS[operations[i]], float(strength[i]), *rgb.shape[2:]) for i in some]
            where = affine.sent(some, rgb.device)
            moved = affine.move([tensor.index_select(0, where) for tensor in tensors], fills, np.array(matrices))
            for tensor, part in zip(tensors, moved, strict=True):
                _put(tensor, some, where, part)
        for operation, recolour in _RECOLOUR.items():
            for some in _pieces(operations == OPERATIONS.index(operation), at_once):
                where = affine.sent(some, rgb.device)
                changed = recolour(rgb.index_select(0, where), affine.sent(strength[some], rgb.device))
                _put(rgb, some, where, changed)
    return rgb, tensors[1:]


def _put(tensor: Tensor, places: NDArray[np.int64], where: Tensor, parts: Tensor) -> None:
    if tensor.device.type != "cpu":
        tensor.index_copy_(0, where, parts)
        return
    for place, part in zip(places.tolist(), parts, strict=True):  # ten times faster there
        tensor[place].copy_(part)


def _pieces(chosen: NDArray[np.bool_], at_once: int) -> list[NDArray[np.int64]]:
    places = np.flatnonzero(chosen)
    return [places[start : start + at_once] for start in range(0, len(places), at_once)]
