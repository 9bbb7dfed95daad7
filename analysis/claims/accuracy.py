"""Table 2: accuracy, paired over validation samples, with the luck of seeds."""

from collections.abc import Sequence

from analysis.claims.claim import Claim, Rule
from analysis.claims.sources import accuracy, seeds_told
from analysis.claims.texts import POINTS, bounded, joined
from analysis.claims.verdict import Finding
from analysis.contrast import Arm, Between, Measured, contrast
from analysis.load import BASELINE, AnalysisError, Given
from training.intervals import tango

_MEASURES = {"top1": "correct1", "top5": "correct5"}


def gap_of(better: Arm, worse: Arm, seeds: Between) -> Measured:
    """Difference of mean accuracy; its variance over images is at least what Tango's interval gives for one seed."""
    return contrast([(1.0, better), (-1.0, worse)], seeds, _least(better, worse))


def _least(first: Arm, second: Arm) -> float:
    ours, theirs = (arm.pseudo[..., 0].mean(0) for arm in (first, second))
    low, high = tango(float((ours * (1 - theirs)).sum()), float(((1 - ours) * theirs).sum()), len(ours))
    return ((high - low) / (2 * 1.959964)) ** 2


def _accuracy_gap(study: Given, claim: Claim) -> Finding:
    measure = claim.options.get("measure", "top1")
    if measure == "top5" and any(run.record.shards.num_classes <= 5 for run in study.runs):
        raise AnalysisError("needs more than 5 classes: five guesses are always right of so few")
    (better, worse), seeds = accuracy(study, [claim.options["better"], claim.options["worse"]], _MEASURES[measure])
    found = gap_of(better, worse, seeds)
    return _found([found], found, [better, worse], seeds)


def _accuracy_tie(study: Given, claim: Claim) -> Finding:
    """Within the margin on either side; the margin must be smaller than what RGB alone is away."""
    names, margin = [claim.options["better"], claim.options["worse"]], claim.options["margin"] / POINTS
    (better, worse, alone), seeds = accuracy(study, [*names, BASELINE])
    away = contrast([(0.5, better), (0.5, worse), (-1.0, alone)], seeds)
    if not away.value[0] > margin:
        raise AnalysisError(
            f"a tie within {claim.options['margin']:g} point says something where RGB alone is farther away, it is "
            f"{POINTS * away.value[0]:.1f} points"
        )
    found = gap_of(better, worse, seeds)
    return _found([found.shifted(margin), found.turned().shifted(margin)], found, [better, worse], seeds)


def _ordered(study: Given, claim: Claim) -> Finding:
    """Each richer model above each simpler one next to it."""
    pairs = claim.options["pairs"]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    arms, seeds = accuracy(study, names)
    by_name = dict(zip(names, arms, strict=True))
    found = [gap_of(by_name[richer], by_name[simpler], seeds) for simpler, richer in pairs]
    cells = joined(found)
    told = [f"{richer} over {simpler} {_points(each)}" for (simpler, richer), each in zip(pairs, found, strict=True)]
    observed = f"{int((cells.value > 0).sum())} of {len(pairs)} steps upwards"
    return Finding((cells,), observed=observed, interval="; ".join(told), seeds=seeds_told(arms, seeds), unit=POINTS)


def _found(sides: Sequence[Measured], gap: Measured, arms: list[Arm], seeds: Between) -> Finding:
    observed, _, interval = _points(gap).partition(" ")
    return Finding(
        tuple(sides), observed=f"{observed} points", interval=interval, seeds=seeds_told(arms, seeds), unit=POINTS
    )


def _points(gap: Measured) -> str:
    """`+5.2 [+3.1, +7.4]`; over images alone where nothing was trained twice."""
    return bounded(gap, POINTS)


RULES: dict[str, Rule] = {"accuracy_gap": _accuracy_gap, "accuracy_tie": _accuracy_tie, "ordered": _ordered}
