"""CONTRACT: RGB-D shards. Sample fields, writer, index and indexed reader; imports no torch.

A data set is `OUT/<split>/shard-000000.tar` (plain WebDataset tars), one `shard-000000.json` beside each tar (keys,
byte ranges, checksums, rejects) and one `index.json` (written last). Fields of a sample:

| member       | holds                                                                | read as                     |
|--------------|----------------------------------------------------------------------|-----------------------------|
| `rgb.jpg`    | the photograph (`rgb.png` where the source is lossless)              | uint8 (height, width, 3)    |
| `pseudo.pdz` | z of the teacher's estimate                                          | float32 (height, width)     |
| `real.pdz`   | z of sensor depth, holes filled                                      | float32 (height, width)     |
| `raw.pdz`    | z of sensor depth as measured, NaN where nothing was measured        | float32 (height, width)     |
| `exact.pdz`  | z of rendered depth (toy rooms only)                                 | float32 (height, width)     |
| `cls`        | class index, decimal ASCII                                           | int                         |
| `seg.png`    | per-pixel labels, 255 = void                                         | uint8 (height, width)       |
| `json`       | source, original size, per-image depth min/max/mean/std, valid part  | dict                        |

Every depth field is z-standardised and farther-is-larger; `index.depth[field]` undoes it. Tars are byte-identical for
the same inputs: names sorted, mtime and owner zero.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import depth_codec
from pipeline.standardize import Moments, Standardisation

SCHEMA_VERSION = 1
DEPTH_FIELDS = ("pseudo", "real", "raw", "exact")
SPLITS = ("train", "val")
VOID = 255
INDEX_REJECTS = 1000  # the index lists this many rejects; each shard's JSON lists all of its own


class ShardError(ValueError):
    """A shard, its JSON or an index is missing, damaged, or of a newer schema; the message names it and the fix."""


Sample = dict[str, Any]  # "key" and the fields of the module's table, decoded


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


# --- encode --------------------------------------------------------------------------------------------------------


def png_bytes(array: NDArray[np.uint8]) -> bytes:
    """Lossless PNG of (height, width, 3) RGB or (height, width) labels."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_shard(
    folder: Path,
    name: str,
    samples: Iterable[tuple[str, Mapping[str, bytes]]],
    *,
    num_listed: int,
    rejects: Collection[Reject],
    moments: Mapping[str, Moments],
    max_error_z: Mapping[str, float],
) -> ShardRecord:
    """Write `name`.tar then `name`.json; `samples` are (key, extension -> bytes) in the order they shall have."""
    entries = []
    tar_path = folder / f"{name}.tar"
    partial = tar_path.with_name(f".{tar_path.name}.partial")
    try:
        with open(partial, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for key, members in samples:
                    ranges = {}
                    for extension in sorted(members):
                        data = members[extension]
                        info = tarfile.TarInfo(f"{key}.{extension}")
                        info.size, info.mode = len(data), 0o644
                        tar.addfile(info, io.BytesIO(data))
                        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                        ranges[extension] = (tar.offset - padded, len(data), zlib.crc32(data))
                    entries.append(SampleEntry(key=key, members=ranges))
            file.flush()
            os.fsync(file.fileno())
        record = ShardRecord(
            name=name,
            bytes=partial.stat().st_size,
            sha256=file_sha256(partial),
            num_listed=num_listed,
            samples=entries,
            rejects=list(rejects),
            moments={field: (m.count, m.mean, m.sum_sq_dev) for field, m in moments.items()},
            max_error_z=dict(max_error_z),
        )
        os.replace(partial, tar_path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    write_atomically(folder / f"{name}.json", record.model_dump_json().encode())
    return record


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- decode --------------------------------------------------------------------------------------------------------


def decode_member(extension: str, data: bytes) -> Any:
    """One member's bytes as the module's table says."""
    match extension:
        case "rgb.jpg" | "rgb.png":
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        case "seg.png":
            return np.asarray(Image.open(io.BytesIO(data)))
        case "cls":
            return int(data)
        case "json":
            return json.loads(data)
        case _ if extension.endswith("." + depth_codec.EXTENSION):
            return depth_codec.decode(data)
    raise ShardError(f"member '.{extension}' is none of the shard contract's fields; see pipeline/shards.py")


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
        if version > SCHEMA_VERSION:
            raise ShardError(
                f"{path} has schema version {version}, this version reads up to {SCHEMA_VERSION}: update pseudodepth"
            )
        return kind.model_validate(content)
    except FileNotFoundError:
        raise ShardError(f"{path} does not exist: finish the job with precompute-depth") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ShardError(f"{path} is damaged ({reason}): delete it and run precompute-depth again") from None


class Split:
    """Random access to one split of a finished data set: `split[i]` or `split.read(i, fields)`.

    Reads single samples by byte range (`pread`), checks every member's CRC-32, opens tars and their JSON lazily, and
    may be shared by threads, pickled, or forked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = load_index(folder / "index.json")
        self.ends = np.cumsum([shard.num_samples for shard in self.index.shards], dtype=np.int64)
        self._files: dict[tuple[int, int], int] = {}
        self._records: dict[int, ShardRecord] = {}

    def __len__(self) -> int:
        return self.index.num_samples

    def __getitem__(self, position: int) -> Sample:
        return self.read(position)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        for (pid, _), descriptor in getattr(self, "_files", {}).items():
            if pid == os.getpid():
                os.close(descriptor)

    def locate(self, position: int) -> tuple[int, SampleEntry]:
        """Shard number and entry of the sample at a position of the split's own order."""
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)} in {self.folder}")
        number = int(np.searchsorted(self.ends, position, side="right"))
        if number not in self._records:
            summary = self.index.shards[number]
            record = load_record(self.folder / f"{summary.name}.json")
            if record.sha256 != summary.sha256 or len(record.samples) != summary.num_samples:
                raise ShardError(f"{self.folder / record.name}.json does not belong to the index: {_VERIFY}")
            self._records[number] = record
        start = int(self.ends[number - 1]) if number else 0
        return number, self._records[number].samples[position - start]

    def read(self, position: int, fields: Collection[str] | None = None) -> Sample:
        """Decode a sample; `fields` (default: all) are names of the module's table without their extension."""
        number, entry = self.locate(position)
        sample: Sample = {"key": entry.key}
        for extension, (offset, length, crc) in entry.members.items():
            field = extension.split(".")[0]
            if fields is None or field in fields:
                where = f"{self.folder / self.index.shards[number].name}.tar, key {entry.key}, member {extension}"
                data = os.pread(self._descriptor(number), length, offset)
                if len(data) != length or zlib.crc32(data) != crc:
                    raise ShardError(f"{where} is damaged (checksum differs): {_VERIFY}")
                try:
                    sample[field] = decode_member(extension, data)
                except (OSError, ValueError) as error:
                    raise ShardError(f"{where} does not decode: {error}") from error
        for field in fields or ():
            if field != "key" and field not in sample:
                have = ", ".join(sorted(extension.split(".")[0] for extension in entry.members))
                raise ShardError(f"{self.folder}: sample {entry.key} has no '{field}', it has {have}")
        return sample

    def key(self, position: int) -> str:
        return self.locate(position)[1].key

    def _descriptor(self, number: int) -> int:
        handle = (os.getpid(), number)
        if handle not in self._files:
            path = self.folder / f"{self.index.shards[number].name}.tar"
            try:
                self._files[handle] = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise ShardError(f"{path} does not exist but the index lists it: {_VERIFY}") from None
        return self._files[handle]


_VERIFY = "run precompute-depth verify"


def open_split(data: Path | str, split: str) -> Split:
    """Open `data`/`split` (or `data` itself where it already is that split's folder)."""
    data = Path(data)
    for folder in (data / split, data):
        if (folder / "index.json").exists():
            opened = Split(folder)
            if opened.index.split == split:
                return opened
    if not data.exists():
        raise ShardError(f"{data} does not exist: make shards with precompute-depth first")
    raise ShardError(f"{data} holds no finished '{split}' split (no {split}/index.json): run precompute-depth first")


def splits_of(data: Path | str) -> list[Split]:
    """Every finished split below `data`; raises ShardError where there is none."""
    data = Path(data)
    found = [Split(data / split) for split in SPLITS if (data / split / "index.json").exists()]
    if not found and (data / "index.json").exists():
        found = [Split(data)]
    if not found:
        raise ShardError(f"{data} holds no finished split (no index.json): run precompute-depth first")
    return found


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
