"""Runs and their files read back; whatever is wrong is told of in one line that names the file."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline import files
from training.records.classification import Evaluation
from training.records.depth import DepthEvaluation
from training.records.fields import FIRST_OF_MATRIX, MOST_BYTES, SCHEMA_VERSION, RecordError
from training.records.gap import Gap
from training.records.kinds import EVALUATIONS, LINES, AnyEvaluation, MetricsLine
from training.records.matrix import Matrix
from training.records.noise import NoiseSweep
from training.records.run import ParametersLine, RunRecord
from training.records.scores import ScoresEvaluation
from training.records.segmentation import SegmentationEvaluation

_RecordT = TypeVar("_RecordT", bound=BaseModel)


@dataclass(frozen=True)
class Run:
    """A run folder as read by `load_run`."""

    folder: Path
    record: RunRecord
    metrics: list[MetricsLine]
    evaluations: list[Evaluation]
    dumps: list[Path]
    noise_sweeps: list[NoiseSweep] = field(default_factory=list)
    segmentations: list[SegmentationEvaluation] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    scores: list[ScoresEvaluation] = field(default_factory=list)
    depths: list[DepthEvaluation] = field(default_factory=list)

    def lines(self, kind: type[_RecordT]) -> list[_RecordT]:
        return [line for line in self.metrics if isinstance(line, kind)]


def load_run(folder: Path | str) -> Run:
    """Read a run folder; raises RecordError naming the file at fault."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RecordError(f"run folder {folder} {what}: give a folder that train made")
    if not (folder / "run.json").exists() and any(folder.glob("*/run.json")):
        raise RecordError(f"{folder} is a folder of runs: give the runs in it, {folder}/*")
    record = parse(RunRecord, folder / "run.json")
    found = [read_evaluation(path) for path in files.listed(folder / "evaluations", ".json")]
    dumps = [*files.listed(folder / "dumps", ".zarr"), *files.set_aside(folder / "dumps", ".zarr")]
    return Run(
        folder, record, read_metrics(folder / "metrics.jsonl"),
        evaluations=[each for each in found if isinstance(each, Evaluation)],
        dumps=dumps,
        noise_sweeps=[each for each in found if isinstance(each, NoiseSweep)],
        segmentations=[each for each in found if isinstance(each, SegmentationEvaluation)],
        gaps=[each for each in found if isinstance(each, Gap)],
        scores=[each for each in found if isinstance(each, ScoresEvaluation)],
        depths=[each for each in found if isinstance(each, DepthEvaluation)],
    )  # fmt: skip


class _Kind(BaseModel):
    kind: str = "classification"


_FEW = 3  # fields of an evaluation that another program's file may have by chance


def read_evaluation(path: Path) -> AnyEvaluation:
    """A file of RUN/evaluations, as its kind says; raises RecordError naming one that is none, or of a later kind."""
    data = _read(path)
    try:
        content = files.parsed_json(data)
    except files.ReadError as error:
        if b'"schema_version"' in data[:100]:  # with which ours begin
            raise _damaged(path, error) from None
        content = None
    if not _is_ours(content):
        raise RecordError(f"{path} is nothing that train evaluate or train gap writes: move it away")
    kind = _validated(_Kind, path, content).kind
    if kind not in EVALUATIONS:
        raise RecordError(
            f"{path} is of kind {kind!r}, this version reads {', '.join(EVALUATIONS)}: update pseudodepth"
        )
    return _validated(EVALUATIONS[kind], path, content)


def _is_ours(content: Any) -> bool:
    """Whether it is an evaluation, be it damaged or of a later version."""
    if not isinstance(content, dict):
        return False
    kind = content.get("kind")
    known = isinstance(kind, str) and kind in EVALUATIONS
    return known or len(content.keys() & Evaluation.model_fields.keys()) >= _FEW


def read_metrics(path: Path) -> list[MetricsLine]:
    """Every complete line of a metrics file; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    lines: list[MetricsLine] = []
    try:
        text = files.read_bytes(path, MOST_BYTES).decode()
    except (UnicodeDecodeError, files.ReadError) as error:
        reason = "no text" if isinstance(error, UnicodeDecodeError) else error
        raise RecordError(f"{path} is damaged ({reason}): restore it from a copy, or delete it") from None
    complete = text.split("\n")[:-1]
    for number, content in enumerate(complete, 1):
        try:
            fields = files.parsed_json(content)
            if _has_no_loss(fields):
                raise RecordError(f"{path} line {number}: {_NO_LOSS}: remove that line, or train again")
            if fields.get("kind") not in LINES:
                raise ValueError(f"kind must be one of {', '.join(LINES)}, got {fields.get('kind')!r:.40}")
            line = LINES[fields["kind"]].model_validate(fields)
            if isinstance(line, ParametersLine):
                _check_sizes(line, lines)
            lines.append(line)
        except RecordError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            reason = files.reason(error)
            raise RecordError(f"{path} line {number} is damaged ({reason}): restore it, or remove that line") from None
    return lines


def _check_sizes(line: ParametersLine, before: list[MetricsLine]) -> None:
    """Of one model, so of the same numbers at every epoch."""
    first = next((each for each in before if isinstance(each, ParametersLine)), line)
    for name in line.values.keys() | first.values.keys():
        if name not in line.values or name not in first.values or line.sizes(name) != first.sizes(name):
            raise ValueError(f"{name} must be of as many blocks and numbers as at epoch {first.epoch}")


def parse(kind: type[_RecordT], path: Path) -> _RecordT:
    """Read one JSON record; raises RecordError naming the file."""
    try:
        content = files.parsed_json(_read(path))
    except files.ReadError as error:
        raise _damaged(path, error) from None
    return _validated(kind, path, content)


def _read(path: Path) -> bytes:
    try:
        return files.read_bytes(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"{path} does not exist: give what `train` wrote") from None
    except files.ReadError as error:
        raise _damaged(path, error) from None


def _validated(kind: type[_RecordT], path: Path, content: Any) -> _RecordT:
    try:
        version = content.get("schema_version", 0)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RecordError(
                f"{path} has schema version {version}, this version reads up to {SCHEMA_VERSION}: update pseudodepth"
            )
        if kind is Matrix and isinstance(version, int) and version < FIRST_OF_MATRIX:
            raise RecordError(
                f"{path} has schema version {version}, this version reads a matrix from {FIRST_OF_MATRIX} on: "
                "the same 'train matrix' makes it again, in seconds, from the evaluations"
            )
        if _has_no_loss(content):
            raise RecordError(f"{path}: {_NO_LOSS}: delete it, and evaluate an earlier checkpoint or train again")
        return kind.model_validate(content)
    except (AttributeError, UnicodeEncodeError, ValidationError) as error:  # half of a pair of surrogates
        raise _damaged(path, error) from None


_NO_LOSS = "the model gave no finite loss, so its weights are not finite"


def _has_no_loss(content: dict[str, Any]) -> bool:
    """JSON has null, or NaN or Infinity, for a loss that is no number, or infinite."""
    loss = content.get("loss", 0.0)
    every = loss if isinstance(loss, list) else [loss]
    return any(each is None or (isinstance(each, float) and not math.isfinite(each)) for each in every)


def _damaged(path: Path, error: Exception) -> RecordError:
    reason = files.reason(error)
    return RecordError(f"{path} is damaged ({reason}): restore it from a copy, or delete it and make it again")
