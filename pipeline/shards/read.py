"""Reading: single samples by byte range, every checksum looked at."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline import files
from pipeline.shards.decode import VERIFY, Members, Sample, field_of
from pipeline.shards.records import (
    SPLITS,
    ShardError,
    ShardIndex,
    ShardRecord,
    SidecarIndex,
    is_depth_name,
    load_index,
    load_record,
    load_sidecar,
)
from pipeline.shards.storage import Store, exists, open_store

# A process keeps the byte ranges of this many shards (about 0.1 MB each at 1,000 samples: all of ImageNet in 130 MB),
# and fewer open tars than the 1,024 descriptors that systems commonly allow.
TABLES, _TARS = 2048, 256


class Split:
    """Random access to one split of a finished data set: `split[i]` or `split.read(i, fields)`.

    Depth fields that were added later, in tars of their own, are fields as others are: `index.depth` has them, and
    `unusable` says by name why one is not offered.

    Reads single samples by byte range (`pread`, or ranged requests to an object store), checks every member's CRC-32,
    opens tars and their JSON when they are first needed, keeps a bounded number of both, and may be shared by threads,
    pickled, or forked.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.own = load_index(store)  # index.json itself
        self.sidecars, self.unusable = _sidecars(store, self.own)
        added = {name: index.depth[name] for name, index in self.sidecars.items()}
        self.index = self.own.model_copy(update={"depth": self.own.depth | added})
        self.ends = np.cumsum([shard.num_samples for shard in self.index.shards], dtype=np.int64)
        self._open()

    def _open(self) -> None:
        self.rgb = Part("", self.store, self.own)
        self._beside = {name: Part(name, self.store / name, index) for name, index in self.sidecars.items()}
        self._tars: _Recent[tuple[str, int], _Tar] = _Recent(lambda which: self._part(which[0]).open(which[1]), _TARS)

    def _part(self, name: str) -> "Part":
        return self._beside[name] if name else self.rgb

    @property
    def data(self) -> str:
        """The data set that holds this split, as `--data` takes it."""
        return str(self.store).removesuffix(f"/{self.index.split}")

    def __len__(self) -> int:
        return self.index.num_samples

    def __getitem__(self, position: int) -> Sample:
        return self.read(position)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("store", "own", "sidecars", "unusable", "index", "ends")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def reopened(self) -> "Split":
        """The same split for a process forked off, where connections to an object store no longer work."""
        if self.store.local is not None:
            return self
        again = Split.__new__(Split)
        again.__setstate__(self.__getstate__() | {"store": open_store(str(self.store))})
        return again

    def check_depth(self, field: str) -> None:
        """Raise ShardError where this depth field lies beside the split and is not offered: unfinished, damaged."""
        if field in self.unusable:
            raise ShardError(self.unusable[field])

    def depth_fingerprint(self, field: str) -> str:
        """Of the tars that hold a depth field: those of its sidecar, or the split's own."""
        return self.sidecars.get(field, self.own).fingerprint

    def locate(self, position: int) -> tuple[int, "_Table", int]:
        """Shard number, its table, and the sample's place in it, for a position of the split's own order."""
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)} in {self.store}")
        number = int(np.searchsorted(self.ends, position, side="right"))
        return number, self.rgb.tables[number], position - (int(self.ends[number - 1]) if number else 0)

    def read(self, position: int, fields: Collection[str] | None = None) -> Sample:
        """Decode a sample; `fields` (default: all) are names of the module's table without their extension."""
        members = self.members(position, fields)
        sample = {"key": members.key} | {field: members.decode(field) for field in members.data}
        members.check_sizes(sample)
        for name in self.sidecars:  # what is known of a depth map stands in one place, wherever the map lies
            if facts := sample.pop(f"{name}.json", None):
                sample.setdefault("json", {})[name] = facts
        return sample

    def members(self, position: int, fields: Collection[str] | None = None) -> Members:
        """A sample's bytes, checked but not decoded; `fields` as for `read`."""
        number, table, place = self.locate(position)
        members = Members(table.key(place), self.rgb.tar(number), index=self.index)
        for part in self.parts(fields):
            for extension, (offset, length, crc) in part.wanted(number, place, members.key, fields).items():
                data = self._tars[part.name, number].read(length, offset)
                members.add(extension, data, length, crc, part.tar(number))
        members.check_has(self.index.fields if fields is None else fields)
        return members

    def parts(self, fields: Collection[str] | None) -> list["Part"]:
        """Where these fields lie: in the split's own tars, in those beside them."""
        if fields is None:
            return [self.rgb, *self._beside.values()]
        beside = [part for name, part in self._beside.items() if {name, f"{name}.json"} & {*fields}]
        others = {*fields} - {name for part in beside for name in (part.name, f"{part.name}.json")}
        return [*([self.rgb] if others else []), *beside]

    def key(self, position: int) -> str:
        _, table, place = self.locate(position)
        return table.key(place)


