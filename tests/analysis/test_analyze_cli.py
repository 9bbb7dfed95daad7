"""`analyze` as a person uses it: files, one-line errors, a quick --help."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import planted
import pytest
from rich.console import Console

from analysis import cli
from analysis.figures import FIGURES, figure_of
from analysis.figures.spec import FigureSpec

ROOT = Path(__file__).parents[2]
Analyze = Callable[..., tuple[int, str, str]]


def test_figures_and_tables_are_written(analyze: Analyze, demo: list[Path], tmp_path: Path) -> None:
    assert analyze("fig1", *demo, "--out", tmp_path, "--variant", "gauge_fixed", "--depth", "exact")[0] == 0
    assert analyze("fig5", demo[0], "--out", tmp_path)[0] == 0
    assert analyze("table1", *demo, "--out", tmp_path)[0] == 0
    code, shown, _ = analyze("table2", *demo, "--out", tmp_path)
    assert code == 0
    assert "82.0" in shown
    names = {path.name for path in tmp_path.iterdir()}
    assert {"figure1-gauge_fixed.pdf", "figure5-literal.csv", "table1.md", "table2.csv"} <= names
    assert (tmp_path / "table2.md").read_text().startswith("| model | depth | top-1 % |")


def test_narrow_terminals_lose_columns_not_digits(
    analyze: Analyze, demo: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, terminal in ((80, True), (150, True), (40, True), (80, False)):
        shape = Console(width=width, force_terminal=terminal, color_system=None)
        monkeypatch.setattr(cli, "console", shape)
        _, shown, _ = analyze("table2", *demo)
        assert "+20.0 [+17" in shown and "m4ch" in shown
        assert "…" not in shown
        assert ("Not shown in 80 columns: paper (ImageNet), p" in shown) == (width == 80 and terminal)
        assert ("paper (ImageNet)" in shown.split("Not shown")[0]) == (width == 150 or not terminal)


@pytest.mark.parametrize(
    "command", ["report", "fig1", "fig7", *(f"figure {name}" for name in FIGURES), "table1", "table2"]
)
def test_missing_run_is_one_line(analyze: Analyze, command: str, tmp_path: Path) -> None:
    code, shown, errors = analyze(*command.split(), tmp_path / "nothing", "--out", tmp_path / "out")
    assert code == 1
    nothing = tmp_path / "nothing"
    assert errors.strip() == f"error: run folder {nothing} does not exist: give a folder that train made"
    assert not shown
    assert not (tmp_path / "out").exists()


def test_errors_of_all_kinds_are_one_line(analyze: Analyze, demo: list[Path], tmp_path: Path) -> None:
    unevaluated = planted.write_run(tmp_path / "unevaluated", evaluated=False)
    damaged = planted.write_run(tmp_path / "damaged")
    (damaged / "run.json").write_text('{"schema_version": 1}')
    blocked = tmp_path / "file"
    blocked.write_text("")
    for arguments, message in (
        (("table2", unevaluated), "has no evaluation on val"),
        (("report", damaged, "--out", tmp_path / "o"), "run.json is damaged"),
        (("fig1", tmp_path / "none.zarr", "--out", tmp_path / "o"), "does not exist: make it with train dump"),
        (("fig1", unevaluated, "--out", tmp_path / "o"), "no dump was given"),
        (("fig5", demo[4], "--out", tmp_path / "o"), "no dump of m3ch was given"),
        (("table2", demo[0] / "dumps" / "epoch-5.zarr"), "none was given"),
        (("fig1", demo[0], "--out", blocked), "file"),
    ):
        code, _, errors = analyze(*arguments)
        assert code == 1, message
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert message in errors


def test_a_defect_is_not_hidden(analyze: Analyze, demo: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("analysis.accuracy.table2", broken)
    with pytest.raises(ValueError, match="a bug"):
        analyze("table2", *demo)


@pytest.mark.parametrize("spec", FIGURES.values(), ids=lambda spec: spec.name)
def test_help_of_a_figure_teaches(
    analyze: Analyze, spec: FigureSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no sentence is broken over lines
    code, shown, _ = analyze("figure", spec.name, "--help")
    assert code == 0 and spec.title in shown and f"analyze figure {spec.name} runs/* --out figures" in shown
    about = shown[: shown.index("Writes OUT")]
    for variant in spec.variants if len(spec.variants) > 1 else ():
        assert f"• {variant}" in about
    code, _, errors = analyze("figure", spec.name, tmp_path / "none", "--out", tmp_path, "--variant", "causl")
    assert code == 2 and "'causl' is not" in errors and all(f"'{variant}'" in errors for variant in spec.variants)


def test_the_papers_figures_have_their_numbers_too(analyze: Analyze, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    for spec in FIGURES.values():
        assert spec.number is not None
        code, shown, _ = analyze(f"fig{spec.number}", "--help")
        assert code == 0 and spec.heading in shown and f"analyze fig{spec.number} runs/* --out figures" in shown
        assert figure_of(spec.number) is figure_of(spec.name) is spec


def test_help_is_quick_and_lists_commands() -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 3  # 0.3 s alone; the bound allows for a busy machine
    listed = re.findall(r"^│ (report|fig\d+|table\d)", done.stdout, flags=re.MULTILINE)
    assert listed == ["report", *(f"fig{number}" for number in [1, *range(4, 15)]), "table1", "table2", "table3"]
    code = "import sys, analysis.cli; print(sorted({'torch', 'matplotlib', 'pandas', 'zarr'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_are_read_or_refused_in_a_line(analyze: Analyze, demo: list[Path], tmp_path: Path) -> None:
    for content in ("{", '{"measured": []}', '{"measured": [{"model": "m4ch"}]}'):
        path = tmp_path / "digits.json"
        path.write_text(content)
        code, _, errors = analyze("report", demo[0], "--digits", path, "--out", tmp_path / "out")
        assert code == 1 and errors.count("\n") == 1 and str(path) in errors
    code, _, errors = analyze("report", demo[0], "--digits", tmp_path / "none.json", "--out", tmp_path / "out")
    assert code == 1 and errors.count("\n") == 1 and "none.json" in errors
    assert not (tmp_path / "out").exists()
