"""What runs must share to be compared, and what they reached: read from their records, without dumps."""

import json

from analysis.commands import command
from analysis.load import AnalysisError, Given
from training.records import EndLine, Evaluation, Run


def comparable_runs(study: Given) -> list[Run]:
    """The runs, or a refusal that names two which saw different data."""
    if not study.runs:
        raise AnalysisError("tables and the report read run folders; none was given (a bare .zarr serves figures only)")
    check_same_shards(study.runs)
    return study.runs


def check_same_shards(runs: list[Run]) -> None:
    """Refuses two that saw different data, by name."""
    first = runs[0]
    for run in runs[1:]:
        a, b = first.record.shards, run.record.shards
        for split, ours, theirs in (
            ("val", a.val_fingerprint, b.val_fingerprint),
            ("train", a.train_fingerprint, b.train_fingerprint),
        ):
            if ours != theirs:
                raise AnalysisError(
                    f"{first.folder} and {run.folder} have different {split} shards (fingerprints {ours[:12]} and "
                    f"{theirs[:12]}): compare runs on the same shards"
                )


def final_evaluation(run: Run) -> Evaluation:
    """The run's latest evaluation on its own val with the depth it was trained on; other data do not matter."""
    field = run.record.shards.depth_field
    trained = [e for e in run.evaluations if e.split == "val" and e.depth_field == field]
    own = [e for e in trained if e.fingerprint == run.record.shards.val_fingerprint]
    if not own:
        which = "its own val" if trained else "val"
        raise AnalysisError(
            f"{run.folder} has no evaluation on {which} with {field} depth: make it with {_evaluate(run)}"
        )
    last = max(own, key=lambda evaluation: evaluation.epoch)
    for name, outcome, share in (("correct1", last.correct1, last.top1), ("correct5", last.correct5, last.top5)):
        hits = outcome.count("1")
        whole = len(outcome) == last.num_samples == hits + outcome.count("0")
        if not whole or abs(hits / max(1, last.num_samples) - share) > 1e-6:
            raise AnalysisError(
                f"{run.folder}: the evaluation of epoch {last.epoch} is damaged, {name} does not agree with the rest: "
                f"evaluate again with {_evaluate(run)}"
            )
    return last


def _evaluate(run: Run) -> str:
    return command("train", "evaluate", run.folder, "--data", run.record.shards.path)


def train_hours(run: Run) -> float | None:
    """Hours in training steps; None while the run has not ended."""
    ends = run.lines(EndLine)
    return ends[-1].train_seconds / 3600 if ends else None


def _recipe(run: Run) -> dict[str, str]:
    """The configuration, apart from model, depth and seed, by flat key: `optim.epochs` -> JSON."""
    flat = {}
    config = {k: v for k, v in run.record.config.items() if k not in ("model", "seed", "runtime")}
    size = {k: v for k, v in run.record.config.get("model", {}).items() if k in _SIZE}
    for section, content in {**config, "model": size}.items():
        items = content.items() if isinstance(content, dict) else [(None, content)]
        for key, value in items:
            if (section, key) != ("data", "depth"):
                flat[f"{section}.{key}" if key else section] = json.dumps(value, sort_keys=True)
    return flat


def recipe_of(run: Run) -> str:
    """The same text for runs that differ in model, depth and seed alone."""
    return json.dumps(_recipe(run), sort_keys=True)


def recipe_differences(runs: list[Run]) -> list[str]:
    """Keys of the configuration, apart from model, depth and seed, in which runs differ: `optim.epochs: 10 or 20`."""
    flat: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in _recipe(run).items():
            flat.setdefault(name, {})[value] = None
    return [f"{name}: {' or '.join(values)}" for name, values in sorted(flat.items()) if len(values) > 1]


_SIZE = ("image_size", "patch_size", "width", "depth", "heads", "mlp_ratio", "num_classes")
