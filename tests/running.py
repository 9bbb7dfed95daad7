"""How tests run the three commands, and a few bytes to run them on."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import numpy as np
from forking import Forked
from PIL import Image

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def spawn(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a console script as a user would, in a process of its own; stdout and stderr are captured."""
    return subprocess.run(
        [str(BIN / str(arguments[0])), *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
        check=False,
    )


def begin(line: Sequence[object], stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL) -> Forked:
    """The same, going on while the test does, in a process that begins with torch imported (see forking.py)."""
    return Forked(line, env=os.environ, stdout=stdout, stderr=stderr)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same inside this process, which saves importing torch a hundred times."""
    entry = import_module(
        {"precompute-depth": "pipeline", "train": "training", "analyze": "analysis"}[str(arguments[0])] + ".cli"
    )
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        try:
            entry.main()
        except SystemExit as stop:
            code = stop.code or 0
    return subprocess.CompletedProcess(words, int(code) if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def fails_in_one_line(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """Non-zero exit, one line on stderr, no traceback, all fragments in it."""
    assert done.returncode not in (0, None), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


def jpeg(size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: object) -> bytes:
    """A small textured image's bytes."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "JPEG"), **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """Every tar and JSON of a data set, without its plan (which remembers the command) and locks."""
    found = (p for p in folder.rglob("*") if p.suffix in (".tar", ".json") and "plan" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def label(photos: Path, out: object, teacher: object, *options: object, run=command):
    """Label a dozen photographs into five shards: ragged batches, shapes of two kinds, two splits."""
    return run(*_label_words(photos, out, teacher, *options))


def label_line(photos: Path, out: object, teacher: object, *options: object) -> list[str]:
    """The same for subprocess."""
    name, *words = map(str, _label_words(photos, out, teacher, *options))
    return [str(BIN / name), *words]


def _label_words(photos: Path, out: object, teacher: object, *options: object) -> list[object]:
    return [
        "precompute-depth", "folder", photos, out, "--teacher", teacher, "--short-side", 96, "--val-fraction", 0.25,
        "--samples-per-shard", 4, "--batch-size", 3, "--device", "cpu", *options,
    ]  # fmt: skip
