"""Which samples a description finds below SRC: each as a unit, a text from which its variables follow again."""

import bisect
import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from pipeline import files
from pipeline.sources import SourceError, printable
from pipeline.sources.ledger import Ledger
from pipeline.sources.rgbd.description import ByList, Description, Nearest, Table
from pipeline.sources.rgbd.template import Template
from pipeline.sources.trees import HIDDEN, SEEN_ALREADY

_MOST_TEXT = 1 << 30
Variables = dict[str, str]


class Found(NamedTuple):
    unit: str
    split: str  # "" where the description's `split` says it
    variables: Variables


class Finder(Protocol):
    """One way to find samples."""

    def found(self, ledger: Ledger) -> Iterator[Found]:
        """Every sample, each counted as seen."""

    def variables(self, unit: str) -> Variables:
        """Those of a unit that was found."""


def read_text(path: Path) -> str:
    try:
        return files.read_bytes(path, _MOST_TEXT).decode("utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist: the description needs it") from None
    except (OSError, files.ReadError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text ({error}): download it again") from None


def lines_of(path: Path) -> list[str]:
    """Lines that are neither empty nor comments, blanks at their ends and runs of blanks inside taken away."""
    lines = (" ".join(line.split()) for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


# --- the ways ------------------------------------------------------------------------------------------------------


class ByPath:
    """Every file whose path below `root` matches is a sample; what matches nothing in the description is left out."""

    def __init__(self, root: Path, description: Description) -> None:
        assert description.samples.path
        self.root, self._path = root, Template(description.samples.path)
        self._parts = [Template(text) for text in part_templates(description)]
        self._named = {text.fill({}) for text in map(Template, whole_files(description)) if not text.names}

    def found(self, ledger: Ledger) -> Iterator[Found]:
        for path in _walk(self.root, ledger):
            variables = self._path.read(path)
            if variables is not None:
                ledger.seen += 1
                yield Found(path, "", variables)
            elif path in self._named:
                continue
            elif (of := self._part_of(path)) is None:
                ledger.seen += 1
                ledger.leave_out("matches nothing in the description", path)
            elif of and not (self.root / of).exists():
                ledger.seen += 1
                ledger.leave_out("part of a sample that is not there", path)

    def variables(self, unit: str) -> Variables:
        found = self._path.read(unit)
        assert found is not None, unit
        return found

    def _part_of(self, path: str) -> str | None:
        """The sample that a file is a part of, "" where its name does not tell; None where it is none."""
        for part in self._parts:
            if (known := part.read(path)) is not None:
                return self._path.fill(known) if {*self._path.names} <= known.keys() else ""
        return None


class ByLines:
    """A sample is a line of a list."""

    def __init__(self, root: Path, lists: ByList, line: Sequence[str]) -> None:
        self.root, self.lists, self._lines = root, lists, [Template(text) for text in line]

    def found(self, ledger: Ledger) -> Iterator[Found]:
        of: dict[str, str] = {}
        for split, name in self.lists.files().items():
            lines = lines_of(self.root / name)
            for number, line in enumerate(lines, 1):
                variables = self._read(line)
                if variables is None:
                    forms = " or ".join(repr(form.text) for form in self._lines)
                    raise SourceError(
                        f"{self.root / name}, entry {number} must read {forms}, got {line[:80]!r}: mend it, or "
                        "samples.line"
                    )
                ledger.seen += 1
                if line in of:
                    where = "twice in one list" if of[line] == split else "in both lists, taken as train"
                    ledger.leave_out(where, line)
                    continue
                of[line] = split
                yield Found(line, split, variables)

    def variables(self, unit: str) -> Variables:
        found = self._read(unit)
        assert found is not None, unit
        return found

    def _read(self, line: str) -> Variables | None:
        return next((found for form in self._lines if (found := form.read_words(line)) is not None), None)


class ByTime:
    """A photograph of one list with the depth map of another that is nearest in time, each depth map used once."""

    def __init__(self, root: Path, folder: str, lists: Nearest) -> None:
        self.root, self._folder, self.lists = root, Template(folder), lists
        self._unit = Template("{folder} {rgb} {depth}")

    def found(self, ledger: Ledger) -> Iterator[Found]:
        any_folder = False
        for path, folders, _ in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not files.is_litter(name))
            folder = Path(path).relative_to(self.root).as_posix()
            rgb, depth = self._stamped(folder, self.lists.rgb), self._stamped(folder, self.lists.depth)
            if not (rgb and depth):
                continue
            if self._folder.read(folder) is None:
                ledger.seen += 1
                ledger.leave_out("its folder is not as samples.path says", f"{folder}/")
                continue
            any_folder = True
            yield from self._in(folder, rgb, depth, ledger)
        if not any_folder:
            raise SourceError(
                f"{self.root} must hold folders {self._folder.text} with {self.lists.rgb} and {self.lists.depth}, got "
                "none"
            )

    def variables(self, unit: str) -> Variables:
        folder, rgb, depth = unit.rsplit(" ", 2)
        return {"folder": folder, "rgb": rgb, "depth": depth, **(self._folder.read(folder) or {})}

    def _in(
        self, folder: str, rgb: list[tuple[float, str]], depth: list[tuple[float, str]], ledger: Ledger
    ) -> Iterator[Found]:
        stamps = [stamp for stamp, _ in depth]
        near = []
        for place, (stamp, _) in enumerate(rgb):
            at = bisect.bisect_left(stamps, stamp - self.lists.within_s)
            while at < len(stamps) and stamps[at] <= stamp + self.lists.within_s:
                near.append((abs(stamps[at] - stamp), place, at))
                at += 1
        partner: dict[int, int] = {}
        taken: set[int] = set()
        for _, place, at in sorted(near):  # the closest pairs first
            if place not in partner and at not in taken:
                partner[place] = at
                taken.add(at)
        for place, (_, name) in enumerate(rgb):
            ledger.seen += 1
            if place not in partner:
                ledger.leave_out(f"no depth map within {self.lists.within_s:g} s", f"{folder}/{name}")
                continue
            unit = f"{folder} {name} {depth[partner[place]][1]}"
            yield Found(unit, "", self.variables(unit))

    def _stamped(self, folder: str, name: str) -> list[tuple[float, str]]:
        """Times and names, sorted; nothing where the folder has none."""
        path = self.root / folder / name
        form = Template(name)
        if "seconds" in form.names:
            below = PurePosixPath(name).parent
            entries = [(below / entry.name).as_posix() for entry in files.listed(path.parent)]
            read = [(form.read(entry), entry) for entry in entries]
            return sorted((_seconds(known["seconds"], path.parent), entry) for known, entry in read if known)
        if not path.is_file():
            return []
        found = []
        for line in lines_of(path):
            stamp, _, name = line.partition(" ")
            if not name:
                raise SourceError(f"{path} must hold lines 'seconds name', got {line[:80]!r}: mend it")
            found.append((_seconds(stamp, path), name.split(" ")[0]))
        return sorted(found)


def _seconds(text: str, where: Path) -> float:
    """A time; SourceError where it is none, as NaN would spoil the order of all."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise SourceError(f"{where}: a time must be a number of seconds, got {text[:40]!r}: mend it")
    return seconds


# --- tables --------------------------------------------------------------------------------------------------------


class Rows:
    """A table's rows by what `columns` makes of each."""

    def __init__(self, root: Path, table: Table) -> None:
        path = root / table.file
        text = read_text(path)
        columns, self._values = Template(table.columns), Template(table.values)
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        self.file = table.file
        self._rows: dict[str, Mapping[str, str]] = {}
        for row in rows:
            known = {key.strip().lower().replace(" ", "_"): (value or "").strip() for key, value in row.items() if key}
            try:
                of = columns.fill(known)
            except KeyError as error:
                raise SourceError(f"{path} must have a column {error}, it has {', '.join(known)}") from None
            if self._rows.setdefault(of, known) != known:
                raise SourceError(f"{path} has two rows for {of!r} that differ: remove one")

    def of(self, variables: Variables) -> Variables | None:
        """A sample's row; None where it has none."""
        try:
            row = self._rows.get(self._values.fill(variables))
        except KeyError as error:
            raise SourceError(f"the description's tables.values names {error}, which no sample has: mend it") from None
        if row and (both := next((name for name in row if row[name] != variables.get(name, row[name])), None)):
            raise SourceError(
                f"{self.file} has a column {both!r} and samples have a variable of that name, with other values: "
                "rename the variable in the description"
            )
        return dict(row) if row is not None else None


# --- files ---------------------------------------------------------------------------------------------------------


def part_templates(description: Description) -> list[str]:
    """The names of everything that belongs to a sample beside what it is found by."""
    found = [description.samples.rgb]
    for depth in description.depth.values():
        found += [depth.path, depth.valid]
    labels = description.labels
    found += [labels.seg.path if labels.seg else None, labels.cls.file if labels.cls else None]
    return [text for text in found if text]


def whole_files(description: Description) -> list[str]:
    """The files that are read for all samples together."""
    found = [table.file for table in description.tables]
    if description.split and description.split.lists:
        found += description.split.lists.files().values()
    if description.labels.seg and description.labels.seg.names_file:
        found.append(description.labels.seg.names_file)
    return found


def _walk(root: Path, ledger: Ledger) -> Iterator[str]:
    """Files by their path below `root`, in the order of their names; hidden ones and litter are left out."""
    seen: set[tuple[int, int]] = set()

    def is_folder(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:  # a link that leads to itself
            return False

    def inside(folder: Path, below: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(f"folder {printable(str(folder))} cannot be read ({error.strerror}): mend it") from error
        for entry in entries:
            name = f"{below}{entry.name}"
            if entry.name.startswith(".") or files.is_litter(entry.name):
                ledger.seen += 1
                ledger.leave_out(HIDDEN, name + ("/" if entry.is_dir() else ""))
            elif is_folder(entry):
                status = entry.stat()
                if (status.st_dev, status.st_ino) in seen:
                    ledger.seen += 1
                    ledger.leave_out(SEEN_ALREADY, f"{name}/")
                    continue
                seen.add((status.st_dev, status.st_ino))
                yield from inside(Path(entry.path), f"{name}/")
            else:
                yield name

    status = root.stat()
    seen.add((status.st_dev, status.st_ino))
    yield from inside(root, "")
