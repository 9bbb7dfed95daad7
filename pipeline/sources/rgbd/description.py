"""What a description says: where each part of an RGB-D sample lies, and what its numbers mean.

A TOML file; the ready ones are in data_manifests/rgbd/. Every path is a `Template`, below the folder SRC.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveFloat,
    model_validator,
)

from pipeline.depth_field import PSEUDO, DepthField
from pipeline.shards import DepthName
from pipeline.sources.rgbd.template import Template


def nearest(word: str, known: "list[str] | tuple[str, ...] | Mapping[str, Any]") -> str:
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _checked(text: str) -> str:
    Template(text)
    return text


Place = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_checked)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Short = Annotated[str, Field(max_length=2000)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ByList(Part):
    """A file for each split."""

    train: Place
    val: Place | None = None

    def files(self) -> dict[str, str]:
        return {"train": self.train, **({"val": self.val} if self.val else {})}


class Nearest(Part):
    """In each folder, a photograph goes with the depth map nearest in time.

    Each is a list, `seconds name` a line, or a template of file names with {seconds}.
    """

    rgb: Place
    depth: Place
    within_s: PositiveFloat = 0.02  # the official script of TUM RGB-D


class Samples(Part):
    """Which samples there are: files that match `path`, lines of `lists`, pairs of `nearest`, or what `reader` says."""

    path: Place | None = None  # a sample is a file of such a name; gives its variables
    rgb: Place | None = None  # the photograph; by default `path`, or {rgb}
    lists: ByList | None = None  # a sample is a line
    line: list[Place] = []  # what a line may hold, such as "{rgb} {label}", words parted by blanks; the first that fits
    nearest: Nearest | None = None
    reader: Literal["sunrgbd"] | None = None  # a file whose format is a data set's own
    scene: Place | None = None  # what must not be torn apart by a split

    @model_validator(mode="after")
    def _one_way(self) -> "Samples":
        ways = [name for name in ("lists", "nearest", "reader") if getattr(self, name)]
        if len(ways) > 1 or not (ways or self.path):
            raise ValueError(
                f"samples must be found in one way, by path, lists, nearest or reader, got {ways or 'none'}"
            )
        if self.lists and not self.line:
            raise ValueError("lists need line, which says what a line may hold, such as ['{rgb} {label}']")
        if self.line and not self.lists:
            raise ValueError("line describes lists, which are not given")
        if self.path and (self.lists or self.reader):
            raise ValueError("path finds samples by itself: give rgb for the photograph of a list's line")
        return self

    @property
    def photograph(self) -> str:
        return self.rgb or self.path or "{rgb}"


class Table(Part):
    """A CSV or TSV: the row whose `columns` are the sample's `values` adds its columns to the sample's variables."""

    file: Place
    columns: Place
    values: Place


class Split(Part):
    """Which samples are val: by a variable's value, by lists of such values, or a share of the scenes."""

    of: Place | None = None
    train: list[Name] = ["train", "training"]
    val: list[Name] = ["val", "validation"]
    lists: ByList | None = None  # of values of `of`, one a line
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Split":
        if bool(self.of) == bool(self.fraction):
            raise ValueError("a split is by `of` (with values or lists of them) or by `fraction`: give one")
        if self.lists and not self.of:
            raise ValueError("lists need `of`, the variable whose values they hold")
        if both := {*self.train} & {*self.val}:
            raise ValueError(f"{min(both)!r} is a value of train and of val: name it once")
        return self


class Intrinsics(Part):
    """Of the depth map, in its own pixels; the middle of the map where no centre is given."""

    fx: Annotated[float, Field(gt=0.01, le=1e6)]
    fy: Annotated[float, Field(gt=0.01, le=1e6)]
    cx: FiniteFloat | None = None
    cy: FiniteFloat | None = None


class Reciprocal(Part):
    """metres = numerator / (offset - value), as of the first Kinect's raw disparity.

    A stereo camera's metres = focal length * baseline / disparity are a numerator of minus that product, and offset 0.
    """

    numerator: FiniteFloat
    offset: FiniteFloat = 0.0


_FORMATS = ("png16", "png8", "pgm", "npy", "npz", "h5", "exr", "pfm", "tiff")
_KEYED = ("npz", "h5", "exr")  # take what to read after a colon: h5:dataset


def _known_format(text: str) -> str:
    kind, _, key = text.partition(":")
    if kind not in _FORMATS:
        raise ValueError(f"must be one of {', '.join(_FORMATS)}, got {text!r}{nearest(kind, _FORMATS)}")
    if (kind in _KEYED) != bool(key):
        example = "h5:dataset, exr:Y or npz:depth" if kind in _KEYED else kind
        raise ValueError(f"must be written as {example}, got {text!r}")
    return text


