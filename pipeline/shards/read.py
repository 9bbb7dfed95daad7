"""Reading: single samples by byte range, every checksum looked at."""

import io
import json
import os
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import depth_codec
from pipeline.shards.records import SPLITS, SampleEntry, ShardError, ShardRecord, load_index, load_record

Sample = dict[str, Any]  # "key" and the fields of the module's table, decoded


def decode_member(extension: str, data: bytes) -> Any:
    """One member's bytes as the module's table says."""
    match extension:
        case "rgb.jpg" | "rgb.png":
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        case "seg.png":
            return np.asarray(Image.open(io.BytesIO(data)))
        case "cls":
            return int(data)
        case "json":
            return json.loads(data)
        case _ if extension.endswith("." + depth_codec.EXTENSION):
            return depth_codec.decode(data)
    raise ShardError(f"member '.{extension}' is none of the shard contract's fields; see pipeline/shards/__init__.py")


class Split:
    """Random access to one split of a finished data set: `split[i]` or `split.read(i, fields)`.

    Reads single samples by byte range (`pread`), checks every member's CRC-32, opens tars and their JSON lazily, and
    may be shared by threads, pickled, or forked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = load_index(folder / "index.json")
        self.ends = np.cumsum([shard.num_samples for shard in self.index.shards], dtype=np.int64)
        self._files: dict[tuple[int, int], int] = {}
        self._records: dict[int, ShardRecord] = {}

    def __len__(self) -> int:
        return self.index.num_samples

    def __getitem__(self, position: int) -> Sample:
        return self.read(position)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        for (pid, _), descriptor in getattr(self, "_files", {}).items():
            if pid == os.getpid():
                os.close(descriptor)

    def locate(self, position: int) -> tuple[int, SampleEntry]:
        """Shard number and entry of the sample at a position of the split's own order."""
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)} in {self.folder}")
        number = int(np.searchsorted(self.ends, position, side="right"))
        if number not in self._records:
            summary = self.index.shards[number]
            record = load_record(self.folder / f"{summary.name}.json")
            if record.sha256 != summary.sha256 or len(record.samples) != summary.num_samples:
                raise ShardError(f"{self.folder / record.name}.json does not belong to the index: {_VERIFY}")
            self._records[number] = record
        start = int(self.ends[number - 1]) if number else 0
        return number, self._records[number].samples[position - start]

    def read(self, position: int, fields: Collection[str] | None = None) -> Sample:
        """Decode a sample; `fields` (default: all) are names of the module's table without their extension."""
        number, entry = self.locate(position)
        sample: Sample = {"key": entry.key}
        for extension, (offset, length, crc) in entry.members.items():
            field = extension.split(".")[0]
            if fields is None or field in fields:
                where = f"{self.folder / self.index.shards[number].name}.tar, key {entry.key}, member {extension}"
                data = os.pread(self._descriptor(number), length, offset)
                if len(data) != length or zlib.crc32(data) != crc:
                    raise ShardError(f"{where} is damaged (checksum differs): {_VERIFY}")
                try:
                    sample[field] = decode_member(extension, data)
                except (OSError, ValueError) as error:
                    raise ShardError(f"{where} does not decode: {error}") from error
        for field in fields or ():
            if field != "key" and field not in sample:
                have = ", ".join(sorted(extension.split(".")[0] for extension in entry.members))
                raise ShardError(f"{self.folder}: sample {entry.key} has no '{field}', it has {have}")
        return sample

    def key(self, position: int) -> str:
        return self.locate(position)[1].key

    def _descriptor(self, number: int) -> int:
        handle = (os.getpid(), number)
        if handle not in self._files:
            path = self.folder / f"{self.index.shards[number].name}.tar"
            try:
                self._files[handle] = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise ShardError(f"{path} does not exist but the index lists it: {_VERIFY}") from None
        return self._files[handle]


_VERIFY = "run precompute-depth verify"


def open_split(data: Path | str, split: str) -> Split:
    """Open `data`/`split` (or `data` itself where it already is that split's folder)."""
    data = Path(data)
    for folder in (data / split, data):
        if (folder / "index.json").exists():
            opened = Split(folder)
            if opened.index.split == split:
                return opened
    if not data.exists():
        raise ShardError(f"{data} does not exist: make shards with precompute-depth first")
    raise ShardError(f"{data} holds no finished '{split}' split (no {split}/index.json): run precompute-depth first")


def splits_of(data: Path | str) -> list[Split]:
    """Every finished split below `data`; raises ShardError where there is none."""
    data = Path(data)
    found = [Split(data / split) for split in SPLITS if (data / split / "index.json").exists()]
    if not found and (data / "index.json").exists():
        found = [Split(data)]
    if not found:
        raise ShardError(f"{data} holds no finished split (no index.json): run precompute-depth first")
    return found
