"""Files and folders that appear whole or not at all, and what a kill leaves of them.

All three stages write by it, so that one rule holds for all: what is made lies under a hidden name of its own beside
the wanted one, is flushed to the disk, and takes the wanted name at the end. Below the folder that a user names no link
is followed for writing: a folder may be somebody else's, links and all. Imports nothing heavy.

    .NAME.<8 hex digits>.partial   being made; its maker holds a lock, which ends with the process
    .NAME.<8 hex digits>.old       what NAME was, between two renames
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.files.disk import is_abandoned, lock, locked, sync, sync_tree

_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old|removed)")
_EARLIER = re.compile(  # as earlier versions named them, of names that are surely ours
    r"\.(?P<name>(?:best|(?:step|epoch)-\d+|[^.].*\.zarr)(?=\.(?:partial|old|removed|replaced)\Z)"
    r"|[a-z0-9-]+\.(?:json|jsonl|tar|units|ends|damaged|png)(?=\.(?:.+-\d+-\d+\.)?partial\Z))"
    r"\.(?:.+-\d+-\d+\.)?(?P<kind>partial|old|removed|replaced)"
)


class WriteError(UserError):
    """Something cannot be written, and nothing was changed; one line that names it, the cause and the fix."""


# --- what a kill left ----------------------------------------------------------------------------------------------


def whole(path: Path) -> Path:
    """`path`, or what it was, where a kill between two renames has left that aside; `path` where there is neither."""
    if not os.path.lexists(path):
        for found in _hidden_of(path, ("old", "replaced")):
            return found
    return path


def set_aside(folder: Path, ending: str = "") -> list[Path]:
    """What a kill between two renames has left aside in a folder, and of which nothing else is there: see `whole`."""
    names = os.listdir(folder) if folder.is_dir() else []
    matches = [match for match in map(_matched, names) if match and match["kind"] in ("old", "replaced")]
    lost = sorted({match["name"] for match in matches if match["name"].endswith(ending)} - {*names})
    return [whole(folder / name) for name in lost]


# --- writing -------------------------------------------------------------------------------------------------------


def folder_in(root: Path, *names: str) -> Path:
    """root/name/..., made where it is not there. `root` may be a link; below it a link is refused, not followed."""
    refuse_links(root, *names)
    folder = root.joinpath(*names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def refuse_links(root: Path, *names: str) -> None:
    """WriteError where root/name/... leads through a link below `root`: nothing is written or deleted there."""
    folder = root
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            raise WriteError(
                f"{folder} is a link to {os.readlink(folder)}, and nothing is written through links inside {root}: "
                "put a folder in its place"
            )


def check_writable(path: Path) -> None:
    """WriteError where nothing could be written at `path`: to be asked before hours of work. Makes no folder."""
    folder = next(p for p in (path.parent, *path.absolute().parents) if p.exists())
    try:
        partial, file = _opened(folder / path.name)
    except OSError as error:
        raise cannot_write(path, error) from error
    file.close()
    partial.unlink()


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """`with writing(path) as file:` a seekable binary file that takes the place of `path` once the block ends well.

    Where it ends badly nothing changes. A link at `path` is replaced, not followed. WriteError where it cannot be.
    """
    try:
        partial, file = _opened(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)
        except OSError as error:
            if error.filename not in (None, str(partial), str(path)):
                raise  # of something else that was read
            raise cannot_write(path, error) from error
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str) -> Path:
    """Put `content` (text as UTF-8) at `path`, whole or not at all."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """`with making(folder) as made:` a hidden folder that takes the place of `folder` once the block ends well.

    WriteError where another process makes the same folder, and where it cannot be made. What killed makers of this
    folder left is put right first.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        mend(folder)
        if others := _hidden_of(folder, ("partial",)):
            raise WriteError(
                f"another process is writing {folder} ({others[0].name}): wait for it, or choose another place"
            )
        made = _beside(folder, "partial")
        made.mkdir()
        lock = locked(made)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        try:
            yield made
            put(made, folder)
        except OSError as error:
            if error.filename is not None and made not in Path(os.fsdecode(error.filename)).parents:
                raise
            raise cannot_write(folder, error) from error
    except BaseException:
        remove(made)
        raise
    finally:
        os.close(lock)


def put(made: Path, folder: Path) -> None:
    """Let a finished folder take the place of another: to the disk first, the other aside, deleted last."""
    sync_tree(made)
    old = _beside(folder, "old")
    try:
        if os.path.lexists(folder):
            os.replace(folder, old)
        os.replace(made, folder)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(folder):
            os.replace(old, folder)
        raise
    sync(folder.parent)
    remove(old)


def take_away(path: Path) -> None:
    """Delete a file or folder; renamed first, so that no half of it ever has its name."""
    removed = _beside(path, "removed")
    os.replace(path, removed)
    remove(removed)


def remove(path: Path) -> None:
    """Delete what is at `path`, if anything; of a link the link alone. What cannot be deleted is left to a sweep."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Put right what killed writers left in a folder: finish or undo their replacements, delete their halves.

    What a living process is making stays.
    """
    with suppress(OSError):
        for hidden in sorted(os.listdir(folder)):
            _mend(folder, hidden)


def mend(path: Path) -> None:
    """The same for one file or folder alone: what lies beside it may be anybody's."""
    with suppress(OSError):
        for hidden in os.listdir(path.parent):
            _mend(path.parent, hidden, path.name)


def _mend(folder: Path, hidden: str, of: str | None = None) -> None:
    found, path = _matched(hidden), folder / hidden
    if found is None or of not in (None, found["name"]):
        return
    kind, name = found["kind"], folder / found["name"]
    if kind in ("old", "replaced") and not os.path.lexists(name):
        os.replace(path, name)
    elif kind != "partial" or is_abandoned(path):
        remove(path)


def _matched(name: str) -> re.Match[str] | None:
    return _HIDDEN.fullmatch(name) or _EARLIER.fullmatch(name)


def is_hidden(name: str) -> bool:
    """Whether a name is one that writers here use until all is done."""
    return _matched(name) is not None


def cannot_write(path: Path, error: OSError) -> WriteError:
    """What to tell of a failed write."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "make room" if full else "make that place writable"
    return WriteError(f"cannot write {path} ({error.strerror or error}): {fix}, or choose another")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _hidden_of(path: Path, kinds: Iterable[str]) -> list[Path]:
    """Hidden files of `path`, newest first."""
    found = []
    with suppress(OSError):
        for hidden in os.listdir(path.parent):
            match = _matched(hidden)
            if match and match["name"] == path.name and match["kind"] in kinds:
                found.append(path.with_name(hidden))
    return sorted(found, key=lambda each: os.lstat(each).st_mtime_ns, reverse=True)


def _opened(path: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside `path`, locked; not one that a sweep took away before it was."""
    while True:
        partial = _beside(path, "partial")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            return partial, open(descriptor, "w+b")
        os.close(descriptor)
