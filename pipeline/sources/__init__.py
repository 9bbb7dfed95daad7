"""Where samples come from: one file per source layout, each offering what `Source` asks for.

Adding one: write `sources/<name>.py` with a class that has these members, and a command for it in `pipeline/commands/`.

A source lists *access units*, the smallest things it can read alone: a file, a member of an indexed tar, a run of rows
of a parquet row group. The job sorts and shuffles units, never samples, so nothing is read more often than it must be.
Most units hold one sample, and then the unit and its only item are the same string.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.depth_field import DepthField
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.sources.ledger import Ledger, Listed


class DepthFile(NamedTuple):
    """A file that holds the depth of one sample."""

    name: str  # its path below the source
    sha256: str


@dataclass(frozen=True)
class Photograph:
    """One sample before its pseudo-depth is known."""

    image: Image.Image  # RGB, exactly what a reader will decode from `rgb_bytes`; perhaps decoded when it is asked for
    rgb_bytes: bytes
    rgb_extension: str  # "rgb.jpg" | "rgb.png"
    facts: Mapping[str, Any]  # goes into the sample's json
    depth: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # field -> in its unit, NaN = not measured
    files: Mapping[str, "DepthFile"] = field(default_factory=dict)  # depth field -> the file that it was read from
    cls: int | None = None
    seg: NDArray[np.uint8] | None = None  # (height, width), 255 = void

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The pixels of `image`, (height, width, 3)."""
        return np.asarray(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.height, self.image.width


class SourceError(UserError):
    """The source as a whole cannot be used; one line that names it and the fix."""


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # with line ends and changes of direction


def name_bytes(name: str) -> bytes:
    """A name's bytes, whatever the locale: also of one that comes from a tar or a JSON, where the locale lacks it."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")


def printable(name: str) -> str:
    """A file name as valid Unicode on one line; bytes that are none, and control characters, are written as \\xNN."""
    valid = name_bytes(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), valid)


class Source(Protocol):
    name: str
    splits: Sequence[str]  # those it may hold; one that turns out empty is left out
    class_names: Sequence[str]
    seg_names: Sequence[str]
    depth_fields: Mapping[str, DepthField]  # depth that comes with the source
    listing_in_config: bool  # config() already tells whether the listing changed; else the job lists again on a resume
    expected: Mapping[str, int]  # images published for a split, {} if none; the job says where the listing differs
    notes: Sequence[str]  # what a person should know of the source before a long job, a line each
    samples_per_unit: int  # the most samples a unit holds; a shard holds samples_per_shard // this many units

    def listing(self, ledger: "Ledger") -> "Iterator[Listed]":
        """Every access unit, streamed in any order: the job sorts them on disk. They are unique within a split, no NUL.

        `ledger.seen` is raised where members are read; each ends in a unit or in `ledger.leave_out`.
        """

    def samples(self, unit: str) -> Sequence[str]:
        """The items of a unit, in order; for a unit of one sample just `[unit]`. Costs no access to the source."""

    def key(self, split: str, item: str) -> str:
        """A valid, unique WebDataset key: no dot, no slash, at most 80 characters."""

    def load(self, split: str, item: str) -> Photograph:
        """Decode one item; called from many threads.

        images.UnreadableImage makes the item a reject. SourceError ends the job: what was listed is gone, or the
        storage fails, so that writing on would turn an outage into rejects.
        """

    def config(self) -> dict[str, Any]:
        """What the samples depend on, for the index and the resume check; the listing itself is checked by the job."""
