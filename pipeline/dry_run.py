"""What a job would cost: everything is listed, a few images are labelled for real, nothing is kept."""

import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline import calibrate, plan
from pipeline.calibrate import spread
from pipeline.encode import Encoded
from pipeline.job import Options, about, check_options, look, open_plans, refuse_foreign
from pipeline.label import Depths, Labeller
from pipeline.output import Output
from pipeline.plan import Plan
from pipeline.progress import Tally
from pipeline.ranks import Rank
from pipeline.shards import Reject
from pipeline.shards.storage import LocalStore
from pipeline.sources import Photograph, Source
from pipeline.standardize import Moments, Standardisation
from pipeline.teachers import Teacher
from pipeline.terminal import print_table

_BATCHES = 4  # labelled; the first, which pays for warming up, is not timed
_TAR_BYTES = 512 + 256  # header and mean padding of a member


def estimate(
    source: Source, teacher: Teacher | None, output: Output, options: Options, rank: Rank, console: Console
) -> None:
    """Print shards, samples, size and time of the job that `options` describe."""
    check_options(source, teacher, options, output.estimated)
    refuse_foreign(output)
    calibrate.borrowed(
        options.stats_from, teacher.identity() if teacher else None, output.estimated, source.depth_fields
    )
    table = Table("split", "images", "shards", "size", "images/s a process", f"time with {rank.world_size} process(es)")
    with tempfile.TemporaryDirectory(prefix="pseudodepth-") as scratch:
        store = LocalStore(Path(scratch))
        plan.make(source, store, [], Tally(console, "listing"))
        facts = {s: plan.facts(store, s) for s in source.splits}
        plans = open_plans(store, output, source, facts, options)
        for line in about(source, facts):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        for split, planned in plans.items():
            if not planned.num_units:
                continue
            images = planned.total(source)
            num_bytes, rate, rejects = _try(source, teacher, split, planned, output, options)
            table.add_row(
                split, f"{images:,}", f"{len(planned):,}", _size(images * num_bytes), f"{rate:,.1f}",
                _duration(images / rate / rank.world_size) if rate else "-",
            )  # fmt: skip
            if source.depth_fields:
                with ThreadPoolExecutor(options.workers) as pool:
                    found = look(source, split, planned, pool)
                console.print(f"depth of {found.num_images} {split} images:", highlight=False)
                print_table(console, found.table())
                for note in found.check(options.accept_polarity):
                    console.print(note, markup=False, highlight=False, soft_wrap=True)
            for reject in rejects[:3]:
                line = f"would reject {reject.source}: {reject.reason}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_table(console, table)
    console.print(f"dry run: nothing was written to {output}", highlight=False, soft_wrap=True)


def _try(
    source: Source, teacher: Teacher | None, split: str, planned: Plan, output: Output, options: Options
) -> tuple[float, float, list[Reject]]:
    """Mean bytes of a sample in its tar, images/s, and the rejects among the images tried."""
    items = spread(source, planned, _BATCHES * options.batch_size)[: _BATCHES * options.batch_size]
    warm, timed = items[: options.batch_size], items[options.batch_size :] or items
    with ThreadPoolExecutor(options.workers) as pool:
        ahead = options.batch_size + 4 * options.workers
        labeller = Labeller(source, teacher, options.batch_size, pool, ahead, output.estimated)

        def label(items: Iterable[str]) -> tuple[list[int], dict[int, Reject]]:
            encoding = {}

            def done(slot: int, depths: Depths, photo: Photograph) -> None:
                constants = {name: _own_constants(depth) for name, depth in depths.items()}
                encoding[slot] = pool.submit(output.encode, "key", depths, photo, constants, labeller.fields)

            rejects = labeller.label(labeller.loaded(split, items), done)
            encoded = {slot: future.result() for slot, future in encoding.items()}
            rejects |= {slot: found for slot, found in encoded.items() if isinstance(found, Reject)}
            return [
                sum(len(m) + _TAR_BYTES for m in e.members.values()) for e in encoded.values() if isinstance(e, Encoded)
            ], rejects

        _, rejects = label(warm)
        start = time.perf_counter()
        sizes, more = label(timed)
        seconds = time.perf_counter() - start
    return (
        sum(sizes) / max(len(sizes), 1),
        len(timed) / seconds,
        [*rejects.values(), *(more.values() if len(items) > len(warm) else ())],
    )


def _own_constants(depth: NDArray[np.float32]) -> Standardisation:
    """The map's own mean and std: its size as bytes is about that under the data set's."""
    own = Moments.of(depth)
    return Standardisation(own.mean, own.std or 1.0, "farther_is_larger")


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.0f} GB" if num_bytes > 1e10 else f"{num_bytes / 1e6:,.2f} MB"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
