"""Loading items and asking the teacher, in batches that depend on nothing but the items' order."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.depth_field import PSEUDO, of_teacher
from pipeline.images import UnreadableImage
from pipeline.shards import Reject
from pipeline.sources import Photograph, Source, printable
from pipeline.teachers import Teacher

Depths = dict[str, NDArray[np.float32]]  # field -> (height, width), native unit


@dataclass(frozen=True)
class Loaded:
    photo: Photograph
    pixels: Any  # what the teacher prepared, or None


class Labeller:
    """A source and a teacher, with the threads of `pool` to read and encode; `teacher_seconds` were spent in it.

    What the teacher estimates is the depth field `estimated`.
    """

    def __init__(
        self,
        source: Source,
        teacher: Teacher | None,
        batch_size: int,
        pool: ThreadPoolExecutor,
        ahead: int,
        estimated: str = PSEUDO,
    ) -> None:
        self.source, self.teacher, self.batch_size, self.pool = source, teacher, batch_size, pool
        self.estimated = estimated
        self.fields = {**source.depth_fields, **({estimated: of_teacher(teacher.identity())} if teacher else {})}
        self._ahead = ahead  # items read before they are asked for
        self._masks = getattr(teacher, "masks", False)
        self.teacher_seconds = 0.0

    def loaded(self, split: str, items: Iterable[str]) -> Iterator[Loaded | Reject]:
        """The items, in order, read and prepared by the pool."""
        futures: deque[Future[Loaded | Reject]] = deque()
        for item in items:
            futures.append(self.pool.submit(self._load, split, item))
            if len(futures) >= self._ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()

    def _load(self, split: str, item: str) -> Loaded | Reject:
        try:
            photo = self.source.load(split, item)
            return Loaded(photo, self.teacher.prepare(photo.rgb) if self.teacher else None)
        except UnreadableImage as error:
            return Reject(source=printable(item), reason=str(error))
        except Exception as error:
            error.add_note(f"while reading {printable(item)}")
            raise

    def label(
        self,
        loaded: Iterable[Loaded | Reject],
        done: Callable[[int, Depths, Photograph], None],
    ) -> dict[int, Reject]:
        """Call `done(slot, field -> native depth, photo)` for each usable slot; returns the rejects by slot.

        A batch is made of consecutive items of one prepared shape. It never reaches beyond `loaded`, so that estimates
        (which depend on the batch in their last bits) are the same wherever and whenever these items are labelled.
        """
        rejects: dict[int, Reject] = {}
        waiting: dict[tuple[int, ...], list[tuple[int, Loaded]]] = defaultdict(list)
        for slot, item in enumerate(loaded):
            if isinstance(item, Reject):
                rejects[slot] = item
            elif self.teacher is None:
                done(slot, dict(item.photo.depth), item.photo)
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
        sizes = [item.photo.size for _, item in group]
        maps = self.teacher.estimate([item.pixels for _, item in group], sizes)
        self.teacher_seconds += time.perf_counter() - start
        for (slot, item), depth in zip(group, maps, strict=True):
            if reason := self._unusable(depth):
                rejects[slot] = Reject(source=item.photo.facts["source"], reason=f"teacher gave {reason} depth")
            else:
                done(slot, {self.estimated: depth, **item.photo.depth}, item.photo)

    def _unusable(self, depth: NDArray[np.float32]) -> str | None:
        """NaN is a pixel without depth where the teacher says so of itself; of another, and any infinity, a fault."""
        finite = np.isfinite(depth)
        known = depth if finite.all() else depth[finite]
        if known.size < depth.size and not (self._masks and np.isnan(depth[~finite]).all()):
            return "non-finite"
        if not known.size:
            return "no valid"
        return "constant" if known.max() == known.min() else None