Format = Annotated[str, AfterValidator(_known_format)]
Kind = Literal["metres", "disparity", "relative"]


class Values(Part):
    """How a depth map's file is read and what its numbers mean."""

    format: Format
    byte_order: Literal["big", "little"] = "big"  # of a PGM: the format's rule is big
    bits: Literal["plain", "rotated3"] = "plain"  # rotated3: each 16-bit value turned by three bits, SUN RGB-D's way
    scale: PositiveFloat = 1.0  # what a value is multiplied with; to metres where `kind` is that
    reciprocal: Reciprocal | None = None
    kind: Kind = "metres"
    polarity: Literal["farther_is_larger", "closer_is_larger"] | None = None
    invalid: list[FiniteFloat] = [0.0]  # stored values that mean: nothing here; NaN and infinity always do
    clip_m: PositiveFloat | None = None  # farther values become this
    along: Literal["z", "ray"] = "z"  # of distances along the ray z is made, by `intrinsics`
    intrinsics: Intrinsics | None = None
    size: Literal["aligned", "same_view_resize"] = "aligned"  # pixel for pixel the RGB's; or its view, in other pixels
    step_m: Annotated[float, Field(ge=0.0005, le=1.0)] | None = None  # what is stored are multiples of it, 1 mm

    @model_validator(mode="after")
    def _fits(self) -> "Values":
        metres = self.kind == "metres"
        if self.bits != "plain" and self.format.split(":")[0] != "png16":
            raise ValueError("bits = 'rotated3' is about format = 'png16'")
        if self.along == "ray" and (not metres or self.intrinsics is None):
            raise ValueError("along = 'ray' needs metres and intrinsics = { fx = ..., fy = ... }")
        if not metres:
            if named := [name for name in ("clip_m", "reciprocal", "step_m") if getattr(self, name) is not None]:
                raise ValueError(f"{named[0]} is about metres, and kind is {self.kind}")
            if self.polarity is None and self.kind == "relative":
                raise ValueError("kind = 'relative' needs polarity = 'farther_is_larger' or 'closer_is_larger'")
        expected = {"metres": "farther_is_larger", "disparity": "closer_is_larger"}.get(self.kind)
        if self.polarity and expected and self.polarity != expected:
            raise ValueError(f"{self.kind} are {expected}, polarity says {self.polarity}")
        return self

    def field(self, kind: Any, by: str, scale_lost: bool = False) -> DepthField:
        """As shards describe it."""
        metres = self.kind == "metres"
        unit = {"metres": "m", "disparity": "disparity", "relative": "relative depth"}[self.kind]
        polarity = self.polarity or ("farther_is_larger" if metres else "closer_is_larger")
        if self.kind == "relative" and polarity == "closer_is_larger":
            unit = "relative inverse depth"
        step = (self.step_m or (None if kind == "estimated" else DepthField("measured").step)) if metres else None
        return DepthField(kind, by, unit, polarity, step, scale_lost)


class Depth(Values):
    """A depth field."""

    path: Place
    role: Literal["sensor", "rendered", "pseudo"] = "sensor"
    filled: bool = False  # the sensor's holes were filled
    sensor: Short = ""  # or renderer
    teacher: Name | None = None  # of role = "pseudo": who estimated it
    scale_lost: bool = False  # each map was stretched for itself, as to 0 to 255
    valid: Place | None = None  # a file that is not zero where depth is valid
    valid_format: Format = "png8"

    @model_validator(mode="after")
    def _of_its_role(self) -> "Depth":
        if (self.role == "pseudo") != bool(self.teacher):
            raise ValueError("role = 'pseudo' and teacher = 'NAME' go together: an estimate says who made it")
        if self.scale_lost and self.kind == "metres":
            raise ValueError("scale_lost and kind = 'metres' contradict each other: say kind = 'relative'")
        return self

    def described(self) -> DepthField:
        kind = {"pseudo": "estimated", "rendered": "rendered"}.get(self.role, "filled" if self.filled else "measured")
        return self.field(kind, self.teacher or self.sensor, self.scale_lost)


