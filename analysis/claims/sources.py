"""Where rules get their arms: a model's accuracy, its dumps, its fine-tunings, over all its seeds."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.claims.claim import DEPTH
from analysis.commands import command
from analysis.contrast import Arm, Between, between
from analysis.load import BASELINE, AnalysisError, Given, check_same_axes
from analysis.runs import final_evaluation, recipe_differences, recipe_of
from analysis.tables import groups, outcomes
from training.intervals import Jackknife, wilson
from training.records import Run

if TYPE_CHECKING:
    from training.dumps.store import Dump


def runs_of(study: Given, model: str) -> list[Run]:
    """Every seed's run on pseudo-depth; of m3ch on any."""
    found = groups(study).get((model, "none" if model == BASELINE else DEPTH), [])
    if not found:
        raise AnalysisError(f"needs a run of {model}" + f" on {DEPTH} depth" * (model != BASELINE))
    return found


def accuracy(study: Given, models: Sequence[str], measure: str = "correct1") -> tuple[list[Arm], Between]:
    """Each model's outcomes on the validation samples, and the luck of seeds."""
    runs = [runs_of(study, model) for model in models]
    flat = [run for each in runs for run in each]
    if unlike := recipe_differences(flat):
        raise AnalysisError(f"{' and '.join(models)} differ in {'; '.join(unlike)}")
    arms = [accuracy_arm((model, "none"), each, measure) for model, each in zip(models, runs, strict=True)]
    return arms, luck_of_accuracy(study, recipe_of(flat[0]), measure)


def luck_of_accuracy(study: Given, recipe: str, measure: str = "correct1") -> Between:
    """Between seeds, pooled over every model and depth field that was trained by this recipe."""

    def pooled() -> Between:
        alike = {name: [run for run in each if recipe_of(run) == recipe] for name, each in groups(study).items()}
        return between([accuracy_arm(name, each, measure) for name, each in alike.items() if each])

    found: Between = study.once(("luck of accuracy", measure, recipe), pooled)
    return found


def accuracy_arm(name: tuple[str, str], runs: list[Run], measure: str = "correct1") -> Arm:
    """Of a model and a depth field, `none` to leave it unsaid."""
    model, depth = name
    return Arm.of_samples(model if depth == "none" else f"{model} on {depth}", outcomes(runs, measure))


def at_chance(study: Given, models: Sequence[str]) -> list[str]:
    """Which of these are no better than chance: Wilson's lower bound does not lie above 1/K and the largest class."""
    return [model for model in models if not _beyond_chance(runs_of(study, model))]


def _beyond_chance(runs: list[Run]) -> bool:
    last = [final_evaluation(run) for run in runs]
    if any(each.largest_class is None for each in last):
        lacking = next(run for run, each in zip(runs, last, strict=True) if each.largest_class is None)
        again = command("train", "evaluate", lacking.folder, "--data", lacking.record.shards.path)
        raise AnalysisError(f"needs the share of the largest class: evaluate again with {again}")
    chance = max(1 / runs[0].record.shards.num_classes, *(each.largest_class or 0.0 for each in last))
    hits = outcomes(runs).mean(0)
    return wilson(round(float(hits.sum())), len(hits))[0] > chance


def dumps_of(study: Given, model: str) -> list["Dump"]:
    """The last dump on pseudo-depth of every seed."""
    found = [d for d in study.dumps if d.info.model == model and d.info.depth_field == DEPTH and d.info.epoch > 0]
    if not found:
        raise AnalysisError(f"needs a dump of {model} on {DEPTH} depth: make one with 'train dump RUN --data SHARDS'")
    return Given([], found).last_dumps(DEPTH)


def untrained_of(study: Given, model: str) -> list["Dump"]:
    """The dump of epoch 0 of every seed that has one."""
    found = [d for d in study.dumps if d.info.model == model and d.info.depth_field == DEPTH and d.info.epoch == 0]
    if not found:
        raise AnalysisError(
            f"needs a dump of {model} before training, of the same images: make it with 'train dump RUN --data SHARDS "
            "--checkpoint epoch-0 --raw 0'"
        )
    return Given([], found).last_dumps(DEPTH)


Statistic = Callable[["Dump"], Jackknife]


def arm_of(study: Given, name: str, dumps: Sequence["Dump"], key: object, statistic: Statistic) -> Arm:
    """A statistic of a model's dumps, one a seed; computed once for all claims that name it by `key`."""
    for dump in dumps:
        if dump.info.num_images < 2:
            raise AnalysisError("needs dumps of at least 2 images: intervals leave images out")
    return Arm.of(name, [study.once((key, dump.path), partial(statistic, dump)) for dump in dumps])


def check_paired(dumps: Sequence["Dump"]) -> None:
    """The same images in every dump, or a refusal that names two."""
    check_same_axes(list(dumps))
    for dump in dumps[1:]:
        if dump.info.num_images != dumps[0].info.num_images or dump.keys() != dumps[0].keys():
            raise AnalysisError(
                f"{dumps[0].path} and {dump.path} hold different images: make both with the same train dump --images"
            )


def trained_and_untrained(study: Given, model: str, key: object, statistic: Statistic) -> tuple[Arm, Arm]:
    last, first = dumps_of(study, model), untrained_of(study, model)
    check_paired([*last, *first])
    return arm_of(study, model, last, key, statistic), arm_of(study, model, first, key, statistic)


def seeds_told(arms: Sequence[Arm], pooled: Between | None = None) -> str:
    """How many seeds of what; of dumps (nothing pooled over other models) `one network` where there is one."""
    known = pooled or between(arms)
    if not known.df:
        return "one network" if pooled is None and all(arm.pseudo.shape[1] for arm in arms) else "one seed"
    each = ", ".join(f"{arm.name} {len(arm)}" for arm in {arm.name: arm for arm in arms}.values())
    names = list(known.of)
    whose = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{each}; spread pooled over {whose} (df {known.df:g})"


def list_of(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
