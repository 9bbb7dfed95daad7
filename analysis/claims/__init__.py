"""The scoreboard: the paper's claims (data_manifests/claims.toml) judged on the runs and dumps at hand.

All are claims about pseudo-depth, so all are judged on pseudo-depth. The verdicts follow, where there is one, from an
interval, by the rule that each claim names: `reproduced`, `partly`, `not`, or `not tested` where a model, a record or a
dump is lacking. Dumps and logged parameters are those of the lowest seed and last epoch.
"""

from dataclasses import dataclass

import data_manifests
from analysis.claims import accuracy, cost, depth_bias, fine_tuning, maps, representations, robustness, scores
from analysis.claims.finding import DEPTH, Claim, Rule, Verdict
from analysis.load import Study

__all__ = ["DEPTH", "RULES", "Judged", "judge"]

RULES: dict[str, Rule] = {
    **cost.RULES,
    **accuracy.RULES,
    **fine_tuning.RULES,
    **scores.RULES,
    **representations.RULES,
    **maps.RULES,
    **robustness.RULES,
    **depth_bias.RULES,
}


@dataclass(frozen=True)
class Judged:
    """One row of the scoreboard; texts are for people."""

    id: str
    sentence: str
    statistic: str
    variant: str  # literal, gauge_fixed, causal or empty
    expected: str
    observed: str
    interval: str
    verdict: Verdict
    judged: str
    shown_in: str


def judge(study: Study) -> list[Judged]:
    """Every claim, once per variant."""
    rows = []
    for claim in data_manifests.load("claims")["claim"]:
        for variant in claim.get("variants", [""]):
            finding = RULES[claim["rule"]](study, variant, claim)
            rows.append(
                Judged(
                    id=claim["id"],
                    sentence=claim["sentence"],
                    statistic=claim["statistic"],
                    variant=variant,
                    expected=claim.get("expected") or _printed_gap(claim),
                    observed=finding.observed,
                    interval=finding.interval,
                    verdict=finding.verdict,
                    judged=claim["judged"],
                    shown_in=claim["shown_in"],
                )
            )
    return rows


def _printed_gap(claim: Claim) -> str:
    paper = data_manifests.load("paper")
    measure = claim.get("measure", "top1")
    gap = paper[claim["better"]][measure] - paper[claim["worse"]][measure]
    wanted = f"within ±{claim['margin']:g} (our margin" if "margin" in claim else "> 0 ("
    return f"{wanted}{'; ' * ('margin' in claim)}ImageNet: {gap:+.1f})".replace("-", "−")
