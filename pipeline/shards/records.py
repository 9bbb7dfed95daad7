"""The JSON beside a tar and the index of a split."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from pipeline import files
from pipeline.errors import UserError
from pipeline.shards.storage import Store
from pipeline.standardize import Moments, Standardisation

SCHEMA_VERSION = 4  # 3 added `left_out` to the index, 4 `provenance` and the depth fields of the configuration
READABLE_VERSIONS = (2, 3, 4)
DEPTH_FIELDS = ("pseudo", "real", "raw", "exact")  # that sources here write, in the order to show them
SPLITS = ("train", "val")
VOID = 255
_KIND_BY_NAME: dict[str, Literal["measured", "filled", "rendered"]] = {
    "real": "filled",
    "raw": "measured",
    "exact": "rendered",
}
INDEX_REJECTS = 1000  # the index lists this many rejects; each shard's JSON lists all of its own


def _no_other_member(name: str) -> str:
    if name in ("key", "rgb", "cls", "seg", "json", "source", "scene", "overlap"):
        raise ValueError(f"a depth field must not be called {name}, which a sample has beside its depth")
    return name


# What is read may be a stranger's: names match a pattern (not a list: new depth fields come), numbers have bounds, and
# nothing that is named leads out of the data set.
ShardName = Annotated[str, Field(pattern=r"^shard-[0-9]{6,15}$")]
DepthName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$"), AfterValidator(_no_other_member)]
SplitName = Annotated[str, Field(pattern=r"^[a-z]{1,16}$")]
_DEPTH_NAME = TypeAdapter(DepthName)
Extension = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,96}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Word = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_./^ -]*$")]
Text = Annotated[str, Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Place = Annotated[int, Field(ge=-1, le=10**15)]
_HEADER = 512  # bytes of a tar's header: each sample has at least one


class ShardError(UserError):
    """A shard, its JSON or an index is missing, damaged, or of a newer schema; the message names it and the fix."""


class NewerSchemaError(ShardError):
    """Written by a later version of this program."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_RecordT = TypeVar("_RecordT", bound=_Record)


class Reject(_Record):
    """A listed item that did not become a sample, and why."""

    source: Text
    reason: Text


class LeftOut(_Record):
    """Files, tar members or rows of the source that belong to no sample, all for one reason."""

    reason: Text
    count: Count
    endings: dict[Text, Count]  # how many have which, the most frequent
    names: list[Text]  # the first by name, at most 100


class Provenance(_Record):
    """What a depth field is: how it came to be, and from what."""

    kind: Literal["measured", "filled", "rendered", "estimated"]
    by: Text = ""  # which sensor, renderer or teacher, where that is known
    weights_sha256: Text = ""  # of the teacher that ran here, as its identity says
    files_sha256: Hash = ""  # the sum of the hashes of the files that hold it, where each sample has one of its own
    scale_lost: bool = False  # each image was stretched for itself: order and shape are left, not size

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        source = self.weights_sha256 or self.files_sha256
        what = "weights" if self.weights_sha256 else "files"
        lost = ", each image stretched for itself" if self.scale_lost else ""
        return f"{self.kind}{by}{f' ({what} {source[:8]})' if source else ''}{lost}"


class StoredDepth(_Record):
    """How one depth field was standardised. z = sign * (depth - mean) / std."""

    mean: FiniteFloat
    std: FiniteFloat
    polarity: Word
    unit: Word
    constants_from: Text  # "calibration over N images", "given", ...
    step_z: FiniteFloat  # values are stored as multiples of it
    max_error_z: FiniteFloat  # bound on |stored - estimated|
    realised_mean: FiniteFloat  # of everything written, native unit; drift from `mean` shows here
    realised_std: FiniteFloat
    num_pixels: Count
    provenance: Provenance | None = None  # None: written before version 4; `ShardIndex.provenance` knows it

    @model_validator(mode="after")
    def _constants_are_usable(self) -> "StoredDepth":
        _ = self.standardisation  # raises ValueError
        return self

    @property
    def sign(self) -> float:
        return self.standardisation.sign

    @property
    def standardisation(self) -> Standardisation:
        return Standardisation(self.mean, self.std, self.polarity)