class Part:
    """The tars of one folder: the split's own, whose name is "", or those of a depth field beside them."""

    def __init__(self, name: str, store: Store, index: ShardIndex) -> None:
        self.name, self.store, self.index = name, store, index
        self.tables = _Recent(self._load_table, TABLES)

    def tar(self, number: int) -> str:
        return f"{self.store}/{self.index.shards[number].name}.tar"

    def wanted(
        self, number: int, place: int, key: str, fields: Collection[str] | None
    ) -> dict[str, tuple[int, int, int]]:
        """extension -> (offset, length, CRC-32) of a sample's members of these fields; ShardError for another key."""
        table = self.tables[number]
        if self.name and table.key(place) != key:
            raise ShardError(
                f"{self.tar(number)} must have the keys of its RGB, has {table.key(place)} for {key}: {VERIFY}"
            )
        extents = table.extents(place)
        return extents if fields is None else {e: x for e, x in extents.items() if field_of(e) in fields}

    def open(self, number: int) -> "_Tar":
        try:
            return _Tar(self.store, f"{self.index.shards[number].name}.tar")
        except FileNotFoundError:
            raise ShardError(f"{self.tar(number)} does not exist but the index lists it: {VERIFY}") from None

    def _load_table(self, number: int) -> "_Table":
        summary = self.index.shards[number]
        record = load_record(self.store, summary.name)
        if record.sha256 != summary.sha256 or len(record.keys) != summary.num_samples:
            raise ShardError(f"{self.store}/{record.name}.json does not belong to the index: {VERIFY}")
        return _Table(record)


def _sidecars(store: Store, own: ShardIndex) -> tuple[dict[str, SidecarIndex], dict[str, str]]:
    """By name the depth fields that lie finished beside a split's own tars, and why the others are none."""
    found: dict[str, SidecarIndex] = {}
    unusable: dict[str, str] = {}
    for name in store.folders():
        if is_depth_name(name) and name not in own.depth:
            names = (store / name).sizes()
            if "index.json" not in names:
                if any(file.startswith("shard-") for file in names):
                    unusable[name] = unfinished(store / name)
                continue
            try:
                index = load_sidecar(store / name)
                check_beside(store / name, name, index, own)
            except ShardError as error:
                unusable[name] = str(error)
            else:
                found[name] = index
    return found, unusable


def unfinished(folder: Store) -> str:
    """What to tell of depth that was added to half."""
    return (
        f"{folder} is not finished (it has no index.json), or all was rejected: run the same line of precompute-depth "
        "add again"
    )


def check_beside(folder: Store, name: str, index: SidecarIndex, own: ShardIndex) -> None:
    """Raise ShardError where a sidecar does not belong to the split it lies in."""
    alike = [(s.name, s.num_samples) for s in index.shards] == [(s.name, s.num_samples) for s in own.shards]
    if [*index.depth] != [name] or index.split != own.split or index.beside != own.fingerprint or not alike:
        raise ShardError(
            f"{folder} belongs to other shards than those beside it: delete it and make it with precompute-depth add"
        )


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


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class _Recent(Generic[_Key, _Value]):
    """The most recently used values of a function."""

    def __init__(self, make: Callable[[_Key], _Value], capacity: int) -> None:
        self._make, self._capacity = make, capacity
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, key: _Key) -> _Value:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = self._make(key)
        with self._lock:
            self._values[key] = value
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
