"""Which sample lands in which shard: fixed by the source's listing and the seed alone.

The listing is sorted on disk and kept in OUT/plan, units one after another with an array of their ends; a shard takes
consecutive places of a seeded permutation of it. Both are mapped, not read: a plan of any size costs the same memory.
"""

import hashlib
import heapq
import json
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, ValidationError, model_validator

from pipeline import files, shards
from pipeline.claim import JobError, read_json
from pipeline.shards import Store
from pipeline.sources import Source, name_bytes, printable
from pipeline.sources.ledger import Ledger

_TELL_EVERY = 1000
_SORTED_IN_MEMORY = 1_000_000  # units; more are sorted in runs of this many and merged
_BLOCK = 1 << 16  # bytes of each run in memory while they are merged


def make(source: Source, store: Store, command: Sequence[str], listed: Callable[[int], None]) -> None:
    """List `source` once and write `<split>.units`, `.ends` and, last, `.json` for each of its splits.

    `command` is kept for verify --repair; `listed` is called now and then with the number of units seen so far.
    """
    sorters = {split: _Sorter() for split in source.splits}
    sums = {split: ListingSum() for split in source.splits}
    ledger = Ledger()
    for number, item in enumerate(source.listing(ledger), 1):
        sorters[item.split].add(name_bytes(item.unit))
        sums[item.split].add(item.unit, item.num_bytes)
        ledger.add(item)
        if number % _TELL_EVERY == 0:
            listed(number)
    ledger.settle()
    for split in source.splits:
        ends, end = bytearray(), 0
        previous = None
        with store.writing(f"{split}.units") as units_file, store.writing(f"{split}.ends") as ends_file:
            for name in sorters[split]:
                if name == previous:
                    raise JobError(f"source '{source.name}' lists {printable(os.fsdecode(name))} twice")
                previous = name
                units_file.write(name + b"\n")
                end += len(name) + 1
                ends += end.to_bytes(8, "little")
                if len(ends) >= _BLOCK:
                    ends_file.write(ends)
                    ends.clear()
            ends_file.write(ends)
        digests = {f"{kind}_sha256": _sha256(store, f"{split}.{kind}") for kind in ("units", "ends")}
        content = digests | {
            "num_units": sums[split].count,
            "samples_per_unit": source.samples_per_unit,
            "listing": sums[split].hex,
            "members_seen": ledger.seen,
            "left_out": [entry.model_dump() for entry in ledger.left_out()],
            "tree": ledger.tree(),
            "source": source.config(),
            "command": [os.fsencode(word).decode("utf-8", "surrogateescape") for word in command],
        }
        shards.publish(store, f"{split}.json", json.dumps(content, indent=1).encode())


def facts(store: Store, split: str) -> dict[str, Any]:
    """What `make` wrote about a split; JobError where it is damaged."""
    found = read_json(store, f"{split}.json")
    try:
        checked = _Facts.model_validate(found)
    except ValidationError:
        raise damaged(store) from None
    return found | {"command": [os.fsdecode(word) for word in checked.command]}


class _Source(BaseModel):
    """What `Source.config` gave, which differs from source to source."""

    model_config = ConfigDict(extra="allow")

    name: str


# Of a command: the bytes of a path need be no UTF-8, then JSON holds them as lone surrogates, which `str` would refuse.
_Word = Annotated[InstanceOf[str], AfterValidator(lambda word: word.encode("utf-8", "surrogateescape"))]


class _Facts(BaseModel):
    """<split>.json: it may be a stranger's."""

    num_units: shards.Count
    samples_per_unit: Annotated[int, Field(ge=0, le=10**9)]
    listing: shards.Hash
    source: _Source
    units_sha256: shards.Hash
    ends_sha256: shards.Hash
    members_seen: shards.Count = 0
    left_out: list[shards.LeftOut] = []
    tree: list[shards.Text] = []
    command: list[_Word] = []

    @model_validator(mode="after")
    def _shallow(self) -> "_Facts":
        if files.too_deep(self.source.model_extra):
            raise ValueError("source is nested too deeply")
        return self


def left_out(facts: dict[str, Any]) -> list[shards.LeftOut] | None:
    """What the listing left out, of all splits; None where the plan is of a version that did not count it."""
    return [shards.LeftOut(**entry) for entry in facts["left_out"]] if "left_out" in facts else None


def tree(facts: dict[str, Any]) -> list[str]:
    """The classes that folders gave, as lines to print."""
    return [printable(line) for line in facts.get("tree", ())]


def described(facts: dict[str, Any]) -> dict[str, Any]:
    """What an index repeats of a plan's facts."""
    listed = {name: facts[name] for name in ("num_units", "samples_per_unit", "listing")}
    return {"source": facts["source"], "plan": listed}