class Extents(_Record):
    """Where one member of each sample lies in the tar, and its CRC-32; length -1 where a sample lacks it."""

    offset: list[Place]
    length: list[Place]
    crc32: list[Place]


class ShardRecord(_Record):
    """The JSON beside a tar, written after it; a shard without one does not exist.

    Columns, not rows: a million samples' JSON must parse in seconds. The k-th entry of every list is sample k.
    """

    schema_version: int = SCHEMA_VERSION
    name: ShardName
    listing: Hash  # the plan it was made by
    bytes: Count
    sha256: Hash
    num_listed: Count
    keys: list[Key]
    members: dict[Extension, Extents]  # by extension
    rejects: list[Reject]
    moments: dict[
        DepthName, tuple[Count, FiniteFloat, FiniteFloat]
    ]  # native unit, per depth field: count, mean, sum of sq. deviations
    constants: dict[DepthName, Standardisation]  # by which its depth was standardised
    files: dict[DepthName, Hash] = {}  # sum of the hashes of the files that its depth was read from, `HashSum`

    @model_validator(mode="after")
    def _columns_agree(self) -> "ShardRecord":
        lengths = {len(column) for e in self.members.values() for column in (e.offset, e.length, e.crc32)}
        if lengths - {len(self.keys)}:
            raise ValueError(f"{len(self.keys)} keys, but columns of {sorted(lengths)}")
        for extension, e in self.members.items():
            offset, length = np.array(e.offset, np.int64), np.array(e.length, np.int64)
            if (offset < 0).any() or (length < -1).any() or (offset + length > self.bytes).any():
                raise ValueError(f"members.{extension} must lie in the tar's {self.bytes} bytes, some do not")
        return self

    def extents(self, sample: int) -> dict[str, tuple[int, int, int]]:
        """extension -> (byte offset, length, CRC-32) of the members that sample has."""
        return {
            extension: (e.offset[sample], e.length[sample], e.crc32[sample])
            for extension, e in self.members.items()
            if e.length[sample] >= 0
        }


class ShardSummary(_Record):
    name: ShardName
    num_samples: Count
    bytes: Count
    sha256: Hash
    json_sha256: Hash

    @model_validator(mode="after")
    def _holds_its_samples(self) -> "ShardSummary":
        if self.num_samples * _HEADER > self.bytes:
            raise ValueError(f"{self.num_samples} samples cannot lie in {self.bytes} bytes")
        return self


