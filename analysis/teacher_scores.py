"""Scores, differences and times of networks that are asked.

Differences pair the images, within a network where both answers are its own, and count the luck of a training where a
design has several seeds (`analysis.contrast`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.contrast import Arm, contrast
from analysis.teachers import (
    ALIGNED,
    ASKED,
    DENSE,
    PIXELS,
    Answer,
    Design,
    Network,
    asked_in_words,
    asked_of,
    baseline,
    num_asked,
    protocols,
)
from training.records import DepthErrors


@dataclass(frozen=True)
class Difference:
    """A mean AbsRel, or a difference of two, with its 95 % interval; NaN bounds of a single image.

    `seeded`: the interval counts the luck of a training; else it is over images alone.
    """

    value: float
    low: float
    high: float
    num_images: int
    left_out: int  # images that one of both has no pixel of
    seeded: bool

    @property
    def settled(self) -> bool:
        return self.low > 0 or self.high < 0

    def told(self, digits: int = 4) -> str:
        """`+0.0012 [−0.0003, +0.0027]`"""
        bounds = f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]" if self.low == self.low else " (no interval)"
        return f"{self.value:+.{digits}f}{bounds}".replace("-", "−")


# --- differences -----------------------------------------------------------------------------------------------------


def level(design: Design, answer: Answer) -> Difference | None:
    """Its mean AbsRel over all pixels."""
    errors = design.errors(answer)
    return None if errors is None else _measured([(1.0, design.name, errors)])


def within(
    design: Design, first: Answer, second: Answer, protocol: str = "whole", region: str = "all"
) -> Difference | None:
    """AbsRel of `first` minus that of `second`, taken in every network by itself."""
    ours, theirs = (design.errors(answer, protocol, region) for answer in (first, second))
    if ours is None or theirs is None:
        return None
    return _measured([(1.0, design.name, ours - theirs)])


def apart(
    first: Design, second: Design, answer: Answer, choices: int = 1, protocol: str = "whole", region: str = "all"
) -> Difference | None:
    """AbsRel of `first` minus that of `second`, on the same images; `choices`: pairs that this one was picked of."""
    ours, theirs = (design.errors(answer, protocol, region) for design in (first, second))
    if first.field != second.field or ours is None or theirs is None or ours.shape[1] != theirs.shape[1]:
        return None
    return _measured([(1.0, first.name, ours), (-1.0, second.name, theirs)], choices)


def _measured(terms: list[tuple[float, str, np.ndarray]], choices: int = 1) -> Difference | None:
    """Of images that all have; None without any."""
    known = np.all([np.isfinite(errors).all(0) for _, _, errors in terms], axis=0)
    if not known.any():
        return None
    found = contrast([(sign, Arm.of_samples(name, errors[:, known])) for sign, name, errors in terms])
    estimate = replace(found, choices=choices).estimate()
    return Difference(
        float(estimate.value[0]), float(estimate.low[0]), float(estimate.high[0]), int(known.sum()),
        int((~known).sum()), found.seeds_df > 0,
    )  # fmt: skip


# --- frames ----------------------------------------------------------------------------------------------------------

_MEASURES = ("abs_rel", "delta1", "rmse_m")


def scores(found: Sequence[Design]) -> pd.DataFrame:
    """A row an answer, protocol and region: means over images, and pooled over pixels, both means over seeds.

    `_sd`: deviation between seeds; `draws_abs_rel`: between draws of the pixels that are asked, mean over seeds.
    """
    rows: list[dict[str, Any]] = []
    for protocol in protocols(found):
        for design in found:
            for answer in _own(design, protocol):
                rows += _rows(design.name, answer, protocol, design.networks)
        rows += _baselines(found, protocol)
    columns = ["name", "who", "asked", "aligned", "protocol", "region", "seeds", "num_pixels"]
    for kind in ("", "pooled_"):
        columns += [f"{kind}{measure}{end}" for measure in _MEASURES for end in ("", "_sd")]
    columns += [f"draws_{measure}" for measure in ("abs_rel", "delta1")]
    return pd.DataFrame(rows, columns=columns)


def _own(design: Design, protocol: str) -> list[Answer]:
    """The network's own, every pixel and dense first, then by how many pixels are asked, then aligned."""
    answers = {answer for network in design.networks for answer in network.answers(protocol) if answer.who == "model"}
    return sorted(answers, key=lambda a: (a.aligned != "none", a.aligned, _place(a.asked)))


def _place(asked: str) -> tuple[int, int, str]:
    number = num_asked(asked)
    return (ASKED.index(asked) if asked in ASKED else 2), number or 0, asked


def _rows(name: str, answer: Answer, protocol: str, networks: Sequence[Network]) -> list[dict[str, Any]]:
    rows = []
    for region in ("all", "edges", "rest"):
        found = [score for network in networks if (score := network.score(answer, protocol, region))]
        if not found:
            continue
        row: dict[str, Any] = {"name": name, **answer._asdict(), "protocol": protocol, "region": region}
        row |= {"seeds": len(found), "num_pixels": round(float(np.mean([each.num_pixels for each in found])))}
        for kind, every in (("", [each.mean for each in found]), ("pooled_", [each.pooled for each in found])):
            for measure in _MEASURES:
                values = np.array([_measure(each, measure) for each in every])
                sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                row |= {f"{kind}{measure}": float(values.mean()), f"{kind}{measure}_sd": sd}
        spreads = [each.spread for each in found if each.spread]
        for measure in ("abs_rel", "delta1"):
            drawn = [each.abs_rel if measure == "abs_rel" else each.delta1 for each in spreads]
            row[f"draws_{measure}"] = float(np.mean(drawn)) if drawn else math.nan
        rows.append(row)
    return rows


