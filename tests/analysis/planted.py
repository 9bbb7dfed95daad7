"""Runs and dumps with known answers, written through the real contracts."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from training import records
from training.dumps.arrays import packed
from training.dumps.from_raw import biased, softmax
from training.dumps.pairs import num_distances, partner, patch_distance
from training.dumps.schema import MODES, OUTCOMES, PHI_HIDDEN, DumpInfo, Stream
from training.dumps.scores import Bias
from training.dumps.statistics import Statistics
from training.dumps.store import DumpWriter
from training.dumps.tokens import NUM_FOLDS, gram_batch
from training.records import (
    EndLine,
    EvalLine,
    Evaluation,
    Gap,
    GapCrossing,
    GapCurve,
    MatrixCell,
    NoiseSweep,
    ParametersLine,
    RunRecord,
    ShardsSeen,
    TrainLine,
)

GRID, LAYERS, HEADS = (4, 4), 4, 2
SIZE = {"image_size": 64, "patch_size": 16, "width": 32, "depth": LAYERS, "heads": HEADS, "num_classes": 6}
ALPHA = [1.0, 1.5, 0.5, -0.25]
ScoreMaker = Callable[
    [np.ndarray, np.random.Generator], np.ndarray
]  # |Δ| (images, P, P) -> (images, layers, heads, P, P)


def config(model: str = "m4ch", depth: str = "pseudo", seed: int = 0, epochs: int = 5) -> dict[str, Any]:
    has_bias = model in ("mlin", "mmlp")
    own = {"initial_value": 2.0, "decay_range": 4.0, "patch_depth": "mean"} if has_bias else {}
    return {
        "preset": "tiny",
        "seed": seed,
        "model": {"name": model, **SIZE, **own},
        "data": {"depth": depth},
        "optim": {"epochs": epochs},
        "runtime": {"workers": 1},
    }


def study_hash(model: str, depth: str, seed: int) -> str:
    return records.study_hash(config(model, depth, seed))


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
    reads_depth: float = 1.0,
    causal: float | None = None,
    **changes: Any,
) -> Path:
    """A dump of planted scores, through the real statistics; mlin and mmlp get their bias on top as `total`.

    Block outputs hold z times `reads_depth` times the layer's number in their first column, else noise. `causal`: the
    slope of scores on a swapped depth, with every fourth image as an example.
    """
    z = patch_depths(num_images, grid) if depths is None else depths
    info = _info(model, depth, seed, epoch, num_images, grid, fingerprint).model_copy(update=changes)
    generator = np.random.default_rng(1 + seed)
    difference = z[:, :, None] - z[:, None]
    content = _with_class_token(scores(abs(difference), generator))[:, info.first_attention_layer :]
    tables = None if info.bias is None else _with_class_token(_table(info, difference))
    colour = np.random.default_rng(3).uniform(size=(num_images, info.num_patches, 3))
    with DumpWriter(path, info) as writer:
        statistics = Statistics(info, writer.write, np.zeros(0))
        others = [partner(n, num_images) for n in range(num_images)]
        statistics.begin(np.arange(num_images), z, z[others], colour)
        statistics.inputs(colour)
        for layer in range(info.num_attention_layers):
            bias = None if tables is None else Bias(head_scale(), tables[:, layer])
            statistics.scores(layer, content[:, layer], bias)
            statistics.pattern(layer, softmax(biased(content[:, layer], bias)))
        shared = np.random.default_rng(7 + seed)  # of all models: what sets them apart is how strongly they hold depth
        outputs = {stream.name: _outputs(stream, z, reads_depth, shared) for stream in info.streams}
        for name, values in outputs.items():
            for layer in range(values.shape[1]):
                statistics.tokens(name, layer, values[:, layer])
        statistics.end()
        statistics.finish()
        _write_rest(writer, info, content, outputs, z, generator)
        if info.num_causal:
            _write_causal(writer, info, causal or 0.0, generator)
        writer.write_keys(0, [f"room-{index}" for index in range(num_images)])
    return path


READS = {"m3ch": 0.1, "mlin": 0.4, "mmlp": 0.3, "m4ch": 1.5}  # how strongly runs' block outputs hold depth
WIDTH, PHI = 8, (1.0, 0.5)  # of block outputs; slopes of φ right and left of 0


def _info(
    model: str, depth: str, seed: int, epoch: int, num_images: int, grid: tuple[int, int], fingerprint: str
) -> DumpInfo:
    first = 2 if model in ("mdf1", "mgem") else 0
    streams = [Stream(name="tokens", first_layer=first, num_layers=LAYERS - first, prefix=1, width=WIDTH)]
    if first:
        widths = {"rgb": WIDTH if model == "mdf1" else WIDTH // 2, "depth": WIDTH // 2}
        streams += [Stream(name=n, first_layer=0, num_layers=first, prefix=0, width=w) for n, w in widths.items()]
    return DumpInfo(
        model=model, run=f"{model}-{depth}-{seed}", config=config(model, depth, seed),
        study_hash=study_hash(model, depth, seed), checkpoint=f"epoch-{epoch}", checkpoint_sha256="0" * 64, epoch=epoch,
        data="shards", split="val", fingerprint=fingerprint, classes_sha256="c" * 64,
        class_names=[f"class {number}" for number in range(6)], depth_field=depth,
        standardisation={"mean": 2.5, "std": 1.6, "polarity": "closer_is_larger", "unit": "1"}, patch_depth="mean",
        scale=0.25, bias={"mlin": "linear", "mmlp": "phi"}.get(model), num_prefix=1, num_layers=LAYERS,
        first_attention_layer=first, streams=streams, num_heads=HEADS, grid=grid, image_size=64, num_images=num_images,
        num_raw=0, num_groups=min(50, num_images), gram_batch=gram_batch(num_images), dtype="float32",
        max_fused_difference=0.0,
    )  # fmt: skip


def head_scale() -> np.ndarray:
    """(heads,) s_h of mlin and mmlp."""
    return np.log(1 - 2.0 ** (-2.0 - 4.0 * np.arange(HEADS) / HEADS))


def _with_class_token(patches: np.ndarray) -> np.ndarray:
    """Scores of patches among those of all tokens; the class token's are zero."""
    return np.pad(patches, [(0, 0)] * (patches.ndim - 2) + [(1, 0), (1, 0)])


