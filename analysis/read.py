"""Reads run folders, dumps, a matrix and the digits study, and refuses what does not belong together."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from analysis.load import (
    SPARSE_DEPTH,
    AnalysisError,
    DigitsStudy,
    Given,
    axes_of,
    depth_of,
    depth_order,
    model_order,
    origin,
)
from pipeline import files
from training.dumps.schema import check_plain, configuration
from training.dumps.store import Dump, open_dump
from training.records import Matrix, ParametersLine, Run, RunRecord, load_run, parse


def read(
    paths: Iterable[Path | str] | Path | str, matrix: Path | str | None = None, digits: Path | str | None = None
) -> Given:
    """Read run folders (with every dump inside), folders of runs, bare `.zarr` dumps; one part at fault refuses all.

    `matrix`: the matrix.json of `train matrix`, or its folder. `digits`: the digits study's JSON.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    runs: list[Run] = []
    dumps: list[Dump] = []
    seen: set[Path] = set()
    for path in (run for given in map(Path, paths) for run in runs_in(given)):
        if path.resolve() in seen:
            raise AnalysisError(f"{path} is given twice")
        seen.add(path.resolve())
        if path.suffix == ".zarr":
            dumps.append(open_dump(path))
            continue
        run = load_run(path)
        _check_task(run)
        _check_configuration(run)
        for record in (run.record, *run.evaluations, *run.noise_sweeps, *run.gaps, *run.lines(ParametersLine)):
            _check_plain(record, path)
        runs.append(run)
        dumps += [_checked_dump(open_dump(dump), run) for dump in run.dumps]
    _refuse_duplicates(runs)
    ordered, chosen = sorted(runs, key=_run_order), _one_per_epoch(dumps)
    found = read_matrix(matrix) if matrix else None
    if found:
        _check_plain(found, Path(matrix or ""))
    known = read_digits(digits) if digits else None
    matrix_path, digits_path = (Path(path) if path else None for path in (matrix, digits))
    return Given(ordered, chosen, found, known, matrix_path, digits_path)


def runs_in(path: Path) -> list[Path]:
    """Of a folder of runs, those; else the path itself."""
    if path.suffix == ".zarr" or (path / "run.json").exists():
        return [path]
    return sorted(record.parent for record in path.glob("*/run.json")) or [path]


def teachers_apart(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """What the report reads, and runs of `train depth`, which have a page of their own."""
    others: list[Path] = []
    teachers: list[Path] = []
    for path in (run for given in paths for run in runs_in(given)):
        known = path.suffix != ".zarr" and (path / "run.json").exists()
        is_teacher = known and parse(RunRecord, path / "run.json").task == SPARSE_DEPTH
        (teachers if is_teacher else others).append(path)
    if teachers and not others:
        raise AnalysisError(
            "all runs given are of 'train depth', which have their own page: 'analyze teachers' makes it"
        )
    return others, teachers


def _check_task(run: Run) -> None:
    """Only classifiers are drawn; what was fine-tuned has its place in Table 3."""
    if run.record.task == SPARSE_DEPTH:
        raise AnalysisError(
            f"{run.folder} is a network that answers depth: 'analyze teachers' and 'analyze report' show it, leave it "
            "out here"
        )
    if run.record.task == "segmentation":
        raise AnalysisError(
            f"{run.folder} is fine-tuned: figures and the report read pre-trained runs; its part of Table 3 comes from "
            "'train matrix RUNS --data SHARDS --out FOLDER'"
        )
    if run.record.task != "classification":
        raise AnalysisError(
            f"{run.folder} is a run of task {run.record.task!r}, which analyze does not draw: leave it out"
        )


def read_matrix(path: Path | str) -> Matrix:
    """matrix.json; RecordError names what is wrong with it."""
    path = Path(path)
    return parse(Matrix, path / "matrix.json" if path.is_dir() else path)


def read_digits(path: Path | str) -> DigitsStudy:
    return parse(DigitsStudy, Path(path))


_Size = Annotated[int, Field(ge=1, le=10**6)]


class _Model(BaseModel):
    name: str
    image_size: _Size
    patch_size: _Size
    width: _Size
    depth: Annotated[int, Field(ge=1, le=1000)]
    heads: Annotated[int, Field(ge=1, le=1000)]
    initial_value: Annotated[float, Field(gt=0, le=1000)] = 2.0  # of mlin and mmlp
    decay_range: Annotated[float, Field(ge=0, le=1000)] = 4.0


class _Optim(BaseModel):
    epochs: int | None = None


class _Configuration(BaseModel):
    """What is read of a run's configuration."""

    model: _Model
    optim: _Optim = _Optim()


def _check_configuration(run: Run) -> None:
    try:
        model = _Configuration.model_validate(configuration(run.record.config)).model
        if model.name in ("mlin", "mmlp") and not {"initial_value", "decay_range"} <= set(run.record.config["model"]):
            raise ValueError("model: initial_value and decay_range are missing")
    except ValueError as error:
        reason = files.reason(error)
        raise AnalysisError(
            f"{run.folder / 'run.json'}: its config is none ({reason}): restore it from a copy, or train again"
        ) from None


def _check_plain(record: BaseModel, path: Path) -> None:
    """Words that can be shown, numbers that can be counted with: what schemas leave open."""
    try:
        check_plain(record.model_dump(exclude={"correct1", "correct5"}), values=10**6)  # those have a letter a sample
    except ValueError as error:
        raise AnalysisError(f"{path}: its {type(record).__name__} {error}: restore it from a copy") from None


def _checked_dump(dump: Dump, run: Run) -> Dump:
    if dump.info.study_hash != run.record.study_hash:
        raise AnalysisError(
            f"{dump.path} was made from another run ({dump.info.run}, study {dump.info.study_hash}): "
            "remove it and make it again with 'train dump RUN --data SHARDS'"
        )
    return dump


def _one_per_epoch(dumps: list[Dump]) -> list[Dump]:
    """`latest` and `epoch-10` may hold the same checkpoint, seen alike: the one of more images stays."""
    chosen: dict[Any, Dump] = {}
    for dump in dumps:
        key = (*origin(dump), str(axes_of(dump)), dump.info.epoch)
        other = chosen.setdefault(key, dump)
        chosen[key], left = (dump, other) if _size(other) < _size(dump) else (other, dump)
        if left.info.num_causal > chosen[key].info.num_causal:
            raise AnalysisError(
                f"{left.path} holds changed depth and {chosen[key].path} more images of the same checkpoint, of which "
                "one would be left out: make one dump of both, or remove one"
            )
    return list(chosen.values())


def _size(dump: Dump) -> tuple[int, int, int]:
    return dump.info.num_images, dump.info.num_causal, dump.info.num_raw


def _refuse_duplicates(runs: list[Run]) -> None:
    known: dict[Any, Run] = {}
    for run in runs:
        key = (run.record.model, depth_of(run), run.record.seed)
        if key in known:
            raise AnalysisError(
                f"{known[key].folder} and {run.folder} are both {key[0]} with depth {key[1]} and seed {key[2]}: "
                "give one of them"
            )
        known[key] = run


def _run_order(run: Run) -> tuple[tuple[int, str], tuple[int, str], int]:
    return model_order(run.record.model), depth_order(depth_of(run)), run.record.seed
