"""Figures: made, written whole, deterministic, without torch."""

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import analysis
from analysis import figures, output, style
from analysis.load import MODELS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("variant", ["literal", "gauge_fixed"])
@pytest.mark.parametrize("number", [1, 5])
def test_figures_have_a_panel_a_layer_or_quantity(demo: list[Path], number: int, variant: str) -> None:
    figure = analysis.load(demo).figure(number, variant=variant)
    assert len(figure.axes) == {1: 5, 5: 2}[number]
    assert figure.get_size_inches()[0] == pytest.approx(6.9)
    style.close(figure)


def test_files_are_written_whole_and_equal_for_equal_data(demo: list[Path], tmp_path: Path) -> None:
    study = analysis.load(demo)
    for folder in ("a", "b"):
        drawn, curves, slopes = figures.figure1(study.last_dumps("real"), "literal")
        paths = output.write_figure(tmp_path / folder, "figure1", drawn, {"": curves, "-slopes": slopes})
        assert [path.name for path in paths] == [
            "figure1.pdf",
            "figure1.svg",
            "figure1.png",
            "figure1.csv",
            "figure1-slopes.csv",
        ]
    assert not plt.get_fignums()
    for path in paths:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name
    pdf = (tmp_path / "a" / "figure1.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output.write(tmp_path / "file.csv", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("analysis.output.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        output.write(tmp_path / "file.csv", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file.csv"]
    assert (tmp_path / "file.csv").read_text() == "old"


def test_every_model_has_its_own_look() -> None:
    assert set(style.LOOKS) == set(MODELS)
    for name in ("colour", "marker", "dash"):
        assert len({str(getattr(look, name)) for look in style.LOOKS.values()}) == len(MODELS)


def test_analysis_runs_with_torch_absent(demo: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.argv = ['analyze', 'fig1', {str(demo[0])!r}, '--out', {str(tmp_path)!r}]\n"
        "from analysis.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure1-literal.svg").exists()
