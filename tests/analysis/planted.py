"""Runs and dumps with known answers, written through the real contracts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.dumps import sums
from training.dumps.store import DumpInfo, DumpWriter
from training.records import EndLine, EvalLine, Evaluation, ParametersLine, RunRecord, ShardsSeen, TrainLine

GRID, LAYERS, HEADS = (4, 4), 4, 2
SIZE = {"image_size": 64, "patch_size": 16, "width": 32, "depth": LAYERS, "heads": HEADS, "num_classes": 6}
ALPHA = [1.0, 1.5, 0.5, -0.25]
ScoreMaker = Callable[
    [np.ndarray, np.random.Generator], np.ndarray
]  # |Δ| (images, P, P) -> (images, layers, heads, P, P)


def config(model: str = "m4ch", depth: str = "pseudo", seed: int = 0, epochs: int = 5) -> dict[str, Any]:
    own = {"initial_value": 2.0, "decay_range": 4.0, "patch_depth": "mean"} if model == "mlin" else {}
    return {
        "preset": "tiny",
        "seed": seed,
        "model": {"name": model, **SIZE, **own},
        "data": {"depth": depth},
        "optim": {"epochs": epochs},
        "runtime": {"workers": 1},
    }


def study_hash(model: str, depth: str, seed: int) -> str:
    return f"{model}-{depth}-{seed}"


def patch_depths(num_images: int, grid: tuple[int, int] = GRID, seed: int = 0) -> np.ndarray:
    """(images, patches) smooth-ish depth in z, one scale and offset an image."""
    generator = np.random.default_rng(seed)
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    tilt = generator.normal(0, 0.25, (num_images, 2))
    plane = tilt[:, :1] * rows + tilt[:, 1:] * columns
    return plane + generator.normal(0, 0.7, (num_images, grid[0] * grid[1]))


def falling(betas: list[float], noise: float = 0.3, offset: float = 1.0, image_noise: float = 0.0) -> ScoreMaker:
    """S = -beta_l |Δ| + a_i + noise; `image_noise` lets beta vary from image to image."""

    def make(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        images, patches, _ = delta.shape
        slope = np.asarray(betas)[None, :, None, None, None]
        slope = slope + image_noise * generator.normal(size=(images, 1, 1, 1, 1))
        rows = offset * generator.normal(size=(images, len(betas), HEADS, patches, 1))
        errors = noise * generator.normal(size=(images, len(betas), HEADS, patches, patches))
        return -slope * delta[:, None, None] + rows + errors

    return make


def constant(value: float = -1.0) -> ScoreMaker:
    return lambda delta, _: np.full((len(delta), LAYERS, HEADS, *delta.shape[1:]), value)


def write_dump(
    path: Path,
    scores: ScoreMaker,
    *,
    model: str = "m4ch",
    depth: str = "pseudo",
    seed: int = 0,
    epoch: int = 5,
    num_images: int = 40,
    grid: tuple[int, int] = GRID,
    fingerprint: str = "val-fingerprint",
    depths: np.ndarray | None = None,
    **changes: Any,
) -> Path:
    """A dump of planted scores; mlin gets its bias on top as `total`."""
    has_bias = model == "mlin"
    info = DumpInfo(
        model=model,
        run=f"{model}-{depth}-{seed}",
        config=config(model, depth, seed),
        study_hash=study_hash(model, depth, seed),
        checkpoint=f"epoch-{epoch}",
        checkpoint_sha256="0" * 64,
        epoch=epoch,
        data="shards",
        split="val",
        fingerprint=fingerprint,
        depth_field=depth,
        standardisation={"mean": 2.5, "std": 1.6, "polarity": "closer_is_larger", "unit": "1"},
        patch_depth="mean",
        scale=0.25,
        has_bias=has_bias,
        cls_index=0,
        num_layers=LAYERS,
        num_heads=HEADS,
        grid=grid,
        image_size=64,
        num_images=num_images,
        num_raw=0,
        dtype="float32",
        max_fused_difference=0.0,
    ).model_copy(update=changes)
    pairs = sums.Pairs.of(patch_depths(num_images, grid) if depths is None else depths, grid)
    generator = np.random.default_rng(1 + seed)
    parts = {"content": scores(pairs.delta, generator)}
    if has_bias:
        heads = np.arange(HEADS)
        s_h = np.log(1 - 2.0 ** (-2.0 - 4.0 * heads / HEADS))
        bias = np.asarray(ALPHA)[:, None, None, None] * s_h[:, None, None] * pairs.delta[:, None, None]
        parts["total"] = parts["content"] + bias
    with DumpWriter(path, info) as writer:
        writer.write("statistics/pair_rows", 0, pairs.rows())
        for part, values in parts.items():
            _write_part(writer, part, values, pairs)
        writer.write_keys(0, [f"room-{index}" for index in range(num_images)])
    return path


def _write_part(writer: DumpWriter, part: str, values: np.ndarray, pairs: sums.Pairs) -> None:
    rows, cosines, bins = [], [], []
    for layer in range(LAYERS):
        layer_rows, layer_cosines = sums.score_rows(values[:, layer], pairs)
        rows.append(layer_rows)
        cosines.append(layer_cosines)
        bins.append(sums.ScoreBins.zeros(HEADS))
        bins[-1].update(values[:, layer], pairs)
    writer.write(f"statistics/{part}/rows", 0, np.stack(rows, 1))
    writer.write(f"statistics/{part}/cosines", 0, np.stack(cosines, 1))
    for name in ("sum", "sum_sq", "sum_centred", "count", "images"):
        writer.write(f"statistics/{part}/bins/{name}", 0, np.stack([getattr(each, name) for each in bins]))


def outcome(top1: float, samples: int, seed: int) -> str:
    """'0'/'1' a sample; samples have one difficulty in all models, as in life."""
    difficulty = np.random.default_rng(99).uniform(size=samples)
    own = np.random.default_rng(seed).normal(0, 0.15, samples)
    order = np.argsort(difficulty + own)
    correct = np.zeros(samples, int)
    correct[order[: round(top1 * samples)]] = 1
    return "".join(map(str, correct))


def write_run(
    folder: Path,
    *,
    model: str = "m4ch",
    depth: str = "pseudo",
    seed: int = 0,
    top1: float = 0.7,
    samples: int = 1000,
    epochs: int = 5,
    fingerprint: str = "val-fingerprint",
    evaluated: bool = True,
    scores: ScoreMaker | None = None,
    dump_epochs: tuple[int, ...] = (5,),
    num_images: int = 40,
) -> Path:
    """A finished run with metrics, a final evaluation and, with `scores`, dumps."""
    shards = ShardsSeen(
        path="demo/shards",
        source="toyrooms",
        train_fingerprint="train-fingerprint",
        val_fingerprint=fingerprint,
        num_train=10_000,
        num_val=samples,
        classes_sha256="c" * 64,
        num_classes=6,
        depth_field=depth,
        standardisation={"mean": 2.5, "std": 1.6, "polarity": "closer_is_larger", "unit": "1"},
        teacher="toy" if depth == "pseudo" else None,
    )
    parameters = {"m3ch": 200_000, "mlin": 200_000 + LAYERS, "m4ch": 204_096}[model]
    record = RunRecord(
        name=f"{model}-{depth}-{seed}",
        created="2026-01-01T00:00:00Z",
        preset="tiny",
        model=model,
        seed=seed,
        config=config(model, depth, seed, epochs),
        study_hash=study_hash(model, depth, seed),
        shards=shards,
        num_parameters=parameters,
        macs=12_345_678,
        steps_per_epoch=78,
        num_steps=78 * epochs,
        git={"revision": "abcdef0123456789", "dirty": False},
        versions={"torch": "2.11.0", "numpy": "2.4.6"},
        machine={"device": "cpu", "cores": 2, "world_size": 1},
    )
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(record.model_dump_json())
    write_metrics(folder / "metrics.jsonl", model, top1, samples, epochs)
    if evaluated:
        write_evaluation(folder, model, depth, outcome(top1, samples, hash_of(model, depth, seed)), fingerprint, epochs)
    for epoch in dump_epochs if scores else ():
        write_dump(
            folder / "dumps" / f"epoch-{epoch}.zarr",
            _grown(scores, (epoch + 1) / (epochs + 1)),
            model=model,
            depth=depth,
            seed=seed,
            epoch=epoch,
            num_images=num_images,
            fingerprint=fingerprint,
        )
    return folder


def write_metrics(path: Path, model: str, top1: float, samples: int, epochs: int) -> None:
    """A curve that rises to `top1`."""
    lines: list[Any] = []
    for epoch in range(1, epochs + 1):
        reached = top1 * (1 - 0.6**epoch) / (1 - 0.6**epochs)
        common = {"step": 78 * epoch, "epoch": epoch}
        lines.append(TrainLine(**common, loss=1 / epoch, lr=1e-3, grad_norm=1.0, images_per_s=900.0, data_wait=0.02))
        lines.append(EvalLine(**common, top1=reached, top5=0.99, loss=0.5, num_samples=samples, seconds=2.0))
        if model == "mlin":
            lines.append(ParametersLine(**common, values={"alpha": ALPHA}))
    lines.append(EndLine(step=78 * epochs, epoch=epochs, train_seconds=41.0, total_seconds=50.0))
    path.write_text("".join(line.model_dump_json() + "\n" for line in lines))


def _grown(scores: ScoreMaker, share: float) -> ScoreMaker:
    """Early checkpoints: the same pattern, weaker, under the same noise."""

    def make(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return share * scores(delta, generator) + (1 - share) * generator.normal(
            0, 1, (len(delta), LAYERS, HEADS, *delta.shape[1:])
        )

    return make if share < 1 else scores


def hash_of(model: str, depth: str, seed: int) -> int:
    return sum(map(ord, model + depth)) + seed


def write_evaluation(folder: Path, model: str, depth: str, correct1: str, fingerprint: str, epoch: int) -> None:
    samples = len(correct1)
    correct5 = correct1.replace("0", "1", samples // 10)
    evaluation = Evaluation(
        model=model,
        checkpoint="final",
        epoch=epoch,
        data="demo/shards",
        split="val",
        fingerprint=fingerprint,
        depth_field=depth,
        num_samples=samples,
        top1=correct1.count("1") / samples,
        top5=correct5.count("1") / samples,
        loss=0.5,
        correct1=correct1,
        correct5=correct5,
    )
    path = folder / "evaluations" / "val-final.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(evaluation.model_dump(mode="json")))


BETAS = [0.6, 0.9, 0.4, 0.2]  # strongest in layer 2 of 4
LOCAL = 0.15


def local(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scores of a model that never saw depth: they fall with distance, and so a little with |Δ|."""
    distance = sums.patch_distance(GRID)
    strength = LOCAL * np.array([1.0, 3.0, 2.0, 1.0])[None, :, None, None, None]
    noise = generator.normal(0, 0.2, (len(delta), LAYERS, HEADS, *delta.shape[1:]))
    return -strength * distance - 0.1 * delta[:, None, None] + noise - 0.5


def write_demo(folder: Path, num_images: int = 40, samples: int = 1000) -> list[Path]:
    """Seven runs as in the demo: m3ch, and mlin and m4ch on pseudo, real and exact depth."""
    runs = [
        write_run(
            folder / "m3ch", model="m3ch", top1=0.62, samples=samples, scores=local, dump_epochs=(0, 1, 5),
            num_images=num_images,
        )
    ]  # fmt: skip
    gains = {"pseudo": (0.03, 0.06), "real": (0.02, 0.11), "exact": (0.05, 0.2)}
    for depth, (mlin, m4ch) in gains.items():
        for model, gain in (("mlin", mlin), ("m4ch", m4ch)):
            runs.append(
                write_run(
                    folder / f"{model}-{depth}", model=model, depth=depth, top1=0.62 + gain, samples=samples,
                    scores=falling(BETAS), num_images=num_images,
                )
            )  # fmt: skip
    return runs
