"""CONTRACT: the Zarr store a dump lives in (`schema` says what is in it): writer, reader, refusals. No torch.

Zarr reads a deleted chunk as its fill value and a flipped bit as data. So chunks carry a CRC-32C and attributes a
SHA-256, every chunk is written even where it is empty and must be there when a dump is opened, numbers that were never
written are NaN, and the store is written beside its final name and renamed when all is done. Raw scores and block
outputs are in shards of whole images, written by one process at once.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import ValidationError
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline.errors import UserError
from training.dumps.schema import KEY_BYTES, SCHEMA_VERSION, DumpInfo, Spec, arrays

SHARD = 16  # images of raw scores and outputs in a file; batches begin at multiples of it
_ROWS_PER_CHUNK = 64  # images; a chunk is written as often as a batch ends in it
_CHUNK_BYTES = 4 << 20
_CHECKSUM = "sha256"  # of the other attributes
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DumpError(UserError):
    """A dump is missing, incomplete, damaged or newer than this version; the message names what and the fix."""


class DumpWriter:
    """`with DumpWriter(path, info) as dump: dump.write(name, first, rows)`; commits on a clean exit."""

    def __init__(self, path: Path, info: DumpInfo) -> None:
        _refuse_to_replace(path, info)
        self.path, self.info = path, info
        self.partial = path.with_name(f".{path.name}.partial")
        self._arrays: dict[str, zarr.Array] = {}
        self._lock: int

    def __enter__(self) -> "DumpWriter":
        self._take()
        try:
            self._create()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _create(self) -> None:
        group = zarr.open_group(self.partial, mode="a")  # "w" would remove the folder, and the lock on it
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
                compressors=[Crc32cCodec()] if name.startswith("raw/") else [ZstdCodec(level=3), Crc32cCodec()],
                config={"write_empty_chunks": True},
            )

    def _take(self) -> None:
        """Make the partial store, or take over what a killed process left; refuse one that a live process writes.

        Two writers of one shard would lose rows without a word. The lock is on the folder and ends with the process.
        """
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.partial, os.O_RDONLY)
        except OSError as error:
            raise DumpError(f"cannot make {self.partial} ({error.strerror}): choose another --out") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DumpError(f"another process is writing {self.path}: wait for it, or choose another --out") from None
        except OSError:
            pass  # a file system without locks
        for left in self.partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()

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

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is not None:
                shutil.rmtree(self.partial, ignore_errors=True)
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise DumpError(
                        f"cannot write {self.path} ({error.strerror}): make room, or choose another --out"
                    ) from error
            elif self.path.exists():
                replaced = self.path.with_name(f".{self.path.name}.replaced")
                shutil.rmtree(replaced, ignore_errors=True)
                os.replace(self.path, replaced)
                os.replace(self.partial, self.path)
                replaced.unlink() if replaced.is_symlink() else shutil.rmtree(replaced)
            else:
                os.replace(self.partial, self.path)
        finally:
            os.close(self._lock)


def _checksum(attributes: dict[str, Any]) -> str:
    """Of the attributes, whatever their order and spacing: a chunk's checksum does not cover what it means."""
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def _refuse_to_replace(path: Path, info: DumpInfo) -> None:
    """A dump replaces one of the same run, whole or damaged, unless that holds more of the same checkpoint."""
    if not path.exists():
        return
    try:
        there = json.loads((path / "zarr.json").read_bytes())["attributes"]
        run, study = there["run"], there["study_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DumpError(f"{path} exists and is no dump: choose another --out, or remove it") from None
    if (run, study) != (info.run, info.study_hash):
        raise DumpError(
            f"{path} holds a dump of another run ({run}, study {study}; this is {info.run}, study {info.study_hash}): "
            "choose another --out, or remove it"
        )
    held = {name: there.get(f"num_{name}", 0) for name in ("images", "raw", "causal")}
    asked = {name: getattr(info, f"num_{name}") for name in held}
    current = there.get("schema_version") == SCHEMA_VERSION
    same = current and there.get("checkpoint_sha256") == info.checkpoint_sha256
    if same and any(held[name] > asked[name] for name in held):
        more, less = (", ".join(f"{count:,} {name}" for name, count in each.items()) for each in (held, asked))
        raise DumpError(
            f"{path} holds {more} of this checkpoint, and {less} were asked for: ask for no less, choose another "
            "--out, or remove it"
        )


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
    bytes_per_row = max(1, int(np.prod(shape[1:])) * np.dtype(spec.dtype).itemsize)
    rows = max(1, _CHUNK_BYTES // bytes_per_row)
    return (min(shape[0], rows, _ROWS_PER_CHUNK if spec.by_image else rows), *shape[1:]), None


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
        try:
            values = np.asarray(self._array(name)[rows])
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise DumpError(f"{self.path}: array {name} is damaged ({error}): {_REDO}") from None
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise DumpError(f"{self.path}: array {name} has missing chunks or values: {_REDO}")
        return values

    def keys(self) -> list[str]:
        return [bytes(row).rstrip(b"\0").decode() for row in self["image_keys"]]

    def _array(self, name: str) -> zarr.Array:
        try:
            array = self.group[name]
        except KeyError:
            raise DumpError(f"{self.path}: array {name} is missing: {_REDO}") from None
        except (ValueError, TypeError, AttributeError) as error:  # its zarr.json cannot be parsed, or means nothing
            raise DumpError(f"{self.path}: array {name} is damaged ({error}): {_REDO}") from None
        if not isinstance(array, zarr.Array):
            raise DumpError(f"{self.path}: array {name} is damaged (a {type(array).__name__} in its place): {_REDO}")
        return array

    def check(self) -> None:
        """Every array there, of its shape and with all its chunks, every image done; raises DumpError."""
        specs = arrays(self.info)
        for name, spec in specs.items():
            if self._array(name).shape != spec.shape:
                got = self._array(name).shape
                raise DumpError(f"{self.path}: array {name} has shape {got}, expected {spec.shape}: {_REDO}")
        done = int(self["images_done"].sum())
        if done != self.info.num_images:
            raise DumpError(f"{self.path} is incomplete, {done} of {self.info.num_images} images: {_REDO}")
        for name in specs:
            expected = _num_chunks(self._array(name))
            if (there := self._array(name).nchunks_initialized) != expected:
                raise DumpError(f"{self.path}: array {name} has {there} of {expected} chunks: {_REDO}")


def _num_chunks(array: zarr.Array) -> int:
    """As zarr counts the chunks that are there: those of a shard all at once."""
    files = array.shards or array.chunks
    count = 1
    for size, file, chunk in zip(array.shape, files, array.chunks, strict=True):
        count *= -(-size // file) * -(-file // chunk)
    return count


_REDO = "make it again with train dump, or remove it"


def open_dump(path: Path | str) -> Dump:
    """Open and check a dump: schema, every array present with its shape and chunks, every image done."""
    path = Path(path)
    if not path.is_dir():
        raise DumpError(f"dump {path} does not exist: make it with train dump")
    if not (path / "zarr.json").exists():
        raise DumpError(f"{path} is no dump, it has no zarr.json: remove it, or move it elsewhere")
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise DumpError(
            f"{path} is not a Zarr store that can be read ({str(error).splitlines()[0]}): {_REDO}"
        ) from None
    version = attributes.get("schema_version", 0)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DumpError(f"{path} has schema version {version}, this version reads {SCHEMA_VERSION}: use a newer one")
    if version != SCHEMA_VERSION:
        raise DumpError(f"{path} has schema version {version}, this version reads {SCHEMA_VERSION}: {_REDO}")
    written = attributes.pop(_CHECKSUM, None)
    try:
        info = DumpInfo.model_validate(attributes)
    except ValidationError as error:
        raise DumpError(f"{path} is not a dump of train dump ({str(error).splitlines()[0]}): {_REDO}") from None
    if written != _checksum(attributes):
        raise DumpError(f"{path}: its attributes are not those it was written with (checksum differs): {_REDO}")
    dump = Dump(path, info, group)
    dump.check()
    return dump
