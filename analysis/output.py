"""Files that appear whole or not at all: written under a temporary name and renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.load import AnalysisError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write(path: Path, content: bytes | str) -> Path:
    """Write `content` (text as UTF-8) to `path`, making its folder."""
    if blocked := next((p for p in path.parents if p.exists() and not p.is_dir()), None):
        raise AnalysisError(f"--out {blocked} is a file: choose a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise AnalysisError(f"cannot write {path} ({reason}): make room, or choose another --out") from error
        raise
    return path


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to write in, whose files go to `folder` once all is done; nothing does where an error ends it."""
    if blocked := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise AnalysisError(f"--out {blocked} is a file: choose a folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield made
        for file in sorted(path for path in made.rglob("*") if path.is_file()):
            target = folder / file.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_frame(path: Path, frame: "pd.DataFrame") -> Path:
    """CSV with six significant digits."""
    return write(path, frame.to_csv(index=False, float_format="%.6g"))


def write_figure(folder: Path, name: str, figure: "Figure", frames: "dict[str, pd.DataFrame]") -> list[Path]:
    """`folder/name.{pdf,svg,png}` and `folder/name<suffix>.csv` for each frame; the figure is closed."""
    from analysis.style import close, rendered

    try:
        paths = [write(folder / f"{name}.{kind}", rendered(figure, kind)) for kind in ("pdf", "svg", "png")]
    finally:
        close(figure)
    return paths + [write_frame(folder / f"{name}{suffix}.csv", frame) for suffix, frame in frames.items()]