def _table(info: DumpInfo, difference: np.ndarray) -> np.ndarray:
    """(images, layers, P, P), of which a head's bias is s_h times as much: alpha |Δ|, or φ(Δ)."""
    if info.bias == "linear":
        return np.asarray(ALPHA)[:, None, None] * abs(difference)[:, None]
    table = PHI[0] * np.maximum(difference, 0) + PHI[1] * np.maximum(-difference, 0)
    return np.repeat(table[:, None], LAYERS, 1)


def _outputs(stream: Stream, z: np.ndarray, reads_depth: float, generator: np.random.Generator) -> np.ndarray:
    """(images, layers, tokens, width)."""
    h = generator.normal(size=(len(z), stream.num_layers, stream.prefix + z.shape[1], stream.width))
    strength = reads_depth * np.arange(1, stream.num_layers + 1)
    h[:, :, stream.prefix :, 0] += strength[None, :, None] * z[:, None]
    return h


def _write_rest(
    writer: DumpWriter,
    info: DumpInfo,
    content: np.ndarray,
    outputs: dict[str, np.ndarray],
    z: np.ndarray,
    generator: np.random.Generator,
) -> None:
    labels = generator.integers(0, 6, info.num_images).astype(np.int32)
    writer.write("statistics/labels", 0, labels if info.labelled else np.full_like(labels, -1))
    writer.write("statistics/predicted", 0, np.where(generator.uniform(size=len(labels)) < 0.7, labels, 0))
    if info.has_bias:
        writer.write("parameters/head_scale", 0, np.tile(head_scale(), (info.num_attention_layers, 1)))
        writer.write("parameters/alpha", 0, np.array(ALPHA[info.first_attention_layer :]))
        phi = np.zeros((info.num_attention_layers, 3, PHI_HIDDEN))
        phi[:, :, 0], phi[:, :, 1] = (1, 0, PHI[0]), (-1, 0, PHI[1])
        writer.write("parameters/phi", 0, phi)
    m = slice(info.num_raw)
    mean = content[m].mean(-1)
    writer.write("raw/scores_pre_bias", 0, content[m] - mean[..., None])
    writer.write("raw/row_mean", 0, mean)
    for name, values in outputs.items():
        writer.write(f"raw/resid_post/{name}", 0, values[m])
    for mode in MODES:
        writer.write(f"raw/patch_depth/{mode}", 0, z[m])
    writer.write("raw/rgb", 0, generator.integers(0, 255, (info.num_raw, info.image_size, info.image_size, 3)))


