"""Locks, and flushing to the disk."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

_DAY_S = 24 * 3600


def lock_file(path: Path) -> int:
    """An open descriptor of a lock file that holds nothing, made where it is not there; never through a link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def sync_tree(folder: Path) -> None:
    """Flush a folder to the disk with all that is in it."""
    for where, _, names in os.walk(folder):
        for name in names:
            sync(Path(where) / name)
        sync(Path(where))


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk; some file systems know no such thing for folders."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def locked(folder: Path) -> int:
    """An open descriptor of a folder, which holds its lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lock(descriptor)
    return descriptor


def lock(descriptor: int) -> None:
    """Wait for the lock of an open file or folder."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_abandoned(path: Path) -> bool:
    """Whether no process holds it. On a file system without locks: whether nobody has touched it for a day."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or a link, which no writer makes
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > _DAY_S
    finally:
        os.close(descriptor)
    return True
