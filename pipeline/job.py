"""The labelling job: plan, calibrate, then per shard load -> infer -> encode -> write -> commit.

Idempotent: a shard exists once its JSON does; a rerun redoes what has none and nothing else. Which sample lands in
which shard, and which samples share an inference batch, follow from the listing and the options alone, so an
interrupted job ends with the same bytes as an uninterrupted one.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from pipeline import depth_codec, shards
from pipeline.claim import JobError, claim, only_job
from pipeline.encode import Encoded, encode, write
from pipeline.label import Depths, Labeller, Loaded, calibrate, prefetched
from pipeline.progress import Meter
from pipeline.shards import Reject
from pipeline.sources import Photograph, Source
from pipeline.standardize import Moments, Standardisation

if TYPE_CHECKING:
    from pipeline.teachers import Teacher


@dataclass(frozen=True)
class Options:
    """How the job runs. All but `workers` decide the bytes."""

    samples_per_shard: int = 1000
    batch_size: int = 32
    stats: str = "auto"  # "auto" or "MEAN,STD" of the pseudo-depth in native unit and polarity
    calibration_images: int = 512
    max_rejects: float = 0.01
    seed: int = 0
    workers: int = 2


@dataclass
class SplitSummary:
    """What a run did for one split; `seconds` and the rates cover this run only."""

    split: str
    listed: int = 0
    kept: int = 0
    rejected: int = 0
    num_shards: int = 0
    bytes: int = 0
    written_now: int = 0
    seconds: float = 0.0
    teacher_seconds: float = 0.0
    index: shards.ShardIndex | None = field(default=None, repr=False)


def run(source: Source, teacher: "Teacher | None", out: Path, options: Options, console: Console) -> list[SplitSummary]:
    """Label every split of `source` into `out`; returns one summary a split. Raises JobError, SourceError."""
    _check(source, teacher, options)
    if out.exists() and not out.is_dir():
        raise JobError(f"{out} is a file: choose a folder to write")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "job.json").exists() and (stray := next((p for p in out.iterdir() if p.name != ".lock"), None)):
        raise JobError(f"{out} is not empty ({stray.name}) and holds no precompute-depth job: choose another folder")
    with only_job(out):
        config = _config(source, teacher, options)
        claim(out, config)
        labeller = Labeller(source, teacher, options.batch_size, options.workers)
        with ThreadPoolExecutor(options.workers) as pool:
            constants, constants_from = calibrate(
                out, labeller, pool, parse_stats(options.stats), options.calibration_images, console
            )
            summaries = [
                _run_split(labeller, split, out / split, options, constants, constants_from, config, pool, console)
                for split in source.splits
            ]
    return summaries


def too_many_rejects(summaries: Sequence[SplitSummary], max_rejects: float) -> str | None:
    """The message a job ends with when it rejected more than a share `max_rejects` of what it listed."""
    listed, rejected = sum(s.listed for s in summaries), sum(s.rejected for s in summaries)
    if rejected <= math.ceil(max_rejects * listed):
        return None
    return (
        f"{rejected} of {listed} images were rejected, more than --max-rejects {max_rejects}: the shards are kept; "
        "see the rejects above and in index.json, raise --max-rejects, or mend the source and choose a new folder"
    )


# --- plan ----------------------------------------------------------------------------------------------------------


def plan(source: Source, split: str, options: Options) -> list[list[str]]:
    """Items of each shard: the listing, shuffled by the seed, cut into equal runs."""
    listing = source.listing(split)
    order = np.random.Generator(np.random.Philox(options.seed)).permutation(len(listing))
    size = options.samples_per_shard
    return [[listing[i] for i in order[start : start + size]] for start in range(0, len(listing), size)]


def _check(source: Source, teacher: "Teacher | None", options: Options) -> None:
    for name in ("samples_per_shard", "batch_size", "calibration_images", "workers"):
        if getattr(options, name) < 1:
            raise JobError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if not 0 <= options.max_rejects <= 1:
        raise JobError(f"--max-rejects is a share between 0 and 1, got {options.max_rejects}")
    if teacher is None and not source.depth_fields:
        raise JobError(f"source '{source.name}' has no depth of its own: it needs a --teacher")
    parse_stats(options.stats)


def parse_stats(stats: str) -> tuple[float, float] | None:
    """None for `auto`, else (mean, std)."""
    if stats == "auto":
        return None
    try:
        mean, std = (float(part) for part in stats.split(","))
    except ValueError:
        raise JobError(f"--stats must be 'auto' or 'MEAN,STD' such as 2.5785,1.6296, got {stats!r}") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise JobError(f"--stats needs a finite mean and a std above 0, got {stats!r}")
    return mean, std


def _config(source: Source, teacher: "Teacher | None", options: Options) -> dict[str, Any]:
    decides_bytes = {k: v for k, v in asdict(options).items() if k not in ("workers", "max_rejects")}
    return {
        "schema_version": shards.SCHEMA_VERSION,
        "source": source.config(),
        "teacher": teacher.identity() if teacher else None,
        "options": decides_bytes,
    }


# --- write ---------------------------------------------------------------------------------------------------------


def _run_split(
    labeller: Labeller,
    split: str,
    folder: Path,
    options: Options,
    constants: dict[str, Standardisation],
    constants_from: dict[str, str],
    config: dict[str, Any],
    pool: ThreadPoolExecutor,
    console: Console,
) -> SplitSummary:
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.partial"):
        leftover.unlink()
    source = labeller.source
    planned = plan(source, split, options)
    names = [f"shard-{number:06d}" for number in range(len(planned))]
    pending = [number for number, name in enumerate(names) if not _is_complete(folder, name)]
    start, teacher_before = time.perf_counter(), labeller.teacher_seconds
    items = [item for number in pending for item in planned[number]]
    with Meter(console, f"{split} images", len(items)) as meter, ThreadPoolExecutor(1) as writer:
        loaded = prefetched(
            pool, lambda item: labeller.load(split, item), items, options.batch_size + 4 * options.workers
        )
        writing: Future[Any] | None = None
        for number in pending:

            def of_this_shard(count: int = len(planned[number])) -> Iterator[Loaded | Reject]:
                for _ in range(count):
                    yield next(loaded)
                    meter.advance()

            encoding: dict[int, Future[Encoded]] = {}

            def done(
                slot: int,
                depths: Depths,
                photo: Photograph,
                items: list[str] = planned[number],
                encoding: dict[int, Future[Encoded]] = encoding,
            ) -> None:
                key = source.key(split, items[slot])
                encoding[slot] = pool.submit(encode, key, depths, photo, constants)

            rejects = labeller.label(of_this_shard(), done)
            encoded = [encoding[slot].result() for slot in sorted(encoding)]
            if writing:
                writing.result()
            writing = writer.submit(write, folder, names[number], encoded, [rejects[s] for s in sorted(rejects)])
        if writing:
            writing.result()
    summary = _write_index(source, split, folder, names, constants, constants_from, config)
    summary.written_now = len(items)
    summary.seconds = time.perf_counter() - start
    summary.teacher_seconds = labeller.teacher_seconds - teacher_before
    return summary


def _is_complete(folder: Path, name: str) -> bool:
    record, tar = folder / f"{name}.json", folder / f"{name}.tar"
    if not (record.exists() and tar.exists()):
        return False
    try:
        return shards.load_record(record).bytes == tar.stat().st_size
    except shards.NewerSchemaError:
        raise
    except shards.ShardError:
        return False  # a damaged JSON: make the shard again


def _write_index(
    source: Source,
    split: str,
    folder: Path,
    names: list[str],
    constants: dict[str, Standardisation],
    constants_from: dict[str, str],
    config: dict[str, Any],
) -> SplitSummary:
    summary = SplitSummary(split, num_shards=len(names))
    moments: dict[str, Moments] = defaultdict(Moments)
    max_error_z: dict[str, float] = defaultdict(float)
    rejects: list[Reject] = []
    listed_shards = []
    for name in names:
        record = shards.load_record(folder / f"{name}.json")
        summary.listed += record.num_listed
        summary.kept += len(record.samples)
        summary.rejected += len(record.rejects)
        summary.bytes += record.bytes
        rejects += record.rejects[: shards.INDEX_REJECTS - len(rejects)]
        listed_shards.append(
            shards.ShardSummary(name=name, num_samples=len(record.samples), bytes=record.bytes, sha256=record.sha256)
        )
        for depth_field, values in shards.moments_of(record).items():
            moments[depth_field] = moments[depth_field].merge(values)
            max_error_z[depth_field] = max(max_error_z[depth_field], record.max_error_z[depth_field])
    if summary.kept == 0:
        first = f" (first: {rejects[0].source}: {rejects[0].reason})" if rejects else ""
        raise JobError(f"all {summary.listed} images of split '{split}' were rejected{first}: nothing to train on")
    teacher = config["teacher"]
    depth = {
        name: shards.describe_depth(
            constants[name],
            unit=teacher["unit"] if name == "pseudo" else "m",
            constants_from=constants_from[name],
            bits=depth_codec.PSEUDO_BITS if name == "pseudo" else depth_codec.METRIC_BITS,
            max_error_z=max_error_z[name],
            realised_mean=moments[name].mean,
            realised_std=moments[name].std,
            num_pixels=moments[name].count,
        )
        for name in constants
    }
    index = shards.ShardIndex(
        source=source.name,
        split=split,
        class_names=list(source.class_names),
        seg_names=list(source.seg_names),
        num_listed=summary.listed,
        num_samples=summary.kept,
        num_rejects=summary.rejected,
        rejects=rejects,
        shards=listed_shards,
        depth=depth,
        teacher=teacher,
        config=config,
        config_hash=shards.config_hash(config),
    )
    shards.write_atomically(folder / "index.json", index.model_dump_json(indent=1).encode())
    summary.index = index
    return summary
