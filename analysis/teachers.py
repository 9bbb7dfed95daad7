"""Networks that answer depth where they are asked: whose answers are nearest, at what cost, near depth edges too.

Read from runs of `train depth` and what `train evaluate` left in them, without a network or shards. Runs that differ
in their seed alone are one design. Differences pair the images, within a network where both answers are its own, and
count the luck of a training where a design has several seeds (`analysis.contrast`).
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.commands import command
from analysis.contrast import Arm, contrast
from analysis.load import SPARSE_DEPTH, AnalysisError
from analysis.read import runs_in
from analysis.runs import check_same_shards
from pipeline import files
from training.dumps.schema import check_plain
from training.records import DepthErrors, DepthEvaluation, DepthScores, Run, load_run

PROTOCOLS = {
    "whole": "every pixel with depth of what a network sees",
    "eigen": "Eigen's crop, up to 10 m",
    "author": "the centre 350 × 476, without a crop, as the author of v15.1.1 counted",
}
# AbsRel over the pixels of NYUDepthV2's test images that the author of v15.1.1 prints; comparable by `author` alone.
AUTHORS = {"every-pixel": 0.1150, "dense": 0.1075}
_ASKED = ("every-pixel", "dense")  # in which order one is taken for the network's answer
_LARGEST = 2.0**64  # of an error that can be counted with


class Answer(NamedTuple):
    """`who` answered, how they were `asked`, how that was `aligned` to the truth: as in DepthScores."""

    who: str
    asked: str
    aligned: str = "none"


PIXELS, DENSE = (Answer("model", asked) for asked in _ASKED)


@dataclass(frozen=True)
class Network:
    """A run with the latest evaluation of its own val and depth field."""

    run: Run
    found: DepthEvaluation

    @property
    def model(self) -> str:
        return self.run.record.model

    def score(self, answer: Answer, protocol: str = "whole", region: str = "all") -> DepthScores | None:
        wanted = (*answer, protocol, region)
        every = ((s.who, s.asked, s.aligned, s.protocol, s.region) == wanted for s in self.found.scores)
        return next((score for score, is_it in zip(self.found.scores, every, strict=True) if is_it), None)

    def answers(self, protocol: str) -> list[Answer]:
        """In order of their scores."""
        ordered = (Answer(s.who, s.asked, s.aligned) for s in self.found.scores if s.protocol == protocol)
        return list(dict.fromkeys(ordered))


@dataclass(frozen=True)
class Design:
    """Networks of one configuration, by seed."""

    name: str
    networks: list[Network]

    @property
    def field(self) -> str:
        return self.networks[0].found.depth_field

    def scores(self, answer: Answer, protocol: str = "whole", region: str = "all") -> list[DepthScores]:
        """Of every network, or none."""
        found = [network.score(answer, protocol, region) for network in self.networks]
        known = [score for score in found if score]
        return known if len(known) == len(found) else []

    def errors(self, answer: Answer, protocol: str = "whole", region: str = "all") -> np.ndarray | None:
        """AbsRel (seeds, images), NaN of an image without such a pixel; None where it is not known of all."""
        lists = [score.abs_rel for score in self.scores(answer, protocol, region)]
        if not lists or not lists[0] or len({len(each) for each in lists}) > 1:
            return None
        return np.array(lists, np.float64)


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


# --- reading ---------------------------------------------------------------------------------------------------------


def read_networks(paths: Iterable[Path]) -> list[Network]:
    """Runs of `train depth`, or folders of them, each with its own evaluation; one at fault refuses all."""
    networks: list[Network] = []
    seen: set[Path] = set()
    for path in (run for given in paths for run in runs_in(given)):
        if path.resolve() in seen:
            raise AnalysisError(f"{path} is given twice")
        seen.add(path.resolve())
        if path.suffix == ".zarr":
            raise AnalysisError(f"{path} is a dump: 'analyze teachers' reads runs of 'train depth'")
        run = load_run(path)
        if run.record.task != SPARSE_DEPTH:
            raise AnalysisError(
                f"{path} is a run of task {run.record.task!r}, 'analyze teachers' reads those of 'train depth': leave "
                "it out"
            )
        networks.append(Network(run, own_evaluation(run)))
    if not networks:
        raise AnalysisError("no run was given: 'train depth' makes them")
    check_same_shards([network.run for network in networks])
    return networks


def to_evaluate(run: Run) -> str:
    return command(
        "train", "evaluate", run.folder, "--data", run.record.shards.path, "--against", "TEACHER", "--every-pixel"
    )


def own_evaluation(run: Run) -> DepthEvaluation:
    """The latest on the run's own val and depth field; those on other data, other depth or train do not matter."""
    shards = run.record.shards
    own = [
        each
        for each in run.depths
        if each.split == "val" and each.depth_field == shards.depth_field
        and each.fingerprint == shards.val_fingerprint and not each.other_depth
    ]  # fmt: skip
    if not own:
        raise AnalysisError(
            f"{run.folder} has no evaluation of its own val with {shards.depth_field} depth: make it with "
            f"{to_evaluate(run)}"
        )
    last = max(own, key=lambda each: (each.epoch, len(each.scores)))
    try:
        check_plain(run.record.model_dump())
        check_plain(last.model_dump(exclude={"scores": {"__all__": {"abs_rel"}}}), values=10**6)
        if any(value is not None and value > _LARGEST for score in last.scores for value in score.abs_rel):
            raise ValueError("holds an error that is too large")
    except ValueError as error:
        raise AnalysisError(
            f"{run.folder}: run.json or the evaluation of epoch {last.epoch} {files.reason(error)}: restore it from a "
            f"copy, or evaluate again with {to_evaluate(run)}"
        ) from None
    return last


