"""Figures 4 and 14: what noise on depth costs in accuracy, and where the step to real depth lies on that scale.

From `train evaluate --noise` (sweeps) and `train gap` (sigma*). The noise of a sample is the same for every sigma and
every model, so differences are paired by sample; intervals are over samples. Several seeds of a model are averaged.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from analysis.commands import command
from analysis.load import BASELINE, AnalysisError, Given, depth_of, depth_order, model_order
from analysis.runs import recipe_of
from training.intervals import Estimate, mean_over_images, paired_difference, wilson
from training.records import Gap, GapCrossing, NoiseSweep, Run

KINDS = ("pixel", "patch")
_MAKE_SWEEP = "'train evaluate RUN --data SHARDS --noise pixel' (and patch)"
_MAKE_GAP = "'train gap RUN --data NYU-SHARDS'"


@dataclass(frozen=True)
class Swept:
    """Sweeps of one model with one kind of noise; `of_seeds` (seeds, sigmas, samples): 1 where a seed is right."""

    model: str
    noise: str
    sigmas: list[float]  # rising
    of_seeds: np.ndarray
    seeds: tuple[int, ...]
    epoch: int
    recipe: str  # that the runs share

    @property
    def correct(self) -> np.ndarray:
        """(sigmas, samples): share of seeds that are right."""
        return np.asarray(self.of_seeds.mean(0))

    @property
    def top1(self) -> np.ndarray:
        return self.correct.mean(1)


def swept_models(study: Given, depth: str | None = None) -> list[Swept]:
    """Per kind of noise and model the last checkpoint's sweeps; refuses what was not measured alike."""
    field = _depth_field(study, depth)
    found: dict[tuple[str, str], dict[int, NoiseSweep]] = {}
    recipes: dict[str, str] = {}
    first: tuple[Run, NoiseSweep] | None = None
    for run in study.runs:
        if run.record.model != BASELINE and depth_of(run) != field:
            continue
        for kind in KINDS:
            sweep = _last_sweep(run, kind, field)
            if sweep is None:
                continue
            first = first or (run, sweep)
            _refuse_unlike(*first, run, sweep)
            found.setdefault((kind, run.record.model), {})[run.record.seed] = sweep
            recipes[run.record.model] = recipe_of(run)
    ordered = sorted(found, key=lambda key: (KINDS.index(key[0]), model_order(key[1])))
    return [_over_seeds(model, kind, found[kind, model], recipes[model]) for kind, model in ordered]


def _depth_field(study: Given, depth: str | None) -> str:
    fields = sorted({sweep.depth_field for run in study.runs for sweep in run.noise_sweeps}, key=depth_order)
    if not fields:
        raise AnalysisError(f"no run has a noise sweep: make them with {_MAKE_SWEEP}")
    chosen = depth or ("pseudo" if "pseudo" in fields else fields[0] if len(fields) == 1 else None)
    if chosen not in fields:
        raise AnalysisError(f"--depth must be one of {', '.join(fields)} (the noise sweeps' depth fields), got {depth}")
    return chosen


def _last_sweep(run: Run, kind: str, field: str) -> NoiseSweep | None:
    own = [sweep for sweep in run.noise_sweeps if sweep.noise == kind and sweep.depth_field == field]
    own = [sweep for sweep in own if sweep.split == "val"] or own
    own = [sweep for sweep in own if sweep.fingerprint == run.record.shards.val_fingerprint] or own
    if not own:
        return None
    epoch = max(sweep.epoch for sweep in own)
    last, *others = [sweep for sweep in own if sweep.epoch == epoch]
    for other in others:
        _refuse_unlike(run, last, run, other)
    whole = len(last.correct1) == len(last.top1) == len(last.sigmas)
    for correct, top1 in zip(last.correct1, last.top1, strict=False):
        hits = correct.count("1")
        counted = len(correct) == last.num_samples == hits + correct.count("0")
        whole = whole and counted and abs(hits / last.num_samples - top1) <= 1e-6
    if not whole:
        raise AnalysisError(
            f"{run.folder}: its {kind} noise sweep of epoch {epoch} is damaged, correct1 does not agree with the rest: "
            f"measure it again with {command('train', 'evaluate', run.folder, '--data', last.data, '--noise', kind)}"
        )
    return last


def _refuse_unlike(run: Run, sweep: NoiseSweep, other_run: Run, other: NoiseSweep) -> None:
    for what, ours, theirs in (
        ("splits", sweep.split, other.split),
        ("shards", sweep.fingerprint, other.fingerprint),
        ("noise seeds", sweep.noise_seed, other.noise_seed),
        ("image sizes", sweep.image_size, other.image_size),
        ("patch sizes", sweep.patch_size, other.patch_size),
    ):
        if ours != theirs:
            raise AnalysisError(
                f"{run.folder} and {other_run.folder} have noise sweeps of different {what} ({ours} and {theirs}): "
                f"measure them alike with {_MAKE_SWEEP}"
            )


def _over_seeds(model: str, kind: str, sweeps: dict[int, NoiseSweep], recipe: str) -> Swept:
    """Seeds averaged, at the sigmas that all have."""
    common = sorted(set.intersection(*(set(sweep.sigmas) for sweep in sweeps.values())))
    if not common:
        raise AnalysisError(
            f"the {kind} noise sweeps of {model} share no sigma among seeds: measure them again with one --sigma"
        )
    of_seeds = np.array(
        [
            [np.frombuffer(sweep.correct1[sweep.sigmas.index(sigma)].encode(), np.uint8) - 48.0 for sigma in common]
            for _, sweep in sorted(sweeps.items())
        ]
    )
    epoch = max(sweep.epoch for sweep in sweeps.values())
    return Swept(model, kind, common, of_seeds, tuple(sorted(sweeps)), epoch, recipe)


