"""Planted worlds in which a claim is true, reversed, or explained by something else: studies in memory, drawn at will.

`draw(claim, world, generator)` gives a study that holds what this claim is judged by and nothing else. Effects are five
standard errors or so of what is measured, so that a rule that works sees them; sizes are in SIZES.

true                    as claimed, in every cell
reversed                the opposite, in every cell
nothing learned         the last checkpoint is the first, but for small random steps
another image's depth   trained on it: scores follow the mean |Δ| of a pair of positions, tokens hold another image's z
confounded              scores follow distance and position alone, tokens the depth that is usual where they are
at chance               as in `true`, but the models classify, or label, no better than chance
seed luck 0.3, 1        no effect, but every training differs: SD 0.3 and 1 point, or as much in other units
few images              as in `true`, on a tenth of the samples, and 12 images of dumps (24 of CKA, which has blocks)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import planted

from analysis.claims import Claim
from analysis.load import DigitsStudy, Given
from training import records
from training.dumps.arrays import packed
from training.dumps.from_raw import softmax
from training.dumps.pairs import (
    BIN_WIDTH,
    NUM_BINS,
    REGRESSORS,
    distances,
    num_distances,
    partner,
    patch_distance,
)
from training.dumps.schema import DumpInfo, Stream, arrays
from training.dumps.scores import ROWS, Bias
from training.dumps.statistics import Statistics
from training.dumps.tokens import NUM_FOLDS, gram_batch
from training.records import EndLine, Evaluation, Gap, GapCrossing, Matrix, MatrixCell, NoiseSweep, ParametersLine, Run

MODELS = ("m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem")
SIZES = {
    "samples": 2000, "samples of ties": 20_000, "seeds": 3, "seeds of fine-tuning and parameters": 5,
    "seed SD, points": 0.5, "images of dumps": 40, "images of fine-tuning": 100, "layers": 6, "heads": 2,
    "grid": [4, 4], "classes": 6, "few images": "a tenth of the samples, 12 images of dumps, 10 of fine-tuning",
    "gap, points": 6.5, "slope": 0.3, "SD of slopes over images": 0.25,
}  # fmt: skip
LAYERS, HEADS, GRID, IMAGES, CLASSES = 6, 2, (4, 4), 40, 6
PATCHES, WIDTH = 16, 6
SHUFFLED, LUCK = "another image's depth", "seed luck"

Generator = np.random.Generator


def luck(world: str) -> float | None:
    """SD between seeds in points, of a world of nothing else."""
    return float(world.split()[-1]) if world.startswith(LUCK) else None


def worlds_of(claim: Claim) -> list[str]:
    """By the names the claim lists, with either size of luck."""
    found: list[str] = []
    for world in claim.worlds:
        found += [f"{LUCK} 0.3", f"{LUCK} 1"] if world == LUCK else [world]
    return found


def allowed(claim: Claim, world: str) -> list[str]:
    return claim.worlds[LUCK if world.startswith(LUCK) else world]


def draw(claim: Claim, world: str, generator: Generator) -> Given:
    return _DRAWN[claim.rule](claim, world, generator)


# --- runs and their accuracy ------------------------------------------------------------------------------------------


def _config(model: str, seed: int) -> dict[str, Any]:
    config = planted.config(model, seed=seed)
    config["model"] |= {"depth": LAYERS, "heads": HEADS, "num_classes": CLASSES}
    return config


def run(model: str, seed: int, outcomes: np.ndarray, *, top5: np.ndarray | None = None, classes: int = CLASSES,
        metrics: list | None = None, parameters: int = 200_000, macs: int = 10**9, **changes: Any) -> Run:  # fmt: skip
    """A finished run in memory; `outcomes` (samples,) of 0 and 1."""
    config = _config(model, seed)
    shards = records.ShardsSeen.model_construct(
        path="shards", source="toyrooms", train_fingerprint="t", val_fingerprint="v", num_train=1,
        num_val=len(outcomes), num_classes=classes, classes_sha256="c", depth_field="pseudo", standardisation={},
    teacher="toy", )  # fmt: skip
    record = records.RunRecord.model_construct(
        name=f"{model}-pseudo-{seed}", preset="tiny", task="classification", model=model, seed=seed, config=config,
        study_hash=f"{model}-{seed}", shards=shards, num_parameters=parameters, macs=macs,
        machine={"device": "cpu", "cores": 2}, **changes,
    )  # fmt: skip
    bits = written(outcomes)
    five = bits if top5 is None else written(top5)
    evaluation = Evaluation.model_construct(
        model=model, checkpoint="latest", epoch=5, data="shards", split="val", fingerprint="v", depth_field="pseudo",
        num_samples=len(outcomes), top1=float(outcomes.mean()), top5=five.count("1") / len(five), loss=1.0,
        correct1=bits, correct5=five, largest_class=0.2,
    )  # fmt: skip
    return Run(Path(f"{model}-pseudo-{seed}"), record, metrics or [], [evaluation], [])


def written(outcomes: np.ndarray) -> str:
    """'0' or '1' a sample."""
    return (outcomes.astype(np.uint8) + ord("0")).tobytes().decode()


def outcomes(accuracy: float, difficulty: np.ndarray, generator: Generator, spread: float = 0.15) -> np.ndarray:
    """0 or 1 a sample: hard samples are hard for all models."""
    own = difficulty + generator.normal(0, spread, len(difficulty))
    return (own < np.quantile(own, min(max(accuracy, 0.0), 1.0))).astype(int)


def runs_of(levels: dict[str, float], world: str, generator: Generator, seeds: int = 3, samples: int = 2000,
            seed_sd: float = 0.005, spread: float = 0.15, **options: Any) -> list[Run]:  # fmt: skip
    """Every model with this accuracy, seed by seed; `at chance`: none has learned anything."""
    if world == "few images":
        samples //= 10
    if (own := luck(world)) is not None:
        seed_sd, seeds = own / 100, 2
    difficulty = generator.uniform(size=samples)
    found = []
    for model, level in levels.items():
        for seed in range(seeds):
            reached = 1 / CLASSES - 0.03 if world == "at chance" else level + generator.normal(0, seed_sd)
            top5 = None
            if options.get("top5"):
                top5 = outcomes(reached, difficulty, generator, spread)
            found.append(run(model, seed, outcomes(0.5 if top5 is not None and world != "at chance" else reached,
                                                   difficulty, generator, spread), top5=top5))  # fmt: skip
    return found


def _signed(world: str) -> int:
    """What becomes of an effect: as it is, turned round, or nothing."""
    return {"reversed": -1, "true": 1, "few images": 1, "at chance": 1}.get(world, 0)


def _gap(claim: Claim, world: str, generator: Generator) -> Given:
    step, better, worse = 0.065 * _signed(world), claim.options["better"], claim.options["worse"]
    levels = dict.fromkeys(MODELS, 0.5) | {better: 0.5 + step, worse: 0.5}
    return Given(runs_of(levels, world, generator, top5=claim.options.get("measure") == "top5"), [])


def _steps(claim: Claim, world: str) -> dict[str, int]:
    """How many steps up a chain of pairs each model is."""
    height = dict.fromkeys((name for pair in claim.options["pairs"] for name in pair), 0)
    for _ in height:
        for simpler, richer in claim.options["pairs"]:
            height[richer] = max(height[richer], height[simpler] + 1)
    return height


def _ordered(claim: Claim, world: str, generator: Generator) -> Given:
    levels = {model: 0.5 + 0.065 * _signed(world) * steps for model, steps in _steps(claim, world).items()}
    return Given(runs_of(levels, world, generator), [])


def _tie(claim: Claim, world: str, generator: Generator) -> Given:
    away = {"reversed": 0.02, "true": 0.0, "few images": 0.0, "at chance": 0.0}.get(world, 0.02)
    levels = {"m3ch": 0.4, claim.options["worse"]: 0.6, claim.options["better"]: 0.6 + away}
    return Given(runs_of(levels, world, generator, seeds=5, samples=20_000, seed_sd=0.001, spread=0.03), [])


# --- cost -------------------------------------------------------------------------------------------------------------


def _cost(claim: Claim, world: str, generator: Generator) -> Given:
    import data_manifests

    paper = data_manifests.load("paper")
    whole = {"image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "num_classes": 1000}
    found = []
    for model in MODELS:
        parameters, macs = paper[model]["parameters"], 17_563_828_224
        over = {"mdf1": 2.4e9, "m4ch": 38.5e6, "mgem": -280e6}.get(model, 0.0)
        if world == "reversed":
            parameters, over = parameters + 20_000_000 * (1 + MODELS.index(model)), over + 5e9 * (model != "m3ch")
        each = run(model, 0, np.ones(10), parameters=parameters, macs=int(macs + over))
        each.record.config["model"] |= whole
        found.append(each)
    return Given(found, [])


def _hours(claim: Claim, world: str, generator: Generator) -> Given:
    sign, sd = _signed(world), 0.03
    seeds = 3
    if (own := luck(world)) is not None:
        sd, seeds = own / 30, 2
    found = []
    for model in MODELS:
        cost = 1.1 if model != "m3ch" else 1.0
        for seed in range(seeds):
            hours = 3600 * cost * np.exp(0.2 * sign * (model != "m3ch") + generator.normal(0, sd))
            end = EndLine.model_construct(
                kind="end", step=1, epoch=5, train_seconds=hours, total_seconds=hours, resumes=0
            )
            each = run(model, seed, np.ones(10), metrics=[end], macs=int(1e9 * cost))
            each.record.config["model"]["name"] = "plain"  # no bias to add
            found.append(each)
    return Given(found, [])


# --- fine-tuning ------------------------------------------------------------------------------------------------------

TUNED = ("mlin", "mmlp", "m4ch", "mdf1", "mgem", "dformer-tiny", "dformerv2-small")


def _tuned_levels(claim: Claim, world: str) -> dict[str, list[float]]:
    """mIoU by (real, real), (real, pseudo), (pseudo, pseudo), (pseudo, real)."""
    sign, base = _signed(world), 0.4
    levels = {}
    for model in TUNED:
        gain = drop_real = drop_pseudo = 0.0
        level = base
        if claim.rule == "pseudo_gains":
            gain = 0.05 * sign
        elif claim.rule == "indifferent":
            gain = 0.0 if sign > 0 else 0.05
        elif claim.rule == "gain_grows":
            gain = 0.055 * sign * _steps(claim, world).get(model, 0)
        elif claim.rule == "every_drops":
            drop_real = drop_pseudo = 0.05 * sign
        elif claim.rule == "drops_more":
            rich = any(model == richer for _, richer in claim.options["pairs"])
            drop_real = drop_pseudo = 0.05 + 0.06 * sign * rich
        elif claim.rule == "larger_drop":
            drop_real = drop_pseudo = 0.08
            drop_pseudo += 0.07 * sign
        elif claim.rule == "complex_best":
            level = base + 0.08 * sign * (model in claim.options["complex"])
        elif claim.rule == "varies_more":
            level = base + {1: 0.06, -1: 0.002, 0: 0.01}[sign] * (TUNED.index(model) - 2)
        levels[model] = [level, level - drop_real, level + gain, level + gain - drop_pseudo]
    return levels


def _tuned(claim: Claim, world: str, generator: Generator) -> Given:
    seeds, images, of_seed, noise = 5, 100, 0.005, 0.05
    if claim.rule == "indifferent":
        noise, of_seed = 0.012, 0.001
    if world == "few images":
        images //= 10
    if (own := luck(world)) is not None:
        of_seed, seeds = own / 100, 2
    shared = generator.normal(0, 0.1, (images, 1))
    cells, runs = [], []
    for model, level in _tuned_levels(claim, world).items():
        for seed in range(seeds):
            of_cell = generator.normal(0, of_seed, 4) + generator.normal(0, of_seed)
            pseudo = np.array(level) + of_cell + shared + generator.normal(0, noise, (images, 4))
            mean, error = pseudo.mean(0), pseudo.std(0, ddof=1) / np.sqrt(images)
            for place, (trained, tested) in enumerate(_CELLS):
                cells.append(
                    MatrixCell.model_construct(
                        name=f"{model}-pseudo", model=model, seed=seed, trained=trained, tested=tested,
                        miou=float(mean[place]), low=float(mean[place] - 2 * error[place]), high=1.0,
                        error=error[place], pseudo_values=pseudo[:, place].tolist(),
                        commonest_miou=0.9 if world == "at chance" else 0.05,
                    )
                )  # fmt: skip
    if claim.rule == "varies_more":
        step = {1: 0.002, -1: 0.06, 0: 0.01}[_signed(world)]
        runs = runs_of({model: 0.5 + step * k for k, model in enumerate(claim.options["models"])}, world, generator)
    matrix = Matrix.model_construct(
        data="shards", split="val", fingerprint="v", num_images=images, num_classes=9, multi_scale=False, cells=cells,
        differences=[],
    )  # fmt: skip
    return Given(runs, [], matrix)


_CELLS = (("real", "real"), ("real", "pseudo"), ("pseudo", "pseudo"), ("pseudo", "real"))


def _digits(claim: Claim, world: str, generator: Generator) -> Given:
    sign, sd, seeds = _signed(world), 0.005, 3
    if (own := luck(world)) is not None:
        sd, seeds = own / 100, 2
    fits = []
    for model in claim.options["models"]:
        for start, level in (("pre-trained", 0.7 + 0.1 * (sign < 0) * -1), ("scratch", 0.7 - 0.1 * (sign > 0))):
            for seed in range(seeds):
                reached = 0.5 if world == "at chance" else level + generator.normal(0, sd) + generator.normal(0, 0.007)
                fits.append({"model": model, "start": start, "steps": 1200, "seed": seed, "overlap_accuracy": reached,
                             "overlap_accuracy_95": (reached - 0.014, reached + 0.014)})  # fmt: skip
    return Given([], [], digits=DigitsStudy.model_validate({"measured": fits}))


# --- noise on depth ---------------------------------------------------------------------------------------------------

SIGMAS = planted.SIGMAS


def _sweeps(levels: dict[str, list[float]], world: str, generator: Generator, stars: dict[str, float]) -> Given:
    """Accuracy at SIGMAS of each model."""
    seeds, samples, sd = 3, 2000, 0.005
    if world == "few images":
        samples //= 10
    if (own := luck(world)) is not None:
        sd, seeds = own / 100, 2
    difficulty, found = generator.uniform(size=samples), []
    for model, level in levels.items():
        for seed in range(seeds):
            reached = np.array(level) + generator.normal(0, sd, len(level))
            if world == "at chance":
                reached = np.full(len(level), 1 / CLASSES - 0.03)
            own = difficulty + generator.normal(0, 0.1, samples)
            rows = []
            for each in reached:
                again = own + generator.normal(0, 0.05, samples)
                rows.append((again < np.quantile(again, each)).astype(int))
            one = run(model, seed, rows[0])
            one.noise_sweeps.append(
                NoiseSweep.model_construct(
                    model=model, checkpoint="latest", epoch=5, data="shards", split="val", fingerprint="v",
                    depth_field="pseudo", noise="pixel", noise_seed=0, image_size=64, patch_size=16,
                    num_samples=samples, sigmas=SIGMAS, top1=[float(np.mean(row)) for row in rows], top5=[1.0] * 4,
                    loss=[1.0] * 4, correct1=[written(row) for row in rows], largest_class=0.2,
                )
            )  # fmt: skip
            if model in stars:
                one.gaps.append(_gap_record(model, stars[model]))
            found.append(one)
    return Given(found, [])


def _gap_record(model: str, star: float) -> Gap:
    crossing = GapCrossing.model_construct(
        noise="pixel", output="logits", reading="z", e_star=0.3, sigma_star=star, low=0.97 * star, high=1.03 * star,
        share_above=0.0, undefined=False,
    )  # fmt: skip
    return Gap.model_construct(
        model=model, checkpoint="latest", epoch=5, data="nyu", fingerprints={"val": "b"}, real_field="real",
        num_images=100, noise_seed=0, image_size=64, patch_size=16, sigmas=SIGMAS, num_resamples=1000, inverse_mean=0.5,
        inverse_std=0.2, curves=[], crossings=[crossing],
    )  # fmt: skip


def _losses(claim: Claim, world: str, generator: Generator) -> Given:
    sign = _signed(world)
    levels = {}
    for model, steps in _steps(claim, world).items():
        lost = 0.12 + 0.05 * sign * steps if sign else 0.12
        lost = 0.05 + 0.05 * (3 - steps) if sign < 0 else lost
        levels[model] = [0.7, 0.7 - 0.6 * lost, 0.7 - lost, 0.7 - 1.4 * lost]
    return _sweeps(levels, world, generator, {})


def _at_star(claim: Claim, world: str, generator: Generator) -> Given:
    step = 0.035 * _signed(world)
    levels = {claim.options["better"]: [0.6 + step, 0.58 + step, 0.55 + step, 0.5 + step],
              claim.options["worse"]: [0.6 - step, 0.58 - step, 0.55 - step, 0.5 - step]}  # fmt: skip
    return _sweeps(levels, world, generator, dict.fromkeys(levels, 0.8))


# --- learned biases ---------------------------------------------------------------------------------------------------


def _with_parameters(model: str, values: list[dict[int, dict[str, Any]]], world: str, generator: Generator) -> Given:
    """Runs of one model whose logs hold these parameters, a dict of epochs a seed."""
    found = runs_of({model: 0.5}, world if world == "at chance" else "true", generator, seeds=len(values), samples=300)
    for each, logged in zip(found, values, strict=True):
        each.metrics.extend(
            ParametersLine.model_construct(kind="parameters", step=epoch, epoch=epoch, values=what)
            for epoch, what in logged.items()
        )
    return Given(found, [])


def _alpha(claim: Claim, world: str, generator: Generator) -> Given:
    """Smooth: one way. Reversed: to and fro, or largest in a late layer. Nothing learned: a random walk from 1."""
    seeds = 2 if luck(world) is not None else 5
    epochs, early = 10, np.array([1.0, 1.6, 0.7, 0.4, 0.3])
    height = {1: early, -1: early[::-1]}.get(_signed(world), np.full(5, 0.8))
    if claim.rule == "alpha_smooth":
        height = np.abs(early)
    logs = []
    for _ in range(seeds):
        own = height + generator.normal(0, 0.08, 5)
        if (sd := luck(world)) is not None:  # all grow, and which grows most is luck
            own = 1.0 + generator.normal(0, 0.3 * sd, 5)
        path = own * np.linspace(0, 1, epochs + 1)[:, None]
        if claim.rule == "alpha_smooth" and world == "reversed":
            path = (
                path + 0.8 * np.where(np.arange(epochs + 1) % 2, 1, -1)[:, None] * (np.arange(epochs + 1) > 0)[:, None]
            )
        if world == "nothing learned":
            path = np.cumsum(generator.normal(0, 0.01, (epochs + 1, 5)) * (np.arange(epochs + 1) > 0)[:, None], 0)
        if claim.rule == "alpha_smooth" and sd is not None:  # to and fro, in some trainings less
            size = 0.25 + 0.05 * sd * generator.normal(size=5)
            path = (
                path + size * np.where(np.arange(epochs + 1) % 2, 1, -1)[:, None] * (np.arange(epochs + 1) > 0)[:, None]
            )
        alpha = np.concatenate([1 + path, np.ones((epochs + 1, 1))], 1)
        logs.append({epoch: {"alpha": alpha[epoch].tolist()} for epoch in range(epochs + 1)})
    return _with_parameters("mlin", logs, world, generator)


DELTA = np.linspace(-4, 4, 81)


def _network(generator: Generator, reach: float) -> np.ndarray:
    """(grid,) a small network of kinks within `reach` of 0, as φ begins."""
    kinks, slopes = generator.uniform(-reach, reach, 32), generator.normal(0, 0.1, 32)
    facing = generator.choice([-1.0, 1.0], 32)
    return np.asarray((slopes * np.maximum(facing * (DELTA[:, None] - kinks), 0)).sum(1))


def _phi(claim: Claim, world: str, generator: Generator) -> Given:
    sign, sd = _signed(world), luck(world)
    layers, logs = LAYERS - 1, []
    for _ in range(2 if sd is not None else 5):
        first = np.stack([_network(generator, 3.5) for _ in range(layers)])
        if claim.rule in ("phi_straight", "phi_turns"):
            first = first + 0.5 * np.sin(1.5 * DELTA)
        strength = np.ones(layers)
        if claim.rule == "phi_early_stronger":
            strength = np.linspace(2.0, 0.3, layers)[:: sign or 1]
            first = np.stack([_network(generator, 3.5)] * layers) * generator.uniform(0.9, 1.1, (layers, 1))
        shape = np.abs(DELTA)
        if claim.rule == "phi_draws":
            shape = -shape * (sign or 1)
            strength = strength * (1.0 if sign else 0.0)
        elif sign < 0 and claim.rule != "phi_early_stronger":
            shape = 2 * np.sin(1.5 * DELTA)
        last = strength[:, None] * 2 * shape + generator.normal(0, 0.05, (layers, 1)) * DELTA
        if claim.rule == "phi_draws" and sign:
            last = last + first
        if world == "nothing learned":
            last = first + generator.normal(0, 0.01, (layers, 1)) * np.stack(
                [_network(generator, 3.5) for _ in range(layers)]
            )
        if sd is not None:  # what is claimed is not so, and every training is another
            own = generator.normal(size=(layers, 1))
            last = 2 * np.abs(DELTA) + (1.6 + 0.4 * sd * own) * np.sin(1.5 * DELTA)
            if claim.rule == "phi_early_stronger":
                last = (2 + 0.5 * sd * own) * np.abs(DELTA)
            if claim.rule == "phi_draws":
                last = first + 0.5 * sd * own * np.abs(DELTA)
        phi = [np.concatenate([each, np.zeros((1, len(DELTA)))]) for each in (first, last)]
        logs.append(
            {epoch: {"phi": each.tolist(), "phi_grid": DELTA.tolist()} for epoch, each in zip((0, 5), phi, strict=True)}
        )
    return _with_parameters("mmlp", logs, world, generator)


# --- dumps ------------------------------------------------------------------------------------------------------------


@dataclass
class Dump:
    """A dump in memory, through the real statistics."""

    info: DumpInfo
    arrays: dict[str, np.ndarray]
    path: Path
    names: list[str]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def read(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        return self.arrays[name][rows]

    def keys(self) -> list[str]:
        return self.names


def dump(
    model: str,
    seed: int,
    epoch: int,
    z: np.ndarray,
    scores: np.ndarray | None,
    outputs: np.ndarray | None,
    swap: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    branch: np.ndarray | None = None,
) -> Dump:
    """`scores` (images, layers, heads, P, P), `outputs` (images, layers, P, WIDTH), `branch` of a second stream."""
    images, first = len(z), 2 if model in ("mdf1", "mgem") else 0
    layers = LAYERS - first
    streams = [Stream(name="tokens", first_layer=first, num_layers=layers, prefix=0, width=WIDTH)]
    if first:
        streams += [
            Stream(name=name, first_layer=0, num_layers=first, prefix=0, width=WIDTH) for name in ("rgb", "depth")
        ]
    info = DumpInfo.model_construct(
        schema_version=0, model=model, run=f"{model}-pseudo-{seed}", config=_config(model, seed),
        study_hash=f"{model}-{seed}", checkpoint=f"epoch-{epoch}", checkpoint_sha256="0", epoch=epoch, data="shards",
        split="val", fingerprint="v", own_data=True, classes_sha256="c", class_names=[], labelled=True,
        depth_field="pseudo", standardisation={}, patch_depth="mean", scale=0.25,
        bias="linear" if bias is not None else None, num_prefix=0, num_layers=LAYERS,
        first_attention_layer=first, streams=streams, num_heads=HEADS, grid=GRID, image_size=64, num_images=images,
        num_raw=0, num_causal=0 if swap is None else images, num_groups=images, gram_batch=gram_batch(images),
        dtype="float32", max_fused_difference=0.0, interventions=[], other_depth=[],
    )  # fmt: skip
    held = {name: np.zeros(spec.shape) for name, spec in arrays(info).items() if name.startswith("statistics")}
    held |= sums_of(info, z, scores, outputs, bias, branch)
    if swap is not None:
        held["causal/swap/rows"], held["causal/swap/pairs"] = swap * 100.0, np.full(images, 100.0)
    return Dump(info, held, Path(f"{model}-{seed}-{epoch}.zarr"), [f"image-{n}" for n in range(images)])


def sums_of(
    info: DumpInfo,
    z: np.ndarray,
    scores: np.ndarray | None,
    outputs: np.ndarray | None,
    bias: np.ndarray | None,
    branch: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """What claims read of a dump's statistics, an image a group; equal to what `by_statistics` gives of it, sooner."""
    others = z[[partner(n, len(z)) for n in range(len(z))]]
    found: dict[str, np.ndarray] = {"statistics/patch_depth": z}
    if scores is not None:
        pairs = _Pairs.of(np.abs(z[:, :, None] - z[:, None]), np.abs(others[:, :, None] - others[:, None]))
        found |= pairs.sums()
        mean = scores.mean(2)
        found |= pairs.of_scores("content", mean, info.num_heads)
        if bias is not None:
            found |= pairs.of_scores("total", mean + bias, info.num_heads)
        pattern = softmax(scores if bias is None else scores + bias[:, :, None]).mean(2)
        found["statistics/pattern/distance"] = pairs.at_distances(pattern)[..., :3]
    if outputs is not None:
        first = info.first_attention_layer
        streams = {"tokens": outputs[:, first:]}
        if first:
            streams |= {"rgb": outputs[:, :first], "depth": (outputs if branch is None else branch)[:, :first]}
        for name, values in streams.items():
            found |= _of_tokens(name, values, z, others, info.gram_batch)
        colour = np.random.default_rng(3).uniform(size=(len(z), 1, PATCHES, 3))
        found |= _grams("input", colour, info.gram_batch)
    return found


