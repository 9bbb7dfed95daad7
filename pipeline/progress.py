"""Progress for people: a bar with rate and ETA on a terminal, a plain line every ten seconds elsewhere."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 10.0
_Item = TypeVar("_Item")


class Tally:
    """`tally(count)` prints a count that has no known end, with its rate, every ten seconds."""

    def __init__(self, console: Console, label: str) -> None:
        self.console, self.label = console, label
        self._start = self._last_line = time.perf_counter()

    def __call__(self, count: int) -> None:
        now = time.perf_counter()
        if now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self.console.print(f"{self.label}: {count:,} so far  {count / (now - self._start):,.0f}/s", highlight=False)


class Meter:
    """`with Meter("shards", total) as meter: meter.advance(n)`."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self.console, self.label, self.total, self.done = console, label, total, 0
        self._start = self._last_line = time.perf_counter()
        self._bar: Progress | None = None

    def __enter__(self) -> "Meter":
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:,.1f}/s"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(self.label, total=self.total, rate=0.0)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        return self.done / max(time.perf_counter() - self._start, 1e-9)

    def counting(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, each counted as it passes."""
        for item in items:
            yield item
            self.advance()

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.perf_counter()
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=self.rate)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            eta_s = (self.total - self.done) / max(self.rate, 1e-9)
            self.console.print(f"{self.label}: {self.done:,}/{self.total:,}  {self.rate:,.1f}/s  ETA {eta_s:,.0f} s")
