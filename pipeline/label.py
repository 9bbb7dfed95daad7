"""Loading items, asking the teacher in fixed batches, and the first pass that fixes the standardisation."""

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipeline import shards
from pipeline.images import UnreadableImage
from pipeline.progress import Meter
from pipeline.shards import Reject
from pipeline.sources import Photograph, Source, printable
from pipeline.standardize import Moments, Standardisation

if TYPE_CHECKING:
    from pipeline.teachers import Teacher

Depths = dict[str, NDArray[np.float32]]  # field -> (height, width), native unit


class CalibrationError(ValueError):
    """No constants can be had; one line that says why."""


@dataclass(frozen=True)
class Loaded:
    photo: Photograph
    pixels: Any  # what the teacher prepared, or None


class Labeller:
    """Loads items and asks the teacher, in batches that never depend on anything outside the given sequence."""

    def __init__(self, source: Source, teacher: "Teacher | None", batch_size: int, workers: int) -> None:
        self.source, self.teacher, self.batch_size, self.workers = source, teacher, batch_size, workers
        self.teacher_seconds = 0.0

    def load(self, split: str, item: str) -> Loaded | Reject:
        try:
            photo = self.source.load(split, item)
        except UnreadableImage as error:
            return Reject(source=printable(item), reason=str(error))
        return Loaded(photo, self.teacher.prepare(photo.rgb) if self.teacher else None)

    def label(
        self,
        loaded: Iterator[Loaded | Reject],
        done: Callable[[int, Depths, Photograph], None],
    ) -> dict[int, Reject]:
        """Call `done(slot, field -> native depth, photo)` for each usable slot; returns the rejects by slot."""
        rejects: dict[int, Reject] = {}
        waiting: dict[tuple[int, ...], list[tuple[int, Loaded]]] = defaultdict(list)
        for slot, item in enumerate(loaded):
            if isinstance(item, Reject):
                rejects[slot] = item
            elif self.teacher is None:
                done(slot, dict(item.photo.depth_m), item.photo)
            else:
                group = waiting[tuple(item.pixels.shape)]
                group.append((slot, item))
                if len(group) == self.batch_size:
                    self._infer(group, rejects, done)
                    group.clear()
        for group in waiting.values():
            if group:
                self._infer(group, rejects, done)
        return rejects

    def _infer(self, group: list[tuple[int, Loaded]], rejects: dict[int, Reject], done: Callable[..., None]) -> None:
        assert self.teacher is not None
        start = time.perf_counter()
        sizes = [item.photo.rgb.shape[:2] for _, item in group]
        maps = self.teacher.estimate([item.pixels for _, item in group], sizes)
        self.teacher_seconds += time.perf_counter() - start
        for (slot, item), depth in zip(group, maps, strict=True):
            if not np.isfinite(depth).all():
                rejects[slot] = Reject(source=item.photo.facts["source"], reason="teacher gave non-finite depth")
            elif depth.max() == depth.min():
                rejects[slot] = Reject(source=item.photo.facts["source"], reason="teacher gave constant depth")
            else:
                done(slot, {"pseudo": depth, **item.photo.depth_m}, item.photo)


def prefetched(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any], ahead: int
) -> Iterator[Any]:
    """Results in order, at most `ahead` of them computed before they are asked for."""
    futures: deque[Future[Any]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) >= ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def calibrate(
    out: Path,
    labeller: Labeller,
    pool: ThreadPoolExecutor,
    stats: tuple[float, float] | None,
    num_images_wanted: int,
    console: Console,
) -> tuple[dict[str, Standardisation], dict[str, str]]:
    """Constants of every depth field, from a first pass over evenly spaced training images; kept in stats.json.

    `stats`: (mean, std) given by hand for the pseudo-depth (for all depth where there is no teacher), or None.
    """
    path = out / "stats.json"
    if path.exists():
        try:
            stored = json.loads(path.read_bytes())
            return {f: Standardisation(**c) for f, c in stored["constants"].items()}, stored["from"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CalibrationError(f"{path} is damaged: move {out} away and start again") from None
    source, teacher = labeller.source, labeller.teacher
    given = stats
    metric = list(source.depth_fields)
    fields = [*metric] if teacher is None else ["pseudo", *metric]
    moments = {name: Moments() for name in fields}
    num_images = 0
    if given is None or (teacher and metric):
        split = source.splits[0]
        listing = source.listing(split)
        chosen = np.unique(np.linspace(0, len(listing) - 1, min(num_images_wanted, len(listing))).round())
        items = [listing[int(i)] for i in chosen]

        def add(slot: int, depths: Depths, photo: Photograph) -> None:
            nonlocal num_images
            num_images += 1
            for name, depth in depths.items():
                moments[name] = moments[name].merge(Moments.of(depth))

        with Meter(console, "calibrate", len(items)) as meter:

            def loaded() -> Iterator[Loaded | Reject]:
                for result in prefetched(pool, lambda item: labeller.load(split, item), items, 4 * labeller.workers):
                    meter.advance()
                    yield result

            rejects = labeller.label(loaded(), add)
        if num_images == 0:
            first = next(iter(rejects.values()))
            raise CalibrationError(
                f"none of the {len(items)} images tried can be used (first: {first.source}: {first.reason}): "
                "look at the source"
            )
    constants, constants_from = {}, {}
    # Fields in metres share the constants of the filled sensor depth, so that their z can be compared.
    metric_moments = moments["real"] if "real" in metric else (moments[metric[0]] if metric else Moments())
    for name in fields:
        by_hand = given is not None and (name == "pseudo" or teacher is None)
        mean, std = (
            given
            if by_hand and given
            else (
                (moments[name].mean, moments[name].std)
                if name == "pseudo"
                else (metric_moments.mean, metric_moments.std)
            )
        )
        polarity = teacher.polarity if teacher and name == "pseudo" else "farther_is_larger"
        constants[name] = Standardisation(mean, std, polarity)
        constants_from[name] = "given" if by_hand else f"calibration over {num_images} images"
    content = {"constants": {f: asdict(c) for f, c in constants.items()}, "from": constants_from}
    shards.write_atomically(path, json.dumps(content, indent=1).encode())
    return constants, constants_from
