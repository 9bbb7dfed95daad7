"""A claim of the thesis as data_manifests/claims.toml declares it, and what a rule returns for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import data_manifests
from analysis.claims.verdict import Finding
from analysis.load import BASELINE, MODELS, Given

DEPTH = "pseudo"  # all are claims about pseudo-depth
UNTRAINED, OTHER_IMAGE = "the untrained model", "another image's depth"


@dataclass(frozen=True)
class Claim:
    """What is claimed, and by what it is judged. `options` are the rule's: models, thresholds."""

    id: str
    sentence: str  # ours
    place: str  # of the thesis that it paraphrases
    rule: str
    estimand: str
    uncertainty: str  # what the interval is over: seeds and images, images, seeds, none
    shown_in: str
    worlds: Mapping[str, list[str]]  # planted world -> words that the verdict may be there
    precondition: list[str] = field(default_factory=list)
    reference: list[str] = field(default_factory=list)
    family: str = "every"  # of its cells: every or some
    expected: str = ""
    contribution: int = 0  # of the thesis's three; 0: none
    ours: bool = False
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_seeds(self) -> bool:
        """Without a second seed it is open; where images come first, they say enough of one network."""
        return self.uncertainty.startswith("seeds")

    @property
    def models(self) -> list[str]:
        """Every model that the claim names."""
        named = [self.options.get(name, []) for name in ("model", "better", "worse", "flat", "steep")]
        named += [self.options.get(name, []) for name in ("models", "others", "complex", "simple")]
        named += list(self.options.get("pairs", []))
        every = [[each] if isinstance(each, str) else each for each in named]
        return list(dict.fromkeys(model for each in every for model in each))

    def lacks(self, there: Iterable[str]) -> bool:
        """Whether a model of the thesis's own six that the claim names is not there; relatives need others' weights."""
        return bool({model for model in self.models if model in MODELS} - set(there) - {BASELINE})


Rule = Callable[[Given, Claim], Finding]  # AnalysisError says what the study lacks


def claims() -> list[Claim]:
    content = data_manifests.load("claims")
    return [Claim(**{**each, "worlds": content["worlds"][each["worlds"]]}) for each in content["claim"]]