@dataclass
class _Pairs:
    """|Δ| of images and of their partners, (images, P, P), and which distance a pair has."""

    delta: np.ndarray
    other: np.ndarray
    ring: np.ndarray  # (P * P, distances) of 0 and 1
    cell: np.ndarray  # (images, P, P) bin of |Δ| and distance; -1 on the diagonal

    @classmethod
    def of(cls, delta: np.ndarray, other: np.ndarray) -> "_Pairs":
        _, place = distances(GRID)
        ring = (place.ravel()[:, None] == np.arange(num_distances(GRID))).astype(float)
        height = np.minimum(np.floor(delta / BIN_WIDTH + 1e-9), NUM_BINS - 1).astype(int)
        return cls(delta, other, ring, np.where(place >= 0, height * ring.shape[1] + place, -1))

    @staticmethod
    def centred(values: np.ndarray) -> np.ndarray:
        """Minus the mean over the other patches; 0 on the diagonal."""
        apart = 1 - np.eye(PATCHES)
        mean = (values * apart).sum(-1, keepdims=True) / (PATCHES - 1)
        return np.asarray((values - mean) * apart)

    def rings(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values.reshape(*values.shape[:-2], -1) @ self.ring)

    def sums(self) -> dict[str, np.ndarray]:
        images, radii = len(self.delta), self.ring.shape[1]
        own, null = self.centred(self.delta), self.centred(self.other)
        terms = (np.ones_like(own), self.delta, self.delta**2, own, self.other, self.other**2, null)
        dummies = self.centred(np.moveaxis(self.ring.reshape(PATCHES, PATCHES, radii), 2, 0)).reshape(radii, -1)
        squares = np.zeros((images, len(REGRESSORS), len(REGRESSORS)))
        centred_r = self.centred(patch_distance(GRID))
        for name, each in (("delta", own), ("r", np.broadcast_to(centred_r, own.shape)), ("other", null)):
            place = REGRESSORS.index(name)
            squares[:, place, place] = (each**2).sum((1, 2))
        count = self.counted(np.ones((images, 1, PATCHES, PATCHES)))[:, 0].reshape(images, NUM_BINS, radii)
        return {
            "statistics/distance/pairs": np.stack([self.rings(each) for each in terms], -1),
            "statistics/distance/gram": np.broadcast_to(dummies @ dummies.T, (images, radii, radii)),
            "statistics/pairs/centred": packed(squares),
            "statistics/bins/group_count": count,
            "statistics/bins/count": count.sum(0),
            "statistics/bins/images": (count > 0).sum(0).astype(float),
        }

    def counted(self, weights: np.ndarray) -> np.ndarray:
        """(images, layers, P, P) -> (images, layers, cells)."""
        images, layers = weights.shape[:2]
        size = NUM_BINS * self.ring.shape[1]
        inside = self.cell >= 0
        start = (np.arange(images * layers) * size).reshape(images, layers, 1)
        cell = np.stack([each[here] for each, here in zip(self.cell, inside, strict=True)])[:, None] + start
        values = np.stack([each[:, here] for each, here in zip(weights, inside, strict=True)])
        return np.bincount(cell.ravel(), values.ravel(), images * layers * size).reshape(images, layers, size)

    def at_distances(self, mean: np.ndarray) -> np.ndarray:
        """(images, layers, P, P) -> (images, layers, distances, 4), as DISTANCE_ROWS."""
        terms = (mean, mean * self.delta[:, None], mean * self.other[:, None], self.centred(mean))
        return np.stack([self.rings(each) for each in terms], -1)

    def of_scores(self, part: str, mean: np.ndarray, heads: int) -> dict[str, np.ndarray]:
        images, layers = mean.shape[:2]
        c = self.centred(mean)
        rows = np.zeros((images, layers, len(ROWS)))
        for name, each in (("delta", self.delta[:, None]), ("r", patch_distance(GRID)), ("other", self.other[:, None])):
            rows[..., ROWS.index(f"c_{name}")] = (c * self.centred(each)).sum((2, 3))
        rows[..., ROWS.index("cc")] = (c**2).sum((2, 3))
        rows[..., ROWS.index("ss_all")] = (mean**2).sum((2, 3))
        cells = self.counted(mean)
        return {
            f"statistics/{part}/rows": rows,
            f"statistics/{part}/head_rows": np.repeat(rows[:, :, None], heads, 2),
            f"statistics/{part}/distance": self.at_distances(mean),
            f"statistics/{part}/curve": cells.reshape(images, layers, NUM_BINS, -1).sum(3),
            f"statistics/{part}/bins/group_sum": cells.sum(1).reshape(images, NUM_BINS, -1),
            f"statistics/{part}/bins/sum": cells.sum(0).reshape(layers, 1, NUM_BINS, -1).repeat(heads, 1),
        }


