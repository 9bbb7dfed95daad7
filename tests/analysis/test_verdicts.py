"""Claims in planted worlds: a verdict is never one that the world forbids, and every rule knows which way is up."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds

from analysis.claims import RULES, VERDICTS, Claim, claims, judge
from analysis.claims.claim import DEPTH
from analysis.claims.verdict import Finding, Rules, holm, verdict
from analysis.contrast import Measured

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import verdicts

CLAIMS = {claim.id: claim for claim in claims()}
FIRST, DRAWS = 400, 5  # the benchmark draws those before: a false word in twenty or fewer is said there
# More than one thing must hold, so that what fails one way may fail the other way too.
TWO_SIDED = (
    "accuracy_tie",
    "indifferent",
    "flatter",
    "branches_flat",
    "alpha_smooth",
    "phi_turns",
    "distance_stronger",
)


def judged(claim: Claim, world: str, number: int) -> str:
    (row,) = judge(worlds.draw(claim, world, verdicts.generator(claim.id, world, number)), [claim])
    return row.verdict


@pytest.mark.parametrize("name", CLAIMS)
def test_verdicts_are_those_that_a_world_allows(name: str) -> None:
    """Of nothing but luck one draw in forty may look like something: the draws were not chosen, so one of five may."""
    claim = CLAIMS[name]
    for world in worlds.worlds_of(claim):
        found = [judged(claim, world, FIRST + number) for number in range(DRAWS)]
        false = [word for word in found if word not in worlds.allowed(claim, world)]
        assert len(false) <= world.startswith(verdicts.NOTHING), (world, found)
        if world == "true":
            assert "reproduced" in found
        if world == "reversed" and claim.rule != "printed":
            assert "contradicted" in found


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_that_looks_the_other_way_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its estimates' signs are turned, or the claimed place of its peak: what is true must not pass any more."""
    claim = next(each for each in CLAIMS.values() if each.rule == rule)
    right = RULES[rule]

    def turned(study, of: Claim) -> Finding:
        found = right(study, of)
        if found.peaks:
            return replace(found, peaks={name: 1 - share for name, share in found.peaks.items()})
        sides = [each.turned() for each in found.sides]
        return replace(found, sides=sides, beyond={name: each.turned() for name, each in found.beyond.items()})

    monkeypatch.setitem(RULES, rule, turned)
    assert judged(claim, "true", FIRST) not in ("reproduced", "in part")
    if rule not in TWO_SIDED:
        assert judged(claim, "reversed", FIRST) != "contradicted"


def test_every_claim_declares_what_it_is_judged_by() -> None:
    for claim in CLAIMS.values():
        assert claim.rule in RULES and claim.sentence and claim.place and claim.estimand and claim.expected, claim.id
        assert {"true", "reversed"} <= set(claim.worlds), claim.id
        for world, words in claim.worlds.items():
            assert set(words) <= set(VERDICTS), (claim.id, world)
            if world.startswith(verdicts.NOTHING):
                assert not set(words) & {"reproduced", "in part"}, (claim.id, world)
        if claim.uncertainty.startswith("seeds"):
            assert worlds.LUCK in claim.worlds, claim.id
        if claim.models and claim.rule not in ("printed", "hours_over_cost"):
            assert "at chance" in claim.worlds and claim.precondition, claim.id
    assert {claim.rule for claim in CLAIMS.values()} == set(RULES)
    assert [claim.id for claim in CLAIMS.values() if claim.ours] == ["figure1-falls-when-swapped"]
    assert {claim.contribution for claim in CLAIMS.values()} == {0, 1, 2, 3}


def test_the_committed_rates_cover_every_claim_and_world_and_meet_what_is_asked() -> None:
    kept = json.loads(verdicts.OUT.read_text())
    assert kept["draws"] >= 400
    assert kept["rates"].keys() == CLAIMS.keys()
    for name, claim in CLAIMS.items():
        assert list(kept["rates"][name]) == worlds.worlds_of(claim), name
        for world, found in kept["rates"][name].items():
            assert sum(found.values()) == pytest.approx(1)
            assert bool(verdicts.missed(world, found, kept["draws"])) == (f"{name}, {world}" in kept["missed"])


def cells(*values: float, error: float = 1.0, seeds: float = np.inf) -> Measured:
    found = np.array(values)
    return Measured(found, np.full(found.shape, error**2), seeds_df=seeds)


