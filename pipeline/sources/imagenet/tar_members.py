"""What lies where in a tar: headers are walked once, members are then read by their byte range, in any order."""

import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.files import is_litter
from pipeline.sources import SourceError, printable
from pipeline.sources.trees import HIDDEN

_BLOCK = 512  # bytes; everything in a tar is padded to it
_MOST_PADDING = 1 << 20  # bytes after the last member; tar itself writes 10 KiB at most, unless told otherwise
_MOST_AT_ONCE = 1 << 24  # bytes that headers read together: long names and PAX records take a few hundred
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"), b"BZh": ("bzip2", "bunzip2"), b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"), b"\x04\x22\x4d\x18": ("lz4", "unlz4"), b"PK\3\4": ("zip", "unzip"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"), b"Rar!": ("rar", "unrar x"), b"\x1f\x9d": ("compress", "uncompress"),
}  # fmt: skip
PACKED_ENDING = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|Z)|tgz|tbz2?|txz|tzst)", re.IGNORECASE)


class Member(NamedTuple):
    name: str
    offset: int  # of its first byte, from the start of the file, also inside a nested tar
    length: int
    left_out: str = ""  # why it is no file to read; "" where it is one


def members(path: Path, offset: int = 0, length: int | None = None) -> Iterator[Member]:
    """Every member of a tar, streamed; `offset` and `length` choose a tar that lies inside another.

    A hard link has the bytes of the member it leads to. tarfile takes a broken header and a zeroed one for the end and
    would lose what follows: where the last member ends, the end mark must stand, and nothing but little padding after
    it. Nothing is believed of a header's sizes: they must lie within the file.
    """
    where = printable(str(path))
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            window = _Window(file.fileno(), offset, size if length is None else length)
            if packed := next((how for magic, how in _PACKED.items() if window.begins(magic)), None):
                inside = " inside" if length is not None else ""
                raise SourceError(f"{where} is {packed[0]}{inside}, not tar: {packed[1]} it")
            end = 0
            files: dict[str, Member] | None = None  # by name, from the first hard link on
            with tarfile.open(fileobj=window, mode="r:") as tar:
                while (header := tar.next()) is not None:
                    _check(header, tar.offset, end, window.length)
                    if header.islnk() and files is None:
                        files = _files_before(window, offset, header.offset)
                    member = _member(header, offset, files or {})
                    if files is not None and not member.left_out:
                        files[posixpath.normpath(member.name)] = member
                    end = tar.offset
                    yield member
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
    except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:  # broken extended headers
        if isinstance(error, SourceError):
            raise
        what = "extended headers without end" if isinstance(error, RecursionError) else printable(str(error))
        raise SourceError(f"{where} is no complete tar ({what}): download it again") from error


def _check(header: tarfile.TarInfo, following: int, end: int, length: int) -> None:
    """Raise where a member's place or size cannot be: negative, backward, beyond the end."""
    name = printable(header.name)
    if header.issparse():
        raise tarfile.ReadError(f"{name} is a sparse file, whose bytes do not lie together; pack it without --sparse")
    if header.offset < end or following <= header.offset or header.size < 0:
        raise tarfile.ReadError(f"{name} claims {header.size:,} bytes, which leads backwards")
    if following > length:
        raise tarfile.ReadError(
            f"{name} claims {header.size:,} bytes, and {max(length - header.offset_data, 0):,} are left"
        )


def _member(header: tarfile.TarInfo, offset: int, files: "dict[str, Member]") -> Member:
    name, start = header.name, offset + header.offset_data
    if any(_is_litter(part) for part in name.split("/")):
        return Member(name, start, header.size, HIDDEN)
    if header.isreg():
        return Member(name, start, header.size)
    if header.islnk():
        target = files.get(posixpath.normpath(header.linkname))
        if target is None:
            return Member(name, start, 0, "a hard link to nothing in its tar")
        return Member(name, target.offset, target.length)
    kind = "a symbolic link" if header.issym() else "a folder" if header.isdir() else "a device, a pipe, or unknown,"
    return Member(name, start, 0, f"{kind} in a tar")


def _files_before(window: "_Window", offset: int, stop: int) -> "dict[str, Member]":
    """The regular files before byte `stop`, that of the first hard link: a second walk, for the few tars with links."""
    found: dict[str, Member] = {}
    position = window.tell()
    window.seek(0)
    with tarfile.open(fileobj=window, mode="r:") as tar:
        while (header := tar.next()) is not None and header.offset < stop:
            if header.isreg():
                name = posixpath.normpath(header.name)
                found[name] = Member(header.name, offset + header.offset_data, header.size)
            tar.members = []  # type: ignore[attr-defined]
    window.seek(position)
    return found


def _is_litter(part: str) -> bool:
    """Of a path's parts: also what unpacking a PAX tar with an old tar leaves."""
    hidden = part.startswith(".") and part not in (".", "..")
    return hidden or part.startswith("PaxHeader") or (is_litter(part) and not part.startswith("#"))


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
        self._descriptor, self._start, self.length, self._position = descriptor, start, length, 0

    def begins(self, magic: bytes) -> bool:
        return os.pread(self._descriptor, min(len(magic), self.length), self._start) == magic

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.length}[whence]
        self._position = origin + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """tarfile asks for as much as a header claims: no more than there is, and no more than headers need."""
        wanted = min(size, max(self.length - self._position, 0))
        if not 0 <= wanted <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header at byte {self._start + self._position:,} claims {size:,} bytes")
        return super().read(wanted) or b""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self.length - self._position)
        if wanted <= 0:
            return 0
        data = os.pread(self._descriptor, wanted, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
