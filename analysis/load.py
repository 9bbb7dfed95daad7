"""What runs and dumps were given, checked to belong together: `study = load(["runs/m3ch", "runs/m4ch"])`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.records import EndLine, Evaluation, Run, load_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.attention import Variant
    from training.dumps.store import Dump

MODELS = ("m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem")
DEPTH_FIELDS = ("pseudo", "real", "raw", "exact")
BASELINE = "m3ch"  # reads no depth: the partner of every other model


class AnalysisError(ValueError):
    """What was given cannot be analysed together; one line that names it and the fix."""


@dataclass(frozen=True)
class Study:
    """Runs with their evaluations, and dumps; made by `load`."""

    runs: list[Run]
    dumps: "list[Dump]"

    def figure(
        self, number: int, variant: "Variant" = "literal", depth: str | None = None, model: str = BASELINE
    ) -> "Figure":
        """Figure 1 (scores against |Δ|, all models) or 5 (cosines over epochs of `model`) of one depth field."""
        from analysis import figures

        if number == 1:
            return figures.figure1(self.last_dumps(depth), variant)[0]
        if number == 5:
            return figures.figure5(self.epoch_dumps(model, depth), variant)[0]
        raise AnalysisError(f"figure must be 1 or 5, got {number}")

    def table(self, number: int) -> "pd.DataFrame":
        """Table 1 (size and cost) or 2 (accuracy)."""
        from analysis import tables

        if number == 1:
            return tables.table1(self)
        if number == 2:
            return tables.table2(self)
        raise AnalysisError(f"table must be 1 or 2, got {number}")

    def depth_fields(self) -> list[str]:
        """Depth fields of the dumps, in their usual order."""
        return sorted({dump.info.depth_field for dump in self.dumps}, key=depth_order)

    def last_dumps(self, depth: str | None = None) -> "list[Dump]":
        """The last dump of every run of one depth field, by model and seed; refuses dumps that share no axes."""
        ordered = _last_of_each(self._of_depth(depth))
        check_same_axes(ordered)
        return ordered

    def panel_sets(self, depth: str) -> "list[list[Dump]]":
        """`last_dumps` in groups that share axes: one set of panels each."""
        sets: dict[str, list[Dump]] = {}
        for dump in _last_of_each(self._of_depth(depth)):
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

    def _of_depth(self, depth: str | None) -> "list[Dump]":
        if not self.dumps:
            raise AnalysisError("no dump was given or found in a run's dumps/: make one with 'train dump RUN --data D'")
        fields = self.depth_fields()
        depth = depth or ("pseudo" if "pseudo" in fields else fields[0] if len(fields) == 1 else None)
        if depth not in fields:
            raise AnalysisError(f"--depth must be one of {', '.join(fields)} (the dumps' depth fields), got {depth}")
        return [dump for dump in self.dumps if dump.info.depth_field == depth]


def load(paths: Iterable[Path | str] | Path | str) -> Study:
    """Read run folders (with every dump inside) and bare `.zarr` dumps; one of its parts at fault refuses all."""
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
        runs.append(run)
        dumps += [_checked_dump(open_dump(dump), run) for dump in run.dumps]
    _refuse_duplicates(runs)
    return Study(sorted(runs, key=_run_order), _one_per_epoch(dumps))


def _last_of_each(dumps: "list[Dump]") -> "list[Dump]":
    """The last epoch of every run, by model and seed."""
    last: dict[Any, Dump] = {}
    for dump in sorted(dumps, key=lambda dump: dump.info.epoch):
        last[*_origin(dump), dump.info.patch_depth] = dump
    return sorted(last.values(), key=lambda dump: (model_order(dump.info.model), seed_of(dump)))


def _checked_dump(dump: "Dump", run: Run) -> "Dump":
    if dump.info.study_hash != run.record.study_hash:
        raise AnalysisError(
            f"{dump.path} was made from another run ({dump.info.run}, study {dump.info.study_hash}): "
            "remove it and make it again with train dump"
        )
    return dump


def _one_per_epoch(dumps: "list[Dump]") -> "list[Dump]":
    """`latest` and `epoch-10` may hold the same checkpoint: the one of more images stays."""
    chosen: dict[Any, Dump] = {}
    for dump in dumps:
        key = (*_origin(dump), dump.info.patch_depth, dump.info.epoch)
        if key not in chosen or chosen[key].info.num_images < dump.info.num_images:
            chosen[key] = dump
    return list(chosen.values())


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


def comparable_runs(study: Study) -> list[Run]:
    """The runs, or a refusal that names two which saw different data."""
    if not study.runs:
        raise AnalysisError("tables and the report read run folders; none was given (a bare .zarr serves figures only)")
    first = study.runs[0]
    for run in study.runs[1:]:
        for split in ("val", "train"):
            ours, theirs = (getattr(each.record.shards, f"{split}_fingerprint") for each in (first, run))
            if ours != theirs:
                raise AnalysisError(
                    f"{first.folder} and {run.folder} have different {split} shards (fingerprints {ours[:12]} and "
                    f"{theirs[:12]}): compare runs on the same shards"
                )
    return study.runs


def final_evaluation(run: Run) -> Evaluation:
    """The run's latest evaluation on val with the depth it was trained on."""
    field = run.record.shards.depth_field
    own = [e for e in run.evaluations if e.split == "val" and e.depth_field == field]
    if not own:
        raise AnalysisError(
            f"{run.folder} has no evaluation on val with {field} depth: make it with "
            f"'train evaluate {run.folder} --data {run.record.shards.path}'"
        )
    last = max(own, key=lambda evaluation: evaluation.epoch)
    if last.fingerprint != run.record.shards.val_fingerprint:
        raise AnalysisError(f"{run.folder}: its last evaluation is of other val shards than the run's: evaluate again")
    for name, share in (("correct1", last.top1), ("correct5", last.top5)):
        outcome = getattr(last, name)
        hits = outcome.count("1")
        whole = len(outcome) == last.num_samples == hits + outcome.count("0")
        if not whole or abs(hits / max(1, last.num_samples) - share) > 1e-6:
            raise AnalysisError(
                f"{run.folder}: the evaluation of epoch {last.epoch} is damaged, {name} does not agree with the rest: "
                f"evaluate again with 'train evaluate {run.folder} --data {run.record.shards.path}'"
            )
    return last


