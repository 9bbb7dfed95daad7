"""What runs and dumps were given, checked to belong together: `study = load(["runs/m3ch", "runs/m4ch"])`."""

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from pipeline import files
from pipeline.errors import UserError
from training.records import Matrix, ParametersLine, Run, load_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.claims.introduction import Digits
    from analysis.figures import FigureSpec
    from training.dumps.store import Dump

MODELS = ("m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem")
DEPTH_FIELDS = ("pseudo", "real", "raw", "exact")
BASELINE = "m3ch"  # reads no depth: the partner of every other model


class AnalysisError(UserError):
    """What was given cannot be analysed together; one line that names it and the fix."""


def command(*words: object) -> str:
    """A line for a shell in which every word is one, whatever it holds; and a line, so what does not print is not."""
    from training.dumps.schema import UNPRINTABLE

    return shlex.join(UNPRINTABLE.sub("\ufffd", str(word)) for word in words)


@dataclass(frozen=True, repr=False)
class Study:
    """Runs with their evaluations, dumps, and what `train matrix` found; made by `load`."""

    runs: list[Run]
    dumps: "list[Dump]"
    matrix: Matrix | None = None
    matrix_path: Path | None = None  # as it was given
    digits: "Digits | None" = None
    _known: dict[Any, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"Study of {len(self.runs)} runs, {len(self.dumps)} dumps{' and a matrix' * (self.matrix is not None)}"

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns; made at the first call with this key, which names all that it depends on."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def figure(self, number: int, variant: str | None = None, depth: str | None = None) -> "Figure":
        """One of the paper's figures, in its first variant unless told, of the dumps' depth field `depth`."""
        return _spec(number).drawn(self, variant, depth).figure

    def frames(self, number: int, variant: str | None = None, depth: str | None = None) -> "dict[str, pd.DataFrame]":
        """What a figure draws, as frames by name; "" is the figure's own."""
        from analysis.style import close

        drawn = _spec(number).drawn(self, variant, depth)
        close(drawn.figure)
        return drawn.frames

    def table(self, number: int) -> "pd.DataFrame":
        """Table 1 (size and cost), 2 (accuracy) or 3 (fine-tuning, of `matrix`)."""
        from analysis import accuracy, fine_tuning, tables

        if number == 1:
            return tables.table1(self)
        if number == 2:
            return accuracy.table2(self)
        if number != 3:
            raise AnalysisError(f"table must be 1, 2 or 3, got {number!r}")
        if self.matrix is None:
            raise AnalysisError("table 3 needs a matrix: make one with 'train matrix', then load(runs, matrix=FOLDER)")
        return fine_tuning.table3(self.matrix)

    def depth_fields(self) -> list[str]:
        """Depth fields of the dumps, in their usual order."""
        return sorted({dump.info.depth_field for dump in self.dumps}, key=depth_order)

    def last_dumps(self, depth: str | None = None, only: "Callable[[Dump], bool] | None" = None) -> "list[Dump]":
        """The last dump of every run of one depth field, by model and seed, if `only` holds for it.

        Refuses dumps that share no axes.
        """
        ordered = _last_of_each([dump for dump in self._of_depth(depth) if only is None or only(dump)])
        check_same_axes(ordered)
        return ordered

    def last_features(self, depth: str | None = None) -> "list[Dump]":
        """`last_dumps` for what reads the models' features alone, which no patch depth enters: either mode will do."""
        ordered = _last_of_each(self._of_depth(depth), _feature_axes)
        check_same_axes(ordered, _feature_axes)
        return ordered

    def panel_sets(self, depth: str) -> "list[list[Dump]]":
        """`last_dumps` in groups that share axes: one set of panels each."""
        sets: dict[str, list[Dump]] = {}
        for dump in _last_of_each(self._of_depth(depth, of_all_data=True)):
            sets.setdefault(str(axes_of(dump)), []).append(dump)
        return list(sets.values())

    def epoch_dumps(self, model: str = BASELINE, depth: str | None = None) -> "list[Dump]":
        """Dumps of one run of `model` (its lowest seed), in order of epochs."""
        of_model = [dump for dump in self.dumps if dump.info.model == model]
        if not of_model:
            raise AnalysisError(
                f"no dump of {model} was given: make one with 'train dump RUN --data SHARDS --checkpoint latest'"
            )
        chosen = Study([], of_model)._of_depth(depth)
        origin = _origin(min(chosen, key=seed_of))
        of_run = [dump for dump in chosen if _origin(dump) == origin]
        modes = [dump.info.patch_depth for dump in of_run]
        mode = max(sorted(modes, reverse=True), key=modes.count)  # a run may hold dumps of both: most epochs, then mean
        ordered = sorted((d for d in of_run if d.info.patch_depth == mode), key=lambda dump: dump.info.epoch)
        check_same_axes(ordered)
        return ordered

    def field(self, depth: str | None) -> str:
        """The depth field that figures draw: `depth`, or pseudo, or the only one there is."""
        if not self.dumps:
            raise AnalysisError("no dump was given or found in a run's dumps/: make one with 'train dump RUN --data D'")
        fields = self.depth_fields()
        depth = depth or ("pseudo" if "pseudo" in fields else fields[0] if len(fields) == 1 else None)
        if depth not in fields:
            raise AnalysisError(f"--depth must be one of {', '.join(fields)} (the dumps' depth fields), got {depth}")
        return depth

    def without(self, depth: str) -> list[str]:
        """Names of the runs that have no dump of this depth field: figures leave them out."""
        there = {_origin(dump) for dump in self._of_depth(depth)}
        given = {(run.record.study_hash, run.record.name): None for run in self.runs} | dict.fromkeys(
            map(_origin, self.dumps)
        )
        return [name for study, name in given if (study, name) not in there]

    def _of_depth(self, depth: str | None, of_all_data: bool = False) -> "list[Dump]":
        """Of a run that has dumps of its own val and of other shards, those of its own."""
        field = self.field(depth)
        found = [dump for dump in self.dumps if dump.info.depth_field == field]
        own = {_origin(dump) for dump in found if dump.info.own_data and not of_all_data}
        return [dump for dump in found if dump.info.own_data or _origin(dump) not in own]


def load(
    paths: Iterable[Path | str] | Path | str, matrix: Path | str | None = None, digits: Path | str | None = None
) -> Study:
    """Read run folders (with every dump inside) and bare `.zarr` dumps; one of its parts at fault refuses all.

    `matrix`: the matrix.json of `train matrix`, or its folder. `digits`: the digits study's JSON.
    """
    from analysis.claims.introduction import read_digits
    from analysis.fine_tuning import read_matrix
    from training.dumps.store import open_dump

    if isinstance(paths, str | Path):
        paths = [paths]
    runs: list[Run] = []
    dumps: list[Dump] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise AnalysisError(f"{path} is given twice")
        seen.add(path.resolve())
        if path.suffix == ".zarr":
            dumps.append(open_dump(path))
            continue
        run = load_run(path)
        if run.record.task != "classification":
            raise AnalysisError(
                f"{path} is fine-tuned: figures and the report read pre-trained runs; its part of Table 3 comes from "
                "'train matrix'"
            )
        _check_configuration(run)
        for record in (run.record, *run.evaluations, *run.noise_sweeps, *run.gaps, *run.lines(ParametersLine)):
            _check_plain(record, path)
        runs.append(run)
        dumps += [_checked_dump(open_dump(dump), run) for dump in run.dumps]
    _refuse_duplicates(runs)
    ordered, chosen = sorted(runs, key=_run_order), _one_per_epoch(dumps)
    known = read_digits(digits) if digits else None
    if not matrix:
        return Study(ordered, chosen, digits=known)
    found = read_matrix(matrix)
    _check_plain(found, Path(matrix))
    return Study(ordered, chosen, found, Path(matrix), known)


def _spec(number: int) -> "FigureSpec":
    from analysis.figures import FIGURES

    if number not in FIGURES:
        raise AnalysisError(f"figure must be one of {', '.join(map(str, FIGURES))}, got {number!r}")
    return FIGURES[number]


def _last_of_each(dumps: "list[Dump]", axes: "Axes | None" = None) -> "list[Dump]":
    """The last epoch (of its dumps, the largest) of every run and set of axes, by model and seed."""
    axes = axes or axes_of
    last: dict[Any, Dump] = {}
    for dump in sorted(dumps, key=lambda dump: (dump.info.epoch, dump.info.num_images)):
        last[*_origin(dump), str(axes(dump))] = dump
    return sorted(last.values(), key=lambda dump: (model_order(dump.info.model), seed_of(dump)))


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
    from training.dumps.schema import configuration

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
    from training.dumps.schema import check_plain

    try:
        check_plain(record.model_dump(exclude={"correct1", "correct5"}), values=10**6)  # those have a letter a sample
    except ValueError as error:
        raise AnalysisError(f"{path}: its {type(record).__name__} {error}: restore it from a copy") from None


def _checked_dump(dump: "Dump", run: Run) -> "Dump":
    if dump.info.study_hash != run.record.study_hash:
        raise AnalysisError(
            f"{dump.path} was made from another run ({dump.info.run}, study {dump.info.study_hash}): "
            "remove it and make it again with train dump"
        )
    return dump


def _one_per_epoch(dumps: "list[Dump]") -> "list[Dump]":
    """`latest` and `epoch-10` may hold the same checkpoint, seen alike: the one of more images stays."""
    chosen: dict[Any, Dump] = {}
    for dump in dumps:
        key = (*_origin(dump), str(axes_of(dump)), dump.info.epoch)
        other = chosen.setdefault(key, dump)
        chosen[key], left = (dump, other) if _size(other) < _size(dump) else (other, dump)
        if left.info.num_causal > chosen[key].info.num_causal:
            raise AnalysisError(
                f"{left.path} holds changed depth and {chosen[key].path} more images of the same checkpoint, of which "
                "one would be left out: make one dump of both, or remove one"
            )
    return list(chosen.values())


def _size(dump: "Dump") -> tuple[int, int, int]:
    return dump.info.num_images, dump.info.num_causal, dump.info.num_raw


def depth_of(run: Run) -> str:
    """The depth field a model was trained on; `none` for the model that reads no depth."""
    return "none" if run.record.model == BASELINE else run.record.shards.depth_field


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


def axes_of(dump: "Dump") -> dict[str, Any]:
    """What dumps must share to be drawn on one set of axes."""
    info = dump.info
    return {
        "data": (info.fingerprint, info.split),
        "depth field": info.depth_field,
        "polarity": info.standardisation.get("polarity"),
        "standardisation": json.dumps(info.standardisation, sort_keys=True),
        "class list": info.classes_sha256[:12],
        "patch depth": info.patch_depth,
        "number of layers": info.num_layers,
        "patch grid": info.grid,
    }


def _feature_axes(dump: "Dump") -> dict[str, Any]:
    return {name: value for name, value in axes_of(dump).items() if name != "patch depth"}


Axes = Callable[["Dump"], dict[str, Any]]


def check_same_axes(dumps: "list[Dump]", axes: Axes = axes_of) -> None:
    for dump in dumps[1:]:
        for name, value in axes(dump).items():
            other = axes(dumps[0])[name]
            if value != other:
                mode = name == "patch depth"
                fix = "make both with 'train dump --patch-depth mean'" if mode else "draw them separately"
                raise AnalysisError(f"{dumps[0].path} and {dump.path} differ in {name} ({other} and {value}): {fix}")


def seed_of(dump: "Dump") -> int:
    return int(dump.info.config.get("seed", 0))


def _origin(dump: "Dump") -> tuple[str, str]:
    return dump.info.study_hash, dump.info.run


def model_order(model: str) -> tuple[int, str]:
    """The paper's order, then whatever else there is by name."""
    return MODELS.index(model) if model in MODELS else len(MODELS), model


def depth_order(field: str) -> int:
    """`none` first, then as in DEPTH_FIELDS."""
    if field == "none":
        return -1
    return DEPTH_FIELDS.index(field) if field in DEPTH_FIELDS else len(DEPTH_FIELDS)


def _run_order(run: Run) -> tuple[tuple[int, str], int, int]:
    return model_order(run.record.model), depth_order(depth_of(run)), run.record.seed
