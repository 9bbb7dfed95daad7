"""Overlapping red and blue digits: the toy problem of the thesis' introduction. Depth alone tells which is on top.

An image is a pure function of (seed, index, config). Two digits of scikit-learn's set lie over each other on a dark
ground. Light adds up, so the RGB is the same, bit for bit, whichever is on top. Each digit is of one of two kinds, by
colour XOR parity; the two digits of an image are never of one kind. So neither colour nor parity alone tells a kind,
and on the pixels where the digits overlap RGB alone cannot beat chance, nor can a depth estimated from it.

`label` (the image's class) is colour and value of the digit on top. RGB shows two candidates of equal right, so that
RGB alone is at best right half of the time; depth shows which, but not its colour. `seg` is the kind of the topmost
digit at each pixel.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.scenes import Image, sense

COLOURS = ("red", "blue")
CLASS_NAMES: tuple[str, ...] = tuple(f"{colour} {digit}" for colour in COLOURS for digit in range(10))
SEG_NAMES: tuple[str, ...] = ("ground", "red even or blue odd", "red odd or blue even")  # seg value = position
SPLITS = ("train", "val")

_VAL_GLYPHS = 360  # the last of the 1,797
_PAINT = np.array([[1.0, 0.08, 0.08], [0.08, 0.2, 1.0]])  # red, blue
_GROUND, _LEVELS = (6, 30), (80, 108)  # grey levels; the ground and two digits of one colour stay below 255
_LEAST_OVERLAP = 0.2  # of the smaller digit
_TRIES = 50


@dataclass(frozen=True)
class DigitsConfig:
    size_px: int = 64
    split: str = "train"  # whose glyphs; no glyph is in both
    noise: float = 2.0  # standard deviation of the camera noise, in grey levels of 255

    def __post_init__(self) -> None:
        if not 16 <= self.size_px <= 4096:
            raise ValueError(f"size_px must be 16 to 4096, got {self.size_px}.")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}.")
        if self.noise < 0:
            raise ValueError(f"noise must not be negative, got {self.noise}.")


@dataclass(frozen=True)
class Digit:
    value: int  # 0..9
    colour: int  # index into COLOURS
    glyph: int  # index into scikit-learn's set

    @property
    def kind(self) -> int:
        """Colour XOR parity: 0 or 1, and 1 + kind is its value in `seg`."""
        return int((self.colour == 0) ^ (self.value % 2 == 0))

    @property
    def label(self) -> int:
        return 10 * self.colour + self.value


@dataclass(frozen=True)
class Stack:
    rgb: NDArray[np.uint8]  # (height, width, 3)
    exact_m: Image  # metres: a plane for each digit, one for the ground
    sensor_m: Image  # the same seen by `scenes.sense`; NaN = not measured
    label: int  # index into CLASS_NAMES
    seg: NDArray[np.uint8]  # (height, width), index into SEG_NAMES
    overlap: NDArray[np.bool_]  # (height, width), where both digits are
    digits: tuple[Digit, Digit]  # the one on top first


def render(seed: int, index: int, config: DigitsConfig = DigitsConfig(), *, swapped: bool = False) -> Stack:
    """The image numbered `index` of the world `seed`; `swapped` exchanges the digits' depths and nothing else."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    first = _pick(rng, config.split, kind=int(rng.integers(2)))
    digits = first, _pick(rng, config.split, kind=1 - first.kind)
    inks = _place(rng, digits, config.size_px)
    light = rng.uniform(*_GROUND) + np.zeros((config.size_px, config.size_px, 3))
    for digit, ink in zip(digits, inks, strict=True):  # in the order of drawing lots, not of depth
        light += rng.uniform(*_LEVELS) * ink[..., None] * _PAINT[digit.colour]
    light += config.noise * rng.standard_normal(light.shape)
    top = int(rng.integers(2)) ^ swapped
    top_m = rng.uniform(1.2, 2.0)
    below_m, ground_m = top_m + rng.uniform(0.4, 0.9), rng.uniform(3.4, 4.4)
    on_top, below = inks[top] >= 0.5, inks[1 - top] >= 0.5
    exact_m = np.where(on_top, top_m, np.where(below, below_m, ground_m)).astype(np.float32)
    seg = np.where(on_top, 1 + digits[top].kind, np.where(below, 1 + digits[1 - top].kind, 0)).astype(np.uint8)
    return Stack(
        rgb=np.clip(light, 0, 255).astype(np.uint8),
        exact_m=exact_m,
        sensor_m=sense(exact_m, rng),
        label=digits[top].label,
        seg=seg,
        overlap=on_top & below,
        digits=(digits[top], digits[1 - top]),
    )


@lru_cache
def glyphs() -> tuple[Image, NDArray[np.int64]]:
    """scikit-learn's 1,797 handwritten digits: ink (count, 8, 8) in 0..1, and their values."""
    from sklearn.datasets import load_digits

    images, values = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 8, 8), values


def glyphs_of(split: str) -> NDArray[np.int64]:
    """Places of a split's glyphs in `glyphs`: those of val are the last, so no glyph is in both."""
    places = np.arange(len(glyphs()[1]))
    return places[-_VAL_GLYPHS:] if split == "val" else places[:-_VAL_GLYPHS]


def _pick(rng: np.random.Generator, split: str, kind: int) -> Digit:
    """A digit of this kind: its colour, then its value, then a glyph, each evenly."""
    colour = int(rng.integers(2))
    value = 2 * int(rng.integers(5)) + ((colour == 0) == kind)
    places = glyphs_of(split)
    return Digit(value, colour, int(rng.choice(places[glyphs()[1][places] == value])))


def _place(rng: np.random.Generator, digits: tuple[Digit, Digit], size: int) -> list[Image]:
    """The ink of both digits, 0..1, so near each other that they overlap."""
    inks: list[Image] = []
    for attempt in range(_TRIES):
        apart = 0.2 * (1 - attempt / _TRIES)  # of the side; less after every failure
        angle, middle = rng.uniform(0, 2 * np.pi), rng.uniform(0.48, 0.52, 2)
        away = apart * np.array([np.sin(angle), np.cos(angle)])
        inks = [_ink(rng, digit, size, middle + sign * away / 2) for sign, digit in zip((-1, 1), digits, strict=True)]
        first, second = (ink >= 0.5 for ink in inks)
        if (first & second).sum() >= _LEAST_OVERLAP * min(first.sum(), second.sum()):
            break
    return inks


def _ink(rng: np.random.Generator, digit: Digit, size: int, centre: NDArray[np.float64]) -> Image:
    """A glyph enlarged to 0.6 to 0.72 of the side, turned by up to 6 degrees: bilinear, then its edge made steep."""
    scale, angle = size * rng.uniform(0.6, 0.72) / 8, np.deg2rad(rng.uniform(-6, 6))
    down, right = (np.mgrid[:size, :size] + 0.5 - size * centre[:, None, None]) / scale
    row = np.cos(angle) * down + np.sin(angle) * right + 3.5
    column = np.cos(angle) * right - np.sin(angle) * down + 3.5
    bordered = np.pad(glyphs()[0][digit.glyph], 2)
    row, column = np.clip(row + 2, 0, 10.999), np.clip(column + 2, 0, 10.999)
    top, left = row.astype(int), column.astype(int)
    v, u = row - top, column - left
    upper = (1 - u) * bordered[top, left] + u * bordered[top, left + 1]
    lower = (1 - u) * bordered[top + 1, left] + u * bordered[top + 1, left + 1]
    return np.clip(((1 - v) * upper + v * lower - 0.3) / 0.3, 0, 1).astype(np.float32)
