"""The labelling job: plan, calibrate, then per shard load -> infer -> encode -> write -> commit.

Idempotent: a shard exists once its JSON does; a rerun redoes what has none and nothing else. Which sample lands in
which shard, and which samples share an inference batch, follow from the listing and the options alone, so any number of
ranks, interrupted at any time, end with the same bytes.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipeline import calibrate, depth_field, files, index, plan, shards, survey
from pipeline.calibrate import parse_stats
from pipeline.claim import Hold, JobError, begun_differently, claim, differences, only_rank, read_config
from pipeline.images import UnreadableImage
from pipeline.label import Labeller
from pipeline.output import Output
from pipeline.plan import Plan
from pipeline.progress import Tally
from pipeline.ranks import Rank
from pipeline.shards import Store
from pipeline.shards.storage import LocalStore
from pipeline.sources import Source, SourceError, printable
from pipeline.sources.ledger import told
from pipeline.split_job import SplitJob, SplitSummary
from pipeline.survey import Survey
from pipeline.teachers import Teacher
from pipeline.terminal import make_console


@dataclass(frozen=True)
class Options:
    """How the job runs. All but the last three decide the bytes."""

    samples_per_shard: int = 1000
    batch_size: int = 32
    stats: str = "auto"  # "auto" or "MEAN,STD" of the pseudo-depth in native unit and polarity
    stats_from: str = ""  # a data set whose constants to use
    calibration_images: int = 512
    seed: int = 0
    max_rejects: float = 0.01
    workers: int = 2
    accept_polarity: bool = False  # of depth fields that contradict each other


def run(
    source: Source,
    teacher: Teacher | None,
    out: "str | Path | Output",
    options: Options,
    *,
    rank: Rank = Rank(),
    console: Console | None = None,
    command: Sequence[str] = (),
) -> list[SplitSummary]:
    """Do this rank's part of labelling `source` into `out` (a folder, URL or other output); returns a summary a split.

    The rank that finds every shard finished writes the index. `command` is the line to repeat, for verify --repair.
    Raises JobError, SourceError, CalibrationError.
    """
    console = console or make_console()
    output = out if isinstance(out, Output) else Output(shards.open_store(out))
    check_options(source, teacher, options, output.estimated)
    store = output.job
    refuse_foreign(output)
    teacher_facts = teacher.identity() if teacher else None
    settled = shards.exists(store, "stats.json")
    known = (
        {} if settled else calibrate.borrowed(options.stats_from, teacher_facts, output.estimated, source.depth_fields)
    )
    output.make()

    def waiting() -> None:
        console.print(f"{rank}: another rank prepares the job, waiting", highlight=False)

    with only_rank(output, rank.rank, rank.world_size) as hold:
        for last_try in (False, True):
            claim(hold, _config(source, teacher_facts, options, output), waiting)
            changed = _planned(hold, source, rank, command, waiting, console)
            if not changed:
                break
            if last_try or not hold.begin_anew():
                raise JobError(begun_differently(output, changed))
        facts = {split: plan.facts(store / "plan", split) for split in source.splits}
        plans = _open_plans(output, source, facts, options, console)
        with ThreadPoolExecutor(options.workers) as pool:
            labeller = Labeller(
                source, teacher, options.batch_size, pool, min(options.batch_size, options.samples_per_shard)
                + 4 * options.workers, output.estimated,
            )  # fmt: skip
            first = next(iter(plans))

            def settle() -> None:
                if first != shards.SPLITS[0]:
                    console.print(f"{first} is labelled before {shards.SPLITS[0]}: its constants will serve both")
                for note in look(source, first, plans[first], pool).check(options.accept_polarity):
                    console.print(note, markup=False, highlight=False, soft_wrap=True)
                constants, origin = calibrate.calibrate(
                    labeller, first, plans[first], parse_stats(options.stats), known, options.stats_from,
                    options.calibration_images, console,
                )  # fmt: skip
                calibrate.publish(store, constants, origin)

            hold.first("stats.json", settle, waiting)
            constants, origin = calibrate.read(store)
            if constants.keys() != labeller.fields.keys():
                raise calibrate.damaged(store)
            calibrate.refuse_others(output, constants, options.stats_from, teacher_facts, source.depth_fields)
            config = read_config(store)
            summaries = []
            for split, planned in plans.items():
                job = SplitJob(labeller, split, planned, output, rank, constants, console)
                summary = job.run()
                if summary.missing_shards == 0 and summary.kept:
                    _publish_index(output, source, job, summary, config, facts[split], origin)
                summaries.append(summary)
    summaries[0].notes = about(source, facts)
    return summaries


def look(source: Source, split: str, planned: Plan, pool: ThreadPoolExecutor) -> Survey:
    """The depth that comes with a few samples of a split, evenly spaced, read by the threads of `pool`."""
    found = Survey(source.depth_fields)

    def depth_of(item: str) -> Mapping[str, NDArray[np.float32]] | None:
        with suppress(UnreadableImage):
            return source.load(split, item).depth
        return None

    if source.depth_fields:
        for depth in pool.map(depth_of, calibrate.spread(source, planned, survey.IMAGES)[: survey.IMAGES]):
            if depth is not None:
                found.add(depth)
    return found


def about(source: Source, facts: Mapping[str, dict[str, Any]]) -> list[str]:
    """What a person should know of the source, before a long job and at its end: a line each."""
    lines = [f"note: {note}" for note in source.notes]
    total = sum(known["num_units"] for known in facts.values())
    for split, known in facts.items():
        if known["num_units"] == 0:
            fraction = (known["source"] or {}).get("val_fraction")
            by = f" at --val-fraction {fraction}" if fraction else ""
            fix = "choose a larger one in a new folder, or 0 for none" if fraction else "see the description's split"
            lines.append(f"note: no image of {total:,} falls to {split}{by}: there will be no {split}; {fix}")
    first = facts[source.splits[0]]  # the listing is one for all splits
    return [*lines, *plan.tree(first), *told(plan.left_out(first) or [])]


def _publish_index(
    output: Output,
    source: Source,
    job: SplitJob,
    summary: SplitSummary,
    config: dict[str, Any],
    facts: dict[str, Any],
    origin: Mapping[str, str],
) -> None:
    """The plan's `facts` tell what was listed and what was left out; the shards must hold or reject all of the former.

    With what `Ledger.settle` asserts: kept + rejected + left out = seen.
    """
    listed = job.plan.total(source)
    assert summary.kept + summary.rejected == summary.listed == listed, f"{summary} of a plan that lists {listed}"
    finished = [job.finished[number] for number in sorted(job.finished)]
    summary.index = index.build(
        job.split, finished, config | plan.described(facts), origin, source.class_names, source.seg_names,
        plan.left_out(facts), output.beside(job.split),
    )  # fmt: skip
    shards.publish(job.store, "index.json", summary.index.model_dump_json(indent=1).encode())
    # Every shard is there: whoever still writes one is a second job, and finds it published.
    for store in (job.store, output.job / "plan", output.job):
        if isinstance(store, LocalStore):
            store.sweep()


def owed(summaries: Sequence[SplitSummary]) -> str | None:
    """The message a process ends with where shards that were its own to make are not there."""
    for s in summaries:
        if s.own_missing:
            return (
                f"{s.own_missing:,} shards of split '{s.split}' were made and are not there any more, or are marked as "
                "damaged: run the same line again, and see who else writes to that folder"
            )
    return None


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


def check_options(
    source: Source, teacher: Teacher | None, options: Options, estimated: str = depth_field.PSEUDO
) -> None:
    """Raise JobError for options that no job can run with."""
    counts = {
        "--samples-per-shard": options.samples_per_shard,
        "--batch-size": options.batch_size,
        "--calibration-images": options.calibration_images,
        "--workers": options.workers,
    }
    for name, count in counts.items():
        if count < 1:
            raise JobError(f"{name} must be at least 1, got {count}")
    if not 0 <= options.max_rejects <= 1:
        raise JobError(f"--max-rejects is a share between 0 and 1, got {options.max_rejects}")
    if teacher is not None and estimated in source.depth_fields:
        raise JobError(
            f"source '{source.name}' brings {estimated} depth of its own, which is what the teacher's is called: add "
            "--teacher none, or give that field another name"
        )
    if teacher is None and not source.depth_fields:
        raise JobError(f"source '{source.name}' has no depth of its own: it needs a --teacher")
    if options.stats != "auto" and options.stats_from:
        raise JobError("--stats and --stats-from exclude each other: give one")
    parse_stats(options.stats)


def refuse_foreign(output: Output) -> None:
    """Never write among somebody's files."""
    if shards.exists(output.job, "job.json"):
        return
    for store in dict.fromkeys((output.job, *output.folders)):
        if store.local is None:
            names = set(store.sizes())
        elif not store.local.exists():
            continue
        elif not store.local.is_dir():
            raise JobError(f"{store} is a file: choose a folder to write")
        else:
            found = {
                p.name for p in store.local.iterdir() if not files.is_hidden(p.name) and not files.is_litter(p.name)
            }
            names = found - {".lock"}
        if names:
            raise JobError(f"{store} is not empty ({min(names)}) and holds no precompute-depth job: {output.elsewhere}")


