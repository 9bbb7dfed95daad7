"""Reading: single samples by byte range, every checksum looked at."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline import files
from pipeline.shards.decode import VERIFY, Members, Sample
from pipeline.shards.records import SPLITS, ShardError, ShardRecord, load_index, load_record
from pipeline.shards.storage import Store, exists, open_store

# A process keeps the byte ranges of this many shards (about 0.1 MB each at 1,000 samples: all of ImageNet in 130 MB),
# and fewer open tars than the 1,024 descriptors that systems commonly allow.
TABLES, _TARS = 2048, 256


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
            raise ShardError(f"{self.store}/{record.name}.json does not belong to the index: {VERIFY}")
        return _Table(record)

    def _open_tar(self, number: int) -> "_Tar":
        name = f"{self.index.shards[number].name}.tar"
        try:
            return _Tar(self.store, name)
        except FileNotFoundError:
            raise ShardError(f"{self.store}/{name} does not exist but the index lists it: {VERIFY}") from None


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
            "with a larger --val-fraction, or another split in the description"
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
