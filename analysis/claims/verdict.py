"""The one place where numbers become a word.

`reproduced`    all of a claim's cells hold.
`in part`       some do, after Holm's correction over the cells.
`contradicted`  some cell lies on the other side (Holm) and none holds; or the effect is there, and something else
                explains it: what is left over a reference lies within a quarter of the effect around 0, be it surely
                not 0.
`open`          the data cannot tell: the interval holds both answers, or nothing was trained twice.
`not tested`    an input is missing, or a precondition fails.

A cell holds where each of its sides is above 0, and what is left over each reference is too. Absence of evidence is
`open`, never `contradicted`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from analysis.contrast import Measured

Verdict = Literal["reproduced", "in part", "open", "contradicted", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LEVEL = 0.025  # one-sided: 95 % intervals
PEAK = 0.95  # share of joint resamples in which the largest value is where it is claimed
_EXPLAINED = 0.25  # of the effect


@dataclass(frozen=True)
class Finding:
    """What a rule estimates, turned so that the claim says > 0. `observed` and `interval` are for people."""

    sides: Sequence[Measured] = ()  # (cells,) each; a cell holds where all are above 0
    beyond: Mapping[str, Measured] = field(default_factory=dict)  # reference -> (cells,), what is left over it
    peaks: Mapping[str, float] = field(default_factory=dict)  # reference or "": share of resamples in the claimed place
    incomplete: bool = False  # cells that the claim names could not be asked: at most `in part`
    observed: str = ""
    interval: str = "–"
    seeds: str = ""  # whose seeds the interval knows of
    unit: float = 1.0  # 100: shares, told in points


@dataclass(frozen=True)
class Rules:
    """What the claim declares of its verdict."""

    every: bool = True  # of all cells; else of some
    needs_seeds: bool = True  # without a second seed it is open


def verdict(found: Finding, rules: Rules) -> tuple[Verdict, str]:
    """The word, and why where that is not plain."""
    if found.peaks:
        return _of_peaks(found, rules)
    everything = [*found.sides, *found.beyond.values()]
    if not everything or any(np.isnan(part.above_zero).any() or not part.value.size for part in everything):
        return "not tested", "undefined in places: needs more images, or scores and depth that vary"
    if rules.needs_seeds and any(part.seeds_df == 0 for part in everything):
        return "open", one_seed(found)
    nothing_left = explained(found)
    holds = np.where(nothing_left.any(0), 1.0, np.max([part.above_zero for part in everything], 0))
    fails = np.minimum(1.0, len(everything) * np.min([part.below_zero for part in everything], 0))
    some_hold, some_fail = holm(holds, LEVEL).any(), holm(fails, LEVEL).any()
    if rules.every and (holds < LEVEL).all():
        return ("in part", "not all could be asked") if found.incomplete else ("reproduced", "")
    if some_hold:
        return ("in part", "") if rules.every else ("reproduced", "")
    for name, explains in zip(found.beyond, nothing_left, strict=True):
        if (there := effect(found)).any() and explains[there].all():
            return "contradicted", f"{name} explains it"
    contrary = some_fail if rules.every else (fails < LEVEL).all()
    return ("contradicted", _opposite(found)) if contrary else ("open", "")


def _of_peaks(found: Finding, rules: Rules) -> tuple[Verdict, str]:
    shares = np.array(list(found.peaks.values()))
    if np.isnan(shares).any():
        return "not tested", "undefined in places: needs more images, or scores and depth that vary"
    if rules.needs_seeds and any(part.seeds_df == 0 for part in found.sides):
        return "open", one_seed(found)
    if (shares >= PEAK).all():
        return ("in part", "not all could be asked") if found.incomplete else ("reproduced", "")
    return ("contradicted", "") if (shares <= 1 - PEAK).any() else ("open", "")


def _opposite(found: Finding) -> str:
    """What lies on the other side: a reference where the effect itself does not."""
    if any((part.below_zero < LEVEL).any() for part in found.sides):
        return ""
    of = [name for name, part in found.beyond.items() if (part.below_zero < LEVEL).any()]
    return f"{' and '.join(of)} {'has' if len(of) == 1 else 'have'} more of it" if of else ""


def effect(found: Finding) -> np.ndarray:
    """(cells,) where the literal effect is, whatever explains it."""
    return np.asarray(np.max([part.above_zero for part in found.sides], 0) < LEVEL)


def explained(found: Finding) -> np.ndarray:
    """(references, cells) where a reference leaves next to nothing of the effect that is there, sure as it may be."""
    size = np.min([part.value for part in found.sides], 0)
    rows = [np.zeros((0, size.size), bool)]
    for part in found.beyond.values():
        left = part.estimate()
        within = np.maximum(np.abs(left.low), np.abs(left.high)) < _EXPLAINED * size
        rows.append((within & effect(found))[None])
    return np.concatenate(rows)


def there(found: Finding) -> np.ndarray:
    """(cells,) where the effect is over every reference too, after Holm."""
    p = np.max([part.above_zero for part in [*found.sides, *found.beyond.values()]], 0)
    return holm(np.where(explained(found).any(0), 1.0, p), LEVEL)


def one_seed(found: Finding) -> str:
    """How little the luck of a training would have to be for the claim to hold."""
    bounds = [part.seed_sd() for part in [*found.sides, *found.beyond.values()]]
    signs = [np.sign(part.value) for part in found.sides]
    least = float(np.min(bounds))
    if not signs or np.isnan(least) or not (np.stack(signs) > 0).all():
        return "one seed"
    if not np.isfinite(least):
        return "one seed"
    return f"one seed; would hold up to a seed SD of {found.unit * least:.2g}{' points' * (found.unit != 1.0)}"


def holm(p: np.ndarray, level: float) -> np.ndarray:
    """Which hypotheses are rejected, with the chance of any false one at most `level` (Holm 1979)."""
    order = np.argsort(p)
    rejected = np.zeros(len(p), bool)
    for place, number in enumerate(order):
        if not p[number] < level / (len(p) - place):
            break
        rejected[number] = True
    return rejected