def _of_tokens(name: str, values: np.ndarray, z: np.ndarray, others: np.ndarray, block: int) -> dict[str, np.ndarray]:
    """Of outputs (images, layers, P, width)."""
    images, layers = values.shape[:2]
    known = np.stack([z, others, np.ones_like(z)], -1)[:, None]
    design = np.concatenate([values, np.broadcast_to(known, (images, layers, PATCHES, 3))], -1)
    folds = [np.arange(fold, images, NUM_FOLDS) for fold in range(NUM_FOLDS)]
    squares = np.swapaxes(design, 2, 3) @ design
    sums = design.sum(2) / np.sqrt(PATCHES)
    outer = sums[..., :, None] * sums[..., None, :]
    position = np.stack([np.ones_like(z), z, z**2], -1)
    prefix = f"statistics/probe/{name}"
    return {
        f"{prefix}/moments": packed(np.stack([squares[fold].sum(0) for fold in folds])),
        f"{prefix}/image_moments": packed(np.stack([outer[fold].sum(0) for fold in folds])),
        f"{prefix}/position_sum": np.stack([values[fold].sum(0) for fold in folds]),
        "statistics/probe/position": np.stack([position[fold].sum(0) for fold in folds]),
    } | _grams(name, values, block)


def _grams(name: str, values: np.ndarray, block: int) -> dict[str, np.ndarray]:
    if not block:
        return {}
    grams = []
    for first in range(0, len(values) - block + 1, block):
        x = np.swapaxes(values[first : first + block].reshape(block, values.shape[1], -1), 0, 1)
        x = x - x.mean(1, keepdims=True)
        grams.append(x @ np.swapaxes(x, 1, 2))
    found = np.stack(grams)
    where, number = f"statistics/similarity/{name}", np.arange(block)
    diagonals = found[..., number, number].copy()
    found[..., number, number] = 0.0
    return {f"{where}/grams": found, f"{where}/diagonals": diagonals}


