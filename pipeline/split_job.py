"""One rank's part of one split: every shard it owns and nobody has finished, loaded, labelled, encoded and written.

Reading and encoding share the threads of a pool, the teacher has the calling thread, a writer one of its own.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rich.console import Console

from pipeline import shards
from pipeline.calibrate import Constants
from pipeline.claim import JobError
from pipeline.encode import Encoded, write_encoded
from pipeline.index import Finished
from pipeline.label import Depths, Labeller, Loaded
from pipeline.output import Output
from pipeline.plan import Plan
from pipeline.progress import Meter
from pipeline.ranks import Rank
from pipeline.shards import Reject
from pipeline.sources import Photograph

DAMAGED = ".damaged"  # `shard-000001.damaged` asks the next run to make that shard again (verify --repair)


@dataclass
class SplitSummary:
    """What there is of one split, and what this run did; of a rank's own shards while other ranks still work."""

    split: str
    listed: int = 0
    kept: int = 0
    rejected: int = 0
    num_shards: int = 0
    missing_shards: int = 0  # shards nobody has finished yet
    bytes: int = 0
    rejects: list[Reject] = field(default_factory=list)  # the first INDEX_REJECTS
    own_missing: int = 0  # of missing_shards those that this rank owns
    notes: list[str] = field(default_factory=list)  # on the source; of the first split alone
    written_now: int = 0
    seconds: float = 0.0
    teacher_seconds: float = 0.0
    waited: dict[str, float] = field(default_factory=dict)  # seconds the teacher stood still for them
    index: shards.ShardIndex | None = field(default=None, repr=False)

    def add(self, shard: Finished) -> None:
        self.listed += shard.listed
        self.kept += shard.kept
        self.rejected += shard.rejected
        self.bytes += shard.bytes
        self.num_shards += 1
        self.rejects += shard.rejects[: shards.INDEX_REJECTS - len(self.rejects)]


class SplitJob:
    """The shards of `planned` that `rank` owns, in the folder of `split` in `output`."""

    def __init__(
        self,
        labeller: Labeller,
        split: str,
        planned: Plan,
        output: Output,
        rank: Rank,
        constants: Constants,
        console: Console,
    ) -> None:
        self.labeller, self.split, self.plan = labeller, split, planned
        self.output, self.store = output, output.folder(split)
        self.rank, self.constants, self.console = rank, constants, console
        self.source = labeller.source
        self.finished: dict[int, Finished] = {}
        self.waited = {"workers": 0.0, "writer": 0.0}

    def run(self) -> SplitSummary:
        self._look()
        pending = [n for n in range(len(self.plan)) if self.rank.owns(n) and n not in self.finished]
        start, teacher_before = time.perf_counter(), self.labeller.teacher_seconds
        num_items = self._label(pending) if pending else 0
        if pending:
            self._look()
        summary = SplitSummary(self.split, missing_shards=len(self.plan) - len(self.finished))
        summary.own_missing = sum(n not in self.finished for n in range(len(self.plan)) if self.rank.owns(n))
        for number in sorted(self.finished):
            if summary.missing_shards == 0 or self.rank.owns(number):
                summary.add(self.finished[number])
        summary.written_now, summary.seconds = num_items, time.perf_counter() - start
        summary.teacher_seconds, summary.waited = self.labeller.teacher_seconds - teacher_before, self.waited
        return summary

    def _look(self) -> None:
        """Take note of shards that are finished, whoever made them."""
        sizes = self.store.sizes()
        for number in range(len(self.plan)):
            name = shard_name(number)
            complete = f"{name}.json" in sizes and f"{name}.tar" in sizes and f"{name}{DAMAGED}" not in sizes
            if not complete:
                self.finished.pop(number, None)
            elif number not in self.finished:
                try:
                    found = Finished.load(self.store, name)
                except shards.NewerSchemaError:
                    raise
                except shards.ShardError:
                    continue  # a damaged JSON: make the shard again
                num_items = self.plan.num_items(number, self.source)
                complete = found.listed == num_items
                complete &= found.samples == self.output.num_samples(found.listed, found.rejected)
                if found.listing != self.plan.listing:
                    raise JobError(
                        f"{self.store}/{name} was made from another listing of the source: restore the source and "
                        f"delete the plan, or {self.output.elsewhere}"
                    )
                if complete and found.bytes == sizes[f"{name}.tar"]:
                    if found.constants != self.constants:
                        raise JobError(
                            f"{self.store}/{name} was standardised with other constants than stats.json says: restore "
                            "that with precompute-depth verify --repair"
                        )
                    self.finished[number] = found

    def _label(self, pending: list[int]) -> int:
        """Make the shards `pending`; returns the number of items they list."""
        num_items = 0
        total = sum(self.plan.num_items(number, self.source) for number in pending)
        label = f"{self.split} images" + (f", {self.rank}" if self.rank.world_size > 1 else "")
        with Meter(self.console, label, total) as meter, ThreadPoolExecutor(1) as writer:
            every_item = (item for number in pending for item in self._items(number))
            loaded = self._timed(self.labeller.loaded(self.split, every_item), meter)
            writing: Future[Any] | None = None
            for number in pending:
                items, encoding = self._items(number), dict[int, Future[Encoded | Reject]]()

                def done(
                    slot: int,
                    depths: Depths,
                    photo: Photograph,
                    items: list[str] = items,
                    encoding: dict[int, Future[Encoded | Reject]] = encoding,
                ) -> None:
                    key = self.source.key(self.split, items[slot])
                    encoding[slot] = self.labeller.pool.submit(
                        self.output.encode, key, depths, photo, self.constants, self.labeller.fields
                    )

                rejects = self.labeller.label(islice(loaded, len(items)), done)
                self._wait(writing)
                writing = writer.submit(self._commit, number, encoding, rejects)
                num_items += len(items)
            self._wait(writing)
        return num_items

    def _items(self, number: int) -> list[str]:
        return [item for unit in self.plan[number] for item in self.source.samples(unit)]

    def _commit(self, number: int, encoding: dict[int, Future[Encoded | Reject]], rejects: dict[int, Reject]) -> None:
        samples: list[Encoded] = []
        rejected: list[Reject] = []
        slots = sorted(encoding.keys() | rejects.keys())
        for slot in slots:
            result: Encoded | Reject | None = rejects[slot] if slot in rejects else encoding.pop(slot).result()
            if isinstance(result, Reject):
                listed, result = self.output.in_place_of(result, self.split, number, slot)
                rejected.append(listed)
            if result:
                samples.append(result)
        name, listing = shard_name(number), self.plan.listing
        write_encoded(self.store, name, listing, samples, rejected, self.constants, len(slots))
        self.store.delete(f"{shard_name(number)}{DAMAGED}")

    def _timed(self, loaded: Iterator[Loaded | Reject], meter: Meter) -> Iterator[Loaded | Reject]:
        while True:
            start = time.perf_counter()
            item = next(loaded, None)
            self.waited["workers"] += time.perf_counter() - start
            if item is None:
                return
            meter.advance()
            yield item

    def _wait(self, writing: "Future[Any] | None") -> None:
        if writing:
            start = time.perf_counter()
            writing.result()
            self.waited["writer"] += time.perf_counter() - start


def shard_name(number: int) -> str:
    return f"shard-{number:06d}"
