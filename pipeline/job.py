"""The labelling job: plan, calibrate, then per shard load -> infer -> encode -> write -> commit.

Idempotent: a shard exists once its JSON does; a rerun redoes what has none and nothing else. Which sample lands in
which shard, and which samples share an inference batch, follow from the listing and the options alone, so any number of
ranks, interrupted at any time, end with the same bytes.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipeline import calibrate, index, plan, shards
from pipeline.calibrate import Constants, parse_stats
from pipeline.claim import Hold, JobError, begun_differently, claim, differences, only_rank, read_json
from pipeline.encode import Encoded, encode, write
from pipeline.index import Finished
from pipeline.label import Depths, Labeller, Loaded
from pipeline.plan import Plan
from pipeline.progress import Meter, Tally
from pipeline.ranks import Rank
from pipeline.shards import Reject, Store
from pipeline.shards.storage import LocalStore
from pipeline.sources import Photograph, Source, SourceError

if TYPE_CHECKING:
    from pipeline.teachers import Teacher

DAMAGED = ".damaged"  # `shard-000001.damaged` asks the next run to make that shard again (verify --repair)


@dataclass(frozen=True)
class Options:
    """How the job runs. All but `workers` and `max_rejects` decide the bytes."""

    samples_per_shard: int = 1000
    batch_size: int = 32
    stats: str = "auto"  # "auto" or "MEAN,STD" of the pseudo-depth in native unit and polarity
    stats_from: str = ""  # a data set whose constants to use
    calibration_images: int = 512
    max_rejects: float = 0.01
    seed: int = 0
    workers: int = 2


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
    written_now: int = 0
    seconds: float = 0.0
    teacher_seconds: float = 0.0
    waited: dict[str, float] = field(default_factory=dict)  # seconds the teacher stood still for them
    index: shards.ShardIndex | None = field(default=None, repr=False)

    def add(self, shard: Finished) -> None:
        self.listed += shard.listed
        self.kept += shard.kept
        self.rejected += shard.listed - shard.kept
        self.bytes += shard.bytes
        self.num_shards += 1
        self.rejects += shard.rejects[: shards.INDEX_REJECTS - len(self.rejects)]


def run(
    source: Source,
    teacher: "Teacher | None",
    out: "str | Path",
    options: Options,
    *,
    rank: Rank = Rank(),
    console: Console | None = None,
    command: Sequence[str] = (),
) -> list[SplitSummary]:
    """Do this rank's part of labelling `source` into `out` (a folder or URL); returns one summary a split.

    The rank that finds every shard finished writes the index. `command` is the line to repeat, for verify --repair.
    Raises JobError, SourceError, CalibrationError.
    """
    console = console or Console()
    check(source, teacher, options)
    store = shards.open_store(out)
    refuse_foreign(store)
    teacher_facts = teacher.identity() if teacher else None
    settled = shards.exists(store, "stats.json")
    known = {} if settled else calibrate.borrowed(options.stats_from, teacher_facts)
    if store.local is not None:
        store.local.mkdir(parents=True, exist_ok=True)

    def waiting() -> None:
        console.print(f"{rank}: another rank prepares the job, waiting", highlight=False)

    with only_rank(store, rank.rank, rank.world_size) as hold:
        for last_try in (False, True):
            claim(hold, _config(source, teacher_facts, options), waiting)
            changed = _planned(hold, source, rank, command, waiting, console)
            if not changed:
                break
            if last_try or not hold.begin_anew():
                raise JobError(begun_differently(str(store), changed))
        facts = {split: plan.facts(store / "plan", split) for split in source.splits}
        plans = _open_plans(store, source, facts, options, console)
        with ThreadPoolExecutor(options.workers) as pool:
            labeller = Labeller(
                source, teacher, options.batch_size, pool, min(options.batch_size, options.samples_per_shard)
                + 4 * options.workers,
            )  # fmt: skip
            first = next(iter(plans))

            def settle() -> None:
                if first != shards.SPLITS[0]:
                    console.print(f"{first} is labelled before {shards.SPLITS[0]}: its constants will serve both")
                constants, origin = calibrate.calibrate(
                    labeller, first, plans[first], parse_stats(options.stats), known, options.stats_from,
                    options.calibration_images, console,
                )  # fmt: skip
                calibrate.publish(store, constants, origin)

            hold.first("stats.json", settle, waiting)
            constants, origin = calibrate.read(store)
            calibrate.refuse_others(str(store), constants, options.stats_from, teacher_facts)
            config = read_json(store, "job.json")  # as the first run worded it
            summaries = []
            for split, planned in plans.items():
                job = _SplitJob(labeller, split, planned, store / split, options, rank, constants, console)
                summary = job.run()
                if summary.missing_shards == 0 and summary.kept:
                    described = config | {"source": facts[split]["source"], "plan": plan.listed(facts[split])}
                    finished = [job.finished[number] for number in sorted(job.finished)]
                    summary.index = index.build(
                        split, finished, described, origin, source.class_names, source.seg_names
                    )
                    shards.publish(job.store, "index.json", summary.index.model_dump_json(indent=1).encode())
                    # Every shard is there: whoever still writes one is a second job, and finds it published.
                    for each in (job.store, store / "plan", store):
                        if isinstance(each, LocalStore):
                            each.sweep()
                summaries.append(summary)
    return summaries


def complaint(summaries: Sequence[SplitSummary], max_rejects: float) -> str | None:
    """The message a finished job ends with when it rejected too much: all of a split, or more than `max_rejects`."""
    for s in summaries:
        if s.kept == 0:
            first = f" (first: {s.rejects[0].source}: {s.rejects[0].reason})" if s.rejects else ""
            return f"all {s.listed} images of split '{s.split}' were rejected{first}: nothing to train on"
    listed, rejected = sum(s.listed for s in summaries), sum(s.rejected for s in summaries)
    if rejected <= math.ceil(max_rejects * listed - 1e-9):  # 0.07 of 100 is 7, not 7.000000000000001
        return None
    return (
        f"{rejected} of {listed} images were rejected, more than --max-rejects {max_rejects}: the shards are kept; "
        "see the rejects above and in index.json, raise --max-rejects, or mend the source and choose a new folder"
    )


# --- prepare -------------------------------------------------------------------------------------------------------


def check(source: Source, teacher: "Teacher | None", options: Options) -> None:
    """Raise JobError for options that no job can run with."""
    for name in ("samples_per_shard", "batch_size", "calibration_images", "workers"):
        if getattr(options, name) < 1:
            raise JobError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not 0 <= options.max_rejects <= 1:
        raise JobError(f"--max-rejects is a share between 0 and 1, got {options.max_rejects}")
    if teacher is None and not source.depth_fields:
        raise JobError(f"source '{source.name}' has no depth of its own: it needs a --teacher")
    if options.stats != "auto" and options.stats_from:
        raise JobError("--stats and --stats-from exclude each other: give one")
    parse_stats(options.stats)


def refuse_foreign(store: Store) -> None:
    """Never write among somebody's files."""
    if store.local is None:
        names = set(store.sizes())
    elif not store.local.exists():
        return
    elif not store.local.is_dir():
        raise JobError(f"{store} is a file: choose a folder to write")
    else:
        names = {p.name for p in store.local.iterdir() if p.suffix != ".partial" and p.name != ".lock"}
    if names and "job.json" not in names and not shards.exists(store, "job.json"):
        raise JobError(f"{store} is not empty ({min(names)}) and holds no precompute-depth job: choose another folder")