def by_statistics(
    info: DumpInfo, z: np.ndarray, scores: np.ndarray, outputs: np.ndarray, bias: np.ndarray | None, branch: np.ndarray
) -> dict[str, np.ndarray]:
    """The same through the dump's own code."""
    held = {name: np.zeros(spec.shape) for name, spec in arrays(info).items() if name.startswith("statistics")}

    def write(name: str, place: Any, values: np.ndarray) -> None:
        if isinstance(place, tuple):
            held[name][place] = values
        else:
            held[name][place : place + len(values)] = values

    statistics = Statistics(info, write, np.zeros(0))
    colour = np.random.default_rng(3).uniform(size=(len(z), 1, PATCHES, 3))
    statistics.begin(np.arange(len(z)), z, z[[partner(n, len(z)) for n in range(len(z))]], colour[:, 0])
    statistics.inputs(colour[:, 0])
    for layer in range(info.num_attention_layers):
        of_bias = None if bias is None else Bias(np.ones(HEADS), bias[:, layer])
        statistics.scores(layer, scores[:, layer], of_bias)
        statistics.pattern(
            layer, softmax(scores[:, layer] if bias is None else scores[:, layer] + bias[:, layer, None])
        )
        statistics.tokens("tokens", layer, outputs[:, info.first_attention_layer + layer])
    for layer in range(info.first_attention_layer):
        statistics.tokens("rgb", layer, outputs[:, layer])
        statistics.tokens("depth", layer, branch[:, layer])
    statistics.end()
    statistics.finish()
    return held


