"""CONTRACT: the Zarr store a dump lives in (`schema` says what is in it): writer, reader, refusals. No torch.

Zarr reads a deleted chunk as its fill value and a flipped bit as data. So chunks carry a CRC-32C and attributes a
SHA-256, every chunk is written even where it is empty and must be there when a dump is opened, numbers that were never
written are NaN, and the store is written beside its final name and renamed when all is done. Raw scores and block
outputs are in shards of whole images, written by one process at once.

A dump may also be somebody else's, and Zarr opens much that is none: other formats, codecs, links, sizes of its own
say. So before Zarr sees a dump, everything in its folder must be what the writer writes for its attributes, nothing
more and nothing less, and chunks must hold as many bytes as they should.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import ValidationError
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline import files
from pipeline.errors import UserError
from training.dumps.schema import KEY_BYTES, OLDEST_SCHEMA, SCHEMA_VERSION, DumpInfo, Spec, arrays

SHARD = 16  # images of raw scores and outputs in a file; batches begin at multiples of it
_ROWS_PER_CHUNK = 64  # images; a chunk is written as often as a batch ends in it
_CHUNK_BYTES = 4 << 20
_CHECKSUM = "sha256"  # of the other attributes
_ZSTD_LEVEL = 3
_CRC_BYTES = 4
_MOST_ATTRIBUTES, _MOST_METADATA = 64 << 20, 1 << 20  # bytes: class names of thousands of classes; an array's


class DumpError(UserError):
    """A dump is missing, incomplete, damaged or newer than this version; the message names what and the fix."""


class DumpWriter:
    """`with DumpWriter(path, info) as dump: dump.write(name, first, rows)`; commits on a clean exit.

    A second writer of the same store is refused: two would lose rows without a word.
    """

    def __init__(self, path: Path, info: DumpInfo) -> None:
        files.mend(path)
        _refuse_to_replace(path, info)
        self.path, self.info = path, info
        self.partial = path  # a hidden folder while it is written
        self._arrays: dict[str, zarr.Array] = {}
        self._making = ExitStack()

    def __enter__(self) -> "DumpWriter":
        with ExitStack() as stack:
            self.partial = stack.enter_context(files.making(self.path))
            self._create()
            self._making = stack.pop_all()
        return self

    def __exit__(self, *failed: Any) -> bool | None:
        return self._making.__exit__(*failed)

    def _create(self) -> None:
        group = zarr.open_group(self.partial, mode="a", zarr_format=3)  # "w" would remove the folder, and its lock
        attributes = self.info.model_dump(mode="json")
        group.attrs.update(attributes | {_CHECKSUM: _checksum(attributes)})
        for name, spec in arrays(self.info).items():
            chunks, shards = _layout(name, spec)
            # Kept as they are: arrays opened again would not write empty chunks.
            self._arrays[name] = group.create_array(
                name,
                shape=spec.shape,
                dtype=spec.dtype,
                chunks=chunks,
                shards=shards,
                fill_value=float("nan") if spec.dtype.startswith("f") else 0,
                compressors=[Crc32cCodec()] if _is_raw(name) else [ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
                config={"write_empty_chunks": True},
            )

    def write(self, name: str, place: int | tuple[int, int], values: np.ndarray) -> None:
        """Write rows of the first axis from `place`, what lies past the array's end left out; or all of one place."""
        array = self._arrays.get(name)
        if array is None:
            return  # of no image: empty arrays are not made
        if isinstance(place, tuple):
            array[place] = values
            return
        count = min(len(values), array.shape[0] - place)
        if count > 0:
            array[place : place + count] = values[:count]

    def write_keys(self, first: int, keys: list[str]) -> None:
        """Names of the images from `first`; also marks them done, so write their rows before."""
        padded = [key.encode()[:KEY_BYTES].ljust(KEY_BYTES, b"\0") for key in keys]
        self.write("image_keys", first, np.frombuffer(b"".join(padded), np.uint8).reshape(len(keys), KEY_BYTES))
        self.write("images_done", first, np.ones(len(keys), np.uint8))