def _measure(errors: DepthErrors, name: str) -> float:
    return {"abs_rel": errors.abs_rel, "delta1": errors.delta1, "rmse_m": errors.rmse_m}[name]


def _baselines(found: Sequence[Design], protocol: str) -> list[dict[str, Any]]:
    """Whoever else answered, once; once for each set of pixels where networks see different ones."""
    told: dict[tuple[str, Answer], dict[Any, tuple[Network, list[str]]]] = {}
    for design in found:
        for network in design.networks:
            for answer in network.answers(protocol):
                score = None if answer.who == "model" else network.score(answer, protocol)
                if score:
                    same = told.setdefault((baseline(answer, network.found), answer), {})
                    key = design.field, score.num_pixels, round(score.mean.abs_rel, 9)
                    same.setdefault(key, (network, []))[1].append(design.name)
    rows = []
    for (name, answer), cases in told.items():
        for network, names in cases.values():
            seen = " and ".join(dict.fromkeys(names)) if len(cases) > 1 else ""
            rows += _rows(name + (f" (pixels of {seen})" if seen else ""), answer, protocol, [network])
    return rows


class Paired(NamedTuple):
    """AbsRel near edges of a network's `answer` minus that of whom `minus` tells."""

    name: str
    answer: str
    minus: str
    difference: Difference


def edge_differences(found: Sequence[Design], protocol: str = "whole") -> list[Paired]:
    """Of each design's every pixel and dense map, to everybody else's answer; between the two; and between designs."""
    made = []
    for design in found:
        own = [answer for answer in (PIXELS, DENSE) if design.scores(answer, protocol, "edges")]
        others = [answer for answer in design.networks[0].answers(protocol) if answer.who != "model"]
        pairs = [(answer, other) for answer in own for other in others]
        for answer, other in [*pairs, *[(PIXELS, DENSE)] * (len(own) == 2)]:
            names = {baseline(other, network.found) for network in design.networks}
            difference = within(design, answer, other, protocol, "edges")
            if difference and (other.who == "model" or len(names) == 1):
                fitted = f", {ALIGNED[other.aligned]}" if other.aligned in ALIGNED else ""
                minus = "its own dense map" if other.who == "model" else f"{names.pop()}{fitted}"
                made.append(Paired(design.name, asked_in_words(answer.asked), minus, difference))
    for one, other_design in combinations(found, 2):
        same = asked_of(one, protocol, "edges")
        difference = apart(one, other_design, same, protocol=protocol, region="edges") if same else None
        if same and difference:
            made.append(Paired(one.name, asked_in_words(same.asked), other_design.name, difference))
    return made


def times(found: Sequence[Design]) -> pd.DataFrame:
    """A row a design, device and way to ask: milliseconds an image, with its encoding, means over seeds.

    `num_asked`: pixels, none of the dense map. `break_even`: how many pixels cost as much as the dense map, 0 where
    the fewest that were timed cost more, inf where the most cost less, NaN where that is not known.
    """
    rows = []
    for design in found:
        by_device: dict[str, list[dict[str, float]]] = {}
        for network in design.networks:
            by_device.setdefault(network.found.device, []).append({t.asked: t.ms for t in network.found.times})
        for device, every in by_device.items():
            mean = {asked: float(np.mean([e[asked] for e in every if asked in e])) for e in every for asked in e}
            if "encode" not in mean:
                continue
            numbers = sorted((number, asked) for asked in mean if (number := num_asked(asked)))
            asked_ms = [mean[asked] for _, asked in numbers]
            even = break_even([number for number, _ in numbers], asked_ms, mean["dense"]) if "dense" in mean else None
            for number, asked in [*numbers, *[(None, "dense")] * ("dense" in mean)]:
                rows.append(
                    {
                        "name": design.name, "device": device, "asked": asked, "num_asked": number,
                        "encode_ms": mean["encode"], "answer_ms": mean[asked], "ms": mean["encode"] + mean[asked],
                        "seeds": len(every), "break_even": math.nan if even is None else even,
                    }
                )  # fmt: skip
    columns = ["name", "device", "asked", "num_asked", "encode_ms", "answer_ms", "ms", "seeds", "break_even"]
    return pd.DataFrame(rows, columns=columns).astype({"num_asked": float})


def break_even(numbers: Sequence[int], asked_ms: Sequence[float], dense_ms: float) -> float | None:
    """Where the line through the times, linear in the number of pixels, first rises above the dense map's time."""
    if not numbers:
        return None
    if asked_ms[0] > dense_ms:
        return 0.0
    points = list(zip(numbers, asked_ms, strict=True))
    for (fewer, before), (more, after) in pairwise(points):
        if after > dense_ms:
            return fewer + (more - fewer) * (dense_ms - before) / (after - before)
    return math.inf