def _config(source: Source, teacher: dict[str, Any] | None, options: Options) -> dict[str, Any]:
    """What every split of the data set shares; each split's own source is compared with its plan."""
    decides_bytes = {k: v for k, v in asdict(options).items() if k not in ("workers", "max_rejects")}
    return {
        "schema_version": shards.SCHEMA_VERSION,
        "data_set": {
            "name": source.name,
            "labels_sha256": index.labels_sha256(source.class_names, source.seg_names),
            "depth_fields": list(source.depth_fields),
        },
        "teacher": teacher,
        "options": decides_bytes,
        "versions": {name: version(name) for name in ("numcodecs", "numpy", "pillow")},  # their encoders' bytes
    }


def _planned(
    hold: Hold, source: Source, rank: Rank, command: Sequence[str], waiting: Callable[[], None], console: Console
) -> list[str]:
    """Have a plan of each split, made by whoever comes first; how the source differs from one made earlier."""
    store = hold.out / "plan"
    made = False

    def make() -> None:
        nonlocal made
        made = True
        plan.make(source, store, command, Tally(console, "listing"))

    for split in source.splits:
        hold.first(f"plan/{split}.json", make, waiting)
    return [] if made else _changes(source, store, rank, console)


def _open_plans(
    store: Store, source: Source, facts: dict[str, dict[str, Any]], options: Options, console: Console
) -> dict[str, Plan]:
    """The plan of each split that has images; tells what was found."""
    plans = {s: Plan(store / "plan", s, facts[s], options.seed, options.samples_per_shard) for s in source.splits}
    leading = source.splits[0]
    if not plans[leading].num_units:
        message = f"source '{source.name}' has no image for split '{leading}'"
        total = sum(p.num_units for p in plans.values())
        raise SourceError(f"{message}, all {total} are in another: lower --val-fraction" if total else message)
    classes = ", ".join(source.class_names[:3]) + (", ..." if len(source.class_names) > 3 else "")
    counted = f"{len(source.class_names):,} classes ({classes})" if source.class_names else "no classes"
    console.print(f"source: {source.name}, {counted}", highlight=False, markup=False)
    for split, published in source.expected.items():
        if (listed := plans[split].total(source)) != published:
            console.print(f"note: {split} lists {listed:,} images, published are {published:,}", highlight=False)
    return {split: planned for split, planned in plans.items() if planned.num_units}


