"""The scoreboard: the thesis's claims (data_manifests/claims.toml) judged on the runs and dumps at hand.

All are claims about pseudo-depth, so all are judged on pseudo-depth. A rule estimates (`Finding`), `verdict` judges: no
rule says a word of its own. Last checkpoints count.
"""

from dataclasses import dataclass, fields

import pandas as pd

from analysis.claims import (
    accuracy,
    cost,
    depth_bias,
    fine_tuning,
    introduction,
    maps,
    representations,
    robustness,
    scores,
)
from analysis.claims.claim import DEPTH, Claim, Rule, claims
from analysis.claims.sources import at_chance
from analysis.claims.verdict import VERDICTS, Rules, Verdict, verdict
from analysis.load import AnalysisError, Given

__all__ = ["DEPTH", "RULES", "VERDICTS", "Claim", "Judged", "claims", "judge", "scoreboard"]

RULES: dict[str, Rule] = {
    **cost.RULES,
    **accuracy.RULES,
    **fine_tuning.RULES,
    **scores.RULES,
    **maps.RULES,
    **robustness.RULES,
    **depth_bias.RULES,
    **representations.RULES,
    **introduction.RULES,
}
BEYOND_CHANCE = "accuracy beyond chance"


@dataclass(frozen=True)
class Judged:
    """One row of the scoreboard; texts are for people."""

    id: str
    sentence: str
    place: str
    estimand: str
    precondition: str
    reference: str
    uncertainty: str
    expected: str
    observed: str
    interval: str
    seeds: str
    verdict: Verdict
    why: str
    shown_in: str
    note: str
    ours: bool
    contribution: int


def judge(study: Given, chosen: list[Claim] | None = None) -> list[Judged]:
    """Every claim, or those chosen, in the order of the file."""
    return [_judged(study, claim) for claim in (claims() if chosen is None else chosen)]


def scoreboard(judged: list[Judged]) -> pd.DataFrame:
    """One row a claim, a column each of its fields."""
    return pd.DataFrame([vars(claim) for claim in judged], columns=[each.name for each in fields(Judged)])


def _judged(study: Given, claim: Claim) -> Judged:
    observed, interval, seeds = "", "–", ""
    try:
        if BEYOND_CHANCE in claim.precondition:
            _check_beyond_chance(study, claim)
        found = RULES[claim.rule](study, claim)
        observed, interval, seeds = found.observed, found.interval, found.seeds
        word, why = verdict(found, Rules(claim.family == "every", claim.needs_seeds))
    except AnalysisError as error:
        word, why = "not tested", str(error)
    return Judged(
        id=claim.id, sentence=claim.sentence, place=claim.place, estimand=claim.estimand,
        precondition="; ".join(claim.precondition), reference="; ".join(claim.reference),
        uncertainty=claim.uncertainty, expected=claim.expected, observed=observed, interval=interval, seeds=seeds,
        verdict=word, why=why, shown_in=claim.shown_in, note=claim.note, ours=claim.ours,
        contribution=claim.contribution,
    )  # fmt: skip


def _check_beyond_chance(study: Given, claim: Claim) -> None:
    there = {run.record.model for run in study.runs}
    models = [model for model in claim.models if model in there]
    if low := at_chance(study, models):
        raise AnalysisError(
            f"{' and '.join(low)} {'is' if len(low) == 1 else 'are'} at chance: there is nothing to compare"
        )