class Seg(Part):
    """Labels of pixels: the class is value + offset; or what `mapping` says of the value, and without a word, void."""

    path: Place | None = None  # None: from the samples' reader
    format: Format = "png8"
    size: Literal["aligned", "same_view_resize"] = "aligned"  # as of depth
    void: list[int] = []  # stored values without a class
    offset: int = 0
    mapping: dict[str, int] | None = None  # stored value -> class
    names: list[Name] = []
    names_file: Place | None = None  # a name a line

    @model_validator(mode="after")
    def _named(self) -> "Seg":
        if bool(self.names) == bool(self.names_file):
            raise ValueError("labels need names, a list, or names_file, a name a line: give one")
        if not len(self.names) <= 255:
            raise ValueError(f"labels of pixels have at most 255 names, got {len(self.names)}")
        for value, index in (self.mapping or {}).items():
            if not re.fullmatch(r"-?\d{1,10}", value) or index < 0:
                raise ValueError(f"mapping is of stored whole numbers to classes, such as 7 = 0, got {value} = {index}")
        if self.mapping is not None and self.offset:
            raise ValueError("mapping and offset exclude each other: mapping tells the class itself")
        return self


class Cls(Part):
    """The class of a photograph: a variable's value, or a file's text; `groups` may join several into one."""

    of: Place | None = None
    file: Place | None = None
    groups: dict[str, list[Name]] = {}  # class -> what belongs to it
    names: list[Name] = []  # by default those of groups; what is none of them is left out

    @model_validator(mode="after")
    def _one_way(self) -> "Cls":
        if bool(self.of) == bool(self.file):
            raise ValueError("a class is `of` a variable or the text of a `file`: give one")
        if not (self.names or self.groups):
            raise ValueError("classes need names, or groups by name")
        if self.names and self.groups and {*self.names} != {*self.groups}:
            raise ValueError("names and groups must name the same classes; names gives their order")
        return self

    @property
    def classes(self) -> list[str]:
        return self.names or [*self.groups]

    def index(self, value: str) -> int | None:
        """The class of a value; None where it belongs to none."""
        for place, name in enumerate(self.classes):
            if (value == name and name not in self.groups) or value in self.groups.get(name, ()):
                return place
        return None


class Labels(Part):
    seg: Seg | None = None
    cls: Cls | None = None


class Description(Part):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    about: Short  # what it is, in a line
    layout: Short = ""  # what SRC must hold
    source: Short = ""  # where the facts are from
    samples: Samples
    expected: dict[Literal["train", "val"], int] = {}  # samples published for a split
    tables: list[Table] = []
    split: Split | None = None
    depth: dict[DepthName, Depth] = {}
    labels: Labels = Labels()

    @model_validator(mode="after")
    def _whole(self) -> "Description":
        by_itself = self.samples.lists or self.samples.reader
        if bool(by_itself) == bool(self.split):
            raise ValueError(
                "split says which samples are val, " + ("the lists say so already" if by_itself else "and is missing")
            )
        if self.split and self.split.fraction and not self.samples.scene:
            raise ValueError("a split by fraction needs samples.scene, which it must not tear apart ({frame} for none)")
        if (pseudo := self.depth.get(PSEUDO)) and pseudo.role != "pseudo":
            raise ValueError(
                f"depth.{PSEUDO} is what a teacher's estimate is called: say role = 'pseudo', or rename it"
            )
        if self.labels.seg and not self.labels.seg.path and not self.samples.reader:
            raise ValueError("labels.seg needs a path")
        if known := self._variables():
            for where, text in self._templates():
                if unknown := [name for name in Template(text).names if name not in known]:
                    raise ValueError(
                        f"{where} has {{{unknown[0]}}}, which no sample has{nearest(unknown[0], sorted(known))}; it "
                        f"has {', '.join(sorted(known))}"
                    )
        return self

    def _variables(self) -> set[str]:
        """What a sample is known by; nothing where tables add columns that only the file tells."""
        samples = self.samples
        if self.tables:
            return set()
        if samples.nearest:
            return {*Template(samples.path or "").names, "folder", "rgb", "depth"}
        if samples.reader:
            return {"sequence", "rgb", "depth", "raw_depth", "number"}
        if samples.lists:
            return set.intersection(*({*Template(text).names} for text in samples.line))
        return {*Template(samples.path or "").names}

    def _templates(self) -> list[tuple[str, str]]:
        found = [("samples.rgb", self.samples.photograph), ("samples.scene", self.samples.scene)]
        found += [(f"depth.{name}.path", depth.path) for name, depth in self.depth.items()]
        found += [(f"depth.{name}.valid", depth.valid) for name, depth in self.depth.items()]
        found.append(("split.of", self.split.of if self.split else None))
        found.append(("labels.seg.path", self.labels.seg.path if self.labels.seg else None))
        if self.labels.cls:
            found += [("labels.cls.of", self.labels.cls.of), ("labels.cls.file", self.labels.cls.file)]
        return [(where, text) for where, text in found if text]
