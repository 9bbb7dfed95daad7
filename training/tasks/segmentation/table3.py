"""`train matrix`: which fine-tunings there must be, their evaluations, and the table for people."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import data_manifests
from pipeline import files, shards
from training.config import brought_up
from training.engine import checkpoint
from training.engine.loop import train
from training.engine.ranks import world_size
from training.engine.task import Asked
from training.models.registry import NO_DEPTH
from training.records import EndLine, Matrix, RunRecord, SegmentationEvaluation, parse, read_evaluation, read_metrics
from training.tasks.segmentation.config import KIND
from training.tasks.segmentation.data import open_labelled
from training.tasks.segmentation.matrix import DEPTHS, Depth, MatrixError, MatrixRow
from training.tasks.segmentation.task import FineTuning

Evaluate = Callable[[Path, str], SegmentationEvaluation]  # of a run with a depth field


@dataclass(frozen=True)
class Recipe:
    """How what is pre-trained alone is fine-tuned, and the fields of the shards that stand for real and for pseudo."""

    preset: str
    head: str | None
    rule: str | None
    settings: Sequence[str]
    fields: Mapping[Depth, str] = field(default_factory=lambda: {depth: depth for depth in DEPTHS})

    def stands_for(self, name: str) -> Depth | None:
        return next((depth for depth, own in self.fields.items() if own == name), None)


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned run, or one that is to be: its row in the table and the depth it is trained with."""

    folder: Path
    name: str  # of what it began with, where that was a run
    model: str
    seed: int
    depth: Depth
    like: str  # what a row's two runs must have in common
    to_train: FineTuning | None

    @property
    def row(self) -> tuple[str, str, int]:
        return self.name, self.model, self.seed


def fine_tuned(runs: Sequence[Path], data: str, out: Path, recipe: Recipe, console: Console) -> list[Tuned]:
    """The fine-tuned runs: those given, and two of each pre-trained one, made in `out` where they are not finished.

    What can be refused is refused before the first is trained.
    """
    if world_size() > 1:
        raise MatrixError("train matrix is one process: fine-tune under torchrun first, then give it the finished runs")
    if blocked := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
        raise MatrixError(f"--out {blocked} is a file: choose a folder")
    _refuse_fields(data, recipe.fields)
    planned = [tuned for run in runs for tuned in _planned(run, data, out, recipe, console.print)]
    _refuse_clashes(planned)
    for tuned in planned:
        if tuned.to_train is not None:
            train(tuned.to_train, data, tuned.folder, resume=True, console=console)
    return planned


def _refuse_fields(data: str, fields: Mapping[Depth, str]) -> None:
    """MatrixError where the shards have not both, or one is not what it stands for."""
    if fields["real"] == fields["pseudo"]:
        raise MatrixError(f"--real and --pseudo must be two depth fields, got {fields['real']} twice")
    for depth, name in fields.items():
        for split in shards.SPLITS:
            index = open_labelled(data, split).index
            if name not in index.depth:
                raise MatrixError(
                    f"{data} must have {' and '.join(fields.values())} depth, it has {', '.join(index.depth)} "
                    f"({split}): --real and --pseudo name other fields"
                )
            if index.provenance(name).kind == "estimated" and depth == "real":
                raise MatrixError(f"--real {name}: a teacher estimated it: name depth that was measured or rendered")


def _planned(run: Path, data: str, out: Path, recipe: Recipe, say: Callable[[str], None]) -> list[Tuned]:
    record = parse(RunRecord, run / "run.json")
    if record.task == KIND:
        depth = _stands_for(run, record, recipe)
        name = (record.started_from or {}).get("run", record.name)
        like = _likeness(brought_up(record.config), record.init_sha256)
        return [Tuned(run, name, record.model, record.seed, depth, like, None)]
    planned = []
    for depth in DEPTHS[:1] if record.model == NO_DEPTH else DEPTHS:
        target = out / f"{run.name}-{recipe.fields[depth]}"
        files.refuse_links(out, target.name)
        more = {"head": recipe.head, "rule": recipe.rule}
        task = FineTuning.of(
            Asked(data, target, recipe.preset, None, str(run), recipe.fields[depth], recipe.settings, True, more), say
        )  # fmt: skip
        config, start = task.config, task.start
        begun = parse(RunRecord, target / "run.json").init_sha256 if (target / "run.json").exists() else None
        weights = begun or (start.found.sha256 if start and start.found else None)
        like = _likeness(config.model_dump(mode="json"), weights)
        planned.append(Tuned(target, record.name, record.model, config.seed, depth, like, task))
    return planned


def _likeness(config: dict[str, Any], weights_sha256: str | None) -> str:
    """Everything but depth, runtime, and the path by which the weights were named."""
    like = {key: value for key, value in config.items() if key not in ("data", "runtime", "init")}
    return json.dumps(like | {"weights": weights_sha256}, sort_keys=True)


