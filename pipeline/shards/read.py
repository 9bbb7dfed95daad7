"""Reading: single samples by byte range, every checksum looked at."""

import io
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import depth_codec, files
from pipeline.images import MAX_PIXELS
from pipeline.shards.records import SPLITS, VOID, ShardError, ShardIndex, ShardRecord, load_index, load_record
from pipeline.shards.storage import Store, exists, open_store

Sample = dict[str, Any]  # "key" and the fields of the module's table, decoded

# A process keeps the byte ranges of this many shards (about 0.1 MB each at 1,000 samples: all of ImageNet in 130 MB),
# and fewer open tars than the 1,024 descriptors that systems commonly allow.
TABLES, _TARS = 2048, 256
_VERIFY = "run precompute-depth verify"


def decode_depth(data: bytes, window: tuple[slice, slice] = (slice(None), slice(None))) -> NDArray[np.float32]:
    """z of a depth member, NaN invalid; `window` (rows, columns) gives a part of it for less than the whole."""
    return depth_codec.decode(data, window)


def decode_member(extension: str, data: bytes) -> Any:
    """One member's bytes as the module's table says."""
    match extension:
        case "rgb.jpg" | "rgb.png":
            return np.asarray(_picture(extension, data).convert("RGB"))
        case "seg.png":
            return np.asarray(_picture(extension, data))
        case "cls":
            return int(data)
        case "json":
            return files.parsed_json(data)
        case _ if extension.endswith("." + depth_codec.EXTENSION):
            return depth_codec.decode(data)
    raise ShardError(f"member '.{extension}' is none of the shard contract's fields; see pipeline/shards/__init__.py")


def _picture(extension: str, data: bytes) -> Image.Image:
    """What the writer writes and nothing else: Pillow would run Ghostscript over a member that is PostScript."""
    try:
        picture = Image.open(io.BytesIO(data), formats=["JPEG" if extension.endswith("jpg") else "PNG"])
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
        picture.load()
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever damage leads them to
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return picture


def check_value(extension: str, value: Any, index: ShardIndex | None) -> None:
    """ValueError where a decoded member is not what the module's table says, of as many names as the index has."""
    names = {"cls": index.class_names, "seg.png": index.seg_names}.get(extension, []) if index else []
    match extension:
        case "cls" if value < 0 or (names and value >= len(names)):
            raise ValueError(f"must be {f'0 to {len(names) - 1}' if names else 'at least 0'}, got {value}")
        case "json" if not isinstance(value, dict):
            raise ValueError(f"must be a dict, got {type(value).__name__}")
        case "seg.png":
            if value.dtype != np.uint8 or value.ndim != 2:
                raise ValueError(f"must be 8-bit of shape (height, width), got {value.dtype} {value.shape}")
            if names and (wrong := value[(value >= len(names)) & (value != VOID)]).size:
                raise ValueError(
                    f"must be 0 to {len(names) - 1} or {VOID} (void), got {wrong.max()} in {wrong.size:,} pixels"
                )


@dataclass(frozen=True)
class Members:
    """A sample's members as bytes: field -> (extension, bytes), those that were asked for."""

    key: str
    tar: str  # where the tar lies, for messages
    data: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    index: ShardIndex | None = None  # whose names the values must fit

    def add(self, extension: str, data: bytes, length: int, crc: int) -> None:
        """Raises ShardError where the bytes are not those that the shard's JSON describes."""
        if len(data) != length or zlib.crc32(data) != crc:
            raise ShardError(f"{self._where(extension)} is damaged (checksum differs): {_VERIFY}")
        self.data[extension.split(".")[0]] = (extension, data)

    def check_has(self, fields: Collection[str]) -> None:
        for wanted in fields:
            if wanted != "key" and wanted not in self.data:
                raise ShardError(
                    f"{self.tar}: sample {self.key} has no '{wanted}', it has {', '.join(sorted(self.data))}"
                )

    def decode(self, field: str, decoder: Callable[[str, bytes], Any] = decode_member) -> Any:
        """What `decoder` makes of the field's extension and bytes; without one, what the table says, checked."""
        extension, data = self.data[field]
        try:
            value = decoder(extension, data)
        except (OSError, RuntimeError, ValueError) as error:
            raise ShardError(f"{self._where(extension)} does not decode: {error}") from error
        if decoder is decode_member:
            try:
                check_value(extension, value, self.index)
            except ValueError as error:
                raise ShardError(f"{self._where(extension)} {error}: make the shards again") from None
        return value

    def check_sizes(self, sample: Sample) -> None:
        """Of what was decoded."""
        sizes = {name: value.shape[:2] for name, value in sample.items() if isinstance(value, np.ndarray)}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
            raise ShardError(
                f"{self.tar}, key {self.key}: RGB, depth and labels differ in size ({told}): make the shards again"
            )

    def _where(self, extension: str) -> str:
        return f"{self.tar}, key {self.key}, member {extension}"


