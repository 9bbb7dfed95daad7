"""What lies where in a tar: headers are walked once, members are then read by their byte range, in any order."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.sources import SourceError, printable

_BLOCK = 512  # bytes; everything in a tar is padded to it
_MOST_PADDING = 1 << 20  # bytes after the last member; tar itself writes 10 KiB at most, unless told otherwise


class Member(NamedTuple):
    name: str
    offset: int  # of its first byte, from the start of the file, also inside a nested tar
    length: int


def members(path: Path, offset: int = 0, length: int | None = None) -> Iterator[Member]:
    """The regular files of a tar, streamed; `offset` and `length` choose a tar that lies inside another.

    tarfile takes a broken header and a zeroed one for the end and would lose what follows: where the last member ends,
    the end mark must stand, and nothing but little padding after it.
    """
    try:
        with open(path, "rb") as file:
            window = _Window(file.fileno(), offset, os.fstat(file.fileno()).st_size if length is None else length)
            end = 0
            with tarfile.open(fileobj=window, mode="r:") as tar:
                while (header := tar.next()) is not None:
                    end = header.offset_data
                    if header.isreg():
                        end += -(-header.size // _BLOCK) * _BLOCK
                        yield Member(header.name, offset + header.offset_data, header.size)
                    tar.members = []  # type: ignore[attr-defined]  # else it remembers every header
            padding = window.seek(0, os.SEEK_END) - end
            window.seek(end)
            tail = window.read(min(padding, _MOST_PADDING))
            if tail[:_BLOCK] != bytes(_BLOCK):
                raise tarfile.ReadError(f"no member and no end mark at byte {offset + end:,}")
            if len(tail) < padding or tail.strip(b"\0"):
                raise tarfile.ReadError(f"more than a little padding after the end mark at byte {offset + end:,}")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (tarfile.TarError, ValueError) as error:  # ValueError: numbers in broken extended headers
        raise SourceError(f"{printable(str(path))} is no complete tar ({error}): download it again") from error


def read_range(path: Path, offset: int, length: int) -> bytes:
    """A member's bytes. The tar is opened anew each time: thousands of tars would need thousands of descriptors."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) != length:
        raise SourceError(
            f"{printable(str(path))} is shorter than when it was listed: put it back, or choose a new folder to write"
        )
    return data


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{printable(str(path))} cannot be read ({error.strerror}): run the job again when it can")


class _Window(io.RawIOBase):
    """A range of a file as a file of its own."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length, self._position = descriptor, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:
            return 0
        data = os.pread(self._descriptor, wanted, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
