"""What was given: runs, dumps, a matrix; which of them are drawn together. `read` fills it, `study` shows it.

Light, so that `analyze --help` is quick.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from pipeline.errors import UserError
from training.records import Matrix, Run

if TYPE_CHECKING:
    from training.dumps.store import Dump

MODELS = ("m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem")
DEPTH_FIELDS = ("pseudo", "real", "raw", "exact")
BASELINE = "m3ch"  # reads no depth: the partner of every other model
SPARSE_DEPTH = "sparse-depth"  # the task of `train depth`, whose runs have a page of their own


class AnalysisError(UserError):
    """What was given cannot be analysed together; one line that names it and the fix."""


_Share = Annotated[float, Field(ge=0, le=1)]


class DigitsFit(BaseModel):
    """One fine-tuning of the digits study."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    start: Literal["pre-trained", "scratch"]
    steps: Annotated[int, Field(ge=1)]
    seed: int
    overlap_accuracy: _Share
    overlap_accuracy_95: tuple[_Share, _Share]


class DigitsStudy(BaseModel):
    """What is read of the JSON of tests/benchmarks/digits.py."""

    measured: Annotated[list[DigitsFit], Field(min_length=1)]


@dataclass(frozen=True, repr=False)
class Given:
    """Runs with their evaluations, dumps, and what `train matrix` and the digits study found; made by `read`."""

    runs: list[Run]
    dumps: "list[Dump]"
    matrix: Matrix | None = None
    digits: DigitsStudy | None = None
    matrix_path: Path | None = None  # as they were given
    digits_path: Path | None = None
    _known: dict[Any, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        name, matrix = type(self).__name__, " and a matrix" * (self.matrix is not None)
        return f"{name} of {len(self.runs)} runs, {len(self.dumps)} dumps{matrix}"

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns; made at the first call with this key, which names all that it depends on."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

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
        chosen = Given([], of_model)._of_depth(depth)
        first = origin(min(chosen, key=seed_of))
        of_run = [dump for dump in chosen if origin(dump) == first]
        modes = [dump.info.patch_depth for dump in of_run]
        mode = max(sorted(modes, reverse=True), key=modes.count)  # a run may hold dumps of both: most epochs, then mean
        ordered = sorted((d for d in of_run if d.info.patch_depth == mode), key=lambda dump: dump.info.epoch)
        check_same_axes(ordered)
        return ordered

    def field(self, depth: str | None) -> str:
        """The depth field that figures draw: `depth`, or pseudo, or the only one there is."""
        if not self.dumps:
            raise AnalysisError(
                "no dump was given or found in a run's dumps/: make one with 'train dump RUN --data SHARDS'"
            )
        fields = self.depth_fields()
        depth = depth or ("pseudo" if "pseudo" in fields else fields[0] if len(fields) == 1 else None)
        if depth not in fields:
            raise AnalysisError(f"--depth must be one of {', '.join(fields)} (the dumps' depth fields), got {depth}")
        return depth

    def without(self, depth: str) -> list[str]:
        """Names of the runs that have no dump of this depth field: figures leave them out."""
        there = {origin(dump) for dump in self._of_depth(depth)}
        given = {(run.record.study_hash, run.record.name): None for run in self.runs} | dict.fromkeys(
            map(origin, self.dumps)
        )
        return [name for study, name in given if (study, name) not in there]

    def _of_depth(self, depth: str | None, of_all_data: bool = False) -> "list[Dump]":
        """Of a run that has dumps of its own val and of other shards, those of its own."""
        field = self.field(depth)
        found = [dump for dump in self.dumps if dump.info.depth_field == field]
        own = {origin(dump) for dump in found if dump.info.own_data and not of_all_data}
        return [dump for dump in found if dump.info.own_data or origin(dump) not in own]


def _last_of_each(dumps: "list[Dump]", axes: "Axes | None" = None) -> "list[Dump]":
    """The last epoch (of its dumps, the largest) of every run and set of axes, by model and seed."""
    axes = axes or axes_of
    last: dict[Any, Dump] = {}
    for dump in sorted(dumps, key=lambda dump: (dump.info.epoch, dump.info.num_images)):
        last[*origin(dump), str(axes(dump))] = dump
    return sorted(last.values(), key=lambda dump: (model_order(dump.info.model), seed_of(dump)))


def depth_of(run: Run) -> str:
    """The depth field a model was trained on; `none` for the model that reads no depth."""
    return "none" if run.record.model == BASELINE else run.record.shards.depth_field


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
                fix = "draw them separately"
                if name == "patch depth":
                    fix = "make both with 'train dump RUN --data SHARDS --patch-depth mean'"
                raise AnalysisError(f"{dumps[0].path} and {dump.path} differ in {name} ({other} and {value}): {fix}")


def seed_of(dump: "Dump") -> int:
    return int(dump.info.config.get("seed", 0))


def origin(dump: "Dump") -> tuple[str, str]:
    return dump.info.study_hash, dump.info.run


def model_order(model: str) -> tuple[int, str]:
    """The paper's order, then whatever else there is by name."""
    return MODELS.index(model) if model in MODELS else len(MODELS), model


def depth_order(field: str) -> tuple[int, str]:
    """`none` first, then as in DEPTH_FIELDS, then whatever else there is by name."""
    if field == "none":
        return -1, field
    return DEPTH_FIELDS.index(field) if field in DEPTH_FIELDS else len(DEPTH_FIELDS), field
