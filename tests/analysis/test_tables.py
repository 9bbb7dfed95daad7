"""Tables hold what was planted."""

from pathlib import Path

import planted
import pytest

import analysis
from analysis.tables import readable1, readable2


def test_table2_of_the_demo(demo: list[Path]) -> None:
    frame = analysis.load(demo).table(2).set_index(["model", "depth"])
    assert frame.loc[("m4ch", "exact"), "top1"] == pytest.approx(0.82)
    assert frame.loc[("m4ch", "exact"), "gap"] == pytest.approx(0.2)
    assert frame.loc[("mlin", "real"), "paper_top1"] == 68.3
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


def test_no_partner_of_the_seed_leaves_the_gap_open(tmp_path: Path) -> None:
    runs = [
        planted.write_run(tmp_path / "a", model="m3ch", seed=0),
        planted.write_run(tmp_path / "b", model="m4ch", seed=1),
    ]
    assert readable2(analysis.load(runs).table(2))["gap to m3ch, points"].tolist() == ["–", "–"]


def test_table1_shows_the_paper_at_its_size_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = readable1(analysis.load(planted.write_run(tmp_path / "small", model="m4ch")).table(1)).iloc[0]
    assert small["paper parameters"] == "–"
    assert small["training"] == "41 s"
    monkeypatch.setattr(
        planted,
        "SIZE",
        {"image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "num_classes": 1000},
    )
    runs = [planted.write_run(tmp_path / model, model=model) for model in ("m3ch", "m4ch")]
    row = readable1(analysis.load(runs).table(1)).iloc[1]
    assert row["over m3ch"] == "+4,096"
    assert row["paper parameters"] == "86,764,264"
    assert row["paper GMACs"] == "17.62"