def _changes(source: Source, store: Store, rank: Rank, console: Console) -> list[str]:
    """How the source differs from its plan; only rank 0 lists it again where only that can tell."""
    facts = {split: plan.facts(store, split) for split in source.splits}
    now = json.loads(json.dumps(source.config()))
    changed = [d for split in source.splits for d in differences(facts[split].get("source"), now, "source")]
    if not changed and rank.rank == 0 and not source.listing_in_config:
        for split, listed in plan.listing_sums(source, Tally(console, "listing again")).items():
            if listed.hex != facts[split]["listing"]:
                what = f"{split} listed {facts[split]['num_units']:,} files, now {listed.count:,}"
                changed.append(f"the source's files (names or sizes) have changed: {what}")
    return changed


# --- write ---------------------------------------------------------------------------------------------------------


class _SplitJob:
    """One rank's part of one split."""

    def __init__(
        self,
        labeller: Labeller,
        split: str,
        planned: Plan,
        store: Store,
        options: Options,
        rank: Rank,
        constants: Constants,
        console: Console,
    ) -> None:
        self.labeller, self.split, self.plan, self.store, self.options = labeller, split, planned, store, options
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
                whole = found.bytes == sizes[f"{name}.tar"] and found.listed == self.plan.num_items(number, self.source)
                if found.listing != self.plan.listing:
                    raise JobError(
                        f"{self.store}/{name} was made from another listing of the source: restore the source and "
                        "delete the plan, or choose another folder"
                    )
                if whole:
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
                    encoding[slot] = self.labeller.pool.submit(encode, key, depths, photo, self.constants)

                rejects = self.labeller.label(islice(loaded, len(items)), done)
                self._wait(writing)
                writing = writer.submit(self._commit, number, encoding, rejects)
                num_items += len(items)
            self._wait(writing)
        return num_items

    def _items(self, number: int) -> list[str]:
        return [item for unit in self.plan[number] for item in self.source.samples(unit)]

    def _commit(self, number: int, encoding: dict[int, Future[Encoded | Reject]], rejects: dict[int, Reject]) -> None:
        encoded = []
        for slot in sorted(encoding):
            result = encoding.pop(slot).result()
            if isinstance(result, Reject):
                rejects[slot] = result
            else:
                encoded.append(result)
        rejected = [rejects[slot] for slot in sorted(rejects)]
        write(self.store, shard_name(number), self.plan.listing, encoded, rejected, self.constants)
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
