"""Figures 9, 11 and 12: rules on probes, paired by fold, and on CKA, paired by block of images.

Each is held against the models before training: m4ch's tokens hold depth linearly before it has learned anything.
Probes are held against those for another image's depth too: tokens that know their position know what depth is usual
there.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.cka import block_cka, compare
from analysis.claims.claim import OTHER_IMAGE, UNTRAINED, Claim, Rule
from analysis.claims.scores import found_of, peaked
from analysis.claims.sources import check_paired, dumps_of, seeds_told, trained_and_untrained, untrained_of
from analysis.claims.texts import joined, span
from analysis.claims.verdict import LEVEL, Finding, effect, holm
from analysis.contrast import Arm, contrast
from analysis.load import BASELINE, AnalysisError, Given, seed_of
from analysis.probes import STATISTICS, probe
from training.intervals import Jackknife

if TYPE_CHECKING:
    from training.dumps.store import Dump


def _statistic(dump: "Dump", name: str, stream: str = "tokens", width: int | None = None) -> Jackknife:
    return STATISTICS[name](probe(dump, stream, "ridge", width))


def _probed(study: Given, model: str, name: str, stream: str = "tokens", width: int | None = None) -> tuple[Arm, Arm]:
    statistic = partial(_statistic, name=name, stream=stream, width=width)
    return trained_and_untrained(study, model, ("probe", name, stream, width), statistic)


def _others(study: Given, claim: Claim) -> list[str]:
    """Of the models that the claimed one is compared with, those that have dumps."""
    model, others = claim.options["model"], claim.options["others"]
    there = [name for name in others if any(dump.info.model == name for dump in study.dumps)]
    if not there or not any(dump.info.model == model for dump in study.dumps):
        raise AnalysisError(f"needs dumps of {model} and of {' or '.join(others)}")
    return there


Versions = dict[str, dict[str, Arm]]  # model -> "" (as it is) or a reference -> what is there of it


def _below(claim: Claim, every: Versions) -> Finding:
    """Each other model's value minus the claimed one's; and by how much more so than by each reference."""
    model = claim.options["model"]
    ours, others = every[model], [name for name in every if name != model]
    sides = {name: contrast([(1.0, every[name][""]), (-1.0, ours[""])]) for name in others}
    left = {}
    for reference in [name for name in ours if name]:
        each = [
            contrast([(1.0, of[""]), (-1.0, ours[""]), (-1.0, of[reference]), (1.0, ours[reference])])
            for of in (every[name] for name in others)
        ]
        left[reference] = joined(each)
    cells = joined(list(sides.values()))
    return Finding(
        (cells,), left, incomplete=not set(claim.models) <= set(every),
        observed=f"{int((cells.above_zero < LEVEL).sum())} of {cells.value.size} cells",
        interval="; ".join(f"{name} minus {model} {span(each)}" for name, each in sides.items()),
        seeds=seeds_told([of[""] for of in every.values()]),
    )  # fmt: skip


def _errors(study: Given, model: str, stream: str = "tokens", width: int | None = None) -> dict[str, Arm]:
    """Probes' MSE; of the untrained model, and of probes for another image's depth, which find what positions have."""
    now, before = _probed(study, model, "mse", stream, width)
    other, _ = _probed(study, model, "mse_control", stream, width)
    return {"": now, UNTRAINED: before, OTHER_IMAGE: other}


def _probe_below(study: Given, claim: Claim) -> Finding:
    names = [claim.options["model"], *_others(study, claim)]
    every = {name: _errors(study, name) for name in names}
    check_paired([dump for name in names for dump in dumps_of(study, name)])
    return _below(claim, every)


def _probe_peaks(study: Given, claim: Claim) -> Finding:
    """Where selectivity is largest: R² for an image's own depth minus R² for another's."""
    last, first = _probed(study, claim.options["model"], "selectivity")
    terms = {"": [(1.0, last)], UNTRAINED: [(1.0, last), (-1.0, first)]}
    found = found_of(terms[""], {}, "layers")
    if not effect(found).any():
        raise AnalysisError("no layer's tokens hold an image's depth more than another's: nothing has a peak")
    return peaked(terms, np.arange(1, last.values.shape[1] + 1), claim.options["third"], found)


def _likeness(study: Given, model: str, untrained: bool) -> Arm:
    """CKA with m3ch, of the same seed where there is one, else of its lowest."""
    of = untrained_of if untrained else dumps_of
    base, dumps = of(study, BASELINE), of(study, model)
    by_seed = {seed_of(dump): dump for dump in base}
    pairs = [(by_seed.get(seed_of(dump), base[0]), dump) for dump in dumps]
    found = [study.once(("cka", one.path, dump.path), partial(compare, one, dump)) for one, dump in pairs]
    if min(len(each.hsics) for each in found) < 2:
        raise AnalysisError("needs at least two blocks of images")
    return Arm.of(model, [block_cka(each) for each in found])


def _cka_below(study: Given, claim: Claim) -> Finding:
    """CKA with m3ch, in the first `share_of_layers`."""
    every: Versions = {}
    for name in (claim.options["model"], *_others(study, claim)):
        now, before = (_likeness(study, name, untrained) for untrained in (False, True))
        early = slice(int(np.ceil(claim.options["share_of_layers"] * now.values.shape[1])))
        every[name] = {"": now.cells(early), UNTRAINED: before.cells(early)}
    return _below(claim, every)


def _width(study: Given, model: str) -> int:
    """Of the narrower branch: to as many principal components both are reduced, for a wider one has more to read."""
    first = dumps_of(study, model)[0]
    if not first.info.first_attention_layer:
        raise AnalysisError(f"this {model} has no layers of two branches")
    return min(stream.width for stream in first.info.streams if stream.name != "tokens")


def _rgb_branch_below(study: Given, claim: Claim) -> Finding:
    """MSE of the depth branch minus that of the RGB branch."""
    model = claim.options["model"]
    width = _width(study, model)
    rgb, depth = (_errors(study, model, stream, width) for stream in ("rgb", "depth"))
    apart = {name: depth[name].minus(rgb[name]) for name in rgb}
    return found_of(
        [(1.0, apart[""])],
        {
            UNTRAINED: [(1.0, apart[""]), (-1.0, apart[UNTRAINED])],
            OTHER_IMAGE: [(1.0, apart[""].minus(apart[OTHER_IMAGE]))],
        },
        "layers",
    )


def _branches_flat(study: Given, claim: Claim) -> Finding:
    """Each branch's R² in every fused layer within the threshold of its first; where training made an image's own
    depth readable at all.
    """
    model, margin = claim.options["model"], claim.options["threshold"]
    width = _width(study, model)
    sides, told, arms = [], [], []
    for stream in ("rgb", "depth"):
        now, _ = _probed(study, model, "r2", stream, width)
        if now.values.shape[1] < 2:
            raise AnalysisError(f"{model} has a single layer of two branches")
        selective, before = _probed(study, model, "selectivity", stream, width)
        learned = contrast([(1.0, selective), (-1.0, before)])
        if not holm(learned.above_zero, LEVEL).any():
            raise AnalysisError(f"the {stream} branch holds depth no better than before training: nothing to be flat")
        steps = Arm(stream, now.values[:, 1:] - now.values[:, :1], now.pseudo[..., 1:] - now.pseudo[..., :1])
        sides.append(contrast([(1.0, steps)]))
        told.append(f"{stream}: range of R² {np.ptp(now.values.mean(0)):.2f}")
        arms.append(now)
    each = joined(sides)
    within = f"{int((np.abs(each.value) < margin).sum())} of {each.value.size} layers within {margin:g}"
    return Finding(
        (each.shifted(margin), each.turned().shifted(margin)), observed=within, interval="; ".join(told),
        seeds=seeds_told(arms),
    )  # fmt: skip


RULES: dict[str, Rule] = {
    "probe_below": _probe_below,
    "probe_peaks": _probe_peaks,
    "cka_below": _cka_below,
    "rgb_branch_below": _rgb_branch_below,
    "branches_flat": _branches_flat,
}
