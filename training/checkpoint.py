"""Checkpoints, written whole or not at all.

    checkpoints/step-<n>/   to resume from; the newest few are kept
    checkpoints/epoch-<n>/  weights only, for the figures; never pruned
    checkpoints/best/       weights only, of the best evaluation so far (top-1, mIoU)

Each folder holds `state.pt` and `checkpoint.json` (step, epoch, sha256 of the state, study hash).
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or cannot be written; one line that names it and the fix."""


@dataclass(frozen=True)
class CheckpointInfo:
    step: int
    epoch: int  # whole epochs done
    sha256: str
    study_hash: str


@dataclass(frozen=True)
class Checkpoint:
    """`state` holds "model", with an average of weights "ema", and in step-<n> all that a run goes on with."""

    folder: Path
    info: CheckpointInfo
    state: dict[str, Any]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What is evaluated: the average where there is one."""
        return self.state.get("ema") or self.state["model"]


def save(folder: Path, state: dict[str, Any], *, step: int, epoch: int, study_hash: str) -> None:
    """Write into a hidden sibling, flush, rename."""
    partial = _hidden(folder, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        try:
            partial.mkdir(parents=True)
            with open(partial / "state.pt", "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            info = CheckpointInfo(step, epoch, _sha256(partial / "state.pt"), study_hash)
            with open(partial / "checkpoint.json", "w") as text:
                json.dump(asdict(info), text)
                text.flush()
                os.fsync(text.fileno())
            _sync(partial)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError of its own
            if "DataLoader worker" in str(error):  # torch tells of a dead worker wherever the main thread is
                raise
            reason = getattr(error, "strerror", None) or "is the disk full?"
            raise CheckpointError(
                f"cannot write checkpoint {folder} ({reason}): make room, then add --resume; earlier ones are untouched"
            ) from error
        replace_folder(folder, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(folder: Path, made: Path) -> None:
    """Put `made` in the place of `folder`; what was there is moved aside first and deleted last."""
    old = _hidden(folder, "old")
    try:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(made, folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise


def sweep(run: Path) -> None:
    """Put right what killed writers left: finish or undo replacements, delete halves. For the one writer, at start."""
    for hidden in (run / "checkpoints").glob(".*"):
        name, kind = hidden.name[1:].rsplit(".", 1)
        if kind == "old" and not (hidden.parent / name).exists():
            os.replace(hidden, hidden.parent / name)
        elif kind in ("old", "partial", "removed"):
            shutil.rmtree(hidden, ignore_errors=True)


def load(folder: Path) -> Checkpoint:
    """Read and check a checkpoint; tensors land on the CPU."""
    try:
        info = CheckpointInfo(**json.loads((folder / "checkpoint.json").read_text()))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {folder} does not exist or is incomplete") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        raise CheckpointError(f"checkpoint {folder} is damaged (checkpoint.json): delete that folder") from None
    if not (folder / "state.pt").exists() or _sha256(folder / "state.pt") != info.sha256:
        raise CheckpointError(f"checkpoint {folder} is damaged (state.pt differs from its hash): delete that folder")
    try:
        return Checkpoint(folder, info, torch.load(folder / "state.pt", map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {folder} is damaged (state.pt is no checkpoint): delete that folder"
        ) from error


def load_newest(run: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint to resume from; None where there is none at all. Damaged ones are told of.

    Raises CheckpointError where every one is damaged: starting afresh by itself would lose the run.
    """
    steps = steps_of(run)
    for step in reversed(steps):
        try:
            return load(run / "checkpoints" / f"step-{step}")
        except CheckpointError as error:
            warn(f"{error}; trying the one before")
    if steps:
        raise CheckpointError(f"every checkpoint of {run} is damaged: restore one, or start again in another --out")
    return None


def find(run: Path, name: str) -> Path:
    """The folder of `latest`, `best`, `epoch-<n>` or `step-<n>`; CheckpointError lists what there is."""
    checkpoints = run / "checkpoints"
    if name == "latest":
        steps = steps_of(run)
        if steps:
            return checkpoints / f"step-{steps[-1]}"
    elif re.fullmatch(r"best|(epoch|step)-\d+", name):
        # A writer that was killed between two renames leaves the earlier one aside.
        for folder in (checkpoints / name, _hidden(checkpoints / name, "old")):
            if folder.is_dir():
                return folder
    have = ", ".join(sorted(p.name for p in checkpoints.glob("[!.]*"))) if checkpoints.is_dir() else ""
    if not have:
        raise CheckpointError(f"run {run} holds no checkpoint: train it first, or give the folder it was trained into")
    raise CheckpointError(f"run {run} has no checkpoint '{name}', it has {have}: give one of these")


def steps_of(run: Path) -> list[int]:
    """Steps of the resumable checkpoints, ascending."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in found if re.fullmatch(r"step-\d+", path.name))


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` resumable checkpoints."""
    for step in steps_of(run)[:-keep]:
        folder = run / "checkpoints" / f"step-{step}"
        removed = _hidden(folder, "removed")  # renamed first: no half folder ever has a checkpoint's name
        os.replace(folder, removed)
        shutil.rmtree(removed, ignore_errors=True)


def _hidden(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
