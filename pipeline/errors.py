"""What is the user's to mend, and how each of the three commands ends. Imports nothing heavy."""

import codecs
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class UserError(ValueError):
    """One line: what must be how, what it is, and the fix. It ends a command with exit code 1, without a traceback.

    `exit_code` may say another.
    """

    exit_code = 1


INTERRUPTED = 130  # what a shell calls a process ended by Ctrl-C


def main(
    app: Callable[[], Any],
    explained: Callable[[Exception], Exception | None] = lambda error: None,
    interrupted: str = "interrupted",
) -> None:
    """Run a command line: a user's mistake ends in one line and exit code 1 (2 for misuse of the command line).

    `explained` may make a user's error of another exception. What is neither is a defect and shows where.
    """
    # Idle OpenMP threads spin by default, which starves whatever else runs: a loader's workers, another run. Sleeping
    # costs a little where nothing else does (tests/benchmarks/contention.json).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print_anywhere()
    try:
        app()
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or stop.code == INTERRUPTED:
            print(interrupted, file=sys.stderr)
            sys.exit(INTERRUPTED)
        raise
    except Exception as error:
        told = error if isinstance(error, UserError | OSError) else explained(error)
        if isinstance(error, MemoryError):
            told = UserError(
                f"memory is lacking ({str(error) or 'no more can be had'}): free some, or give less at once"
            )
        if isinstance(told, BrokenPipeError):
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (Python flushes it once more at its end)
            sys.exit(1)
        if told is None:
            raise
        complain(told)
        sys.exit(told.exit_code if isinstance(told, UserError) else 1)


def complain(error: Exception) -> None:
    """`error: ...` on stderr, on one line."""
    from rich.console import Console

    told = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        told = f"{error.filename} cannot be used ({error.strerror}): see that it is there and yours to use"
    line = plain(" ".join(told.split())) or type(error).__name__
    Console(stderr=True, soft_wrap=True).print(f"error: {line}", style="red", markup=False, highlight=False)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text from outside for a terminal: control signs and changes of direction are written as \\xNN."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# --- any terminal --------------------------------------------------------------------------------------------------

_PLAIN = {
    "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "±": "+-", "²": "^2",
    "…": "...", "Δ": "Delta", "σ": "sigma", "α": "alpha", "φ": "phi", "γ": "gamma", "Σ": "sum", "√": "sqrt", "ᵀ": "^T",
    "“": '"', "”": '"', "’": "'", "✓": "ok", "✗": "no", "•": "*", "│": "|", "─": "-", "━": "-", "╭": "+", "╮": "+",
    "╰": "+", "╯": "+", "ε": "eps", "◐": "o",
}  # fmt: skip


def print_anywhere() -> None:
    """Let stdout and stderr write what their encoding lacks (ASCII, in cron or an old container) in other signs."""
    codecs.register_error("pseudodepth.plain", _plainly)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # a stand-in, or a stream that has been given another file
            stream.reconfigure(errors="pseudodepth.plain")  # type: ignore[union-attr]


def _plainly(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return plain, error.end
