"""What a run finds in its folder: nothing, a run to go on with, a finished one, or somebody else's."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from pipeline import files
from training.config import brought_up
from training.engine import checkpoint, log
from training.engine.machine import TrainingError
from training.records import AnyEvaluation, EndLine, RunRecord, parse, read_evaluation, read_metrics

_LOCK = ".lock"
FINAL = "evaluations/val-final.json"  # what a run ends with


class Hold:
    """One job's hold on its folder, by a lock that ends with the process."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._lock: int | None = None

    def take(self) -> None:
        """Make the folder and lock it; TrainingError where another job of this file system has it."""
        if self._lock is not None:
            return
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            self._lock = files.lock_file(self._out / _LOCK)
        except OSError as error:
            raise TrainingError(f"cannot make {self._out} ({error.strerror}): choose another --out") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another job is training in {self._out}: wait for it, or choose another --out"
            ) from None
        except OSError:
            pass  # a file system without locks

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def earlier_checkpoint(out: Path, resume: bool, hold: Hold, say: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The newest intact checkpoint of a run that shall go on, None for a run that begins.

    `resume` on a folder without a run begins one, so that a scheduler can always repeat the same line.
    """
    path = out / "run.json"
    if path.exists() and resume:
        for name in ("checkpoints", "evaluations", "tensorboard"):  # to be written in, hours from now
            files.refuse_links(out, name)
        hold.take()
        checkpoint.sweep(out)
        found = checkpoint.load_newest(out, say)
        lines = read_metrics(out / "metrics.jsonl") if found is None else []
        every = parse(RunRecord, path).config["runtime"]["checkpoint_every"]
        if lines and lines[-1].step > every:
            raise TrainingError(
                f"{out} came to step {lines[-1].step} but has no checkpoint to go on from: restore one, or begin in "
                "another --out"
            )
        return found
    if path.exists():
        raise TrainingError(f"{out} holds a run: add --resume to go on, or choose another --out")
    if out.is_symlink() and not out.exists():
        raise TrainingError(f"{out} is a link to nothing: choose another --out")
    if out.exists() and (not out.is_dir() or any(not _is_ours(entry.name) for entry in out.iterdir())):
        what = "is not empty and holds no run" if out.is_dir() else "is a file"
        raise TrainingError(f"{out} {what}: choose another --out")
    return None


def _is_ours(name: str) -> bool:
    """What a run leaves that was killed before it had begun, and what is nobody's."""
    return name == _LOCK or files.is_hidden(name) or files.is_litter(name)


def begin_or_refuse(out: Path, record: RunRecord, hold: Hold) -> RunRecord:
    """Write run.json, or compare with the one that is there; returns the one that holds."""
    hold.take()
    path = out / "run.json"
    if not path.exists():
        log.write_json(out, path.name, record)
        return record
    earlier = parse(RunRecord, path)
    refuse_changes(earlier, record)
    return earlier


def refuse_changes(earlier: RunRecord, now: RunRecord) -> None:
    changed = []
    before = brought_up(earlier.config)
    for section in before.keys() | now.config.keys():
        old, new = before.get(section), now.config.get(section)
        if section == "runtime" or old == new:
            continue
        if section == "init" and old and new and Path(old).resolve() == Path(new).resolve():
            continue  # another spelling
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
            changed += [f"{section}.{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in keys]
        else:
            changed.append(f"{section} was {old!r}, now {new!r}")
    for split, old, new in (
        ("train", earlier.shards.train_fingerprint, now.shards.train_fingerprint),
        ("val", earlier.shards.val_fingerprint, now.shards.val_fingerprint),
    ):
        if old != new:
            changed.append(f"the {split} shards are not the ones the run began with")
    if earlier.shards.depth_fingerprints != now.shards.depth_fingerprints:
        changed.append(f"the {now.shards.depth_field} depth of the shards is not the one the run began with")
    if now.init_sha256 is not None and now.init_sha256 != earlier.init_sha256:
        changed.append(f"the weights at {now.config['init']} are not those the run began with")
    weights = [(record.online_teacher or {}).get("weights_sha256") for record in (earlier, now)]
    if weights[0] != weights[1]:
        changed.append(f"the teacher {now.config['data']['teacher']} is not the one the run began with")
    if changed:
        raise TrainingError(f"cannot resume {now.name}: {'; '.join(changed)}. Use what it began with, or another --out")


class _Progress(BaseModel):
    """Of a checkpoint, all but weights and moments."""

    window: dict[Literal["loss", "grad_norm", "steps"], FiniteFloat] = Field(min_length=3)
    train_seconds: FiniteFloat
    total_seconds: FiniteFloat
    num_lines: Annotated[int, Field(ge=0, le=10**12)]
    epochs_logged: Annotated[int, Field(ge=-1, le=10**9)]
    best: FiniteFloat
    resumes: Annotated[int, Field(ge=0, le=10**9)] = 0


def progress_fault(state: dict[str, Any]) -> str | None:
    """What a checkpoint lacks of where a run was; None where all is there."""
    try:
        _Progress.model_validate({name: state[name] for name in _Progress.model_fields if name in state})
    except ValidationError as error:
        return files.reason(error)
    rng, own = state.get("rng"), torch.get_rng_state()
    known = checkpoint.is_plain(rng) and (rng.dtype, rng.shape) == (own.dtype, own.shape)  # type: ignore[union-attr]
    return None if known else "rng: must be the state of torch's generator"


def finished(out: Path) -> AnyEvaluation | None:
    """The final evaluation of a run that wrote its last line."""
    lines = read_metrics(out / "metrics.jsonl")
    path = out / FINAL
    return read_evaluation(path) if path.exists() and lines and isinstance(lines[-1], EndLine) else None
