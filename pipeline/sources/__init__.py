"""Where samples come from: one file per source layout, each offering what `Source` asks for.

Adding one: write `sources/<name>.py` with a class that has these members, and a command for it in `pipeline/cli.py`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Photograph:
    """One sample before its pseudo-depth is known."""

    rgb: NDArray[np.uint8]  # (height, width, 3), exactly what a reader will decode from `rgb_bytes`
    rgb_bytes: bytes
    rgb_extension: str  # "rgb.jpg" | "rgb.png"
    facts: Mapping[str, Any]  # goes into the sample's json
    depth_m: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # field -> metres, NaN = not measured
    cls: int | None = None
    seg: NDArray[np.uint8] | None = None  # (height, width), 255 = void


class SourceError(ValueError):
    """The source as a whole cannot be used; one line that names it and the fix."""


def printable(name: str) -> str:
    """A file name as valid Unicode; bytes that are none are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Source(Protocol):
    name: str
    splits: Sequence[str]
    class_names: Sequence[str]
    seg_names: Sequence[str]
    depth_fields: Sequence[str]  # depth that comes with the source, in metres, farther is larger

    def listing(self, split: str) -> Sequence[str]:
        """Every item of a split, in an order that depends on the source alone."""

    def key(self, split: str, item: str) -> str:
        """A valid, unique WebDataset key: no dot, no slash, at most 80 characters."""

    def load(self, split: str, item: str) -> Photograph:
        """Decode one item; raises images.UnreadableImage, which makes it a reject. Called from many threads."""

    def config(self) -> dict[str, Any]:
        """What the samples depend on, for the index and the resume check."""