@dataclass
class Scene:
    """The images of a draw: depth, |Δ|, distance, and what positions have of their own."""

    z: np.ndarray
    delta: np.ndarray
    mean_delta: np.ndarray  # of a pair of positions, in all images there are
    distance: np.ndarray
    position: np.ndarray
    usual: np.ndarray  # depth at each position

    @classmethod
    def of(cls, images: int, generator: Generator) -> "Scene":
        rows, columns = np.divmod(np.arange(PATCHES), GRID[1])
        tilt = generator.normal((0.35, 0.0), 0.25, (images, 2))  # rooms are deeper at the top
        z = tilt[:, :1] * rows + tilt[:, 1:] * columns + generator.normal(0, 0.7, (images, PATCHES))
        many = generator.normal((0.35, 0.0), 0.25, (400, 2))
        far = many[:, :1] * rows + many[:, 1:] * columns + generator.normal(0, 0.7, (400, PATCHES))
        mean = np.abs(far[:, :, None] - far[:, None]).mean(0)
        place = generator.normal(0, 0.3, (PATCHES, PATCHES))
        usual = 0.35 * rows
        return cls(z, np.abs(z[:, :, None] - z[:, None]), mean, patch_distance(GRID), place, usual)


def _images(world: str) -> int:
    return 12 if world == "few images" else IMAGES