# --- designs ---------------------------------------------------------------------------------------------------------


def designs(networks: Sequence[Network]) -> list[Design]:
    """By model, then as given; names tell apart what configurations differ in, of one model."""
    grouped: dict[str, list[Network]] = {}
    for network in networks:
        grouped.setdefault(json.dumps([network.model, _settings(network.run)], sort_keys=True), []).append(network)
    groups = sorted(grouped.values(), key=lambda each: each[0].model)
    several_fields = len({each[0].found.depth_field for each in groups}) > 1
    made: list[Design] = []
    for model, same in groupby(groups, key=lambda each: each[0].model):
        of_model = list(same)
        told = _told_apart([_settings(each[0].run) for each in of_model])
        for group, more in zip(of_model, told, strict=True):
            words = [model, *more, *[f"{group[0].found.depth_field} depth"] * several_fields]
            made.append(Design(", ".join(words), _by_seed(group)))
    return made


def _settings(run: Run) -> dict[str, str]:
    """All that a result depends on but the seed, by flat key, as JSON; how a preset is called does not matter."""
    flat = {"shards.depth": json.dumps(run.record.shards.depth_field)}
    for section, content in run.record.config.items():
        if section not in ("seed", "runtime", "preset"):
            items = content.items() if isinstance(content, dict) else [("", content)]
            flat |= {f"{section}.{key}".rstrip("."): json.dumps(value, sort_keys=True) for key, value in items}
    return {key: value for key, value in flat.items() if key not in ("data.depth", "model.name")}


def _told_apart(settings: list[dict[str, str]]) -> list[list[str]]:
    """What each has of the settings in which they differ: `decoder look-up`."""
    keys = sorted({key for each in settings for key in each} - {"shards.depth"}, key=lambda k: (k[:6] != "model.", k))
    differing = [key for key in keys if len({each.get(key) for each in settings}) > 1]
    made = []
    for each in settings:
        words = [f"{key.removeprefix('model.')} {_short(each.get(key, 'none'))}" for key in differing]
        made.append(words if len(words) <= 3 else [*words[:2], f"{len(words) - 2} more settings"])
    for place, words in enumerate(made):
        alike = sum(words == other for other in made[:place])
        if alike and differing:
            words.append(f"no. {alike + 1}")
    return made


def _short(value: str) -> str:
    text = value.strip('"').replace('"', "")
    return text if len(text) <= 32 else f"…{text[-30:]}"


