"""Where shards lie: a local folder, or a folder at any fsspec URL, behind the few operations that shards need.

Whatever appears under a name appears whole: a local file is written beside it, flushed to disk and renamed; a remote
object is uploaded from a finished temporary file.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from pipeline import files

_MOST_BYTES = 4 << 30  # of what is read whole: the JSON of a shard of ten million samples


class StorageError(OSError):
    """A folder or URL cannot be used; one line that names it and the cause."""


class Store(Protocol):
    """A folder. Names are plain file names; a missing one raises FileNotFoundError, other failures OSError."""

    local: Path | None  # the folder itself, where it is one of this machine

    def __str__(self) -> str: ...
    def __truediv__(self, name: str) -> "Store": ...
    def sizes(self) -> dict[str, int]:
        """name -> bytes of every file directly in the folder; empty where there is no folder."""

    def folders(self) -> list[str]:
        """Names of the folders directly in it, sorted; none where there is no folder."""

    def read(self, name: str) -> bytes: ...
    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Fewer bytes than `length` where the file ends before."""

    def writing(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """`with store.writing(name) as file:` a seekable binary file, published under `name` when the block ends well.

        Where it ends badly nothing changes.
        """

    def delete(self, name: str) -> None:
        """Does nothing where there is no such file."""

    def local_copy(self, name: str) -> IO[bytes]:
        """The file as an open file of this machine, for mapping into memory."""


def exists(store: Store, name: str) -> bool:
    return name in store.sizes() if store.local is None else (store.local / name).exists()


def publish(store: Store, name: str, data: bytes) -> None:
    """Publish `data` under `name`, whole or not at all."""
    with store.writing(name) as file:
        file.write(data)


def sha256_of(file: IO[bytes]) -> str:
    """SHA-256, in hex, of an open file from its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def open_store(location: "str | os.PathLike[str] | Store") -> Store:
    """A local path, or a URL such as s3://bucket/prefix or memory://name (the protocol's package must be installed)."""
    if not isinstance(location, str | os.PathLike):
        return location
    text = os.fspath(location)
    if "://" not in text:
        return LocalStore(Path(text).expanduser())
    if text.startswith("file://"):
        return LocalStore(Path(text.removeprefix("file://")))
    return RemoteStore.at(text)


class LocalStore:
    """A folder of this machine. `inside` are the names by which it was reached from the folder that was named."""

    def __init__(self, folder: Path, inside: tuple[str, ...] = ()) -> None:
        self.local: Path | None = folder
        self.folder, self._inside = folder, inside

    def __str__(self) -> str:
        return str(self.folder)

    def __truediv__(self, name: str) -> "LocalStore":
        return LocalStore(self.folder / name, (*self._inside, name))

    def sizes(self) -> dict[str, int]:
        try:
            with os.scandir(self.folder) as entries:
                return {e.name: e.stat().st_size for e in entries if not _is_nobodys(e.name) and e.is_file()}
        except FileNotFoundError:
            return {}

    def folders(self) -> list[str]:
        try:
            with os.scandir(self.folder) as entries:
                return sorted(e.name for e in entries if not _is_nobodys(e.name) and e.is_dir())
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        try:
            return files.read_bytes(self.folder / name, _MOST_BYTES)
        except files.ReadError as error:
            raise StorageError(f"{self.folder / name} is no file that can be read: {error}") from None

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        with open(self.folder / name, "rb") as file:
            return os.pread(file.fileno(), length, offset)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        # Two processes may write the same file (the same bytes): each beside it, under a name of its own.
        with files.writing(files.folder_in(self._root, *self._inside) / name) as file:
            yield file

    @property
    def _root(self) -> Path:
        """The folder that was named."""
        return self.folder.parents[len(self._inside) - 1] if self._inside else self.folder

    def sweep(self) -> None:
        """Remove what killed writers left."""
        files.refuse_links(self._root, *self._inside)
        files.sweep(self.folder)

    def delete(self, name: str) -> None:
        files.refuse_links(self._root, *self._inside)
        (self.folder / name).unlink(missing_ok=True)

    def local_copy(self, name: str) -> IO[bytes]:
        descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for ever
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StorageError(f"{self.folder / name} must be a file")
        return open(descriptor, "rb")


def _is_nobodys(name: str) -> bool:
    return files.is_hidden(name) or files.is_litter(name)


class RemoteStore:
    """A folder of an fsspec file system. Listings are never taken from its cache: other ranks write there too."""

    local: Path | None = None

    def __init__(self, fs: Any, folder: str, url: str) -> None:
        self.fs, self.folder, self.url = fs, folder.rstrip("/"), url.rstrip("/")

    @classmethod
    def at(cls, url: str) -> "RemoteStore":
        import fsspec

        try:
            fs, folder = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"{url} cannot be opened: {error}") from None
        return cls(fs, folder, url)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemoteStore":
        return RemoteStore(self.fs, f"{self.folder}/{name}", f"{self.url}/{name}")

    def sizes(self) -> dict[str, int]:
        return {name: int(info["size"] or 0) for name, info in self._listed() if info["type"] == "file"}

    def folders(self) -> list[str]:
        return sorted(name for name, info in self._listed() if info["type"] == "directory")

    def _listed(self) -> list[tuple[str, dict[str, Any]]]:
        def look() -> list[dict[str, Any]]:
            self.fs.invalidate_cache()
            return self.fs.ls(self.folder, detail=True)

        try:
            found = self._try("listed", look)
        except FileNotFoundError:
            return []
        return [(info["name"].rstrip("/").rsplit("/", 1)[-1], info) for info in found]

    def read(self, name: str) -> bytes:
        return self._try("read", lambda: self.fs.cat_file(f"{self.folder}/{name}"), name)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        def fetch() -> bytes:
            return self.fs.cat_file(f"{self.folder}/{name}", start=offset, end=offset + length)

        return self._try("read", fetch, name) if length else b""

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        with tempfile.NamedTemporaryFile(prefix="pseudodepth-") as file:
            yield file
            file.flush()
            try:
                self._try("written", lambda: self.fs.put_file(file.name, f"{self.folder}/{name}"), name)
            except FileNotFoundError as error:
                raise StorageError(f"{self.url}/{name} cannot be written: {error}") from None

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._try("deleted", lambda: self.fs.rm_file(f"{self.folder}/{name}"), name)

    def local_copy(self, name: str) -> IO[bytes]:
        copy = tempfile.TemporaryFile(prefix="pseudodepth-")  # noqa: SIM115 (the caller closes it)
        with self._try("read", lambda: self.fs.open(f"{self.folder}/{name}", "rb"), name) as remote:
            shutil.copyfileobj(remote, copy, 1 << 22)
        copy.flush()
        return copy

    def _try(self, what: str, act: Callable[[], Any], name: str = "") -> Any:
        """Each protocol raises errors of its own (no credentials, no route): they are the user's, in one line."""
        try:
            return act()
        except FileNotFoundError:
            raise
        except Exception as error:
            where = f"{self.url}/{name}" if name else self.url
            raise StorageError(f"{where} cannot be {what}: {' '.join(str(error).split()) or error!r}") from error