def _seeds(world: str) -> int:
    return 2 if luck(world) is not None else 1


def _noise(scene: Scene, layers: int, generator: Generator, size: float = 0.3) -> np.ndarray:
    return size * generator.normal(size=(len(scene.z), layers, HEADS, PATCHES, PATCHES))


def _scored(profile: np.ndarray, world: str, scene: Scene, generator: Generator, apart: float = 0.0,
            bent: bool = False, calm: bool = False) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Scores after and before training, (images, layers, heads, P, P), of falls with |Δ| by layer (`profile`).

    `apart`: a fall with distance that is there in any case. `bent`: |Δ| is replaced by a curve with its mean slope.
    `calm`: with less noise, for shapes to show.
    """
    layers = len(profile)
    spread = (0.1 if calm else 0.25) * np.abs(profile).mean() / 0.3
    slope = profile[None, :] + spread * generator.normal(size=(len(scene.z), layers))
    x = scene.delta
    if bent:
        x = np.where(x < 0.8, 2.2 * x, 1.76 - 0.5 * (x - 0.8))
    ground = -(apart * scene.distance + 0.5 * (0.2 if calm else 1.0) * scene.position)
    before = ground + _noise(scene, layers, generator, 0.1 if calm else 0.3)
    if world == "nothing learned":  # a network at random has a fall of its own, which stays
        before = before - slope[:, :, None, None, None] * x[:, None, None]
        return before + _noise(scene, layers, generator, 0.05), before
    if world == SHUFFLED:
        after = -np.abs(profile)[:, None, None, None] * scene.mean_delta
        return after + ground + _noise(scene, layers, generator), before
    if world == "confounded":
        after = -np.abs(profile)[:, None, None, None] * (scene.distance + scene.position)
        return after + ground + _noise(scene, layers, generator), before
    return before + _noise(scene, layers, generator, 0.05) - slope[:, :, None, None, None] * x[:, None, None], before


def _profile(claim: Claim, world: str, layers: int, generator: Generator) -> np.ndarray:
    """Falls by layer: even, or with a peak where it is claimed, or where it is not."""
    if (sd := luck(world)) is not None:
        return np.asarray(generator.normal(0, sd, layers))
    if claim.rule in ("peaks", "cosine_peaks"):
        inside = {"first": [0, 1], "middle": [2, 3]}[claim.options["third"]]
        peak = inside[1] if _signed(world) >= 0 else layers - 1
        even = world in ("nothing learned", SHUFFLED, "confounded")
        return np.full(layers, 0.3) if even else np.where(np.arange(layers) == peak, 0.8, 0.15)
    if claim.rule in ("linear", "columns_linear"):
        return np.full(layers, 0.3)
    return np.full(layers, 0.3 * (_signed(world) or 1))


def _with_runs(dumps: list[Dump], world: str, generator: Generator) -> Given:
    models = dict.fromkeys(each.info.model for each in dumps)
    accuracy = runs_of(
        dict.fromkeys(models, 0.5), world if world == "at chance" else "true", generator, seeds=1, samples=300
    )
    return Given(accuracy, dumps)  # type: ignore[arg-type]


def _scores(claim: Claim, world: str, generator: Generator) -> Given:
    model = claim.options["model"]
    layers = LAYERS - (2 if model in ("mdf1", "mgem") else 0)
    scene = Scene.of(_images(world), generator)
    apart = 0.15 if claim.rule == "cosine_peaks" else 0.0
    found = []
    for seed in range(_seeds(world)):
        profile = _profile(claim, world, layers, generator)
        calm = claim.rule in ("linear", "columns_linear")
        bent = calm and world == "reversed"
        after, before = _scored(profile, world, scene, generator, apart, bent, calm)
        swap = None
        if claim.rule == "swap_falls":
            effect = profile if _signed(world) or luck(world) is not None else 0.0
            swap = -(effect + 0.25 * generator.normal(size=(len(scene.z), layers)))
        found += [
            dump(model, seed, epoch, scene.z, each, None, swap if epoch else None)
            for epoch, each in ((0, before), (5, after))
        ]
    return _with_runs(found, world, generator)


def _cosines(claim: Claim, world: str, generator: Generator) -> Given:
    return (_distances if claim.options["quantity"] == "distance" else _scores)(claim, world, generator)


def _distances(claim: Claim, world: str, generator: Generator) -> Given:
    """What is learned is a fall with distance."""
    scene, found = Scene.of(_images(world), generator), []
    for seed in range(_seeds(world)):
        size = 0.15 * (_signed(world) or 1)
        if (sd := luck(world)) is not None:
            size = generator.normal(0, 0.3 * sd)
        slope = size * generator.normal(1, 0.3, (len(scene.z), LAYERS, 1, 1, 1))
        before = 0.5 * scene.position + _noise(scene, LAYERS, generator)
        after = before - slope * scene.distance + _noise(scene, LAYERS, generator, 0.05)
        if world == "nothing learned":
            before, after = after, after + _noise(scene, LAYERS, generator, 0.05)
        found += [dump("m3ch", seed, epoch, scene.z, each, None) for epoch, each in ((0, before), (5, after))]
    return _with_runs(found, world, generator)


def _cosine_order(claim: Claim, world: str, generator: Generator) -> Given:
    """Distance strongly and depth weakly, or the other way round."""
    scene, found = Scene.of(_images(world), generator), []
    sign = _signed(world)
    for seed in range(_seeds(world)):
        near, far = (0.5, 0.1) if sign > 0 else (0.02, 0.8)
        if not sign:  # as in `true`, but so it began
            near, far = 0.5, 0.1
        if (sd := luck(world)) is not None:
            near, far = generator.normal(0, 0.2 * sd, 2)
        slopes = generator.normal(1, 0.3, (2, len(scene.z), LAYERS, 1, 1, 1))
        scores = -near * slopes[0] * scene.distance - far * slopes[1] * scene.delta[:, None, None]
        scores = scores + _noise(scene, LAYERS, generator, 0.5)
        before = _noise(scene, LAYERS, generator, 0.5)
        if world == "nothing learned":
            before, scores = scores, scores + _noise(scene, LAYERS, generator, 0.05)
        found += [dump("m3ch", seed, epoch, scene.z, each, None) for epoch, each in ((0, before), (5, scores))]
    return _with_runs(found, world, generator)


def _attention(claim: Claim, world: str, generator: Generator) -> Given:
    """Scores are what attention follows; mlin's bias is there from the start."""
    scene, found = Scene.of(_images(world), generator), []
    names = [claim.options["flat"], claim.options["steep"]] if claim.rule == "flatter" else [claim.options["model"]]
    for seed in range(_seeds(world)):
        for model in names:
            size = 0.3
            if claim.rule == "flatter":
                size = 0.5 if model == claim.options["steep"] else {1: 0.0, -1: 0.5}.get(_signed(world), 0.3)
            sign = (_signed(world) or 1) if claim.rule == "columns_fall" else 1
            profile = np.full(LAYERS, size * sign)
            if (sd := luck(world)) is not None:
                profile = np.asarray(generator.normal(0, sd, 1)) * np.ones(LAYERS)
            after, before = _scored(profile, world, scene, generator)
            bias = np.broadcast_to(-0.2 * scene.delta[:, None], (len(scene.z), LAYERS, PATCHES, PATCHES))
            own = bias if model == "mlin" else None
            found += [dump(model, seed, epoch, scene.z, each, None, None, own)
                      for epoch, each in ((0, before), (5, after))]  # fmt: skip
    return _with_runs(found, world, generator)


