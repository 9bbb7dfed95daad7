"""Figure 14: how strong noise on pseudo-depth moves a model as far as the step from pseudo to real depth does.

    e(sigma) = mean |f(rgb, p + sigma eps) - f(rgb, p)|      e* = mean |f(rgb, real) - f(rgb, p)|      e(sigma*) = e*

over images and classes, with f the logits, and the softmax alongside. p is pseudo-depth; real depth is read as stored
(z, farther is larger) and, alongside, as the inverse depth that a teacher gives: -1/d standardised with the mean and
std of 1/d over these images. Images are whole, squashed to the model's size. All splits are used, in fp32 on any
device: what bf16 rounds away is no smaller than what faint noise does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline import shards
from pipeline.errors import UserError
from training.config import ONLINE
from training.engine.found import At
from training.intervals import RESAMPLES, central_interval, resampled_means
from training.loading.augment import geometry
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.loading.data import load
from training.loading.decode import decode_rgb
from training.models.vit import VisionTransformer
from training.noise.crossing import crossing
from training.noise.sweep import KINDS, Noise, noisy
from training.random_numbers import generator
from training.records import Gap, GapCrossing, GapCurve
from training.tasks.classification.config import Config

OUTPUTS = ("logits", "softmax")
READINGS = ("z", "inverse")
SENSOR = ("real", "raw")
_BATCH = 64


class GapError(UserError):
    """The gap cannot be measured; one line that names the cause and the fix."""


@dataclass(frozen=True)
class Inverse:
    """Reads stored metric depth as a teacher of inverse depth would give it, farther is larger all the same."""

    depth: shards.StoredDepth
    mean: float = 0.0  # of 1/d, in 1/m
    std: float = 1.0

    def per_metre(self, z: NDArray[np.float32]) -> NDArray[np.float64]:
        """1/d; NaN where z is, or is none of a depth in front of the camera."""
        metres = self.depth.standardisation.invert(z).astype(np.float64)
        return 1 / np.where(metres > 0, metres, np.nan)

    def __call__(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((self.mean - self.per_metre(z)) / self.std).astype(np.float32)


class GapViews(NamedTuple):
    """What a model sees of some samples: rgb uint8 (batch, 3, size, size), depths (batch, 1, size, size)."""

    rgb: Tensor
    pseudo: Tensor
    readings: list[Tensor]  # of real depth, as READINGS
    keys: list[str]


class SquashedViews(Dataset[GapViews]):
    """A split in its own order, every sample once, whole."""

    def __init__(self, split: shards.Split, size: int, real: str, pseudo: str, inverse: Inverse) -> None:
        self.split, self.size, self.real, self.pseudo, self.inverse = split, size, real, pseudo, inverse

    def __len__(self) -> int:
        return -(-len(self.split) // _BATCH)

    def __getitem__(self, number: int) -> GapViews:
        rgb, pseudo, readings, keys = [], [], [], []
        for place in range(number * _BATCH, min((number + 1) * _BATCH, len(self.split))):
            members = self.split.members(place, ("rgb", self.pseudo, self.real))
            z = members.decode(self.real)
            rgb.append(geometry.resize(members.decode("rgb", decode_rgb), "rgb", (self.size, self.size)))
            pseudo.append(self._squashed(members.decode(self.pseudo)))
            readings.append([self._squashed(z), self._squashed(self.inverse(z))])
            keys.append(members.key)
        each = [torch.stack(same) for same in zip(*readings, strict=True)]
        return GapViews(torch.stack(rgb), torch.stack(pseudo), each, keys)

    def _squashed(self, z: NDArray[np.float32]) -> Tensor:
        return geometry.resize(torch.from_numpy(z)[None], "depth", (self.size, self.size))


class InverseSums(Dataset[Tensor]):
    """Of 1/d: count, sum and sum of squares over the valid pixels of a batch."""

    def __init__(self, split: shards.Split, real: str, inverse: Inverse) -> None:
        self.split, self.real, self.inverse = split, real, inverse

    def __len__(self) -> int:
        return -(-len(self.split) // _BATCH)

    def __getitem__(self, number: int) -> Tensor:
        sums = torch.zeros(3, dtype=torch.float64)
        for place in range(number * _BATCH, min((number + 1) * _BATCH, len(self.split))):
            values = self.inverse.per_metre(self.split.members(place, (self.real,)).decode(self.real))
            valid = values[np.isfinite(values)]
            sums += torch.tensor([valid.size, valid.sum(), (valid**2).sum()])
        return sums


@dataclass
class Distances:
    """How far outputs moved, an entry a batch.

    By kind of noise (images, sigmas, OUTPUTS); by reading of real depth (images, READINGS, OUTPUTS).
    """

    noise: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    real: list[NDArray[np.float64]] = field(default_factory=list)


def pseudo_of(data: str, field: str) -> str:
    """Which pseudo-depth a run of this depth field is given: its own, or `pseudo` where that is none of a teacher's."""
    index = shards.splits_of(data)[0].index
    measured = field in index.depth and index.provenance(field).kind != "estimated"
    return "pseudo" if measured or field in (ONLINE, *SENSOR) else field


