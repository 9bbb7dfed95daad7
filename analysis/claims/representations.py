"""Figures 9, 11 and 12: rules on probes, paired by fold, and on CKA, paired by block of images.

Each is held against the models before training: m4ch's tokens hold depth linearly before it has learned anything.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.cka import block_cka, compare
from analysis.claims.claim import UNTRAINED, Claim, Rule
from analysis.claims.scores import found_of, peaked
from analysis.claims.sources import check_paired, dumps_of, seeds_told, trained_and_untrained, untrained_of
from analysis.claims.texts import joined, span
from analysis.claims.verdict import Found
from analysis.contrast import Arm, contrast
from analysis.load import BASELINE, AnalysisError, Study, seed_of
from analysis.probes import probe
from analysis.statistics import Jackknife

if TYPE_CHECKING:
    from training.dumps.store import Dump


def _statistic(dump: "Dump", name: str, stream: str = "tokens", width: int | None = None) -> Jackknife:
    found: Jackknife = getattr(probe(dump, stream, "ridge", width), name)()
    return found


def _probed(study: Study, model: str, name: str, stream: str = "tokens", width: int | None = None) -> tuple[Arm, Arm]:
    statistic = partial(_statistic, name=name, stream=stream, width=width)
    return trained_and_untrained(study, model, ("probe", name, stream, width), statistic)


def _there(study: Study, models: list[str]) -> list[str]:
    return [model for model in models if any(dump.info.model == model for dump in study.dumps)]


def _probe_below(study: Study, claim: Claim) -> Found:
    """MSE of each other model minus that of `model`, in every layer; and by how much more than before training."""
    model, others = claim.options["model"], _there(study, claim.options["others"])
    if not others:
        raise AnalysisError(f"needs dumps of {model} and of {' or '.join(claim.options['others'])}")
    every = {name: _probed(study, name, "mse") for name in (model, *others)}
    check_paired([dump for name in every for dump in dumps_of(study, name)])
    ours, before = every[model]
    sides = {name: contrast([(1.0, every[name][0]), (-1.0, ours)]) for name in others}
    left = [contrast([(1.0, every[n][0]), (-1.0, ours), (-1.0, every[n][1]), (1.0, before)]) for n in others]
    cells = joined(list(sides.values()))
    observed = f"{int((cells.above_zero < 0.025).sum())} of {cells.value.size} cells"
    told = "; ".join(f"{name} minus {model} {span(each)}" for name, each in sides.items())
    lacking = len(others) < len(claim.options["others"])
    return Found((cells,), {UNTRAINED: joined(left)}, incomplete=lacking, observed=observed, interval=told,
                 seeds=seeds_told([arm for arm, _ in every.values()]))  # fmt: skip


def _probe_peaks(study: Study, claim: Claim) -> Found:
    """Where selectivity is largest: R² for an image's own depth minus R² for another's."""
    last, first = _probed(study, claim.options["model"], "selectivity")
    terms = {"": [(1.0, last)], UNTRAINED: [(1.0, last), (-1.0, first)]}
    found = found_of(terms[""], {}, "layers")
    if not (found.sides[0].above_zero < 0.025).any():
        raise AnalysisError("no layer's tokens hold an image's depth more than another's: nothing has a peak")
    return peaked(terms, np.arange(1, last.values.shape[1] + 1), claim.options["third"], found)


def _likeness(study: Study, model: str, untrained: bool) -> Arm:
    """CKA with m3ch, of the same seed where there is one, else of its lowest."""
    of = untrained_of if untrained else dumps_of
    base, dumps = of(study, BASELINE), of(study, model)
    by_seed = {seed_of(dump): dump for dump in base}
    pairs = [(by_seed.get(seed_of(dump), base[0]), dump) for dump in dumps]
    found = [study.once(("cka", one.path, dump.path), partial(compare, one, dump)) for one, dump in pairs]
    if min(len(each.hsics) for each in found) < 2:
        raise AnalysisError("needs at least two blocks of images")
    return Arm.of(model, [block_cka(each) for each in found])


def _cka_below(study: Study, claim: Claim) -> Found:
    """CKA with m3ch of each other model minus that of `model`, in the first `share_of_layers`."""
    model, others = claim.options["model"], _there(study, claim.options["others"])
    if not others or not _there(study, [model]):
        raise AnalysisError(f"needs dumps of {model} and of {' or '.join(claim.options['others'])}")
    arms = {name: [_likeness(study, name, untrained) for untrained in (False, True)] for name in (model, *others)}
    early = slice(int(np.ceil(claim.options["share_of_layers"] * arms[model][0].values.shape[1])))
    arms = {name: [arm.cells(early) for arm in each] for name, each in arms.items()}
    ours, before = arms[model]
    sides = {name: contrast([(1.0, arms[name][0]), (-1.0, ours)]) for name in others}
    left = [contrast([(1.0, arms[n][0]), (-1.0, ours), (-1.0, arms[n][1]), (1.0, before)]) for n in others]
    cells = joined(list(sides.values()))
    observed = f"{int((cells.above_zero < 0.025).sum())} of {cells.value.size} cells"
    told = "; ".join(f"{name} minus {model} {span(each)}" for name, each in sides.items())
    lacking = len(others) < len(claim.options["others"])
    return Found((cells,), {UNTRAINED: joined(left)}, incomplete=lacking, observed=observed, interval=told,
                 seeds=seeds_told([each[0] for each in arms.values()]))  # fmt: skip


def _branches(study: Study, claim: Claim, name: str) -> dict[str, tuple[Arm, Arm]]:
    """Of both branches reduced to the narrower one's width: a wider one has more to read from."""
    model = claim.options["model"]
    first = dumps_of(study, model)[0]
    if not first.info.first_attention_layer:
        raise AnalysisError(f"this {model} has no layers of two branches")
    width = min(stream.width for stream in first.info.streams if stream.name != "tokens")
    return {stream: _probed(study, model, name, stream, width) for stream in ("rgb", "depth")}