def _columns(claim: Claim, world: str, generator: Generator) -> Given:
    return (_attention if claim.options.get("quantity") == "attention" else _scores)(claim, world, generator)


def _reading(strengths: np.ndarray, scene: Scene, generator: Generator, shared: np.ndarray) -> np.ndarray:
    """Outputs whose first channel holds z so strongly by layer, among `shared` channels."""
    outputs = shared + 0.3 * generator.normal(size=shared.shape)
    outputs[..., 0] = strengths[None, :, None] * scene.z[:, None] + generator.normal(size=outputs.shape[:-1])
    return np.asarray(outputs)


def _misled(world: str, claimed: bool, before: np.ndarray, scene: Scene, generator: Generator) -> np.ndarray:
    """What was learned in a second channel is the depth that is usual at a position, or some other image's."""
    after = before + 0.03 * generator.normal(size=before.shape)
    if claimed:
        held = scene.usual if world == "confounded" else np.roll(scene.z, 1, 0)
        after[..., 1] = 2.0 * np.broadcast_to(held, scene.z.shape)[:, None] + 0.5 * generator.normal(
            size=after.shape[:-1]
        )
    return np.asarray(after)


def _probed(claim: Claim, world: str, generator: Generator) -> Given:
    """How strongly tokens hold z: the claimed model more than the others, or less; at the start all alike."""
    scene, found, sign = Scene.of(_images(world), generator), [], _signed(world)
    names = [claim.options["model"], *claim.options.get("others", [])]
    for seed in range(_seeds(world)):
        shared = generator.normal(size=(len(scene.z), LAYERS, PATCHES, WIDTH))
        for model in names:
            start = np.full(LAYERS, 0.4)
            own = start + 0.4
            if claim.rule == "probe_peaks":
                own = start + np.where(np.arange(LAYERS) == (1 if sign >= 0 else LAYERS - 1), 1.6, 0.1)
                if not sign:
                    own = start + 0.5
            elif model == names[0]:
                own = own + {1: 1.0, -1: -0.7}.get(sign, 0.0)
            if (sd := luck(world)) is not None:
                own = np.maximum(start + 0.5 + generator.normal(0, 0.3 * sd, LAYERS), 0.05)
            if world == "nothing learned":
                start = start + (0.8 if model == names[0] else 0.0)  # its input has depth in it
            before = _reading(start, scene, generator, shared)
            after = _reading(own, scene, generator, shared)
            if world == "nothing learned":
                after = before + 0.03 * generator.normal(size=shared.shape)
            elif world in (SHUFFLED, "confounded"):
                after = _misled(world, model == names[0], before, scene, generator)
            found += [dump(model, seed, epoch, scene.z, None, each) for epoch, each in ((0, before), (5, after))]
    return _with_runs(found, world, generator)


