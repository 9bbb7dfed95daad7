"""Table 3 from matrix.json: frames, the command, the report's section."""

from collections.abc import Callable
from pathlib import Path

import planted
import pytest

import analysis
from analysis import fine_tuning
from analysis.load import AnalysisError
from analysis.report import write_report
from training.records import Matrix, MatrixCell, MatrixDifference

Analyze = Callable[..., tuple[int, str, str]]
MIOU = {("real", "real"): 0.5, ("real", "pseudo"): 0.4, ("pseudo", "pseudo"): 0.55, ("pseudo", "real"): 0.3}


def planted_matrix(*models: str) -> Matrix:
    cells = [
        MatrixCell(
            name=f"{model}-run", model=model, seed=0, trained=a, tested=b, miou=value, low=value - 0.01,
            high=value + 0.02, single_miou=value, pixel_accuracy=0.9, epoch=4, selection="best-on-val",
        )
        for model in models
        for (a, b), value in MIOU.items()
    ]  # fmt: skip
    differences = [
        MatrixDifference(
            name=f"{model}-run", model=model, seed=0, of=("pseudo", "real"), minus=("pseudo", "pseudo"), value=-0.25,
            low=-0.27, high=-0.23,
        )
        for model in models
    ]  # fmt: skip
    return Matrix(
        data="nyu", split="val", fingerprint="f", num_images=654, num_classes=40, multi_scale=True, num_resamples=1000,
        cells=cells, differences=differences,
    )  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "matrix.json").write_text(planted_matrix("m4ch", "m3ch", "dformer-tiny").model_dump_json())
    return tmp_path


def test_frames_hold_ours_and_the_papers(written: Path) -> None:
    frame = fine_tuning.table3(fine_tuning.read_matrix(written))
    assert len(frame) == 12
    [cell] = frame.query("model == 'm4ch' and trained == 'pseudo' and tested == 'real'").to_dict("records")
    assert (cell["miou"], cell["low"], cell["paper_miou"], cell["num_images"]) == (0.3, 0.29, 21.80, 654)
    assert frame.query("model == 'm3ch'")["paper_miou"].isna().all()  # the paper has no row of it
    readable = fine_tuning.readable3(fine_tuning.read_matrix(written / "matrix.json"))
    assert readable["model"].tolist() == ["m4ch", "paper", "m3ch", "dformer-tiny", "paper"]
    assert readable.iloc[0]["pseudo → real"] == "30.0 [29.0, 32.0]"
    assert readable.iloc[4]["real → real"] == "51.23"


def test_the_command_prints_and_writes(analyze: Analyze, written: Path, tmp_path: Path) -> None:
    code, shown, _ = analyze("table3", written, "--out", tmp_path / "out")
    assert code == 0 and "55.0" in shown and "−25.0" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"table3.csv", "table3.md", "table3-differences.csv", "table3-differences.md"}
    code, _, said = analyze("table3", tmp_path / "none.json")
    assert code == 1 and "none.json does not exist" in said


def test_the_report_shows_it(written: Path, tmp_path: Path) -> None:
    study = analysis.load(planted.write_run(tmp_path / "m3ch", model="m3ch"))
    page = write_report(study, tmp_path / "out", fine_tuning.read_matrix(written))
    text = page.read_text("utf-8")
    for words in ('href="#table3"', "30.0 [29.0, 32.0]", "scenes set aside from training", "654 test images"):
        assert words in text
    assert (page.parent / "figures" / "table3.csv").exists()
    assert "Table 3: fine-tuned" not in write_report(study, tmp_path / "plain").read_text("utf-8")


def test_a_fine_tuned_run_is_no_pre_trained_one(demo: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "tuned"
    run.mkdir()
    record = (demo[0] / "run.json").read_text()
    assert '"task":' in record
    (run / "run.json").write_text(
        record.replace('"task":"classification"', '"task":"segmentation"').replace(
            '"task": "classification"', '"task": "segmentation"'
        )
    )
    with pytest.raises(AnalysisError, match="tuned is fine-tuned"):
        analysis.load(run)