def _checksum(attributes: dict[str, Any]) -> str:
    """Of the attributes, whatever their order and spacing: a chunk's checksum does not cover what it means."""
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def _refuse_to_replace(path: Path, info: DumpInfo) -> None:
    """A dump replaces one of the same run, whole or damaged, unless that holds more of the same checkpoint."""
    if not path.exists():
        return
    try:
        there = files.parsed_json(files.read_bytes(path / "zarr.json", _MOST_ATTRIBUTES))["attributes"]
        run, study = there["run"], there["study_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DumpError(f"{path} exists and is no dump: choose another --out, or remove it") from None
    if (run, study) != (info.run, info.study_hash):
        raise DumpError(
            f"{path} holds a dump of another run ({run}, study {study}; this is {info.run}, study {info.study_hash}): "
            "choose another --out, or remove it"
        )
    held = {name: there.get(f"num_{name}", 0) for name in ("images", "raw", "causal")}
    asked = {"images": info.num_images, "raw": info.num_raw, "causal": info.num_causal}
    version = there.get("schema_version")
    readable = type(version) is int and OLDEST_SCHEMA <= version <= SCHEMA_VERSION
    same = readable and there.get("checkpoint_sha256") == info.checkpoint_sha256
    if same and any(isinstance(held[name], int) and held[name] > asked[name] for name in held):
        more, less = (", ".join(f"{count:,} {name}" for name, count in each.items()) for each in (held, asked))
        raise DumpError(
            f"{path} holds {more} of this checkpoint, and {less} were asked for: ask for no less, choose another "
            "--out, or remove it"
        )


def _is_raw(name: str) -> bool:
    """Raw arrays are not compressed: it would not pay."""
    return name.startswith("raw/")


def _layout(name: str, spec: Spec) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """(chunk, shard). An image or a layer of raw arrays is read alone: chunks hold one, a file holds SHARD images."""
    shape = spec.shape
    if name == "raw/scores_pre_bias":
        return (1, 1, *shape[2:]), (SHARD, *shape[1:])
    if name.startswith("raw/resid_post/"):
        return (4, 1, *shape[2:]), (SHARD, *shape[1:])
    if name.endswith("/grams"):
        return (1, 1, *shape[2:]), None
    if name.endswith("/summary"):
        return (min(shape[0], _ROWS_PER_CHUNK), 1, *shape[2:]), None
    # Images, groups, folds or layers are read one after the other.
    bytes_per_row = max(1, prod(shape[1:]) * np.dtype(spec.dtype).itemsize)
    rows = max(1, _CHUNK_BYTES // bytes_per_row)
    return (min(shape[0], rows, _ROWS_PER_CHUNK if spec.by_image else rows), *shape[1:]), None


def metadata(name: str, spec: Spec) -> dict[str, Any]:
    """What Zarr writes of an array that `DumpWriter` makes, and all that a reader takes."""
    chunks, shards = _layout(name, spec)
    floats = spec.dtype.startswith("f")
    little = {"configuration": {"endian": "little"}} if np.dtype(spec.dtype).itemsize > 1 else {}
    codecs: list[dict[str, Any]] = [{"name": "bytes", **little}]
    if not _is_raw(name):
        codecs.append({"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}})
    codecs.append({"name": "crc32c"})
    if shards:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {"chunk_shape": list(chunks), "codecs": codecs, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": np.dtype(spec.dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shards or chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if floats else 0,
        "codecs": codecs,
        "attributes": {},
        "storage_transformers": [],
    }


@dataclass(frozen=True)
class Dump:
    """An opened dump: `info` and arrays by name, read lazily; `dump["statistics/bins/count"]` reads one whole."""

    path: Path
    info: DumpInfo
    group: zarr.Group

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def read(self, name: str, rows: slice | int | tuple = slice(None)) -> np.ndarray:
        """An array or a part of it; raises DumpError where a chunk is damaged or was never written."""
        array = self._array(name)
        try:
            values = np.asarray(array[rows])
        except MemoryError:
            raise DumpError(f"{self.path}: array {name} of {array.nbytes:,} bytes is more than memory holds") from None
        except (ValueError, TypeError, OSError, RuntimeError, SystemError, ArithmeticError) as error:
            raise DumpError(f"{self.path}: array {name} is damaged ({error}): {_REDO}") from None
        if values.dtype.kind == "f" and values.size:
            least, most = float(values.min()), float(values.max())  # both NaN where one is
            if np.isnan(least):
                raise DumpError(f"{self.path}: array {name} has missing chunks or values: {_REDO}")
            if max(-least, most) > _LARGEST and not name.endswith(_WITH_GAPS):
                raise DumpError(
                    f"{self.path}: array {name} holds values that no dump has, {least:g} to {most:g}: {_REDO}"
                )
        return values

    def keys(self) -> list[str]:
        return [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in self["image_keys"]]

    def _array(self, name: str) -> zarr.Array:
        try:
            array = self.group[name]
        except KeyError:
            raise DumpError(f"{self.path}: array {name} is missing: {_REDO}") from None
        assert isinstance(array, zarr.Array), name
        return array


_LARGEST = 1e100  # of what can be added up and squared
_WITH_GAPS = ("patch_depth", "patch_depth/mean", "patch_depth/center4")  # +inf: no valid pixel
_REDO = "make it again with train dump, or remove it"
_AWAY = "move it away, or make the dump again with train dump"


def open_dump(path: Path | str) -> Dump:
    """Open and check a dump: its attributes, every file in its folder, every image done."""
    path = Path(path)
    if not path.is_dir():
        raise DumpError(f"dump {path} does not exist: make it with train dump")
    if not (path / "zarr.json").exists():
        raise DumpError(f"{path} is no dump, it has no zarr.json: remove it, or move it elsewhere")
    info = _read_info(path)
    specs = arrays(info)
    _check_groups(path, specs)
    _check_array(path, "images_done", specs["images_done"])
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise DumpError(f"{path} is not a Zarr store that can be read ({_first_line(error)}): {_REDO}") from None
    dump = Dump(path, info, group)
    done = int(dump["images_done"].sum())
    if done != info.num_images:
        raise DumpError(f"{path} is incomplete, {done} of {info.num_images} images: {_REDO}")
    for name, spec in specs.items():
        _check_array(path, name, spec)
    return dump


def _read_info(path: Path) -> DumpInfo:
    try:
        content = files.parsed_json(files.read_bytes(path / "zarr.json", _MOST_ATTRIBUTES))
    except (OSError, files.ReadError) as error:
        raise DumpError(f"{path} is not a Zarr store that can be read ({_first_line(error)}): {_REDO}") from None
    attributes = content.get("attributes") if isinstance(content, dict) else None
    if not isinstance(attributes, dict) or content != _GROUP | {"attributes": attributes}:
        raise DumpError(f"{path} is not a Zarr store that can be read (no group of format 3): {_REDO}")
    version = attributes.get("schema_version", 0)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DumpError(f"{path} has schema version {version}, this version reads {SCHEMA_VERSION}: use a newer one")
    if type(version) is not int or version < OLDEST_SCHEMA:
        shown = f"{version!r:.40}"
        raise DumpError(f"{path} has schema version {shown}, this version reads {OLDEST_SCHEMA} on: {_REDO}")
    written = attributes.pop(_CHECKSUM, None)
    try:
        info = DumpInfo.model_validate(attributes)
        right = written == _checksum(attributes)
    except ValidationError as error:
        raise DumpError(f"{path} is not a dump of train dump ({files.reason(error)}): {_REDO}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise DumpError(f"{path} is not a dump of train dump ({_first_line(error)}): {_REDO}") from None
    if not right:
        raise DumpError(f"{path}: its attributes are not those it was written with (checksum differs): {_REDO}")
    return info


_GROUP = {"zarr_format": 3, "node_type": "group"}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- files of a dump: what lies on the disk is counted, and nothing made of the size that attributes claim ------------


def _check_groups(path: Path, specs: dict[str, Spec]) -> None:
    """Folders hold the groups and arrays of a dump, and nothing else."""
    groups = {parent for name in specs for parent in _parents(name)}
    for group in sorted(groups, key=lambda group: group.count("/")):
        children = {each.rpartition("/")[2] for each in [*groups, *specs] if each.rpartition("/")[0] == group and each}
        there = {entry.name for entry in _entries(path / group)}
        if odd := sorted(there - children - {"zarr.json"}):
            raise DumpError(f"{path / group / odd[0]} is nothing that a dump holds: {_AWAY}")
        if group and _read_metadata(path, group) != _GROUP | {"attributes": {}}:
            raise DumpError(f"{path}: group {group} is damaged: {_REDO}")


def _parents(name: str) -> list[str]:
    """`a/b/c` -> "", a, a/b."""
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(len(parts))]


def _check_array(path: Path, name: str, spec: Spec) -> None:
    """It is of the kind and shape that the writer makes, and all its chunks are there."""
    if not (path / name).is_dir():
        raise DumpError(f"{path}: array {name} is missing: {_REDO}")
    if odd := sorted({entry.name for entry in _entries(path / name)} - {"zarr.json", "c"}):
        raise DumpError(f"{path / name / odd[0]} is nothing that a dump holds: {_AWAY}")
    written, expected = _read_metadata(path, name), metadata(name, spec)
    if not isinstance(written, dict):
        raise DumpError(f"{path}: array {name} is damaged (its zarr.json is no object): {_REDO}")
    if written.get("shape") != expected["shape"]:
        shape = f"{written.get('shape')!r:.60}"
        raise DumpError(f"{path}: array {name} has shape {shape}, expected {expected['shape']}: {_REDO}")
    for key in sorted({*written, *expected}):
        if written.get(key, [] if key == "storage_transformers" else None) != expected.get(key):
            raise DumpError(f"{path}: array {name} is damaged ({key} of its zarr.json): {_REDO}")
    chunks, shards = _layout(name, spec)
    counts = [-(-size // side) for size, side in zip(spec.shape, shards or chunks, strict=True)]
    there = 0
    for place, file in _chunk_files(path / name / "c", counts):
        there += 1
        if not _holds(file, name, spec, place):
            raise DumpError(f"{path}: array {name} is damaged (size of {file.relative_to(path)}): {_REDO}")
    if there != prod(counts):
        raise DumpError(f"{path}: array {name} has {there} of {prod(counts)} chunks: {_REDO}")


def _read_metadata(path: Path, name: str) -> Any:
    file = path / name / "zarr.json"
    try:
        if file.is_symlink():
            raise files.ReadError("a link")
        return files.parsed_json(files.read_bytes(file, _MOST_METADATA))
    except FileNotFoundError:
        raise DumpError(f"{path}: array {name} is missing: {_REDO}") from None
    except (OSError, files.ReadError) as error:
        raise DumpError(f"{path}: array {name} is damaged ({_first_line(error)}): {_REDO}") from None


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, but for what systems leave there; no link."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if files.is_litter(entry.name):
                    continue
                if entry.is_symlink():
                    raise DumpError(f"{entry.path} is a link, and a dump holds none: put what it leads to in its place")
                yield entry
    except OSError as error:
        raise DumpError(f"{folder} cannot be read ({error.strerror}): {_REDO}") from None


def _chunk_files(
    folder: Path, counts: list[int], place: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], Path]]:
    """Files c/<i>/<j>/..., i, j below `counts`, with their places."""
    if not folder.is_dir():
        return
    for entry in _entries(folder):
        number = int(entry.name) if re.fullmatch(r"0|[1-9][0-9]{0,9}", entry.name) else -1
        last = len(place) == len(counts) - 1
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        if not 0 <= number < counts[len(place)] or kind != (stat.S_IFREG if last else stat.S_IFDIR):
            raise DumpError(f"{entry.path} is nothing that a dump holds: {_AWAY}")
        if last:
            yield (*place, number), Path(entry.path)
        else:
            yield from _chunk_files(Path(entry.path), counts, (*place, number))


def _holds(file: Path, name: str, spec: Spec, place: tuple[int, ...]) -> bool:
    """Whether a chunk's file holds as many bytes as it should, packed or not: Zarr makes room for what it claims."""
    chunks, shards = _layout(name, spec)
    num_bytes = prod(chunks) * np.dtype(spec.dtype).itemsize
    if not _is_raw(name):
        with file.open("rb") as opened:
            return _frame_bytes(opened.read(18)) == num_bytes
    size = file.stat().st_size
    if not shards:
        return size == num_bytes + _CRC_BYTES
    all_inner = prod(shard // chunk for shard, chunk in zip(shards, chunks, strict=True))
    inside = (min(s, whole - s * k) for s, whole, k in zip(shards, spec.shape, place, strict=True))
    inner = prod(-(-length // chunk) for length, chunk in zip(inside, chunks, strict=True))
    return size == inner * (num_bytes + _CRC_BYTES) + all_inner * 16 + _CRC_BYTES  # 16: an entry of a shard's index


def _frame_bytes(head: bytes) -> int | None:
    """What a Zstandard frame says it holds (RFC 8878, 3.1.1.1), from its first 18 bytes; None where it does not say."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags, whole = head[4], bool(head[4] & 0x20)
    length = (int(whole), 2, 4, 8)[flags >> 6]
    start = 5 + (not whole) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(head[start : start + length], "little")
    return size + 256 * (length == 2) if length else None
