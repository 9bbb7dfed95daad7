"""What a listing came across, counted to the last file: nothing that a source sees is lost without a word.

A *member* is a file of a tree, a member of a tar, a row of a parquet file. It belongs to a listed sample, or it is left
out for a reason. A folder that is left out is one member: nobody looks into it. Memory grows with classes and reasons,
not with members.
"""

import bisect
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.shards import SPLITS, LeftOut
from pipeline.sources import printable

NAMES_KEPT = 100
_ENDINGS_KEPT, _MOST_ENDINGS = 20, 10_000
_ENDING = re.compile(r"\.[a-z][a-z0-9_]{0,7}")  # others are numbers, dates, hashes: endless
_ROWS = 12  # of the table of classes


class Listed(NamedTuple):
    """An access unit: its split, its name, its bytes (-1 unknown; they only help to notice a changed source)."""

    split: str
    unit: str
    num_bytes: int
    num_members: int = 1
    class_name: str = ""  # where folders name classes, to show the tree,
    below: str = ""  # and the path below the class's folder


@dataclass
class _Reason:
    count: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)  # sorted


@dataclass
class _Class:
    images: Counter[str] = field(default_factory=Counter)  # by split
    first: str = ""
    nested: bool = False  # images lie in folders below it


class Ledger:
    """`seen` is counted where members are read, what becomes of them elsewhere: the sums must agree (`settle`)."""

    def __init__(self) -> None:
        self.seen = 0
        self._of_samples = 0
        self._reasons: dict[str, _Reason] = {}
        self._classes: dict[str, _Class] = {}

    def leave_out(self, reason: str, name: str) -> None:
        """A member that was seen belongs to no sample. Reasons are few: they name a kind, not a file."""
        entry = self._reasons.setdefault(reason, _Reason())
        entry.count += 1
        ending = "folder" if name.endswith("/") else os.path.splitext(name)[1].lower()
        if ending.startswith(".") and (not _ENDING.fullmatch(ending) or len(entry.endings) > _MOST_ENDINGS):
            ending = "others"
        entry.endings[ending or "none"] += 1
        shown = printable(name)
        if len(entry.names) < NAMES_KEPT or shown < entry.names[-1]:
            bisect.insort(entry.names, shown)  # the first by name: a folder is listed in any order
            del entry.names[NAMES_KEPT:]

    def add(self, listed: Listed) -> None:
        self._of_samples += listed.num_members
        if listed.class_name:
            entry = self._classes.setdefault(listed.class_name, _Class())
            entry.images[listed.split] += 1
            entry.first = min(entry.first or listed.below, listed.below)
            entry.nested |= "/" in listed.below.removeprefix(
                "images/"
            )  # tiny-imagenet's one folder between is no oddity

    @property
    def num_left_out(self) -> int:
        return sum(entry.count for entry in self._reasons.values())

    def settle(self) -> None:
        """Every member that was seen has been accounted for; else the source is wrong, not the user."""
        assert self.seen == self._of_samples + self.num_left_out, (
            f"{self.seen} members seen, {self._of_samples} in samples, {self.num_left_out} left out"
        )

    def left_out(self) -> list[LeftOut]:
        return [
            LeftOut(
                reason=reason,
                count=entry.count,
                endings=dict(sorted(entry.endings.items(), key=lambda pair: (-pair[1], pair[0]))[:_ENDINGS_KEPT]),
                names=entry.names,
            )
            for reason, entry in sorted(self._reasons.items())
        ]

    def tree(self) -> list[str]:
        """The classes that folders gave, as lines: one for an ordinary tree, a table for an unusual one."""
        if not self._classes:
            return []
        sizes = {name: sum(entry.images.values()) for name, entry in self._classes.items()}
        least, most = min(sizes.values()), max(sizes.values())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        summary = f"{len(sizes):,} class{'es' if len(sizes) > 1 else ''}, {each} images each"
        odd = self._oddities(least, most)
        told = [f"{summary}; unusual: {', '.join(odd)}", *self._table()] if odd else [summary]
        for split in SPLITS:
            if lonely := self._only_in(split):
                named = ", ".join(lonely[:3]) + (", ..." if len(lonely) > 3 else "")
                count = f"{len(lonely):,} classes are" if len(lonely) > 1 else "1 class is"
                told.append(f"note: {count} in {split} alone: {named}")
        return told

    def _only_in(self, split: str) -> list[str]:
        """Classes without an image in another split, if there is one."""
        if len({other for entry in self._classes.values() for other in entry.images}) < 2:
            return []
        return sorted(name for name, entry in self._classes.items() if {*entry.images} == {split})

    def _oddities(self, least: int, most: int) -> list[str]:
        """What a tree of classes rarely is, unless something else was taken for classes."""
        classes = self._classes.values()
        missed = [name for name in self._only_in("train") if self._classes[name].images["train"] > 100]
        found = {
            "a single class": len(classes) == 1,
            "classes of one image": least < 2,
            "classes that differ over 100 times in size": most > 100 * least,
            "folders inside classes": any(entry.nested for entry in classes),
            # a share of few images leaves a small class out of val by chance
            "classes in one split alone": bool(missed or self._only_in("val")),
        }
        return [what for what, so in found.items() if so]

    def _table(self) -> list[str]:
        shown = sorted(self._classes)[:_ROWS]
        width = max(map(len, shown))
        rows = []
        for name in shown:
            entry = self._classes[name]
            counts = ", ".join(f"{split} {entry.images[split]:,}" for split in SPLITS if entry.images[split])
            rows.append(f"  {name.ljust(width)}  {counts}, first {printable(entry.first)}")
        more = len(self._classes) - len(shown)
        return [*rows, f"  ... and {more:,} more"] if more else rows


def told(left_out: Sequence[LeftOut]) -> list[str]:
    """A line a reason: how many, of which endings, the first three names."""
    lines = []
    for entry in left_out:
        endings = ", ".join(f"{ending} {count:,}" for ending, count in [*entry.endings.items()][:5])
        folders = entry.endings.keys() == {"folder"}
        shown = f" ({endings})" if entry.endings.keys() - {"none"} and not folders else ""
        what = (" folder" if entry.count == 1 else " folders") if folders else ""
        names = ", ".join(entry.names[:3]) + (", ..." if entry.count > 3 else "")
        lines.append(f"left out {entry.count:,}{what}: {entry.reason}{shown}: {names}")
    return lines