def check(store: Store, split: str, facts: dict[str, Any]) -> None:
    """Raise JobError where the files of a plan are not those its facts describe."""
    for kind in ("units", "ends"):
        if _sha256(store, f"{split}.{kind}") != facts[f"{kind}_sha256"]:
            raise damaged(store)


def listing_sums(source: Source, listed: Callable[[int], None]) -> "dict[str, ListingSum]":
    """The source's listing as it is now, without sorting it."""
    sums = {split: ListingSum() for split in source.splits}
    for number, item in enumerate(source.listing(Ledger()), 1):
        sums[item.split].add(item.unit, item.num_bytes)
        if number % _TELL_EVERY == 0:
            listed(number)
    return sums


class ListingSum:
    """Names and sizes of a listing, in any order, as one number: the sum of their hashes."""

    def __init__(self) -> None:
        self.count = self._sum = 0

    def add(self, unit: str, size: int) -> None:
        digest = hashlib.sha256(name_bytes(f"{unit}\0{size}")).digest()
        self._sum = (self._sum + int.from_bytes(digest, "little")) % (1 << 256)
        self.count += 1

    @property
    def hex(self) -> str:
        return f"{self._sum:064x}"


class Plan:
    """One split's plan: `plan[k]` are the units of shard k. Without a seed they are in the listing's order."""

    def __init__(
        self, store: Store, split: str, facts: dict[str, Any], seed: int | None, samples_per_shard: int
    ) -> None:
        self.num_units: int = facts["num_units"]
        self.units_per_shard = max(1, samples_per_shard // max(1, facts["samples_per_unit"]))
        digest = hashlib.blake2b(f"{seed}\0{split}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))
        self._keys = None if seed is None else generator.integers(0, 2**63, shards.ORDER_ROUNDS, dtype=np.uint64)
        self.listing: str = facts["listing"]
        check(store, split, facts)
        if self.num_units == 0:
            return
        with store.local_copy(f"{split}.ends") as ends, store.local_copy(f"{split}.units") as units:
            self._ends: NDArray[np.uint64] = np.memmap(ends, np.uint64, "r")
            self._units = mmap.mmap(units.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._ends) != self.num_units or int(self._ends[-1]) != len(self._units):
            raise damaged(store)

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.num_units // self.units_per_shard)

    def __getitem__(self, shard: int) -> list[str]:
        first = shard * self.units_per_shard
        places = np.arange(first, min(first + self.units_per_shard, self.num_units))
        if self._keys is not None:
            places = shards.permuted(places, self.num_units, self._keys)
        return [self._unit(int(place)) for place in places]

    def num_items(self, shard: int, source: Source) -> int:
        """How many items a shard lists."""
        first = shard * self.units_per_shard
        num_units = min(self.units_per_shard, self.num_units - first)
        return num_units if source.samples_per_unit == 1 else sum(len(source.samples(unit)) for unit in self[shard])

    def total(self, source: Source) -> int:
        """How many items all shards list."""
        if source.samples_per_unit == 1:
            return self.num_units
        return sum(self.num_items(shard, source) for shard in range(len(self)))

    def evenly_spaced(self, count: int) -> list[str]:
        """`count` units (or all there are) at equal distances of the sorted listing."""
        places = np.unique(np.linspace(0, self.num_units - 1, min(count, self.num_units)).round().astype(np.int64))
        return [self._unit(int(place)) for place in places]

    def _unit(self, place: int) -> str:
        start = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._units[start : int(self._ends[place]) - 1])


def damaged(store: Store) -> JobError:
    return JobError(f"{store} is damaged: delete it and run the same line again, which makes it anew from the source")


def _sha256(store: Store, name: str) -> str:
    try:
        with store.local_copy(name) as file:
            return shards.sha256_of(file)
    except FileNotFoundError:
        raise damaged(store) from None


class _Sorter:
    """Byte strings without NUL, sorted: in memory while they are few, else in runs on disk."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._runs: list[IO[bytes]] = []

    def add(self, item: bytes) -> None:
        self._pending.append(item)
        if len(self._pending) == _SORTED_IN_MEMORY:
            run = tempfile.TemporaryFile(prefix="pseudodepth-")  # noqa: SIM115 (read later, gone when closed)
            run.write(b"".join(item + b"\0" for item in sorted(self._pending)))
            self._runs.append(run)
            self._pending = []

    def __iter__(self) -> Iterator[bytes]:
        runs: Sequence[Iterator[bytes]] = [_items(run) for run in self._runs]
        return heapq.merge(sorted(self._pending), *runs)


def _items(run: IO[bytes]) -> Iterator[bytes]:
    with run:
        run.seek(0)
        rest = b""
        while block := run.read(_BLOCK):
            *items, rest = (rest + block).split(b"\0")
            yield from items