def _config(source: Source, teacher: dict[str, Any] | None, options: Options, output: Output) -> dict[str, Any]:
    """What every split of the data set shares; each split's own source is compared with its plan."""
    return {
        "schema_version": shards.SCHEMA_VERSION,
        "data_set": {
            "name": source.name,
            "labels_sha256": index.labels_sha256(source.class_names, source.seg_names),
            "depth": depth_field.described(source.depth_fields),
        },
        "teacher": teacher,
        **output.config(asdict(options) | {"stats_from": printable(options.stats_from)}),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Of what decodes and encodes. A machine without pillow-heif could not read what one with it has listed."""
    found = {name: version(name) for name in ("numcodecs", "numpy", "pillow")}
    with suppress(PackageNotFoundError):
        found["pillow-heif"] = version("pillow-heif")
    return found


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
    output: Output, source: Source, facts: dict[str, dict[str, Any]], options: Options, console: Console
) -> dict[str, Plan]:
    """The plan of each split that has images; tells what was found."""
    plans = open_plans(output.job / "plan", output, source, facts, options)
    leading = source.splits[0]
    if not plans[leading].num_units:
        message = f"source '{source.name}' has no image for split '{leading}'"
        total = sum(p.num_units for p in plans.values())
        if total:
            by_share = (facts[leading]["source"] or {}).get("val_fraction")
            fix = "lower --val-fraction" if by_share else "see the description's split"
            raise SourceError(f"{message}, all {total} are in another: {fix}")
        reasons = told(plan.left_out(facts[leading]) or [])
        raise SourceError("; ".join([message, *reasons[:2]]))
    classes = ", ".join(source.class_names[:3]) + (", ..." if len(source.class_names) > 3 else "")
    counted = f"{len(source.class_names):,} classes ({classes})" if source.class_names else "no classes"
    console.print(f"source: {source.name}, {counted}", highlight=False, markup=False)
    for split, published in source.expected.items():
        if (listed := plans[split].total(source)) != published:
            console.print(f"note: {split} lists {listed:,} images, published are {published:,}", highlight=False)
    for line in about(source, facts):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return {split: planned for split, planned in plans.items() if planned.num_units}


def open_plans(
    store: Store, output: Output, source: Source, facts: dict[str, dict[str, Any]], options: Options
) -> dict[str, Plan]:
    """The plan of each split, whose files lie in `store`."""
    seed = options.seed if output.shuffled else None
    return {split: Plan(store, split, facts[split], seed, options.samples_per_shard) for split in source.splits}


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