@pytest.mark.parametrize(
    ("found", "every", "expected"),
    [
        (Finding([cells(3, 4)]), True, "reproduced"),
        (Finding([cells(3, 0)]), True, "in part"),
        (Finding([cells(2.1, 0)]), True, "open"),  # 2.1 alone would hold, among two it does not
        (Finding([cells(3, -3)]), True, "in part"),
        (Finding([cells(1, -3)]), True, "contradicted"),
        (Finding([cells(1, -1)]), True, "open"),
        (Finding([cells(3, 4)], incomplete=True), True, "in part"),
        (Finding([cells(3, 4), cells(3, 0)]), True, "in part"),  # a cell holds where all sides do
        (Finding([cells(3, 4), cells(1, -4)]), True, "contradicted"),
        (Finding([cells(np.nan, 4)]), True, "not tested"),
        (Finding([cells(9, 9)], {"chance": cells(0, 0)}), True, "contradicted"),  # within a quarter: explained
        (Finding([cells(9, 9)], {"chance": cells(0, 0, error=3)}), True, "open"),
        (
            Finding([cells(90, 90)], {"chance": cells(6, 6)}),
            True,
            "contradicted",
        ),  # above 0, but next to nothing
        (Finding([cells(90, 90)], {"chance": cells(60, 60)}), True, "reproduced"),
        (Finding([cells(9, 9)], {"chance": cells(5, 5), "luck": cells(0, 1, error=2)}), True, "open"),
        (Finding([cells(3, -9)]), False, "reproduced"),
        (Finding([cells(-3, -9)]), False, "contradicted"),
        (Finding([cells(-3, 1)]), False, "open"),
        (Finding([cells(9, seeds=0)]), True, "open"),
        (Finding([cells(-9, seeds=0)]), True, "open"),
        (Finding([cells(1)], peaks={"": 0.96, "luck": 0.99}), True, "reproduced"),
        (Finding([cells(1)], peaks={"": 0.96, "luck": 0.5}), True, "open"),
        (Finding([cells(1)], peaks={"": 0.96, "luck": 0.04}), True, "contradicted"),
        (Finding([cells(1)], peaks={"": np.nan}), True, "not tested"),
    ],
)
def test_the_word_follows_from_the_numbers(found: Finding, every: bool, expected: str) -> None:
    assert verdict(found, Rules(every))[0] == expected


def test_one_seed_is_open_whichever_way_it_points_and_says_what_luck_it_would_bear() -> None:
    one = Measured(np.array([0.05]), np.array([0.01**2]), factor=2.0, seeds_df=0)
    word, why = verdict(Finding([one], unit=100), Rules())
    assert (word, why) == ("open", "one seed; would hold up to a seed SD of 1.7 points")
    spare = np.sqrt((0.05 / 1.959964) ** 2 - 0.01**2) / np.sqrt(2)
    assert one.seed_sd() == pytest.approx(spare)
    assert verdict(Finding([one.turned()]), Rules()) == ("open", "one seed")
    assert verdict(Finding([one]), Rules(needs_seeds=False))[0] == "reproduced"


def test_holm_rejects_from_the_least_until_one_stays() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.uniform(0, 0.1, 7) ** 2
        ordered = np.sort(p)
        adjusted = np.maximum.accumulate(ordered * np.arange(7, 0, -1))  # Holm's adjusted p
        np.testing.assert_array_equal(np.sort(p[holm(p, 0.025)]), ordered[adjusted < 0.025])


def test_claims_are_of_pseudo_depth() -> None:
    assert DEPTH == "pseudo"


@pytest.mark.parametrize("model", ["m4ch", "mlin", "mgem"])
def test_sums_of_worlds_are_those_of_the_dumps_own_code(model: str) -> None:
    generator = np.random.default_rng(1)
    scene = worlds.Scene.of(12, generator)
    layers = worlds.LAYERS - 2 * (model == "mgem")
    scores = generator.normal(size=(12, layers, worlds.HEADS, worlds.PATCHES, worlds.PATCHES))
    outputs, branch = generator.normal(size=(2, 12, worlds.LAYERS, worlds.PATCHES, worlds.WIDTH))
    bias = generator.normal(size=(12, layers, worlds.PATCHES, worlds.PATCHES)) if model == "mlin" else None
    made = worlds.dump(model, 0, 5, scene.z, scores, outputs, bias=bias, branch=branch)
    info = made.info.model_copy(update={"gram_batch": 4})
    ours = worlds.sums_of(info, scene.z, scores, outputs, bias, branch)
    theirs = worlds.by_statistics(info, scene.z, scores, outputs, bias, branch)
    assert len(ours) > 20
    for name, values in ours.items():
        expected = theirs[name]
        if name.endswith("/rows"):
            there = [worlds.ROWS.index(each) for each in ("c_delta", "c_r", "c_other", "cc", "ss_all")]
            values, expected = values[..., there], expected[..., there]
        if name.endswith(("head_rows", "bins/sum")):
            axis = 2 if name.endswith("head_rows") else 1
            values, expected = values.mean(axis), expected.mean(axis)
        if name.endswith("head_rows"):
            there = [worlds.ROWS.index(each) for each in ("c_delta", "c_other")]
            values, expected = values[..., there], expected[..., there]
        if name.endswith("pairs/centred"):
            there = [k for k in range(values.shape[-1]) if np.any(values[:, k])]
            values, expected = values[..., there], expected[..., there]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5, err_msg=name)
