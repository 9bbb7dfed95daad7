"""Claims on runs and dumps as they lie on a disk: what is read, what is lacking, and what is said of it.

What the words are in planted worlds is in test_verdicts.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest

import analysis
import data_manifests
from analysis.claims import Judged, claims, judge
from analysis.claims.cost import printed
from analysis.load import AnalysisError, Given
from training.records import Matrix


def judged(study: Given) -> dict[str, Judged]:
    return {each.id: each for each in judge(study)}


def trained(folder: Path, *models: str, seeds: int = 1, **top1: float) -> list[Path]:
    """Runs of each model and seed; m3ch reaches 0.6, others 0.7, unless told."""
    found = []
    for model in models:
        for seed in range(seeds):
            reached = top1.get(model, 0.6 if model == "m3ch" else 0.7) + 0.004 * seed
            made = planted.write_run(folder / f"{model}-{seed}", model="m4ch", seed=seed, top1=reached)
            found.append(planted.as_model(made, model) if model != "m4ch" else made)
    return found


def test_nothing_to_judge_is_not_tested_and_says_what_is_lacking(tmp_path: Path) -> None:
    found = judged(analysis.load(trained(tmp_path, "m3ch")))
    assert {each.verdict for each in found.values()} == {"not tested"}
    assert found["table2-m4ch-over-m3ch"].why == "needs a run of m4ch on pseudo depth"
    assert (
        found["table3-pseudo-higher"].why == "needs the matrix.json of 'train matrix RUNS --data SHARDS --out FOLDER'"
    )
    assert "train dump RUN --data SHARDS" in found["figure1-falls"].why
    assert "tests/benchmarks/digits.py" in found["introduction-scratch-fails"].why
    assert {each.verdict for each in judge(Given([], []))} == {"not tested"}


def test_one_seed_is_open_and_two_of_any_model_tell_the_luck_of_all(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", "m3ch", "m4ch", "mlin")
    found = judged(analysis.load(one))["table2-m4ch-over-m3ch"]
    assert (found.verdict, found.observed, found.seeds) == ("open", "+10.0 points", "one seed")
    assert found.why.startswith("one seed; would hold up to a seed SD of ")
    more = planted.as_model(planted.write_run(tmp_path / "again", seed=1, top1=0.704), "mlin")
    found = judged(analysis.load([*one, more]))["table2-m4ch-over-m3ch"]
    assert found.verdict == "reproduced"
    assert found.seeds == "m4ch 1, m3ch 1; spread pooled over mlin on pseudo (df 1)"
    apart = planted.as_model(planted.write_run(tmp_path / "apart", seed=1, top1=0.8), "mlin")
    assert judged(analysis.load([*one, apart]))["table2-m4ch-over-m3ch"].verdict == "open"


def test_seeds_of_another_recipe_say_nothing(tmp_path: Path) -> None:
    runs = trained(tmp_path, "m3ch", "m4ch")
    longer = [planted.write_run(tmp_path / f"real-{k}", depth="real", seed=k, epochs=9) for k in range(2)]
    assert judged(analysis.load([*runs, *longer]))["table2-m4ch-over-m3ch"].why.startswith("one seed")
    alike = [planted.write_run(tmp_path / f"exact-{k}", depth="exact", seed=k, top1=0.7) for k in range(2)]
    found = judged(analysis.load([*runs, *alike]))["table2-m4ch-over-m3ch"]
    assert found.verdict == "reproduced" and "m4ch on exact (df 1)" in found.seeds


def test_models_at_chance_are_not_compared(tmp_path: Path) -> None:
    found = judged(analysis.load(trained(tmp_path, "m3ch", "m4ch", seeds=2, m3ch=0.17, m4ch=0.6)))
    assert found["table2-m4ch-over-m3ch"].why == "m3ch is at chance: there is nothing to compare"


def test_the_largest_class_is_chance_too_and_an_old_record_does_not_say(tmp_path: Path) -> None:
    runs = trained(tmp_path, "m3ch", "m4ch", seeds=2)
    for run, share in zip(runs, (0.2, 0.2, 0.75, 0.2), strict=True):
        path = run / "evaluations" / "val-final.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"largest_class": share}))
    assert judged(analysis.load(runs))["table2-m4ch-over-m3ch"].why.startswith("m4ch is at chance")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"largest_class": None}))
    why = judged(analysis.load(runs))["table2-m4ch-over-m3ch"].why
    assert why.startswith("needs the share of the largest class: evaluate again with train evaluate ") and "m4ch" in why


def test_runs_of_other_recipes_are_not_compared(tmp_path: Path) -> None:
    runs = [planted.write_run(tmp_path / "a", model="m3ch"), planted.write_run(tmp_path / "b", epochs=3)]
    assert judged(analysis.load(runs))["table2-m4ch-over-m3ch"].why == "m4ch and m3ch differ in optim.epochs: 3 or 5"


def test_claims_are_of_pseudo_depth_alone(tmp_path: Path) -> None:
    runs = [*trained(tmp_path, "m3ch"), planted.write_run(tmp_path / "real", depth="real", top1=0.9)]
    assert judged(analysis.load(runs))["table2-m4ch-over-m3ch"].verdict == "not tested"


SCORES = planted.falling([0.6, 0.9, 0.7, 0.5], image_noise=0.1)
STILL = planted.falling([0.0] * 4)


def dumped(tmp_path: Path, *epochs: int, num_images: int = 40, before: Any = STILL) -> Given:
    run = trained(tmp_path, "m4ch")
    paths = [
        planted.write_dump(tmp_path / f"{epoch}.zarr", SCORES if epoch else before, epoch=epoch, num_images=num_images)
        for epoch in epochs
    ]
    return analysis.load([*run, *paths])


def test_a_dump_is_held_against_the_one_before_training(tmp_path: Path) -> None:
    found = judged(dumped(tmp_path / "both", 0, 5))
    assert (found["figure1-falls"].verdict, found["figure1-falls"].seeds) == ("reproduced", "one network")
    assert found["figure10-falls"].verdict == "reproduced"
    assert "over another image's depth" in found["figure1-falls"].interval
    alone = judged(dumped(tmp_path / "alone", 5))["figure1-falls"]
    assert alone.verdict == "not tested" and "--checkpoint epoch-0 --raw 0" in alone.why
    learned = judged(dumped(tmp_path / "nothing", 0, 5, before=SCORES))["figure1-falls"]
    assert (learned.verdict, learned.why) == ("contradicted", "the untrained model explains it")
    first = judged(dumped(tmp_path / "first", 0))["figure1-falls"]
    assert first.verdict == "not tested" and first.why.startswith("needs a dump of m4ch")


def test_dumps_of_other_images_are_refused_by_name(tmp_path: Path) -> None:
    run = trained(tmp_path, "m4ch")
    paths = [
        planted.write_dump(tmp_path / f"{epoch}.zarr", SCORES, epoch=epoch, num_images=count)
        for epoch, count in ((0, 30), (5, 40))
    ]
    why = judged(analysis.load([*run, *paths]))["figure1-falls"].why
    assert "5.zarr and " in why and "0.zarr hold different images: make both with the same train dump --images" in why


def test_dumps_of_one_run_on_other_data_are_said_not_judged(tmp_path: Path) -> None:
    for epoch in (0, 5):
        planted.write_dump(tmp_path / f"{epoch}.zarr", SCORES, epoch=epoch, fingerprint=f"epoch {epoch}'s")
    study = analysis.load([*trained(tmp_path, "m4ch"), *sorted(tmp_path.glob("*.zarr"))])
    for name in ("figure1-falls", "figure10-falls"):
        found = judged(study)[name]
        assert found.verdict == "not tested" and ".zarr differ in data" in found.why


def test_what_is_undefined_is_not_judged(tmp_path: Path) -> None:
    """Depth that is flat has no |Δ| to fall with; scores that are constant have no cosine."""
    run = trained(tmp_path, "m4ch", "m3ch")
    flat = np.zeros((40, 16))
    paths = [planted.write_dump(tmp_path / f"{e}.zarr", SCORES, epoch=e, depths=flat) for e in (0, 5)]
    paths += [planted.write_dump(tmp_path / f"c{e}.zarr", planted.constant(), model="m3ch", epoch=e) for e in (0, 5)]
    found = judged(analysis.load([*run, *paths]))
    assert found["figure1-falls"].why.startswith("undefined in places")
    assert found["figure5-depth-negative"].why.startswith("undefined in places")
    assert found["figure10-falls"].verdict == "not tested"


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    found = judged(dumped(tmp_path, 0, 5, num_images=1))
    assert found["figure1-falls"].why == "needs dumps of at least 2 images: intervals leave images out"


def test_a_matrix_no_better_than_the_commonest_label_is_not_compared(tmp_path: Path) -> None:
    places = [(a, b) for a in ("real", "pseudo") for b in ("real", "pseudo")]

    def matrix(commonest: float, seeds: int) -> Matrix:
        cells = [
            planted.matrix_cell("m4ch", *place, 0.4 + 0.1 * (place == ("pseudo", "pseudo")) + 0.002 * seed, 0.01,
                                seed=seed, commonest_miou=commonest)
            for place in places for seed in range(seeds)
        ]  # fmt: skip
        return Matrix(
            data="nyu", split="val", fingerprint="f", num_images=654, num_classes=40, multi_scale=False, cells=cells,
            differences=[],
        )  # fmt: skip

    def found(commonest: float, seeds: int) -> Judged:
        return judged(Given([], [], matrix(commonest, seeds)))["table3-pseudo-higher"]

    alone = found(0.05, 3)  # mdf1 and mgem, which the claim is of too, are not there
    assert (alone.verdict, alone.why) == ("in part", "not all could be asked")
    assert alone.seeds == "m4ch 3 of one pre-training; each model's own spread"
    assert found(0.05, 1).verdict == "open" and found(0.05, 1).why.startswith("one seed; would hold up to")
    assert "m4ch is no better than the commonest label everywhere" in found(0.5, 3).why


@pytest.mark.parametrize(
    ("text", "value", "half"),
    [("87M", 87e6, 5e5), ("+12", 12, 0.5), ("+1K", 1000, 500), ("+200K", 200e3, 50e3), ("-280M", -280e6, 5e6),
     ("+2.4B", 2.4e9, 5e7), ("+40M", 40e6, 5e6)],
)  # fmt: skip
def test_a_printed_number_holds_what_may_be_rounded_to_it(text: str, value: float, half: float) -> None:
    assert printed(text) == pytest.approx((value, half))


def test_our_calculation_is_what_the_paper_prints_but_for_mgems_operations() -> None:
    paper = data_manifests.load("paper")
    for model in ("m3ch", "mlin", "mmlp", "m4ch", "mdf1", "mgem"):
        for text in paper[model]["printed"]["parameters"]:
            value, half = printed(text)
            ours = paper[model]["parameters"] - (paper["m3ch"]["parameters"] if text[0] in "+-" else 0)
            assert abs(ours - value) <= half, (model, text)


def test_expected_numbers_are_the_papers() -> None:
    by_id = {claim.id: claim for claim in claims()}
    paper = data_manifests.load("paper")
    for claim in by_id.values():
        if claim.rule == "accuracy_gap" and claim.id.startswith("table2"):
            measure = claim.options.get("measure", "top1")
            gap = paper[claim.options["better"]][measure] - paper[claim.options["worse"]][measure]
            assert f"{gap:+.1f}".replace("-", "−") in claim.expected, claim.id
    gains = [paper["table3"][m]["pseudo"]["pseudo"] - paper["table3"][m]["real"]["real"]
             for m in by_id["table3-pseudo-higher"].options["models"]]  # fmt: skip
    assert ", ".join(f"{gain:+.1f}" for gain in gains) in by_id["table3-pseudo-higher"].expected
    models = by_id["table3-varies-more"].options["models"]
    miou = np.std([paper["table3"][model]["pseudo"]["pseudo"] for model in models], ddof=1)
    top1 = np.std([paper[model]["top1"] for model in models], ddof=1)
    assert f"({miou:.1f} and {top1:.1f})" in by_id["table3-varies-more"].expected


def test_hours_are_compared_on_one_machine_without_interruptions(tmp_path: Path) -> None:
    runs = trained(tmp_path, "m3ch", "m4ch", seeds=2)
    why = judged(analysis.load(runs))["table1-hours"].why
    assert "was interrupted or does not say" in why
    for run in runs:
        path = run / "metrics.jsonl"
        *lines, end = path.read_text().splitlines()
        path.write_text("\n".join([*lines, json.dumps(json.loads(end) | {"resumes": 0})]) + "\n")
    assert judged(analysis.load(runs))["table1-hours"].verdict in ("open", "contradicted", "reproduced")
    record = json.loads((runs[0] / "run.json").read_text())
    (runs[0] / "run.json").write_text(json.dumps(record | {"machine": {"device": "cuda", "cores": 8}}))
    assert "on one machine" in judged(analysis.load(runs))["table1-hours"].why


def test_the_digits_study_is_read_and_a_strangers_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, "m3ch")
    fit = {"model": "m4ch", "steps": 240, "overlap_accuracy_95": [0.6, 0.64]}
    measured = [
        {**fit, "start": start, "seed": seed, "overlap_accuracy": reached + 0.002 * seed}
        for start, reached in (("pre-trained", 0.62), ("scratch", 0.5)) for seed in range(2)
    ]  # fmt: skip
    path = tmp_path / "digits.json"
    path.write_text(json.dumps({"measured": measured, "machine": {}}))
    found = judged(analysis.load(run, digits=path))["introduction-scratch-fails"]
    assert found.verdict == "reproduced" and found.observed == "pre-trained above scratch in 1 of 1"
    for wrong in ({"measured": []}, {"measured": [{**measured[0], "overlap_accuracy": 7}]}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises((AnalysisError, Exception), match=r"digits\.json is damaged"):
            analysis.load(run, digits=path)