def _by_seed(group: list[Network]) -> list[Network]:
    ordered = sorted(group, key=lambda network: network.run.record.seed)
    for one, other in pairwise(ordered):
        if one.run.record.seed == other.run.record.seed:
            raise AnalysisError(
                f"{one.run.folder} and {other.run.folder} are both {one.model} of one configuration and seed "
                f"{one.run.record.seed}: give one of them"
            )
    return ordered


def protocols(found: Sequence[Design]) -> list[str]:
    known = {score.protocol for design in found for each in design.networks for score in each.found.scores}
    return [*(name for name in PROTOCOLS if name in known), *sorted(known - set(PROTOCOLS))]


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


def asked_of(design: Design, protocol: str = "whole", region: str = "all") -> Answer | None:
    """What stands for the network's answer: every pixel asked, or else its dense map."""
    return next((answer for answer in (PIXELS, DENSE) if design.scores(answer, protocol, region)), None)


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
    return (_ASKED.index(asked) if asked in _ASKED else 2), number or 0, asked


def num_asked(asked: str) -> int | None:
    """64 of `k-64`."""
    matched = re.fullmatch(r"k-([1-9]\d{0,8})", asked)
    return int(matched[1]) if matched else None


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


def baseline(answer: Answer, found: DepthEvaluation) -> str:
    if answer.who == "teacher":
        return f"teacher {_short(found.teacher) or 'unnamed'}"
    return {"position": "median of each position"}.get(answer.who, answer.who)


_ALIGNED = {"affine": "scale and shift fitted", "median": "scale fitted"}


def asked_in_words(asked: str, aligned: str = "none") -> str:
    number = num_asked(asked)
    how = {"every-pixel": "every pixel asked", "dense": "dense map"}.get(asked, asked)
    if number:
        how = f"{number:,} pixel{'s' * (number > 1)} asked"
    return f"{how}, {_ALIGNED[aligned]}" if aligned in _ALIGNED else how


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
                fitted = f", {_ALIGNED[other.aligned]}" if other.aligned in _ALIGNED else ""
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


# --- what was found, in words ----------------------------------------------------------------------------------------


def findings(found: Sequence[Design]) -> list[str]:
    """A sentence each: whose AbsRel is lower, whether it matters how a network is asked, what is saved."""
    told = []
    fields = list(dict.fromkeys(design.field for design in found))
    for field in fields:
        told.append(_compared([design for design in found if design.field == field]))
    told.append(_sparse_or_dense(found))
    return told + _break_evens(times(found))


def _compared(found: Sequence[Design]) -> str:
    answer = next((a for a in (PIXELS, DENSE) if all(d.errors(a) is not None for d in found)), None)
    if answer is None:
        return (
            f"{_listed([d.name for d in found])} cannot be compared: they were not asked alike, or an evaluation holds "
            "no errors of single images."
        )
    how = asked_in_words(answer.asked)
    known = {design.name: level(design, answer) for design in found}
    ordered = sorted(found, key=lambda d: _value(known[d.name]))
    best = known[ordered[0].name]
    if best is None:
        return "No image has a pixel that counts."
    if len(ordered) == 1:
        value = f"{number(best.value)}{_bounds(best)}"
        return f"{ordered[0].name}, {how}, has AbsRel {value} on {_images(best)}. There is no other design to compare."
    second = known[ordered[1].name]
    pairs = len(ordered) * (len(ordered) - 1) // 2
    found_apart = apart(ordered[0], ordered[1], answer, pairs)
    if second is None or found_apart is None:
        return f"{ordered[0].name} and {ordered[1].name} were evaluated on different images, and are not compared."
    values = f"{number(best.value)} against {number(second.value)}"
    picked = f", widened for the choice among {pairs} pairs" if pairs > 1 else ""
    what = f"{found_apart.told()}; 95 % over {_images(found_apart)}{' and seeds' * found_apart.seeded}{picked}; {how}"
    ours, theirs = ordered[0].name, ordered[1].name
    if not found_apart.settled:
        told = f"AbsRel does not tell {ours} from {theirs}: {values}, a difference of {what}."
    elif found_apart.seeded:
        told = f"{ours} has the lower AbsRel: {values} of {theirs}, a difference of {what}."
    else:
        told = f"The network of {ours} has a lower AbsRel than that of {theirs}: {values}, a difference of {what}."
    if not found_apart.seeded:
        told += " One network of each was trained: nothing is said of another training of these designs."
    return told + _other_pixels(ordered[:2], answer)