def train_hours(run: Run) -> float | None:
    """Hours in training steps; None while the run has not ended."""
    ends = run.lines(EndLine)
    return ends[-1].train_seconds / 3600 if ends else None


def recipe_differences(runs: list[Run]) -> list[str]:
    """Keys of the configuration, apart from model, depth and seed, in which runs differ: `optim.epochs: 10 or 20`."""
    flat: dict[str, dict[str, None]] = {}
    for run in runs:
        config = {k: v for k, v in run.record.config.items() if k not in ("model", "seed", "runtime")}
        size = {k: v for k, v in run.record.config.get("model", {}).items() if k in _SIZE}
        for section, content in {**config, "model": size}.items():
            items = content.items() if isinstance(content, dict) else [(None, content)]
            for key, value in items:
                if (section, key) != ("data", "depth"):
                    name = f"{section}.{key}" if key else section
                    flat.setdefault(name, {})[json.dumps(value)] = None
    return [f"{name}: {' or '.join(values)}" for name, values in sorted(flat.items()) if len(values) > 1]


_SIZE = ("image_size", "patch_size", "width", "depth", "heads", "mlp_ratio", "num_classes")


def axes_of(dump: "Dump") -> dict[str, Any]:
    """What dumps must share to be drawn on one set of axes."""
    info = dump.info
    return {
        "data": (info.fingerprint, info.split),
        "depth field": info.depth_field,
        "standardisation": json.dumps(info.standardisation, sort_keys=True),
        "patch depth": info.patch_depth,
        "number of layers": info.num_layers,
        "patch grid": info.grid,
    }


def check_same_axes(dumps: "list[Dump]") -> None:
    for dump in dumps[1:]:
        for name, value in axes_of(dump).items():
            other = axes_of(dumps[0])[name]
            if value != other:
                raise AnalysisError(
                    f"{dumps[0].path} and {dump.path} differ in {name} ({other} and {value}): draw them separately"
                )


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