class ShardIndex(_Record):
    """`index.json`: what a reader needs to know before it opens a shard."""

    schema_version: int = SCHEMA_VERSION
    source: Word
    split: SplitName
    class_names: list[Text]
    seg_names: list[Text]
    num_listed: Count
    num_samples: Count
    num_rejects: Count
    rejects: list[Reject]
    left_out: list[LeftOut] | None = None  # by the listing this split comes from, of all splits; None: not known
    shards: list[ShardSummary]
    depth: dict[DepthName, StoredDepth]
    teacher: dict[str, Any] | None
    config: dict[str, Any]
    config_hash: Hash

    @model_validator(mode="after")
    def _counts_agree(self) -> "ShardIndex":
        if self.num_samples != sum(shard.num_samples for shard in self.shards):
            raise ValueError(f"num_samples is {self.num_samples}, the shards hold other numbers")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is listed twice")
        if files.too_deep(self.config) or files.too_deep(self.teacher):
            raise ValueError("config or teacher is nested too deeply")
        return self

    @property
    def fields(self) -> list[str]:
        """What every sample has, whatever else it has."""
        return ["rgb", *self.depth, *(["seg"] if self.seg_names else [])]

    def provenance(self, depth_field: str) -> Provenance:
        """What a depth field is; of shards written before version 4 as their names say."""
        if stated := self.depth[depth_field].provenance:
            return stated
        if depth_field in _KIND_BY_NAME:
            return Provenance(kind=_KIND_BY_NAME[depth_field])
        teacher = self.teacher or {}
        return Provenance(
            kind="estimated", by=str(teacher.get("name", "")), weights_sha256=str(teacher.get("weights_sha256", ""))
        )

    @property
    def fingerprint(self) -> str:
        """Hash of every tar's hash: equal exactly when the samples are."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


class SidecarIndex(ShardIndex):
    """`<split>/<field>/index.json`: one more depth field of a finished split, in tars of its own with the same keys.

    Rejects have a sample all the same, of the RGB's size and without a valid pixel.
    """

    beside: Hash  # `fingerprint` of the split whose samples these are

    @model_validator(mode="after")
    def _holds_one_field(self) -> "SidecarIndex":
        if len(self.depth) != 1:
            raise ValueError(f"it must describe one depth field, it describes {len(self.depth)}")
        return self

    @property
    def fields(self) -> list[str]:
        return [*self.depth]


class HashSum:
    """Many SHA-256 hashes in any order as one: their sum."""

    def __init__(self) -> None:
        self.count = self._sum = 0

    def add(self, sha256: str) -> None:
        self.count += 1
        self._sum = (self._sum + int(sha256, 16)) % (1 << 256)

    @property
    def hex(self) -> str:
        return f"{self._sum:064x}"


def is_depth_name(name: str) -> bool:
    """Whether a depth field may be called so."""
    try:
        _DEPTH_NAME.validate_python(name)
    except ValidationError:
        return False
    return True


def teacher_note(source: str, teacher: str | None) -> str | None:
    """What to say of pseudo-depth by the embedded teacher where it knows nothing; both by their names."""
    if teacher != "toy" or source == "toyrooms":
        return None
    return "the toy teacher knows rendered rooms alone: its depth here is for trying out, not for results"


def config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def load_record(store: Store, name: str) -> ShardRecord:
    """Read `name`.json of a shard; raises ShardError naming the file."""
    return _load(ShardRecord, store, f"{name}.json")


def load_index(store: Store) -> ShardIndex:
    """Read a split's index.json; raises ShardError naming the file."""
    return _load(ShardIndex, store, "index.json")


def load_sidecar(store: Store) -> SidecarIndex:
    """Read a sidecar's index.json; raises ShardError naming the file."""
    return _load(SidecarIndex, store, "index.json")


def _load(kind: type[_RecordT], store: Store, name: str) -> _RecordT:
    where = f"{store}/{name}"
    try:
        content = files.parsed_json(store.read(name))
        version = content.get("schema_version", 0)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{where} has schema version {version}, this version reads up to {SCHEMA_VERSION}: update pseudodepth"
            )
        if isinstance(version, int) and 0 < version < READABLE_VERSIONS[0]:
            raise ShardError(
                f"{where} has schema version {version}, this version reads {READABLE_VERSIONS[0]} to {SCHEMA_VERSION}: "
                "make the shards again"
            )
        return kind.model_validate(content)
    except FileNotFoundError:
        raise ShardError(f"{where} does not exist: finish the job with precompute-depth") from None
    except (files.ReadError, AttributeError, ValidationError) as error:
        reason = files.reason(error)
        raise ShardError(f"{where} is damaged ({reason}): mend it with precompute-depth verify --repair") from None


def depth_statistics(depth: NDArray[np.floating], moments: Moments) -> dict[str, float]:
    """Per-image statistics for the sample's JSON: native unit, over valid pixels, whose `moments` are known."""
    if moments.count == 0:
        return {"valid_fraction": 0.0}
    return {
        "min": float(np.fmin.reduce(depth, axis=None)),  # passes over NaN
        "max": float(np.fmax.reduce(depth, axis=None)),
        "mean": moments.mean,
        "std": moments.std,
        "valid_fraction": moments.count / depth.size,
    }


def moments_of(record: ShardRecord) -> dict[str, Moments]:
    return {field: Moments(*values) for field, values in record.moments.items()}


def describe_depth(standardisation: Standardisation, **facts: Any) -> StoredDepth:
    return StoredDepth(**asdict(standardisation), **facts)