def _other_pixels(two: Sequence[Design], answer: Answer) -> str:
    counts = [design.scores(answer)[0].num_pixels for design in two]
    if counts[0] == counts[1]:
        return ""
    return (
        f" They see different pixels ({counts[0]:,} and {counts[1]:,}): each takes the largest centre of an image that "
        "its patches divide."
    )


def _sparse_or_dense(found: Sequence[Design]) -> str:
    """Which designs' answers differ by how they are asked; each by as many pixels as its evaluation has."""
    by: dict[str, list[str]] = {
        each: [] for each in ("is lower for", "is higher for", "is not shown to differ for", "is not known for")
    }
    for design in found:
        first = next((a for a in (PIXELS, *_numbers(design)) if design.errors(a) is not None), None)
        difference = within(design, first, DENSE) if first else None
        if first is None or difference is None:
            by["is not known for"].append(design.name)
            continue
        over = f"95 % over {_images(difference)}{' and seeds' if difference.seeded else ', one network'}"
        word = "is lower for" if difference.value < 0 else "is higher for"
        by[word if difference.settled else "is not shown to differ for"].append(
            f"{design.name} ({asked_in_words(first.asked)}: {difference.told()}; {over})"
        )
    told = "; ".join(f"{words} {_listed(names)}" for words, names in by.items() if names)
    return f"AbsRel asked pixel by pixel, against the dense map, {told}."


def _numbers(design: Design) -> list[Answer]:
    """The most pixels first."""
    asked = {answer.asked for answer in design.networks[0].answers("whole") if num_asked(answer.asked)}
    return [Answer("model", each) for each in sorted(asked, key=lambda each: -(num_asked(each) or 0))]


def _break_evens(timed: pd.DataFrame) -> list[str]:
    """One sentence, or none."""
    parts = []
    for (name, device), own in timed.groupby(["name", "device"], sort=False, dropna=False):
        even, numbers = own["break_even"].iloc[0], own["num_asked"]
        if even != even:
            continue
        if even == 0:
            told = f"not even at {numbers.min():,.0f}, the fewest that were timed"
        elif even == math.inf:
            told = f"beyond {numbers.max():,.0f}, the most that were timed"
        else:
            told = f"up to {even:,.0f}"
        parts.append(f"{told}, by {name} on {device or 'a machine that is not named'}")
    return [f"Pixels of an image that are asked in less time than the dense map takes: {'; '.join(parts)}."] * bool(
        parts
    )


def not_learned(found: Sequence[Design]) -> str:
    """Which designs are not shown to be better than what is said without looking; nothing of none."""
    told = []
    for design in found:
        answer = asked_of(design)
        against = within(design, answer, Answer("position", "dense")) if answer else None
        if against and not against.high < 0:
            told.append(f"{design.name} ({against.told()})")
    if not told:
        return ""
    return (
        f"{_listed(told)} {'are' if len(told) > 1 else 'is'} not shown to be better than the median depth of each "
        "position, which says the same of every image: take nothing here for what a design can do."
    )


def number(value: float) -> str:
    return "–" if value != value else f"{value:.4f}" if value < 100 else f"{value:.3g}"


def _value(known: Difference | None) -> float:
    return math.inf if known is None else known.value


def _bounds(known: Difference) -> str:
    if known.low != known.low:
        return " (no interval)"
    bounds = f"[{number(known.low)}, {number(known.high)}]".replace("-", "−")
    return f" {bounds} (95 % over images{' and seeds' * known.seeded})"


def _images(known: Difference) -> str:
    return f"{known.num_images:,} image{'s' * (known.num_images > 1)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
