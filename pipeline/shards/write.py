"""Writing: a tar and its JSON, each whole or not at all, with the same bytes for the same samples."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.shards.records import Reject, SampleEntry, ShardRecord
from pipeline.standardize import Moments


def png_bytes(array: NDArray[np.uint8]) -> bytes:
    """Lossless PNG of (height, width, 3) RGB or (height, width) labels."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_shard(
    folder: Path,
    name: str,
    samples: Iterable[tuple[str, Mapping[str, bytes]]],
    *,
    num_listed: int,
    rejects: Collection[Reject],
    moments: Mapping[str, Moments],
    max_error_z: Mapping[str, float],
) -> ShardRecord:
    """Write `name`.tar then `name`.json; `samples` are (key, extension -> bytes) in the order they shall have."""
    entries = []
    tar_path = folder / f"{name}.tar"
    partial = tar_path.with_name(f".{tar_path.name}.partial")
    try:
        with open(partial, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for key, members in samples:
                    ranges = {}
                    for extension in sorted(members):
                        data = members[extension]
                        info = tarfile.TarInfo(f"{key}.{extension}")
                        info.size, info.mode = len(data), 0o644
                        tar.addfile(info, io.BytesIO(data))
                        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                        ranges[extension] = (tar.offset - padded, len(data), zlib.crc32(data))
                    entries.append(SampleEntry(key=key, members=ranges))
            file.flush()
            os.fsync(file.fileno())
        record = ShardRecord(
            name=name,
            bytes=partial.stat().st_size,
            sha256=file_sha256(partial),
            num_listed=num_listed,
            samples=entries,
            rejects=list(rejects),
            moments={field: (m.count, m.mean, m.sum_sq_dev) for field, m in moments.items()},
            max_error_z=dict(max_error_z),
        )
        os.replace(partial, tar_path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    write_atomically(folder / f"{name}.json", record.model_dump_json().encode())
    return record


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
