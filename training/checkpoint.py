"""Checkpoints: `checkpoints/step-<n>/` to resume from, `epoch-<n>/` weights only, written whole or not at all.

Each folder holds `state.pt` and `checkpoint.json` (step, epoch, sha256 of the state, study hash).
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged; one line that names it and the fix."""


@dataclass(frozen=True)
class CheckpointInfo:
    step: int
    epoch: int  # whole epochs done
    sha256: str
    study_hash: str


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    info: CheckpointInfo
    state: dict[str, Any]  # "model", and for step-<n> "optimizer", "rng", "window", "train_seconds", ...


def save(folder: Path, state: dict[str, Any], *, step: int, epoch: int, study_hash: str) -> None:
    """Write into a hidden sibling, flush, rename."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with open(partial / "state.pt", "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        info = CheckpointInfo(step, epoch, _sha256(partial / "state.pt"), study_hash)
        (partial / "checkpoint.json").write_text(json.dumps(asdict(info)))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load(folder: Path) -> Checkpoint:
    """Read and check a checkpoint; tensors land on the CPU."""
    try:
        info = CheckpointInfo(**json.loads((folder / "checkpoint.json").read_text()))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {folder} does not exist or is incomplete") from None
    except (json.JSONDecodeError, TypeError):
        raise CheckpointError(f"checkpoint {folder} is damaged (checkpoint.json): delete that folder") from None
    if not (folder / "state.pt").exists() or _sha256(folder / "state.pt") != info.sha256:
        raise CheckpointError(f"checkpoint {folder} is damaged (state.pt differs from its hash): delete that folder")
    return Checkpoint(folder, info, torch.load(folder / "state.pt", map_location="cpu", weights_only=True))


def find(run: Path, name: str) -> Path:
    """The folder of `latest`, `epoch-<n>` or `step-<n>`; CheckpointError lists what there is."""
    checkpoints = run / "checkpoints"
    if name == "latest":
        steps = steps_of(run)
        if steps:
            return checkpoints / f"step-{steps[-1]}"
    elif re.fullmatch(r"(epoch|step)-\d+", name) and (checkpoints / name).is_dir():
        return checkpoints / name
    have = ", ".join(sorted(p.name for p in checkpoints.glob("[!.]*"))) if checkpoints.is_dir() else ""
    raise CheckpointError(f"run {run} has no checkpoint '{name}', it has {have or 'none'}")


def steps_of(run: Path) -> list[int]:
    """Steps of the resumable checkpoints, ascending."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in found if re.fullmatch(r"step-\d+", path.name))


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` resumable checkpoints."""
    for step in steps_of(run)[:-keep]:
        shutil.rmtree(run / "checkpoints" / f"step-{step}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