def _write_causal(writer: DumpWriter, info: DumpInfo, slope: float, generator: np.random.Generator) -> None:
    count, layers, heads, groups = info.num_causal, info.num_attention_layers, info.num_heads, info.num_groups
    pairs = generator.uniform(50, 150, count)
    noise = generator.normal(0, 0.01, (count, layers)) if slope else np.zeros((count, layers))
    rows = (slope + noise) * pairs[:, None]
    writer.write("causal/swap/pairs", 0, pairs)
    writer.write("causal/swap/rows", 0, rows)
    writer.write("causal/swap/head_pairs", 0, np.full(groups, 100.0))
    writer.write("causal/swap/head_rows", 0, np.full((groups, layers, heads), 100.0 * slope))
    by_distance = generator.uniform(5, 15, (groups, num_distances(info.grid)))
    writer.write("causal/swap/distance_pairs", 0, by_distance)
    noise = generator.normal(0, 0.01, (groups, layers, 1)) if slope else 0.0
    writer.write("causal/swap/distance", 0, (slope + noise) * by_distance[:, None])
    writer.write("causal/base", 0, (generator.uniform(size=count) < 0.7).astype(np.uint8))
    outcomes = np.zeros((count, len(info.interventions), len(OUTCOMES)))
    if slope:
        outcomes = generator.uniform(size=outcomes.shape)
        outcomes[..., [0, 3]] = outcomes[..., [0, 3]].round()
    writer.write("causal/outcomes", 0, outcomes[..., -len(info.outcomes) :])
    stream = info.stream("tokens")
    tokens = generator.normal(size=(NUM_FOLDS, stream.num_layers + 1, 200, stream.width + 3))
    tokens[..., -1] = 1
    writer.write("causal/refit/moments", 0, packed(tokens.swapaxes(-1, -2) @ tokens))


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
    more = {"m3ch": 0, "mlin": LAYERS, "mmlp": 96 * LAYERS, "m4ch": 4_096, "mdf1": 30_000, "mgem": -10_000}
    parameters = 200_000 + more[model]
    record = RunRecord(
        name=f"{model}-{depth}-{seed}",
        created="2026-01-01T00:00:00Z",
        preset="tiny",
        model=model,
        seed=seed,
        config=config(model, depth, seed, epochs),
        study_hash=records.study_hash(config(model, depth, seed, epochs)),
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
            reads_depth=READS[model],
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
        checkpoint="latest",
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
        largest_class=1 / 6,
    )
    path = folder / "evaluations" / "val-final.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(evaluation.model_dump(mode="json")))


BETAS = [0.6, 0.9, 0.4, 0.2]  # strongest in layer 2 of 4
LOCAL = 0.15
SEEN = np.array([0.05, 0.3, 0.1, 0.05])  # of depth, by layer, in scores of a model that is not given any