def _refuse_clashes(planned: Sequence[Tuned]) -> None:
    """A row is told by name, model and seed: what has those in common must be one model's two fine-tunings."""
    known: dict[tuple[str, str, int], list[Tuned]] = {}
    for tuned in planned:
        for other in known.setdefault(tuned.row, []):
            both = f"{other.folder} and {tuned.folder}"
            if tuned.like != other.like:
                ours, theirs = json.loads(tuned.like), json.loads(other.like)
                keys = ", ".join(sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)))
                raise MatrixError(
                    f"{both} are both {tuned.model} from {tuned.name} with seed {tuned.seed} but differ in {keys}: "
                    "give one kind to a matrix"
                )
            if tuned.depth == other.depth:
                raise MatrixError(f"{both} are the same fine-tuning: give one of them")
        known[tuned.row].append(tuned)


def _stands_for(run: Path, record: RunRecord, recipe: Recipe) -> Depth:
    """What the depth of a fine-tuned run stands for; MatrixError where it is not finished, or that is neither."""
    lines = read_metrics(run / "metrics.jsonl")
    if not lines or not isinstance(lines[-1], EndLine):
        raise MatrixError(f"{run} is not finished: go on with train finetune ... --resume")
    depth = recipe.stands_for(record.shards.depth_field)
    if depth is None:
        raise MatrixError(
            f"{run} must have been trained with {' or '.join(recipe.fields.values())} depth, got "
            f"{record.shards.depth_field}: leave it out"
        )
    return depth


def rows_of(
    tuned: Sequence[Tuned], data: str, fields: Mapping[Depth, str], evaluate: Evaluate, multi_scale: bool
) -> list[MatrixRow]:
    """Rows of one model, name and seed, in the order given, tested on `data`."""
    split = open_labelled(data, "val")
    grouped: dict[tuple[str, str, int], list[Tuned]] = {}
    for each in tuned:
        grouped.setdefault(each.row, []).append(each)
    return [
        MatrixRow(
            *row,
            {
                (each.depth, tested): _evaluation(each.folder, fields[tested], split, evaluate, multi_scale)
                for each in group
                for tested in DEPTHS
            },
        )
        for row, group in grouped.items()
    ]


def _evaluation(
    run: Path, tested: str, split: shards.Split, evaluate: Evaluate, multi_scale: bool
) -> SegmentationEvaluation:
    """One that is there, if it is of these images, this depth and the best checkpoint, or a new one."""
    best = checkpoint.read_info(checkpoint.find(run, "best")).sha256
    depth = split.depth_fingerprint(tested) if tested in split.sidecars else ""
    wanted = (split.index.fingerprint, depth, tested, best, multi_scale)
    for path in files.listed(run / "evaluations", ".json"):
        found = read_evaluation(path)
        if not isinstance(found, SegmentationEvaluation):
            continue
        of = (found.fingerprint, found.depth_fingerprint, found.depth_field, found.checkpoint_sha256)
        if (*of, found.multi is not None) == wanted:
            return found
    return evaluate(run, tested)


def tables(result: Matrix) -> list[Table]:
    """Ours with intervals over the paper's, %; then the differences, points."""
    paper = data_manifests.load("paper")["table3"]
    how = "scales and mirrors summed" if result.multi_scale else "images as they are"
    rules = " and ".join(sorted({cell.selection for cell in result.cells}))
    named = [f"{depth} is {own}" for depth, own in result.fields.items() if own != depth]
    which = f"; {', '.join(named)}" if named else ""
    main = Table(
        title=f"mIoU, %, {result.num_images:,} images, {result.num_classes} classes, {how}; checkpoints: {rules}{which}"
    )
    columns: list[tuple[Depth, Depth]] = [(a, b) for a in DEPTHS for b in (a, *(d for d in DEPTHS if d != a))]
    for name in ("model", *(f"{trained} → {tested}" for trained, tested in columns)):  # train → test
        main.add_column(name)
    groups = list(dict.fromkeys((cell.name, cell.model, cell.seed) for cell in result.cells))
    several = len({seed for *_, seed in groups}) > 1

    def label(name: str, seed: int) -> str:
        return f"{name}, seed {seed}" if several else name

    for name, model, seed in groups:
        own = {(c.trained, c.tested): c for c in result.cells if (c.name, c.model, c.seed) == (name, model, seed)}
        shown = [own.get(column) for column in columns]
        texts = [f"{100 * c.miou:.1f}\n{100 * c.low:.1f} to {100 * c.high:.1f}" if c else "–" for c in shown]
        main.add_row(label(name if model in name else f"{name} ({model})", seed), *texts)
        if printed := paper.get(model):
            main.add_row("  paper, NYU", *(f"{printed[a][b]:.2f}" for a, b in columns), style="dim")
    second = Table(title="differences, points of mIoU, with 95 % intervals over images")
    for heading in ("model", "train → test", "minus", "difference"):
        second.add_column(heading)
    for d in result.differences:
        sides = [f"{a} → {b}" for a, b in (d.of, d.minus)]
        change = f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})"
        second.add_row(label(d.name, d.seed), *sides, change)
    return [main, second] if result.differences else [main]