def open_pairs(data: str, real: str, pseudo: str = "pseudo") -> list[shards.Split]:
    """Every split of shards that have `pseudo` depth and `real` depth, of the scene itself, in metres."""
    splits = shards.splits_of(data)
    for split in splits:
        have = split.index.depth
        for wanted in (pseudo, real):
            split.check_depth(wanted)
            if wanted not in have:
                raise GapError(
                    f"{split.store} has no '{wanted}' depth, it has {', '.join(have)}: the gap needs pseudo-depth and "
                    "depth in metres of the same images, as precompute-depth nyu writes them"
                )
        if have[real].unit != "m":
            raise GapError(f"{split.store}: '{real}' depth must be in m, got {have[real].unit!r}")
        if split.index.provenance(real).kind == "estimated":
            raise GapError(f"{split.store}: '{real}' depth is a teacher's: the gap is to depth of the scene itself")
        if lost := [field for field in (pseudo, real) if split.index.provenance(field).scale_lost]:
            raise GapError(
                f"{split.store}: '{lost[0]}' depth was stretched image by image and lost its scale: the gap compares "
                "values, and needs depth whose values mean the same in every image"
            )
        if have[real].standardisation != splits[0].index.depth[real].standardisation:
            raise GapError(f"{split.store}: '{real}' depth is standardised with other constants than {splits[0].store}")
    return splits


def measure_inverse(
    splits: Sequence[shards.Split], config: Config, real: str, advance: Callable[[int], None] = lambda count: None
) -> Inverse:
    """Mean and std of 1/d over all valid pixels."""
    inverse = Inverse(splits[0].index.depth[real])
    sums = torch.zeros(3, dtype=torch.float64)
    for split in splits:
        dataset = InverseSums(split, real, inverse)
        for number, some in enumerate(load(dataset, range(len(dataset)), config.runtime)):
            sums += some
            advance(min(_BATCH, len(split) - number * _BATCH))
    num_pixels, total, squares = sums.tolist()
    if not num_pixels:
        raise GapError(f"{splits[0].data}: no pixel of '{real}' depth is measured")
    mean = total / num_pixels
    std = max(squares / num_pixels - mean**2, 0.0) ** 0.5
    if std < 1e-6:
        raise GapError(f"{splits[0].data}: '{real}' depth is the same everywhere, it cannot be standardised")
    return Inverse(inverse.depth, mean, std)