def _rgb_branch_below(study: Study, claim: Claim) -> Found:
    """MSE of the depth branch minus that of the RGB branch, of as many principal components each."""
    found = _branches(study, claim, "mse")
    (rgb, rgb_before), (depth, depth_before) = found["rgb"], found["depth"]
    now, before = depth.minus(rgb), depth_before.minus(rgb_before)
    return found_of([(1.0, now)], {UNTRAINED: [(1.0, now), (-1.0, before)]}, "layers")


def _branches_flat(study: Study, claim: Claim) -> Found:
    """Each branch's R² in every fused layer within the threshold of its first; where training made it readable at
    all.
    """
    found = _branches(study, claim, "r2")
    sides, told = [], []
    for stream, (now, before) in found.items():
        if now.values.shape[1] < 2:
            raise AnalysisError(f"{claim.options['model']} has a single layer of two branches")
        learned = contrast([(1.0, now), (-1.0, before)])
        if not (np.minimum(learned.above_zero, learned.below_zero) < 0.025 / 2 / learned.value.size).any():
            raise AnalysisError(
                f"the {stream} branch holds depth as it did before training: nothing learned to be flat"
            )
        steps = Arm(stream, now.values[:, 1:] - now.values[:, :1], now.pseudo[..., 1:] - now.pseudo[..., :1])
        sides.append(contrast([(1.0, steps)]))
        told.append(f"{stream}: range of R² {np.ptp(now.values.mean(0)):.2f}")
    each, margin = joined(sides), claim.options["threshold"]
    arms = [now for now, _ in found.values()]
    within = f"{int((np.abs(each.value) < margin).sum())} of {each.value.size} layers within {margin:g}"
    return Found((each.shifted(margin), each.turned().shifted(margin)), observed=within, interval="; ".join(told),
                 seeds=seeds_told(arms))  # fmt: skip


RULES: dict[str, Rule] = {
    "probe_below": _probe_below,
    "probe_peaks": _probe_peaks,
    "cka_below": _cka_below,
    "rgb_branch_below": _rgb_branch_below,
    "branches_flat": _branches_flat,
}