class Split:
    """Random access to one split of a finished data set: `split[i]` or `split.read(i, fields)`.

    Reads single samples by byte range (`pread`, or ranged requests to an object store), checks every member's CRC-32,
    opens tars and their JSON when they are first needed, keeps a bounded number of both, and may be shared by threads,
    pickled, or forked.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.index = load_index(store)
        self.ends = np.cumsum([shard.num_samples for shard in self.index.shards], dtype=np.int64)
        self._tables, self._tars = _Recent(self._load_table, TABLES), _Recent(self._open_tar, _TARS)

    @property
    def data(self) -> str:
        """The data set that holds this split, as `--data` takes it."""
        return str(self.store).removesuffix(f"/{self.index.split}")

    def __len__(self) -> int:
        return self.index.num_samples

    def __getitem__(self, position: int) -> Sample:
        return self.read(position)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "index": self.index, "ends": self.ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tables, self._tars = _Recent(self._load_table, TABLES), _Recent(self._open_tar, _TARS)

    def reopened(self) -> "Split":
        """The same split for a process forked off, where connections to an object store no longer work."""
        if self.store.local is not None:
            return self
        again = Split.__new__(Split)
        again.__setstate__(self.__getstate__() | {"store": open_store(str(self.store))})
        return again

    def locate(self, position: int) -> tuple[int, "_Table", int]:
        """Shard number, its table, and the sample's place in it, for a position of the split's own order."""
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)} in {self.store}")
        number = int(np.searchsorted(self.ends, position, side="right"))
        return number, self._tables[number], position - (int(self.ends[number - 1]) if number else 0)

    def read(self, position: int, fields: Collection[str] | None = None) -> Sample:
        """Decode a sample; `fields` (default: all) are names of the module's table without their extension."""
        members = self.members(position, fields)
        sample = {"key": members.key} | {field: members.decode(field) for field in members.data}
        members.check_sizes(sample)
        return sample

    def members(self, position: int, fields: Collection[str] | None = None) -> Members:
        """A sample's bytes, checked but not decoded; `fields` as for `read`."""
        number, table, place = self.locate(position)
        key, tar = table.key(place), f"{self.store}/{self.index.shards[number].name}.tar"
        members = Members(key, tar, index=self.index)
        for extension, (offset, length, crc) in table.extents(place).items():
            if fields is None or extension.split(".")[0] in fields:
                members.add(extension, self._tars[number].read(length, offset), length, crc)
        members.check_has(self.index.fields if fields is None else fields)
        return members

    def key(self, position: int) -> str:
        _, table, place = self.locate(position)
        return table.key(place)

    def _load_table(self, number: int) -> "_Table":
        summary = self.index.shards[number]
        record = load_record(self.store, summary.name)
        if record.sha256 != summary.sha256 or len(record.keys) != summary.num_samples:
            raise ShardError(f"{self.store}/{record.name}.json does not belong to the index: {_VERIFY}")
        return _Table(record)

    def _open_tar(self, number: int) -> "_Tar":
        name = f"{self.index.shards[number].name}.tar"
        try:
            return _Tar(self.store, name)
        except FileNotFoundError:
            raise ShardError(f"{self.store}/{name} does not exist but the index lists it: {_VERIFY}") from None


class _Table:
    """A shard's JSON in a few compact arrays."""

    def __init__(self, record: ShardRecord) -> None:
        keys = [key.encode() for key in record.keys]
        self._keys, self._key_ends = b"".join(keys), np.cumsum([0, *map(len, keys)], dtype=np.int64)
        self._extensions = list(record.members)
        columns = [(e.offset, e.length, e.crc32) for e in record.members.values()]
        self._extents = np.array(columns, np.int64).reshape(len(columns), 3, len(keys))

    def key(self, place: int) -> str:
        return self._keys[self._key_ends[place] : self._key_ends[place + 1]].decode()

    def extents(self, place: int) -> dict[str, tuple[int, int, int]]:
        rows = self._extents[:, :, place].tolist()
        return {e: (r[0], r[1], r[2]) for e, r in zip(self._extensions, rows, strict=True) if r[1] >= 0}


class _Tar:
    """A tar open for ranged reads; a file of this machine is closed with its last user."""

    _descriptor: int | None = None  # also where opening failed

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        if store.local is not None:
            self._descriptor = os.open(store.local / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size

    def read(self, length: int, offset: int) -> bytes:
        if self._descriptor is None:
            return self._store.read_range(self._name, offset, length)
        there = min(length, max(0, self._size - offset))  # memory for no more than there is
        return os.pread(self._descriptor, there, offset)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


_Value = TypeVar("_Value")


class _Recent(Generic[_Value]):
    """The most recently used values of a function of an integer."""

    def __init__(self, make: Callable[[int], _Value], capacity: int) -> None:
        self._make, self._capacity = make, capacity
        self._values: OrderedDict[int, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> _Value:
        with self._lock:
            if number in self._values:
                self._values.move_to_end(number)
                return self._values[number]
        value = self._make(number)
        with self._lock:
            self._values[number] = value
            if len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return value


def open_split(data: "Path | str | Store", split: str) -> Split:
    """Open `data`/`split` (or `data` itself where it already is that split's folder); `data` may be any fsspec URL."""
    store = open_store(data)
    for folder in (store / split, store):
        if exists(folder, "index.json"):
            opened = Split(folder)
            if opened.index.split == split:
                return opened
    if store.local is not None and not store.local.exists():
        raise ShardError(f"{store} does not exist: make shards with precompute-depth first")
    if is_empty(store, split):
        raise ShardError(
            f"{store} has no '{split}' split: no image fell to it; label the photographs again, into a new folder, "
            "with a larger --val-fraction"
        )
    raise ShardError(f"{store} holds no finished '{split}' split (no {split}/index.json): run precompute-depth first")


def is_empty(store: Store, split: str) -> bool:
    """Whether the job planned `split` and no image fell to it: it will never be there."""
    try:
        return bool(files.parsed_json((store / "plan").read(f"{split}.json"))["num_units"] == 0)
    except (OSError, files.ReadError, KeyError, TypeError):
        return False


def splits_of(data: "Path | str | Store") -> list[Split]:
    """Every finished split below `data`; raises ShardError where there is none."""
    store = open_store(data)
    found = [Split(store / split) for split in SPLITS if exists(store / split, "index.json")]
    if not found and exists(store, "index.json"):
        found = [Split(store)]
    if not found:
        raise ShardError(f"{store} holds no finished split (no index.json): run precompute-depth first")
    return found
