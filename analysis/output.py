"""Files that appear together or not at all: made in a hidden folder inside the wanted one, moved when all are there.

The wanted folder may be somebody else's: nothing in it is written through a link, and what its list of an earlier
report names is removed only where it is a file that a report writes.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.load import AnalysisError
from analysis.style import rendered
from pipeline import files

_HIDDEN = ".analyze-"
_LISTED = ".files"  # what a page's folder holds of its own, a path a line
_OF_A_REPORT = re.compile(r"(index|teachers)\.html|figures/[\w-]+\.(csv|pdf|png|svg|txt)")


@contextmanager
def all_or_nothing(folder: Path, whole: bool = False) -> Iterator[Path]:
    """A folder to write in, whose files go to `folder` once all is done; nothing does where an error ends it.

    `whole`: of a report; what an earlier one left in `folder` and this one does not write again is removed; nothing
    else is. What killed ones left is cleared away.
    """
    if re.match(r"\w+:/", str(folder)):
        raise AnalysisError(f"--out must be a folder of this machine, got {folder}: copy it from there")
    with ExitStack() as stack:
        try:
            made = _begin(folder, stack, whole)
        except (OSError, RuntimeError) as error:
            raise _cannot_write(folder, error) from error
        try:
            yield made
        except OSError as error:
            if error.filename and made not in Path(os.fsdecode(error.filename)).parents:
                raise  # of something that was read
            raise _cannot_write(folder, error) from error
        try:
            _move(made, folder, whole)
        except OSError as error:
            raise _cannot_write(folder, error) from error


def _begin(folder: Path, stack: ExitStack, whole: bool) -> Path:
    """Make the hidden folder; the end of `stack` takes it away again, and `folder` where it was made for nothing."""
    if blocked := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise AnalysisError(f"--out {blocked} is a file: choose a folder")
    if not folder.exists():
        folder.mkdir(parents=True)
        stack.callback(_remove_empty, folder)
    if whole and (folder / "figures").is_symlink():
        files.folder_in(folder, "figures")  # refuses it before any work
    with _locked(folder):  # nobody clears away a folder that is not locked yet
        for left in folder.glob(f"{_HIDDEN}*"):
            with suppress(OSError), _locked(left, wait=False) as held:
                if held:  # by nobody else: its maker is gone
                    files.remove(left)
        made = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=folder))
        stack.callback(files.remove, made)
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
    """To the disk first: a folder of files that are named and empty is worse than none."""
    moved = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    before = _listed(folder) if whole else set()
    if whole:
        (made / _LISTED).write_text("\n".join(map(str, moved)), "utf-8")
        moved.append(Path(_LISTED))
    files.sync_tree(made)
    for file in moved:
        _replace(made / file, files.folder_in(folder, *file.parent.parts) / file.name)
    for stale in before - set(map(str, moved)):
        (folder / stale).unlink(missing_ok=True)
    for changed in {(folder / file).parent for file in moved}:
        files.sync(changed)


def _listed(folder: Path) -> set[str]:
    """Of what the folder's list says is an earlier report's: files there that a report writes."""
    try:
        names = files.read_bytes(folder / _LISTED, most=1 << 20).decode().split("\n")
    except (OSError, ValueError):  # of no list, or none that can be read
        return set()
    return {
        name
        for name in names
        if _OF_A_REPORT.fullmatch(name)
        and not any(path.is_symlink() for path in (folder / name, (folder / name).parent) if path != folder)
        and (folder / name).is_file()
    }


def _replace(made: Path, target: Path) -> None:
    try:
        os.replace(made, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with made.open("rb") as source, files.writing(target) as file:  # a subfolder may lie on another disk
            shutil.copyfileobj(source, file)


def _cannot_write(folder: Path, error: OSError | RuntimeError) -> AnalysisError:
    told = files.cannot_write(folder, error if isinstance(error, OSError) else OSError(str(error)))
    return AnalysisError(f"{told} --out")


def write(path: Path, content: bytes | str) -> Path:
    """Write `content` (text as UTF-8) to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
    return path


def write_frame(path: Path, frame: pd.DataFrame) -> Path:
    """CSV with six significant digits."""
    return write(path, frame.to_csv(index=False, float_format="%.6g"))


def write_figure(
    folder: Path, name: str, figure: Figure, frames: dict[str, pd.DataFrame], caption: str = ""
) -> list[Path]:
    """`folder/name.{pdf,svg,png}`, `folder/name<suffix>.csv` for each frame and the caption as `folder/name.txt`.

    The caption is in the pictures' metadata too.
    """
    paths = [write(folder / f"{name}.{kind}", content) for kind, content in rendered(figure, caption).items()]
    if caption:
        paths.append(write(folder / f"{name}.txt", f"{caption}\n"))
    return paths + [write_frame(folder / f"{name}{suffix}.csv", frame) for suffix, frame in frames.items()]