def _branches(claim: Claim, world: str, generator: Generator) -> Given:
    scene, found, sign = Scene.of(_images(world), generator), [], _signed(world)
    model = claim.options["model"]
    for seed in range(_seeds(world)):
        shared = generator.normal(size=(len(scene.z), LAYERS, PATCHES, WIDTH))
        start = np.full(LAYERS, 0.3)
        rgb, depth = start + 0.6, start + 0.6
        if claim.rule == "rgb_branch_below":
            rgb, depth = rgb + {1: 1.0, -1: -0.5}.get(sign, 0.0), depth + {1: -0.4, -1: 1.0}.get(sign, 0.0)
        elif sign < 0:
            rgb = depth = start + np.array([0.0, 1.5, 0, 0, 0, 0])
        elif sign > 0:
            rgb = depth = start + 2.0
        if (sd := luck(world)) is not None:
            rgb, depth = (np.maximum(start + 0.6 + generator.normal(0, 0.8 * sd, LAYERS), 0.05) for _ in range(2))
        before = [
            _reading(start + 0.4 * (k == 0) * (world == "nothing learned"), scene, generator, shared) for k in range(2)
        ]
        after = [_reading(each, scene, generator, shared) for each in (rgb, depth)]
        if world == "nothing learned":
            after = [each + 0.03 * generator.normal(size=each.shape) for each in before]
        elif world in (SHUFFLED, "confounded"):
            after = [_misled(world, k == 0, each, scene, generator) for k, each in enumerate(before)]
        for epoch, (one, other) in ((0, before), (5, after)):
            found.append(dump(model, seed, epoch, scene.z, None, one, branch=other))
    return _with_runs(found, world, generator)


def _alike(claim: Claim, world: str, generator: Generator) -> Given:
    """Features shared with m3ch to a share that is least of the claimed model, or greatest."""
    scene = Scene.of(2 * _images(world), generator)
    found, sign = [], _signed(world)
    names = ["m3ch", claim.options["model"], *claim.options["others"]]
    shape = (len(scene.z), LAYERS, PATCHES, WIDTH)
    for seed in range(_seeds(world)):
        common = {epoch: generator.normal(size=shape) for epoch in (0, 5)}
        for model in names:
            own = {epoch: generator.normal(size=shape) for epoch in (0, 5)}
            share = {0: 0.7, 5: 0.7}
            if model == claim.options["model"]:
                share[5] += {1: -0.5, -1: 0.28}.get(sign, 0.0)
                share[0] -= 0.3 * (world == "nothing learned")
            if (sd := luck(world)) is not None:
                share[5] = float(np.clip(0.7 + generator.normal(0, 0.15 * sd), 0.1, 0.95))
            if model == "m3ch":
                share = {0: 1.0, 5: 1.0}
            every = {e: share[e] * common[e] + np.sqrt(1 - share[e] ** 2) * own[e] for e in (0, 5)}
            if world == "nothing learned":
                every[5] = every[0] + 0.03 * generator.normal(size=shape)
            found += [dump(model, seed, epoch, scene.z, None, every[epoch]) for epoch in (0, 5)]
    return _with_runs(found, world, generator)


def _near_zero(claim: Claim, world: str, generator: Generator) -> Given:
    scene = Scene.of(_images(world), generator)
    scale = {"reversed": 2.2}.get(world, 0.6)
    return _with_runs([dump("mmlp", 0, 5, scale * scene.z, None, None)], world, generator)


_DRAWN: dict[str, Callable[[Claim, str, Generator], Given]] = {
    "printed": _cost, "hours_over_cost": _hours, "accuracy_gap": _gap, "ordered": _ordered, "accuracy_tie": _tie,
    **dict.fromkeys(("pseudo_gains", "indifferent", "gain_grows", "every_drops", "drops_more", "larger_drop",
                     "complex_best", "varies_more"), _tuned),
    "scratch_fails": _digits, "simpler_lose_less": _losses, "better_without_noise": _at_star,
    "better_at_sigma_star": _at_star, "alpha_smooth": _alpha, "alpha_peaks": _alpha,
    **dict.fromkeys(("phi_straight", "phi_turns", "phi_early_stronger", "phi_draws"), _phi),
    **dict.fromkeys(("falls", "linear", "peaks", "swap_falls", "cosine_peaks", "columns_linear"), _scores),
    "cosine_below": _cosines,
    "distance_stronger": _cosine_order, "columns_fall": _columns, "flatter": _attention,
    "probe_below": _probed, "probe_peaks": _probed, "rgb_branch_below": _branches, "branches_flat": _branches,
    "cka_below": _alike, "delta_near_zero": _near_zero,
}  # fmt: skip
