"""Networks that answer depth where they are asked, of runs of `train depth` and what `train evaluate` left in them.

Neither a network nor shards are read. Runs that differ in their seed alone are one design.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.commands import command
from analysis.load import SPARSE_DEPTH, AnalysisError
from analysis.read import runs_in
from analysis.runs import check_same_shards
from pipeline import files
from training.dumps.schema import check_plain
from training.records import DepthEvaluation, DepthScores, Run, load_run

PROTOCOLS = {
    "whole": "every pixel with depth of what a network sees",
    "eigen": "Eigen's crop, up to 10 m",
    "author": "the centre 350 × 476, without a crop, as the author of v15.1.1 counted",
}
# AbsRel over the pixels of NYUDepthV2's test images that the author of v15.1.1 prints; comparable by `author` alone.
AUTHORS = {"every-pixel": 0.1150, "dense": 0.1075}
ASKED = ("every-pixel", "dense")  # in which order one is taken for the network's answer
ALIGNED = {"affine": "scale and shift fitted", "median": "scale fitted"}
_LARGEST = 2.0**64  # of an error that can be counted with


class Answer(NamedTuple):
    """`who` answered, how they were `asked`, how that was `aligned` to the truth: as in DepthScores."""

    who: str
    asked: str
    aligned: str = "none"


PIXELS, DENSE = (Answer("model", asked) for asked in ASKED)


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
    """What each has of the settings in which they differ: `decoder look-up`; not what more than half of them have."""
    keys = sorted({key for each in settings for key in each} - {"shards.depth"}, key=lambda k: (k[:6] != "model.", k))
    values = {key: [each.get(key, "none") for each in settings] for key in keys}
    differing = {key: Counter(found).most_common(1)[0] for key, found in values.items() if len(set(found)) > 1}
    made = []
    for place in range(len(settings)):
        words = [
            f"{key.removeprefix('model.')} {short(values[key][place])}"
            for key, (usual, times) in differing.items()
            if values[key][place] != usual or 2 * times <= len(settings)
        ]
        made.append(words if len(words) <= 3 else [*words[:2], f"{len(words) - 2} more settings"])
    for place, words in enumerate(made):
        alike = sum(words == other for other in made[:place])
        if alike and differing:
            words.append(f"no. {alike + 1}")
    return made


def short(value: str) -> str:
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


def asked_of(design: Design, protocol: str = "whole", region: str = "all") -> Answer | None:
    """What stands for the network's answer: every pixel asked, or else its dense map."""
    return next((answer for answer in (PIXELS, DENSE) if design.scores(answer, protocol, region)), None)


# --- in words ---------------------------------------------------------------------------------------------------------


def num_asked(asked: str) -> int | None:
    """64 of `k-64`."""
    matched = re.fullmatch(r"k-([1-9]\d{0,8})", asked)
    return int(matched[1]) if matched else None


def asked_in_words(asked: str, aligned: str = "none") -> str:
    number = num_asked(asked)
    how = {"every-pixel": "every pixel asked", "dense": "dense map"}.get(asked, asked)
    if number:
        how = f"{number:,} pixel{'s' * (number > 1)} asked"
    return f"{how}, {ALIGNED[aligned]}" if aligned in ALIGNED else how


def baseline(answer: Answer, found: DepthEvaluation) -> str:
    if answer.who == "teacher":
        return f"teacher {short(found.teacher) or 'unnamed'}"
    return {"position": "median of each position"}.get(answer.who, answer.who)


def number(value: float) -> str:
    return "–" if value != value else f"{value:.4f}" if value < 100 else f"{value:.3g}"


def spread(value: float, sd: float, digits: int) -> str:
    """`0.123 ± 0.004`, or the value alone of a single seed."""
    told = f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.3g}"
    return told if sd != sd else f"{told} ± {sd:.{digits}f}"
