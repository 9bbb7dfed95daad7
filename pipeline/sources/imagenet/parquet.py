"""The hub's parquet: a row an image."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.images import UnreadableImage
from pipeline.sources import SourceError
from pipeline.sources.folder import hashed_key
from pipeline.sources.imagenet.labels import all_wnids, found_below
from pipeline.sources.imagenet.layout import Layout, Unit
from pipeline.sources.imagenet.parquet_rows import ParquetRows
from pipeline.sources.ledger import Ledger

_WNIDS_IN_NAME = re.compile(r"^n\d{8}(?=_)|(?<=_)n\d{8}(?=\.JPEG\Z)")  # n01440764_7.JPEG, ..._n01440764.JPEG


class Parquet(Layout):
    looks_for = "data/{split}-*-of-*.parquet (val: validation-*) of the hub's ILSVRC/imagenet-1k"

    @staticmethod
    def files(root: Path, split: str) -> list[str]:
        name = "validation" if split == "val" else split
        found = [file for where in ("", "data/") for file in found_below(root, f"{where}{name}-*-of-*.parquet")]
        return sorted(file.relative_to(root).as_posix() for file in found)

    @classmethod
    def found(cls, root: Path, split: str) -> bool:
        return bool(cls.files(root, split))

    def __init__(self, root: Path, split: str, rows_per_unit: int) -> None:
        super().__init__(root, split, rows_per_unit)
        self.containers, self.class_names = self.files(root, split), all_wnids()
        announced = re.search(r"-of-(\d+)", self.containers[0])
        if announced and int(announced[1]) != len(self.containers):
            raise SourceError(
                f"{root / self.containers[0]} is one of {int(announced[1])}, got {len(self.containers)}: download the "
                "rest, or rename these to -of- their own number to take them for all"
            )
        self._rows = ParquetRows(root, self.containers, rows_per_unit, len(self.class_names))
        self.samples_per_unit = self._rows.samples_per_unit

    def units(self, ledger: Ledger) -> Iterator[Unit]:
        ledger.seen += self._rows.num_rows
        for unit in self._rows.units():
            yield Unit(unit, -1, len(self.samples(unit)))

    def samples(self, unit: str) -> Sequence[str]:
        return self._rows.samples(unit)

    def key(self, item: str) -> str:
        """File, group and row: the published name lies in the file."""
        file, _, rows = item.rpartition("#")
        stem, group, row = PurePosixPath(file).stem, rows.partition("@")[0], rows.rpartition(":")[2]
        key = f"{stem}-g{int(group):03d}-r{int(row):04d}"
        return key if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) else hashed_key(key, item)

    def read(self, item: str) -> tuple[bytes, int, str]:
        image, path, label = self._rows.row(item)
        if not 0 <= label < len(self.class_names):
            raise SourceError(f"{self.root / item}: label must be 0 to 999, got {label}: is this a labelled split?")
        if image is None:
            raise UnreadableImage("row without image bytes")
        try:
            name = (path or b"").decode()
        except UnicodeDecodeError as error:
            raise UnreadableImage("the row's path is not valid UTF-8") from error
        wnid = self.class_names[label]
        if other := next((w for w in _WNIDS_IN_NAME.findall(PurePosixPath(name).name) if w != wnid), None):
            raise UnreadableImage(f"label {label} is wnid {wnid}, its name says {other}")
        return image, label, f"{item} {name}" if name else item
