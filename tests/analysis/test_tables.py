"""Tables hold what was planted."""

from pathlib import Path

import pandas as pd
import planted
import pytest

import analysis
import data_manifests
from analysis.accuracy import notes2, readable2
from analysis.claims import claims, judge
from analysis.claims.accuracy import gap_of
from analysis.claims.sources import accuracy_arm, luck_of_accuracy
from analysis.runs import recipe_of
from analysis.statistics import mcnemar
from analysis.tables import bias_operations, groups, notes1, outcomes, readable1
from training.engine.describe import count_macs
from training.models.registry import MONIKERS
from training.tasks.classification.config import resolve
from training.tasks.classification.task import PreTraining


def test_table2_of_the_demo(demo: list[Path]) -> None:
    frame = analysis.load(demo).table(2).set_index(["model", "depth"])
    assert frame.loc[("m4ch", "exact"), "top1"] == pytest.approx(0.82)
    assert frame.loc[("m4ch", "exact"), "gap"] == pytest.approx(0.2)
    assert frame.loc[("mlin", "pseudo"), "paper_top1"] == 68.3
    assert frame.loc[["mlin"], "paper_top1"].isna().tolist() == [False, True, True], "the paper has pseudo-depth alone"
    assert frame["seeds"].tolist() == [1] * 7
    assert frame["gap"].isna().tolist() == [True] + [False] * 6
    assert (frame["gap_low"].dropna() < frame["gap"].dropna()).all()


def test_seeds_are_averaged_and_paired(tmp_path: Path) -> None:
    runs = []
    for seed, (base, better) in enumerate([(0.60, 0.70), (0.62, 0.68), (0.64, 0.72)]):
        runs.append(planted.write_run(tmp_path / f"a{seed}", model="m3ch", seed=seed, top1=base))
        runs.append(planted.write_run(tmp_path / f"b{seed}", model="m4ch", seed=seed, top1=better))
    study = analysis.load(runs)
    row = study.table(2).set_index("model").loc["m4ch"]
    assert row["seeds"] == 3
    assert row["top1"] == pytest.approx(0.7)
    assert row["top1_sd"] == pytest.approx(0.02)
    assert row["gap"] == pytest.approx(0.08)
    assert readable2(study.table(2)).set_index("model").loc["m4ch", "seeds"] == "3 seeds, SD 2.0"


def test_one_seed_an_arm_is_images_only_with_mcnemars_p(demo: list[Path]) -> None:
    study = analysis.load(demo)
    frame = study.table(2).set_index(["model", "depth"])
    assert frame["gap_seeds"].eq("").all()
    first, second = (outcomes(groups(study)[name])[0] for name in (("mlin", "pseudo"), ("m3ch", "none")))
    p = mcnemar(int((first > second).sum()), int((first < second).sum()))
    assert frame.loc[("mlin", "pseudo"), "gap_p"] == pytest.approx(p)
    shown = readable2(study.table(2))["gap to m3ch, points"].tolist()
    assert shown[0] == "–" and all(text.endswith("] (images only)") for text in shown[1:])
    assert "McNemar" in notes2(study.table(2)) and "pooled" not in notes2(study.table(2))


def test_gaps_are_over_all_seeds_and_as_wide_as_the_claims(tmp_path: Path) -> None:
    """m3ch and m4ch have seeds, mlin one: it borrows their spread; none needs a partner of its own seed."""
    tops = {("m3ch", 0): 0.6, ("m3ch", 1): 0.64, ("m4ch", 2): 0.7, ("m4ch", 3): 0.71, ("mlin", 4): 0.66}
    runs = [
        planted.write_run(tmp_path / f"{model}{seed}", model=model, seed=seed, top1=top)
        for (model, seed), top in tops.items()
    ]
    study = analysis.load(runs)
    frame = study.table(2).set_index("model")
    assert frame.loc["mlin", "gap"] == pytest.approx(0.04)
    assert frame.loc[["m4ch", "mlin"], "gap_seeds"].tolist() == ["m3ch, m4ch on pseudo"] * 2
    with_seeds = frame.loc["mlin", "gap_high"] - frame.loc["mlin", "gap_low"]
    alone = analysis.load([runs[0], runs[-1]]).table(2).set_index("model").loc["mlin"]
    assert with_seeds > 3 * (alone["gap_high"] - alone["gap_low"])
    shown = readable2(study.table(2)).set_index("model")["gap to m3ch, points"]
    assert "images only" not in shown["mlin"]
    assert "pooled over m3ch, m4ch on pseudo" in notes2(study.table(2)) and "McNemar" not in notes2(study.table(2))
    arms = [accuracy_arm(name, groups(study)[name]) for name in (("mlin", "pseudo"), ("m3ch", "none"))]
    found = gap_of(*arms, luck_of_accuracy(study, {recipe_of(run) for run in study.runs}.pop()))
    at_p = found.estimate(1 - frame.loc["mlin", "gap_p"])
    assert at_p.low == pytest.approx(0, abs=1e-4), "the interval at 1 - p ends at 0"
    for model in ("m4ch", "mlin"):
        [claim] = [each for each in claims() if each.id == f"table2-{model}-over-m3ch"]
        [judged] = judge(study, [claim])
        assert judged.interval == shown[model].partition(" ")[2]


