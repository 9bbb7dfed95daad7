"""Files that appear together or not at all: made in a hidden folder inside the wanted one, moved when all are there."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.load import AnalysisError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_HIDDEN = ".analyze-"
_LISTED = ".files"  # what a page's folder holds of its own, a path a line


@contextmanager
def all_or_nothing(folder: Path, whole: bool = False) -> Iterator[Path]:
    """A folder to write in, whose files go to `folder` once all is done; nothing does where an error ends it.

    `whole`: what an earlier one left in `folder` and this one does not write again is removed; nothing else is. What
    killed ones left is cleared away.
    """
    if re.match(r"\w+:/", str(folder)):
        raise AnalysisError(f"--out must be a folder of this machine, got {folder}: copy it from there")
    with ExitStack() as stack:
        try:
            made = _begin(folder, stack)
        except (OSError, RuntimeError) as error:
            raise _cannot_write(folder, error) from error
        try:
            yield made
        except OSError as error:
            if error.filename and made not in Path(error.filename).parents:
                raise  # of something that was read
            raise _cannot_write(folder, error) from error
        try:
            _move(made, folder, whole)
        except OSError as error:
            raise _cannot_write(folder, error) from error


def _begin(folder: Path, stack: ExitStack) -> Path:
    """Make the hidden folder; the end of `stack` takes it away again, and `folder` where it was made for nothing."""
    if blocked := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise AnalysisError(f"--out {blocked} is a file: choose a folder")
    if not folder.exists():
        folder.mkdir(parents=True)
        stack.callback(_remove_empty, folder)
    with _locked(folder):  # nobody clears away a folder that is not locked yet
        for left in folder.glob(f"{_HIDDEN}*"):
            with _locked(left, wait=False) as held:
                if held:  # by nobody else: its maker is gone
                    shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=folder))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        stack.enter_context(_locked(made))
    return made


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Whether it is held, until the end or that of the process: not where another holds it and this is not to wait,
    nor where the file system has no locks.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def _move(made: Path, folder: Path, whole: bool) -> None:
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    listed = folder / _LISTED
    before = listed.read_text("utf-8").split("\n") if whole and listed.is_file() else []
    if whole:
        (made / _LISTED).write_text("\n".join(map(str, files)), "utf-8")
        files.append(Path(_LISTED))
    for file in files:
        _replace(made / file, folder / file)
    for stale in set(filter(None, before)) - set(map(str, files)):
        (folder / stale).unlink(missing_ok=True)


def _replace(made: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(made, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.partial")  # a subfolder may lie on another disk
        shutil.copyfile(made, beside)
        os.replace(beside, target)


def _cannot_write(folder: Path, error: OSError | RuntimeError) -> AnalysisError:
    reason = getattr(error, "strerror", None) or error
    return AnalysisError(f"cannot write to {folder} ({reason}): make room, or choose another --out")


def write(path: Path, content: bytes | str) -> Path:
    """Write `content` (text as UTF-8) to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_frame(path: Path, frame: "pd.DataFrame") -> Path:
    """CSV with six significant digits."""
    return write(path, frame.to_csv(index=False, float_format="%.6g"))


def write_figure(
    folder: Path, name: str, figure: "Figure", frames: "dict[str, pd.DataFrame]", caption: str = ""
) -> list[Path]:
    """`folder/name.{pdf,svg,png}`, `folder/name<suffix>.csv` for each frame and the caption as `folder/name.txt`.

    The caption is in the pictures' metadata too. The figure is closed.
    """
    from analysis.style import close, rendered

    try:
        paths = [write(folder / f"{name}.{kind}", content) for kind, content in rendered(figure, caption).items()]
    finally:
        close(figure)
    if caption:
        paths.append(write(folder / f"{name}.txt", f"{caption}\n"))
    return paths + [write_frame(folder / f"{name}{suffix}.csv", frame) for suffix, frame in frames.items()]