def local(delta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scores of a model that never saw depth: they fall with distance, and a little with |Δ|, most in layer 2."""
    distance = patch_distance(GRID)
    strength, depth = (each[None, :, None, None, None] for each in (LOCAL * np.array([1.0, 3.0, 2.0, 1.0]), SEEN))
    noise = generator.normal(0, 0.2, (len(delta), LAYERS, HEADS, *delta.shape[1:]))
    return -strength * distance - depth * delta[:, None, None] + noise - 0.5


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


def as_model(folder: Path, model: str, **options: Any) -> Path:
    """The run made over into one of another model, such as mmlp."""
    path = folder / "run.json"
    record = json.loads(path.read_text())
    record |= {"model": model, "name": record["name"].replace(record["model"], model)}
    bias = {"initial_value": 2.0, "decay_range": 4.0, "patch_depth": "mean"} if model in ("mlin", "mmlp") else {}
    record["config"]["model"] |= {"name": model, **bias, **options}
    record["study_hash"] = records.study_hash(record["config"])
    path.write_text(json.dumps(record))
    for path in (folder / "evaluations").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model": model}))
    return folder


SIGMAS = [0.0, 0.5, 1.0, 2.0]


def enduring(top1: list[float], samples: int = 1000, seed: int = 0) -> np.ndarray:
    """(sigmas, samples) of outcomes with these accuracies; a sample that noise turns wrong stays wrong under more."""
    order = np.random.default_rng(seed).permutation(samples)
    correct = np.zeros((len(top1), samples), bool)
    for row, share in zip(correct, top1, strict=True):
        row[order[: round(share * samples)]] = True
    return correct


def write_sweep(folder: Path, correct: np.ndarray, noise: str = "pixel", **changes: Any) -> None:
    """A noise sweep of the run in `folder`, at SIGMAS."""
    record = json.loads((folder / "run.json").read_text())
    sweep = NoiseSweep(
        model=record["model"], checkpoint="latest", epoch=5, data="demo/shards", split="val",
        fingerprint="val-fingerprint", depth_field=record["shards"]["depth_field"], noise=noise, noise_seed=0,
        image_size=64, patch_size=16, num_samples=correct.shape[1], sigmas=SIGMAS[: len(correct)],
        top1=correct.mean(1).tolist(), top5=[1.0] * len(correct), loss=[0.5] * len(correct),
        correct1=["".join("01"[hit] for hit in row) for row in correct.astype(int)],
    ).model_copy(update=changes)  # fmt: skip
    path = folder / "evaluations" / f"noise-{sweep.noise}-{sweep.split}-{sweep.depth_field}-{sweep.epoch}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(sweep.model_dump_json())


def write_gap(folder: Path, stars: dict[str, float | None], **changes: Any) -> None:
    """The gap of the run in `folder`, with sigma* by kind of noise (inverse reading: 1.25 as much; softmax: half)."""
    record = json.loads((folder / "run.json").read_text())
    crossings = []
    for (noise, star), output, reading in product(stars.items(), ("logits", "softmax"), ("z", "inverse")):
        factor = {"z": 1.0, "inverse": 1.25}[reading] * {"logits": 1.0, "softmax": 0.5}[output]
        ends = {"sigma_star": None, "low": None, "high": None}
        if star is not None:
            ends = {"sigma_star": star * factor, "low": 0.9 * star * factor, "high": 1.1 * star * factor}
        crossings.append(
            GapCrossing(
                noise=noise, output=output, reading=reading, e_star=0.3, share_above=float(star is None),
                undefined=record["model"] == "m3ch", **ends,
            )
        )  # fmt: skip
    gap = Gap(
        model=record["model"], checkpoint="latest", epoch=5, data="nyu", fingerprints={"train": "a", "val": "b"},
        real_field="real", num_images=1449, noise_seed=0, image_size=64, patch_size=16, sigmas=SIGMAS,
        num_resamples=1000, inverse_mean=0.5, inverse_std=0.2, crossings=crossings,
        curves=[GapCurve(noise=noise, output="logits", e=[0.0, 0.2, 0.3, 0.4]) for noise in stars],
    ).model_copy(update=changes)  # fmt: skip
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / "gap-final.json").write_text(gap.model_dump_json())


def matrix_cell(
    model: str, trained: str, tested: str, miou: float, error: float, num_images: int = 654, **changes: Any
) -> MatrixCell:
    """A cell with this standard error: pseudo-values of evenly spread images, with Student's interval."""
    spread = np.linspace(-1, 1, num_images)
    values = miou + error * np.sqrt(num_images) * spread / spread.std(ddof=1)
    half = float(student.ppf(0.975, num_images - 1)) * error
    cell = MatrixCell(
        name=f"{model}-run", model=model, seed=0, trained=trained, tested=tested, miou=miou, low=max(0.0, miou - half),
        high=min(1.0, miou + half), error=error, pseudo_values=values.tolist(), single_miou=miou, commonest_miou=0.02,
        pixel_accuracy=0.9, epoch=4, selection="best-on-val",
    )  # fmt: skip
    return cell.model_copy(update=changes)


PHI_GRID = [number / 10 for number in range(-40, 41)]


def write_parameters(folder: Path, values: dict[int, dict[str, Any]]) -> Path:
    """Logged parameters by epoch, in place of those in the run's metrics."""
    path = folder / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"kind":"parameters"' not in line]
    lines = [
        ParametersLine(step=78 * epoch, epoch=epoch, values=each).model_dump_json() for epoch, each in values.items()
    ]
    path.write_text("\n".join([*kept, *lines]) + "\n")
    return folder
