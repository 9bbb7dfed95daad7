"""Checkpoints, written whole or not at all.

    checkpoints/step-<n>/   to resume from; the newest few are kept
    checkpoints/epoch-<n>/  weights only, for the figures; never pruned
    checkpoints/best/       weights only, of the best evaluation so far (top-1, mIoU)

Each folder holds `state.pt` and `checkpoint.json` (step, epoch, sha256 of the state, study hash).
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError

from pipeline import files
from pipeline.errors import UserError


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or cannot be written; one line that names it and the fix."""


FOLDERS = ("checkpoints", "evaluations", "dumps")  # of a run, that are swept


@dataclass(frozen=True)
class CheckpointInfo:
    step: Annotated[int, Field(ge=0, le=10**15)]
    epoch: Annotated[int, Field(ge=0, le=10**9)]  # whole epochs done
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    study_hash: Annotated[str, Field(max_length=64)]


@dataclass(frozen=True)
class Checkpoint:
    """`state` holds "model", with an average of weights "ema", and in step-<n> all that a run goes on with."""

    folder: Path
    info: CheckpointInfo
    state: dict[str, Any]

    @property
    def name(self) -> str:
        """latest's own name: `step-<n>`, `epoch-<n>`, `best`; also where a kill has left the folder aside."""
        return re.sub(r"^\.((?:step|epoch)-\d+|best)\..*", r"\1", self.folder.name)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What is evaluated: the average where there is one."""
        return self.state.get("ema") or self.state["model"]


def save(folder: Path, state: dict[str, Any], *, step: int, epoch: int, study_hash: str) -> None:
    """Write the folder, whole or not at all."""
    try:
        with files.making(folder) as made:
            with open(made / "state.pt", "wb") as file:
                torch.save(state, file)
            info = CheckpointInfo(step, epoch, _sha256(made / "state.pt"), study_hash)
            (made / "checkpoint.json").write_text(json.dumps(asdict(info)))
    except (OSError, RuntimeError, files.WriteError) as error:  # torch turns a full disk into a RuntimeError of its own
        if "DataLoader worker" in str(error):  # torch tells of a dead worker wherever the main thread is
            raise
        cause = error.__cause__ if isinstance(error, files.WriteError) else error
        reason = (cause.strerror if isinstance(cause, OSError) else None) or "is the disk full?"
        raise CheckpointError(
            f"cannot write checkpoint {folder} ({reason}): make room, then add --resume; earlier ones are untouched"
        ) from error


def sweep(run: Path) -> None:
    """Put right what killed writers left in a run's folders. For the one writer, at its start."""
    for folder in (run, *(run / name for name in FOLDERS)):
        if folder == run or not folder.is_symlink():
            files.sweep(folder)


def load(folder: Path) -> Checkpoint:
    """Read and check a checkpoint; tensors land on the CPU."""
    info = read_info(folder)
    if not (folder / "state.pt").is_file() or _sha256(folder / "state.pt") != info.sha256:
        raise CheckpointError(f"checkpoint {folder} is damaged (state.pt differs from its hash): delete that folder")
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can be anybody's, and raise anything
        raise CheckpointError(
            f"checkpoint {folder} is damaged (state.pt is no checkpoint): delete that folder"
        ) from error
    if not isinstance(state, dict) or not _are_weights(state.get("model")) or not _are_weights(state.get("ema", {})):
        raise CheckpointError(f"checkpoint {folder} is damaged (state.pt holds no weights): delete that folder")
    return Checkpoint(folder, info, state)


def _are_weights(state: Any) -> bool:
    """Whether it is what a model's state dict is: plain tensors of real numbers, by name."""
    return isinstance(state, dict) and all(isinstance(name, str) and is_plain(value) for name, value in state.items())


def is_plain(value: Any) -> bool:
    """Whether it is a dense tensor of real numbers, here in memory."""
    return (
        isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"
        and not value.is_complex() and not value.is_quantized
    )  # fmt: skip


def read_info(folder: Path) -> CheckpointInfo:
    """A checkpoint's checkpoint.json, looked at field by field."""
    try:
        return TypeAdapter(CheckpointInfo).validate_python(
            files.parsed_json(files.read_bytes(folder / "checkpoint.json", 1 << 20))
        )
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"checkpoint {folder} does not exist or is incomplete") from None
    except (files.ReadError, ValidationError):
        raise CheckpointError(f"checkpoint {folder} is damaged (checkpoint.json): delete that folder") from None


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
        folder = files.whole(checkpoints / name)
        if folder.is_dir():
            return folder
    have = ", ".join(path.name for path in files.listed(checkpoints) if path.is_dir())
    if not have:
        raise CheckpointError(f"run {run} holds no checkpoint: train it first, or give the folder it was trained into")
    raise CheckpointError(f"run {run} has no checkpoint '{name}', it has {have}: give one of these")


def steps_of(run: Path) -> list[int]:
    """Steps of the resumable checkpoints, ascending."""
    found = [path.name for path in files.listed(run / "checkpoints") if path.is_dir()]
    return sorted(int(name.removeprefix("step-")) for name in found if re.fullmatch(r"step-\d{1,15}", name))


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` resumable checkpoints."""
    for step in steps_of(run)[:-keep]:
        files.take_away(run / "checkpoints" / f"step-{step}")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