def accuracy_under_noise(swept: list[Swept]) -> pd.DataFrame:
    """One row a kind of noise, model and sigma: top-1 with Wilson's interval; its change from sigma 0, paired."""
    rows: list[dict[str, Any]] = []
    for each in swept:
        num_samples = each.correct.shape[1]
        for sigma, correct in zip(each.sigmas, each.correct, strict=True):
            low, high = wilson(round(float(correct.sum())), num_samples)
            row = {"noise": each.noise, "model": each.model, "sigma": sigma, "top1": float(correct.mean())}
            row |= {"low": low, "high": high, "change": np.nan, "change_low": np.nan, "change_high": np.nan}
            if each.sigmas[0] == 0:
                change = paired_difference(correct, each.correct[0])
                row |= {"change": float(change.value), "change_low": float(change.low)}
                row["change_high"] = float(change.high)
            rows.append(row | {"samples": num_samples, "seeds": len(each.seeds), "epoch": each.epoch})
    return pd.DataFrame(rows)


def at_sigma(swept: Swept, sigma: float) -> tuple[float, np.ndarray]:
    """Slope of top-1 at a sigma between those measured, and (seeds, samples) whose mean is the top-1 there.

    PCHIP (Fritsch and Carlson 1980) rises or falls between two sigmas only as the measured values do; what a sample
    adds to it is its outcome times the curve's derivative by the measured means. NaN outside.
    """
    if len(swept.sigmas) < 2 or not swept.sigmas[0] <= sigma <= swept.sigmas[-1]:
        return math.nan, np.full((len(swept.seeds), swept.of_seeds.shape[-1]), np.nan)
    means, step = swept.top1, 1e-6

    def curve(values: np.ndarray) -> "PchipInterpolator":
        return PchipInterpolator(swept.sigmas, values)

    here = float(curve(means)(sigma))
    nudges = step * np.eye(len(means))
    weights = np.array([(curve(means + nudge)(sigma) - curve(means - nudge)(sigma)) / (2 * step) for nudge in nudges])
    samples = here + np.einsum("ksn,k->sn", swept.of_seeds.swapaxes(0, 1) - means[:, None, None], weights)
    return float(curve(means).derivative()(sigma)), samples


def top1_at(swept: Swept, sigma: float) -> Estimate:
    """Top-1 at a sigma between those measured, with an interval over samples; NaN outside."""
    _, samples = at_sigma(swept, sigma)
    return mean_over_images(samples.mean(0))


def gaps(study: Given) -> list[tuple[Run, Gap]]:
    """The last checkpoint's gap of every run that has one, by model and seed; refuses what was not measured alike."""
    found: list[tuple[Run, Gap]] = []
    last = {
        run.folder: [gap for gap in run.gaps if gap.epoch == max(each.epoch for each in run.gaps)]
        for run in study.runs
        if run.gaps and depth_of(run) in ("none", "pseudo")
    }
    data = [{str(gap.fingerprints) for gap in of_run} for of_run in last.values()]
    shared = set.intersection(*data) if data else set()  # of several data sets, those that all runs were measured on
    for run in study.runs:
        if run.folder not in last:
            continue
        alike = [gap for gap in last[run.folder] if str(gap.fingerprints) in shared] or last[run.folder]
        gap = max(alike, key=lambda gap: (gap.num_images, gap.real_field == "real", gap.data))
        if found:
            first_run, first = found[0]
            for what, ours, theirs in (
                ("images", first.fingerprints, gap.fingerprints),
                ("real depth", first.real_field, gap.real_field),
                ("noise seeds", first.noise_seed, gap.noise_seed),
            ):
                if ours != theirs:
                    raise AnalysisError(
                        f"{first_run.folder} and {run.folder} have gaps of different {what} ({ours} and {theirs}): "
                        f"measure them alike with {_MAKE_GAP}"
                    )
        found.append((run, gap))
    if not found:
        raise AnalysisError(f"no run trained on pseudo-depth has a gap to real depth: make them with {_MAKE_GAP}")
    return found


def sigma_stars(study: Given, swept: list[Swept], output: str) -> pd.DataFrame:
    """One row a run, kind of noise and reading of real depth: sigma* with its interval, and top-1 there.

    `sigma_star` is NaN where it lies above the grid of `train gap` (`share_above` of the resamples do), or where the
    model does not react to depth (`undefined`). `low` and `high` are over the images of the gap, those of `top1` over
    the samples of the sweep.
    """
    by_model = {(each.model, each.noise): each for each in swept}
    rows = []
    for run, gap in gaps(study):
        for crossing in gap.crossings:
            if crossing.output == output:
                rows.append(_sigma_star(run, gap, crossing, by_model.get((run.record.model, crossing.noise))))
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(("sigma_star", "low", "high", "top1", "top1_low", "top1_high"), float))


def _sigma_star(run: Run, gap: Gap, crossing: GapCrossing, swept: Swept | None) -> dict[str, Any]:
    row: dict[str, Any] = {"model": run.record.model, "seed": run.record.seed, "epoch": gap.epoch}
    row |= {"noise": crossing.noise, "output": crossing.output, "reading": crossing.reading}
    row |= {"e_star": crossing.e_star, "sigma_star": crossing.sigma_star, "low": crossing.low, "high": crossing.high}
    row |= {"share_above": crossing.share_above, "undefined": crossing.undefined}
    at = Estimate(*(np.asarray(np.nan),) * 3)
    if swept is not None and crossing.sigma_star is not None:
        at = top1_at(swept, crossing.sigma_star)
    row |= {"top1": float(at.value), "top1_low": float(at.low), "top1_high": float(at.high)}
    return row | {"num_images": gap.num_images}
