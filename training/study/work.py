"""How processes share a study: each takes the next unit that nobody has claimed, until there is none.

    DIR/.study/NAME.lock   held by whoever makes the unit: a byte lock, which the kernel releases even after kill -9
    DIR/.study/NAME.json   Outcome: seconds a stage, and why the unit failed, if it did

Nobody waits: Table 3 is taken by whoever finds its runs finished, at the latest by whoever finished the last of them.
Needs a file system whose locks hold between all machines that take part.
"""

import errno
import fcntl
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError

from pipeline import files
from pipeline.errors import UserError
from training.commands.options import console, explained
from training.engine.loop import Stopped
from training.study.plan import Plan, Unit

_FOLDER = ".study"
_LOOKING_S = 0.2  # how long somebody may hold a lock who only looks


class StudyError(UserError):
    """A study cannot go on; one line that names the cause and the fix."""


class Outcome(BaseModel):
    """What became of a unit so far."""

    seconds: dict[str, float] = {}  # by stage, over all attempts
    failed: str | None = None  # stage: reason
    when: float = 0.0  # it failed, seconds since 1970


def outcome_of(out: Path, name: str) -> Outcome:
    """Nothing where there is no file that can be read: it is for people, and remade."""
    try:
        return Outcome.model_validate(files.parsed_json(files.read_bytes(out / _FOLDER / f"{name}.json", 1 << 20)))
    except (OSError, files.ReadError, ValidationError):
        return Outcome()


@contextmanager
def claimed(out: Path, name: str) -> Iterator[bool]:
    """`with claimed(out, name) as mine:` whether this process has the unit, as long as the block lasts."""
    path = files.folder_in(out, _FOLDER) / f"{name}.lock"
    try:
        descriptor = files.lock_file(path)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    try:
        yield _lock(descriptor, path, fcntl.LOCK_EX, _LOOKING_S)
    finally:
        os.close(descriptor)


def is_claimed(out: Path, name: str) -> bool:
    """Whether a process has the unit now; not to be asked by that process itself, which would lose it."""
    path = out / _FOLDER / f"{name}.lock"
    if not path.exists():
        return False
    descriptor = files.lock_file(path)
    try:
        return not _lock(descriptor, path, fcntl.LOCK_SH, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, kind: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise StudyError(
                    f"{path} cannot be locked ({error.strerror}), and locks tell who makes which run: choose another "
                    "--out, on a file system that has them"
                ) from error
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def work(plan: Plan, began: float) -> None:
    """Make what nobody has claimed; a unit that has failed since `began` (seconds since 1970) is left."""
    settled: set[str] = set()
    while any(_settle(plan, unit, began, settled) for unit in plan.units):
        pass  # from the start again: what waited may be ready


def _settle(plan: Plan, unit: Unit, began: float, settled: set[str]) -> bool:
    """Make what a unit lacks; False where that is nothing, or not for this process to do."""
    if unit.name in settled or unit.waits_for:
        return False
    with claimed(plan.out, unit.name) as mine:
        if not mine:
            return False
        settled.add(unit.name)
        outcome = outcome_of(plan.out, unit.name)
        if outcome.failed and outcome.when >= began:
            return False
        made = False
        for name, part in unit.parts.items():
            if not part.is_there:
                made = True
                if not _make(plan.out, unit, name):
                    break
        return made


def _make(out: Path, unit: Unit, name: str) -> bool:
    """Make one stage and write down what became of it; False where it failed."""
    console.print(f"{unit.name}: {name}")
    outcome, start = outcome_of(out, unit.name), time.time()
    outcome.failed = None
    try:
        with _apart():
            unit.parts[name].make()
    except Stopped as stop:
        told = str(stop).replace("add --resume to go on", "the same line goes on")
        raise Stopped(f"{unit.name}: {told}", stop.exit_code - 128) from None
    except Exception as error:
        told = _told(error)
        outcome.failed, outcome.when = f"{name}: {told}", time.time()
        console.print(f"{unit.name} failed in {name}: {told}", soft_wrap=True)
    finally:
        outcome.seconds[name] = outcome.seconds.get(name, 0.0) + time.time() - start
        files.write_whole(files.folder_in(out, _FOLDER) / f"{unit.name}.json", outcome.model_dump_json(indent=1))
    return outcome.failed is None


def _told(error: Exception) -> str:
    """On one line; a defect shows where it is."""
    known = error if isinstance(error, UserError | OSError) else explained(error)
    if known is None:
        traceback.print_exception(error)
    return " ".join(str(known or error).split()) or type(error).__name__


@contextmanager
def _apart() -> Iterator[None]:
    """What a command changes in its process is as before it, so that the next begins as in a process of its own."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # it compiles a function for so many kinds of input only
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
