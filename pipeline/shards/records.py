"""The JSON beside a tar and the index of a split."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.standardize import Moments, Standardisation

SCHEMA_VERSION = 1
DEPTH_FIELDS = ("pseudo", "real", "raw", "exact")
SPLITS = ("train", "val")
VOID = 255
INDEX_REJECTS = 1000  # the index lists this many rejects; each shard's JSON lists all of its own


class ShardError(ValueError):
    """A shard, its JSON or an index is missing, damaged, or of a newer schema; the message names it and the fix."""


class NewerSchemaError(ShardError):
    """Written by a later version of this program."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_RecordT = TypeVar("_RecordT", bound=_Record)


class Reject(_Record):
    """A listed item that did not become a sample, and why."""

    source: str
    reason: str


class DepthField(_Record):
    """How one depth field was standardised. z = sign * (depth - mean) / std."""

    mean: float
    std: float
    polarity: str
    unit: str
    constants_from: str  # "calibration over N images", "given", ...
    bits: int
    max_error_z: float  # bound over everything written
    realised_mean: float  # of everything written, native unit; drift from `mean` shows here
    realised_std: float
    num_pixels: int

    @property
    def sign(self) -> float:
        return self.standardisation.sign

    @property
    def standardisation(self) -> Standardisation:
        return Standardisation(self.mean, self.std, self.polarity)


class SampleEntry(_Record):
    """Where a sample's members lie in the tar: extension -> (byte offset, length, crc32)."""

    key: str
    members: dict[str, tuple[int, int, int]]


class ShardRecord(_Record):
    """The JSON beside a tar, written after it; a shard without one does not exist."""

    schema_version: int = SCHEMA_VERSION
    name: str
    bytes: int
    sha256: str
    num_listed: int
    samples: list[SampleEntry]
    rejects: list[Reject]
    moments: dict[str, tuple[int, float, float]]  # native unit, per depth field: count, mean, sum of sq. deviations
    max_error_z: dict[str, float]


class ShardSummary(_Record):
    name: str
    num_samples: int
    bytes: int
    sha256: str


class ShardIndex(_Record):
    """`index.json`: what a reader needs to know before it opens a shard."""

    schema_version: int = SCHEMA_VERSION
    source: str
    split: str
    class_names: list[str]
    seg_names: list[str]
    num_listed: int
    num_samples: int
    num_rejects: int
    rejects: list[Reject]
    shards: list[ShardSummary]
    depth: dict[str, DepthField]
    teacher: dict[str, Any] | None
    config: dict[str, Any]
    config_hash: str

    @property
    def fingerprint(self) -> str:
        """Hash of every tar's hash: equal exactly when the samples are."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def config_hash(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def load_record(path: Path) -> ShardRecord:
    """Read a shard's JSON; raises ShardError naming the file."""
    return _load(ShardRecord, path)


def load_index(path: Path) -> ShardIndex:
    """Read an index.json; raises ShardError naming the file."""
    return _load(ShardIndex, path)


def _load(kind: type[_RecordT], path: Path) -> _RecordT:
    try:
        content = json.loads(path.read_bytes())
        version = content.get("schema_version", 0)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{path} has schema version {version}, this version reads up to {SCHEMA_VERSION}: update pseudodepth"
            )
        return kind.model_validate(content)
    except FileNotFoundError:
        raise ShardError(f"{path} does not exist: finish the job with precompute-depth") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ShardError(f"{path} is damaged ({reason}): delete it and run precompute-depth again") from None


def depth_statistics(depth: NDArray[np.floating]) -> dict[str, float]:
    """Per-image statistics for the sample's JSON: native unit, over valid pixels."""
    valid = depth[np.isfinite(depth)].astype(np.float64)
    if valid.size == 0:
        return {"valid_fraction": 0.0}
    return {
        "min": float(valid.min()),
        "max": float(valid.max()),
        "mean": float(valid.mean()),
        "std": float(valid.std()),
        "valid_fraction": valid.size / depth.size,
    }


def moments_of(record: ShardRecord) -> dict[str, Moments]:
    return {field: Moments(*values) for field, values in record.moments.items()}


def describe_depth(standardisation: Standardisation, **facts: Any) -> DepthField:
    return DepthField(**asdict(standardisation), **facts)