@torch.no_grad()
def measure(
    model: VisionTransformer,
    splits: Sequence[shards.Split],
    config: Config,
    real: str,
    inverse: Inverse,
    device: torch.device,
    sigmas: Sequence[float],
    seed: int,
    advance: Callable[[int], None] = lambda count: None,
    pseudo: str = "pseudo",
) -> Distances:
    """One pass over all splits; the model is on `device`. `sigmas` begin with 0, where nothing moves."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # also in the patch convolution
    model.eval()
    distances = Distances()
    for views in _views(splits, config, real, pseudo, inverse):
        rgb = normalise(views.rgb.to(device), RGB_MEAN, RGB_STD)
        estimated = views.pseudo.to(device)
        before = model(rgb, estimated).float()

        def moved(depth: Tensor, rgb: Tensor = rgb, before: Tensor = before) -> Tensor:
            """(images, OUTPUTS)"""
            after = model(rgb, depth).float()
            shares = after.softmax(1) - before.softmax(1)
            return torch.stack([(after - before).abs().mean(1), shares.abs().mean(1)], 1)

        for kind in KINDS:
            eps = Noise(kind, seed).draw(views.keys, config.model.image_size, config.model.patch_size).to(device)
            away = [moved(noisy(estimated, sigma, eps)) for sigma in sigmas[1:]]
            away = [torch.zeros(len(rgb), len(OUTPUTS), device=device), *away]
            distances.noise[kind].append(torch.stack(away, 1).double().cpu().numpy())
        both = [moved(reading.to(device)) for reading in views.readings]
        distances.real.append(torch.stack(both, 1).double().cpu().numpy())
        advance(len(views.keys))
    return distances


def _views(
    splits: Sequence[shards.Split], config: Config, real: str, pseudo: str, inverse: Inverse
) -> Iterator[GapViews]:
    for split in splits:
        dataset = SquashedViews(split, config.model.image_size, real, pseudo, inverse)
        yield from load(dataset, range(len(dataset)), config.runtime)


def solve(distances: Distances, sigmas: Sequence[float], seed: int) -> tuple[list[GapCurve], list[GapCrossing]]:
    """The curves and where they reach the distance of real depth, with intervals over images."""
    noise = {kind: np.concatenate(parts) for kind, parts in distances.noise.items()}
    real = np.concatenate(distances.real)
    curves, crossings = [], []
    for (kind, moved), (column, output) in ((n, o) for n in noise.items() for o in enumerate(OUTPUTS)):
        values = np.concatenate([moved[:, :, column], real[:, :, column]], 1)
        mean = values.mean(0, keepdims=True)
        again = resampled_means(values, generator("gap", seed))  # the same images for every curve
        e, count = mean[0, : len(sigmas)], len(sigmas)
        curves.append(GapCurve(noise=kind, output=output, e=e.tolist()))
        for place, reading in enumerate(READINGS):
            e_star = mean[:, count + place]
            found = float(crossing(sigmas, mean[:, :count], e_star)[0])
            samples = crossing(sigmas, again[:, :count], again[:, count + place])
            undefined = not e.any()
            low, high = (None if undefined or np.isinf(end) else end for end in central_interval(samples))
            crossings.append(
                GapCrossing(
                    noise=kind,
                    output=output,
                    reading=reading,
                    e_star=float(e_star[0]),
                    sigma_star=None if undefined or np.isinf(found) else found,
                    low=low,
                    high=high,
                    share_above=0.0 if undefined else float(np.isinf(samples).mean()),
                    undefined=undefined,
                )
            )
    return curves, crossings


def as_record(
    distances: Distances,
    splits: Sequence[shards.Split],
    config: Config,
    real: str,
    inverse: Inverse,
    sigmas: Sequence[float],
    seed: int,
    at: At,
    other_depth: Sequence[str] = (),
    pseudo: str = "pseudo",
) -> Gap:
    curves, crossings = solve(distances, sigmas, seed)
    return Gap(
        model=config.model.name,
        checkpoint=at.checkpoint,
        epoch=at.epoch,
        data=splits[0].data,
        fingerprints={split.index.split: split.index.fingerprint for split in splits},
        real_field=real,
        pseudo_field=pseudo,
        num_images=sum(map(len, splits)),
        noise_seed=seed,
        image_size=config.model.image_size,
        patch_size=config.model.patch_size,
        sigmas=list(sigmas),
        num_resamples=RESAMPLES,
        inverse_mean=inverse.mean,
        inverse_std=inverse.std,
        curves=curves,
        crossings=crossings,
        other_depth=list(other_depth),
    )
