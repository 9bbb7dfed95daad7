"""What a finished run is measured on, and where the result goes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from pipeline import files
from pipeline.errors import UserError
from pipeline.shards import Split
from training import provenance
from training.engine.log import write_json
from training.records import ShardsSeen


class MeasureError(UserError):
    """What was asked does not suit the run; one line that names the fix."""


@dataclass(frozen=True)
class Target:
    """A run, the data it is measured on with a depth (None: the run's), and the place: `out`, or RUN/evaluations."""

    run: Path
    data: str
    depth: str | None
    out: Path | None
    other_depth: provenance.AcceptOtherDepth
    say: Callable[[str], None]
    fix: str = "give the result a place with --out FOLDER"

    def opened(self, trained: ShardsSeen, split: Split, field: str) -> list[str]:
        """Look at the data's depth, and whether the result could be written, before any work; how it differs."""
        if not self.out:
            files.refuse_links(self.run, "evaluations")
        try:
            files.check_writable((self.out or self.run / "evaluations") / "x.json")
        except files.WriteError as error:
            place, cause = self.out or f"{self.run}/evaluations", error.__cause__
            why = cause.strerror if isinstance(cause, OSError) else error
            raise MeasureError(f"cannot write to {place} ({why}): {self.fix}") from error
        return provenance.check(trained, split.index, self.data, field, self.other_depth, self.say)

    def place(self, name: str, trained: ShardsSeen, split: Split) -> Path:
        """Where the result NAME lies, less its ending; with the name of the data in it where they are not the run's."""
        folder = files.folder_in(self.out) if self.out else files.folder_in(self.run, "evaluations")
        own = {"train": trained.train_fingerprint, "val": trained.val_fingerprint}
        foreign = "" if own[split.index.split] == split.index.fingerprint else f"-{foreign_name(split)}"
        return folder / f"{name}{foreign}"

    def write(self, place: Path, result: BaseModel) -> Path:
        """Write the result as PLACE.json, whole or not at all."""
        return write_json(place.parent, f"{place.name}.json", result)


def foreign_name(split: Split) -> str:
    """What marks the files of shards that are not a run's own: their folder's name and the start of their hash."""
    name = part_of_name(split.data.rstrip("/").rsplit("/", 1)[-1])[:60] or "data"
    return f"{name}-{split.index.fingerprint[:6]}"


def part_of_name(text: str) -> str:
    """Of a file: anything else than letters, digits, `_`, `.` and `-` is `_`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
