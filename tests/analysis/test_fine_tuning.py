"""Table 3 from matrix.json: frames, the command, the report's section."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import planted
import pytest

import analysis
from analysis import fine_tuning
from analysis.claims import fine_tuning as rules
from analysis.load import AnalysisError
from analysis.read import read_matrix
from analysis.report import write_report
from training.records import Matrix, MatrixDifference

Analyze = Callable[..., tuple[int, str, str]]
MIOU = {("real", "real"): 0.5, ("real", "pseudo"): 0.4, ("pseudo", "pseudo"): 0.55, ("pseudo", "real"): 0.3}


def planted_matrix(*models: str) -> Matrix:
    cells = [planted.matrix_cell(model, a, b, value, 0.005) for model in models for (a, b), value in MIOU.items()]
    differences = [
        MatrixDifference(
            name=f"{model}-run", model=model, seed=0, of=("pseudo", "real"), minus=("pseudo", "pseudo"),
            value=0.3 - 0.55, low=-0.27, high=-0.23, error=0.01,
        )
        for model in models
    ]  # fmt: skip
    return Matrix(
        data="nyu", split="val", fingerprint="f", num_images=654, num_classes=40, multi_scale=True,
        cells=cells, differences=differences,
    )  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "matrix.json").write_text(planted_matrix("m4ch", "m3ch", "dformer-tiny").model_dump_json())
    return tmp_path


def test_frames_hold_ours_and_the_papers(written: Path) -> None:
    frame = fine_tuning.table3(read_matrix(written))
    assert len(frame) == 12
    [cell] = frame.query("model == 'm4ch' and trained == 'pseudo' and tested == 'real'").to_dict("records")
    assert (cell["miou"], cell["error"], cell["paper_miou"], cell["num_images"]) == (0.3, 0.005, 21.80, 654)
    assert "pseudo_values" not in frame
    assert frame.query("model == 'm3ch'")["paper_miou"].isna().all()  # the paper has no row of it
    readable = fine_tuning.readable3(read_matrix(written / "matrix.json"))
    assert readable["model"].tolist() == ["m4ch", "paper (NYUDepthV2)", "m3ch", "dformer-tiny", "paper (NYUDepthV2)"]
    assert readable.iloc[0]["pseudo → real"] == "30.0 [29.0, 31.0]"
    assert readable.iloc[4]["real → real"] == "51.23"


def test_a_study_is_loaded_with_it(written: Path, demo: list[Path]) -> None:
    study = analysis.load(demo[0], matrix=written)
    assert study.matrix == read_matrix(written / "matrix.json")
    assert len(study.table(3)) == 12


def test_the_command_prints_and_writes(analyze: Analyze, written: Path, tmp_path: Path) -> None:
    code, shown, _ = analyze("table3", written, "--out", tmp_path / "out")
    assert code == 0 and "55.0" in shown and "−25.0" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = ("csv", "md", "pdf", "svg", "png")
    assert names == {f"{name}.{kind}" for name in ("table3", "table3-differences") for kind in kinds}
    code, _, said = analyze("table3", tmp_path / "none.json")
    assert code == 1 and "none.json does not exist" in said


@pytest.mark.parametrize(
    ("rows", "name", "value"),
    [("cells", "miou", math.nan), ("cells", "low", 7.5), ("differences", "value", math.nan)],
)
def test_what_is_no_share_is_refused_in_one_line(
    analyze: Analyze, written: Path, rows: str, name: str, value: float
) -> None:
    path = written / "matrix.json"
    content = json.loads(path.read_text())
    content[rows][0][name] = value
    path.write_text(json.dumps(content))
    code, _, err = analyze("table3", written)
    assert code == 1 and err.count("\n") == 1
    assert f"matrix.json is damaged ({rows}.0.{name}: Input should be " in err and f"got {value}" in err


def test_the_report_shows_it(written: Path, tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "m3ch", model="m3ch")
    page = write_report(analysis.load(run, matrix=written), tmp_path / "out")
    text = page.read_text("utf-8")
    for words in ('href="#table3"', "30.0 [29.0, 31.0]", "scenes set aside from training", "654 test images"):
        assert words in text
    assert (page.parent / "figures" / "table3.csv").exists()
    assert "Table 3: fine-tuned" not in write_report(analysis.load(run), tmp_path / "plain").read_text("utf-8")


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


@pytest.mark.parametrize("sd", [0.0, 0.5, 1.0, 4.0])
def test_true_sd_holds_its_level_under_shared_errors(sd: float) -> None:
    """Errors of variance 1.5 of which 0.5 is common to all models, which spreads none apart."""
    rng = np.random.default_rng(1)
    truth = sd * np.linspace(-1, 1, 5) / np.linspace(-1, 1, 5).std(ddof=1)
    covariance = np.eye(5) + 0.5
    found = [rules.true_sd(truth + rng.multivariate_normal(np.zeros(5), covariance), covariance) for _ in range(1000)]
    held = np.mean([each.low <= sd + 1e-9 and each.high >= sd for each in found])
    assert 0.93 < held < 0.99
    assert np.mean([each.value**2 for each in found]) == pytest.approx(sd**2, abs=0.35)
    assert all(each.low <= each.value for each in found)


def test_true_sd_of_what_is_known_exactly() -> None:
    exact = rules.true_sd(np.array([0.1, 0.2, 0.3]), np.zeros((3, 3)))
    assert exact.value == exact.low == exact.high == pytest.approx(0.1)