def test_table1_shows_the_paper_at_its_size_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = readable1(analysis.load(planted.write_run(tmp_path / "small", model="m4ch")).table(1)).iloc[0]
    assert not [column for column in small.index if column.startswith("paper")]
    assert small["training"] == "41 s"
    monkeypatch.setattr(
        planted,
        "SIZE",
        {"image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "num_classes": 1000},
    )
    runs = [planted.write_run(tmp_path / model, model=model) for model in ("m3ch", "m4ch")]
    first, row = (readable1(analysis.load(runs).table(1)).iloc[place] for place in (0, 1))
    assert row["over m3ch"] == "+4,096" and first["over m3ch"] == "–"
    assert row["paper, M over m3ch"] == "+40" and first["paper, M over m3ch"] == "–"
    assert row["paper parameters"] == "86,764,264"
    assert row["paper GMACs"] == "17.62"


def test_what_a_bias_costs_at_the_papers_size() -> None:
    """The paper prints +0.01 G for mlin and +0.04 G for mmlp."""
    operations = {name: bias_operations(resolve("thesis", name).model.model_dump()) for name in MONIKERS}
    assert operations == {
        "m3ch": 0, "mlin": 12 * 197**2 * 26, "mmlp": 12 * 197**2 * (26 + 64), "m4ch": 0, "mdf1": 0, "mgem": 0,
    }  # fmt: skip
    assert (operations["mlin"], operations["mmlp"]) == (12_108_408, 41_913_720)


def test_table1_adds_the_bias_to_what_a_model_costs_over_m3ch(tmp_path: Path) -> None:
    runs = [planted.write_run(tmp_path / model, model=model) for model in ("m3ch", "mlin", "m4ch")]
    frame = analysis.load(runs).table(1).set_index("model")
    pairs = planted.LAYERS * 17**2
    assert frame["bias_operations"].tolist() == [0, pairs * 6, 0]
    assert frame.loc["mlin", "gmacs_over_m3ch"] == pytest.approx(pairs * 6 / 1e9)
    shown = readable1(frame.reset_index())
    assert shown["of a bias"].tolist() == ["–", "0.00694", "–"]
    assert shown["M over m3ch"].tolist() == ["–", "+0.006936", "+0"]


def test_notes_on_table1_hold() -> None:
    """Their numbers, from the models."""
    fast = count_macs(PreTraining(resolve("thesis", "mgem")))
    literal = fast + 4 * 196 * 2 * 384**2 - 4 * 2 * 384**2  # 18 C² a pair of tokens instead of 16, noise apart
    notes = notes1(pd.DataFrame({"model": ["m3ch", "mgem"]}))
    for gmacs in (
        fast / 1e9,
        literal / 1e9,
        17.31,
        17.58,
        17.58 - count_macs(PreTraining(resolve("thesis", "m3ch"))) / 1e9,
    ):
        assert f"{gmacs:.2f}" in notes
    paper = data_manifests.load("paper")
    assert (paper["m3ch"]["gmacs"], paper["mgem"]["gmacs"]) == (17.58, 17.31)
    assert "mgem" not in notes1(pd.DataFrame({"model": ["m3ch", "m4ch"]}))
