"""What in a folder is data, and reading it where it may be anybody's: no pipe is waited for, no number believed."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from pipeline.errors import plain

_LITTER = re.compile(
    r"\.DS_Store|\._.*|\.git(keep|ignore|attributes)?|Thumbs\.db|ehthumbs\.db|desktop\.ini|Icon\r|__MACOSX|@eaDir|#recycle"
    r"|\.(AppleDouble|Trashes|Spotlight-V100|fseventsd|directory|localized|ipynb_checkpoints|cache|thumbnails|snapshot)"
    r"|\.(nfs|fuse_hidden|Trash|~lock\.|goutputstream|syncthing\.|stfolder|dropbox).*|\$RECYCLE\.BIN"
    r"|lost\+found|System Volume Information|.*~|~\$.*|\.?#.*|\..*\.sw[a-p]|.*\.(bak|orig|tmp)",
    re.IGNORECASE,
)


class ReadError(ValueError):
    """A file is there and cannot be what it should be: for the caller to name, with the fix."""


def is_litter(name: str) -> bool:
    """Whether a name is what systems, clouds, editors and git leave behind anywhere: nobody's data."""
    return _LITTER.fullmatch(name) is not None


def listed(folder: Path, ending: str = "") -> list[Path]:
    """What lies in a folder and ends so, by name, without hidden files and litter; nothing where there is no folder."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / n for n in names if n.endswith(ending) and not n.startswith(".") and not is_litter(n)]


def read_bytes(path: Path, most: int) -> bytes:
    """A regular file's bytes; ReadError where it is something else (a pipe would wait for ever) or claims over `most`.

    OSError as usual.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("a folder" if stat.S_ISDIR(status.st_mode) else "no regular file")
        if status.st_size > most:
            raise ReadError(f"{status.st_size:,} bytes, more than {most:,}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(min(status.st_size, most) + 1)
    finally:
        os.close(descriptor)


def parsed_json(data: bytes | str) -> Any:
    """JSON from outside: whatever is wrong with it, however deeply it is nested, is one ReadError."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ReadError("nested too deeply") from None
    except ValueError as error:  # also of bytes that are no text, and of numbers of thousands of digits
        raise ReadError(str(error).splitlines()[0]) from None


def too_deep(value: Any, deepest: int = 16) -> bool:
    """Whether dicts and lists are nested deeper than any configuration: walking them could exhaust the stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(deepest):
        inner = (v for each in level for v in (each.values() if isinstance(each, dict) else each))
        level = [v for v in inner if isinstance(v, dict | list)]
    return bool(level)


def reason(error: Exception) -> str:
    """What is wrong with something that was read, on one line: for a ValidationError its first field and value."""
    text = str(error)
    if hasattr(error, "errors"):
        first = error.errors(include_url=False)[0]
        where, text = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
        try:
            value = f"{first['input']!r:.40}"
        except (RecursionError, ValueError):
            value = type(first["input"]).__name__
        text = f"{where:.100}: {text}, got {value}" if where else text
    return plain(" ".join(text.split()))[:300]
