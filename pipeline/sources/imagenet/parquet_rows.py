"""Images in parquet as the hub keeps them: column `image` with `bytes` and `path`, column `label` with a number.

Parquet is read by row group, however few of its rows are wanted. So a unit is a run of rows of one group, and the last
runs stay in memory until all their rows have been asked for.
"""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.sources import SourceError, printable

RUNS_KEPT = 16  # of 100 rows of ImageNet: 180 MB; the job reads units one after another, few at a time


class Row(NamedTuple):
    image: bytes | None
    path: bytes | None  # UTF-8, unless damaged
    label: int


class ParquetRows:
    """Rows of `files` (paths below `root`); unit "data/x.parquet#3@50+50" is group 3's rows 50 to 99, ":62" one row."""

    def __init__(self, root: Path, files: Sequence[str], rows_per_unit: int, num_classes: int) -> None:
        self.root = root
        self.num_rows = 0  # as the files' footers say
        self._runs: dict[str, list[tuple[int, int, int]]] = {}  # file -> (group, first row, rows)
        for file in files:
            self._runs[file] = []
            for group, num_rows in enumerate(self._groups(file, num_classes)):
                num_runs = math.ceil(num_rows / rows_per_unit)
                step = math.ceil(num_rows / max(num_runs, 1)) or 1  # runs of one length, not one short one at the end
                starts = range(0, num_rows, step)
                self._runs[file] += [(group, start, min(step, num_rows - start)) for start in starts]
        self.samples_per_unit = max((rows for runs in self._runs.values() for *_, rows in runs), default=1)
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, Future[list[Row]]] = OrderedDict()

    def units(self) -> Iterator[str]:
        for file, runs in self._runs.items():
            for group, start, rows in runs:
                yield f"{file}#{group}@{start}+{rows}"

    def samples(self, unit: str) -> Sequence[str]:
        *_, start, rows = _parse(unit)
        return [f"{unit}:{row}" for row in range(start, start + rows)]

    def row(self, item: str) -> Row:
        unit, _, row = item.rpartition(":")
        *_, start, _ = _parse(unit)
        return self._run(unit)[int(row) - start]

    def _run(self, unit: str) -> list[Row]:
        """A unit's rows; of many threads that ask, one reads and the others wait for it."""
        with self._lock:
            run = self._recent.get(unit)
            read_here = run is None
            if run is None:
                run = self._recent[unit] = Future()
                if len(self._recent) > RUNS_KEPT:
                    self._recent.popitem(last=False)
            else:
                self._recent.move_to_end(unit)
        if read_here:
            try:
                run.set_result(self._read(unit))
            except BaseException as error:
                run.set_exception(error)
        return run.result()

    def _read(self, unit: str) -> list[Row]:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        file, group, start, rows = _parse(unit)
        try:
            with pq.ParquetFile(self.root / file) as parquet:
                table = parquet.read_row_group(group, columns=["image", "label"], use_threads=False)
            wanted = table.slice(start, rows)
            image, labels = wanted.column("image"), wanted.column("label").to_pylist()
            images = pc.struct_field(image, "bytes").to_pylist()
            has_path = image.type.get_field_index("path") >= 0
            paths = pc.struct_field(image, "path").cast(pa.binary()).to_pylist() if has_path else [None] * len(images)
        except (OSError, pa.ArrowException, IndexError) as error:
            raise SourceError(
                f"{self.root / file}: row group {group} cannot be read ({_line(error)}): download the file again"
            ) from error
        if table.num_rows < start + rows:
            raise SourceError(f"{self.root / file} changed since it was listed: choose a new folder to write")
        return [
            Row(data, path, -1 if label is None else label)
            for data, path, label in zip(images, paths, labels, strict=True)
        ]

    def _groups(self, file: str, num_classes: int) -> list[int]:
        """Rows of each row group, after a look at the columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.root / file) as parquet:
                schema, footer = parquet.schema_arrow, parquet.metadata
            types: dict[str, Any] = dict(zip(schema.names, schema.types, strict=True))
            hub = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = hub.get("info", {}).get("features", {})
        except (OSError, ValueError, AttributeError, pa.ArrowException) as error:
            raise SourceError(
                f"{self.root / file} is no complete parquet ({_line(error)}): download it again"
            ) from error
        image, label = types.get("image"), types.get("label")
        if not (
            image is not None and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
            and label is not None and pa.types.is_integer(label)
        ):  # fmt: skip
            raise SourceError(
                f"{self.root / file} must have the columns image (bytes, path) and label (integer), got "
                f"{', '.join(f'{name}: {kind}' for name, kind in types.items())}: give the hub's ILSVRC/imagenet-1k"
            )
        if len(names := features.get("label", {}).get("names", range(num_classes))) != num_classes:
            raise SourceError(
                f"{self.root / file} must hold {num_classes} classes, its labels name {len(names)}: "
                "give ILSVRC/imagenet-1k, or write its images to folders and use `precompute-depth folder`"
            )
        self.num_rows += footer.num_rows
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


def _line(error: Exception) -> str:
    """Arrow's messages have several."""
    return printable(" ".join(str(error).split()))


def _parse(unit: str) -> tuple[str, int, int, int]:
    """(file, group, first row, rows)."""
    name, _, run = unit.rpartition("@")
    file, _, group = name.rpartition("#")
    start, _, rows = run.partition("+")
    return file, int(group), int(start), int(rows)
