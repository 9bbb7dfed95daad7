"""Figures: made, written whole, deterministic, without torch."""

import errno
import io
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import planted
import pytest
import toy_figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from typer.testing import CliRunner

import analysis
from analysis import cli, output, report_figures, style
from analysis.figures import FIGURES, caption, figure_of
from analysis.fixed_effects import distance_slopes
from analysis.load import MODELS, AnalysisError
from analysis.report import write_report
from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("variant", ["literal", "gauge_fixed"])
@pytest.mark.parametrize("number", [1, 5])
def test_figures_have_a_panel_a_layer_or_quantity(demo: list[Path], number: int, variant: str) -> None:
    figure = analysis.load(demo).figure(number, variant=variant)
    assert len(figure.axes) == {1: 5 + 2, 5: 2}[number]  # and a small one for each other model
    assert figure.get_size_inches()[0] == pytest.approx(6.9)


def test_a_figure_shows_itself_and_is_none_of_pyplots(demo: list[Path]) -> None:
    """Else a notebook's inline backend shows it twice, and whoever draws many keeps them all."""
    backend, before = plt.get_backend(), plt.get_fignums()
    figure = analysis.load(demo).figure(1)
    picture = figure._repr_png_()
    assert picture == figure._repr_png_() and plt.get_fignums() == before and plt.get_backend() == backend
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width == 690


def test_files_are_written_whole_and_equal_for_equal_data(demo: list[Path], tmp_path: Path) -> None:
    study = analysis.load(demo)
    for folder in ("a", "b"):
        drawn = figure_of(1).drawn(study, "literal", "real")
        paths = output.write_figure(tmp_path / folder, "figure1", drawn.figure, drawn.frames)
        assert [path.name for path in paths] == [
            "figure1.pdf",
            "figure1.svg",
            "figure1.png",
            "figure1.csv",
            "figure1-slopes.csv",
        ]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name
    pdf = (tmp_path / "a" / "figure1.pdf").read_bytes()
    assert b"/Type3" not in pdf
    assert b"/CIDFontType2" in pdf


def test_formats_share_a_layout_and_say_their_caption(demo: list[Path], tmp_path: Path, monkeypatch) -> None:
    layouts = []
    whole = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *given: layouts.append(given) or whole(*given))
    drawn = figure_of(5).drawn(analysis.load(demo[0]))
    paths = output.write_figure(tmp_path, "figure5", drawn.figure, drawn.frames, "40 images; 1 seed")
    assert len(layouts) == 1
    assert {path.suffix for path in paths} == {".pdf", ".svg", ".png", ".csv", ".txt"}
    for kind in ("svg", "png", "txt"):
        assert b"40 images; 1 seed" in (tmp_path / f"figure5.{kind}").read_bytes()
    with Image.open(tmp_path / "figure5.png") as picture:
        assert picture.size[0] in (660, 1380)


def test_a_study_gives_figures_frames_and_tables(demo: list[Path]) -> None:
    study = analysis.load(demo)
    frames = study.frames(1, "gauge_fixed", "real")
    assert set(frames) == {"", "-slopes", "-evidence"}
    assert set(frames["-slopes"]["variant"]) == {"gauge_fixed"} and set(frames[""]["depth_field"]) == {"real"}
    for wrong in (lambda: study.figure(2), lambda: study.figure(1, "raw"), lambda: study.table(4)):
        with pytest.raises(AnalysisError, match=r"must be .*, got"):
            wrong()
    with pytest.raises(AnalysisError, match="make one with 'train matrix RUNS --data SHARDS --out FOLDER'"):
        study.table(3)


def test_captions_say_images_seeds_and_checkpoint(demo: list[Path]) -> None:
    study = analysis.load(demo)
    for number, checkpoint in ((1, "epoch 5"), (5, "epochs 0 to 5")):
        drawn = figure_of(number).drawn(study, depth=study.depth_fields()[0])
        assert f"(40 images, patch depth mean of pseudo, 1 seed, {checkpoint})" in drawn.caption
    assert caption.seeds_a_model([("m3ch", 0), ("m3ch", 1), ("m4ch", 0), ("m4ch", 2)]) == "2 seeds"
    assert caption.seeds_a_model([("m3ch", 0), ("m3ch", 1), ("m4ch", 0)]) == "1 to 2 seeds a model"


def test_figure1_causal_is_the_slope_of_swaps_and_zero_without_depth(tmp_path: Path) -> None:
    paths = [
        planted.write_dump(
            tmp_path / f"{model}.zarr", planted.falling([0.6, 0.9, 0.4, 0.2]), model=model, causal=slope, num_causal=10,
            interventions=["swap"],
        )
        for model, slope in (("m3ch", 0.0), ("m4ch", -0.3))
    ]  # fmt: skip
    study = analysis.load([*paths, planted.write_dump(tmp_path / "none.zarr", planted.constant(), model="mlin")])
    drawn = figure_of(1).drawn(study, "causal")
    frame = drawn.frames[""]
    assert set(frame["model"]) == {"m3ch", "m4ch"} and "10 images of the dumps' 40 images" in drawn.caption
    assert (frame.loc[frame["model"] == "m3ch", "slope"] == 0).all()
    changed = frame[frame["model"] == "m4ch"]
    dump = next(dump for dump in study.dumps if dump.info.model == "m4ch")
    rows, pairs = dump["causal/swap/rows"], dump["causal/swap/pairs"]
    np.testing.assert_allclose(changed["slope"], rows.sum(0) / pairs.sum())
    assert changed["slope"].between(-0.32, -0.28).all() and (changed["high"] < 0).all()
    np.testing.assert_allclose(changed["association"], [-0.6, -0.9, -0.4, -0.2], atol=0.05)
    with pytest.raises(AnalysisError, match="no dump holds changed depth: make one with 'train dump RUN"):
        figure_of(1).drawn(analysis.load(tmp_path / "none.zarr"), "causal")


def test_figure1_is_m4chs_with_the_slope_given_distance_and_its_null(tmp_path: Path) -> None:
    """Panels hold m4ch alone; below, the slope given distance beside the paper's; other models small, on one scale."""
    scores = planted.falling([0.6, 0.9, 0.4, 0.2])
    paths = [planted.write_dump(tmp_path / f"{model}.zarr", scores, model=model) for model in ("m3ch", "m4ch", "mdf1")]
    study = analysis.load(paths)
    drawn = figure_of(1).drawn(study)
    *panels, below, m3ch, mdf1 = drawn.figure.axes
    assert len(panels) == 4 and [axes.get_title() for axes in (m3ch, mdf1)] == ["m3ch", "mdf1"]
    assert all({line.get_color() for line in axes.lines} == {style.look_of("m4ch").colour} for axes in panels)
    assert below.get_ylim() == m3ch.get_ylim() == mdf1.get_ylim()
    (dump,) = (dump for dump in study.dumps if dump.info.model == "m4ch")
    given, null = distance_slopes(dump).value
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in below.lines if len(line.get_xdata()) == 4}
    np.testing.assert_allclose(lines["another image's depth,\ngiven distance"], null)
    np.testing.assert_allclose(lines["over pairs (the paper's)"], [-0.6, -0.9, -0.4, -0.2], atol=0.05)
    assert any(np.array_equal(line.get_ydata(), given) for line in below.lines)
    slopes = drawn.frames["-slopes"]
    np.testing.assert_allclose(slopes.loc[slopes["model"] == "m4ch", "given_distance"], given)
    small = slopes[slopes["model"] == "mdf1"]  # which has no scores in its two blocks of two branches
    assert small["layer"].tolist() == [3, 4]
    np.testing.assert_allclose(small["slope"], [-0.4, -0.2], atol=0.05)
    assert "on the same scale" in drawn.caption and drawn.caption.startswith("m4ch: ")
    alone = figure_of(1).drawn(analysis.load(paths[0]))
    assert len(alone.figure.axes) == 5 and alone.caption.startswith("m3ch: ")


def test_maps_say_what_hatched_cells_are(tmp_path: Path) -> None:
    drawn = figure_of(10).drawn(analysis.load(planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS))))
    assert not drawn.frames[""]["shown"].all()
    assert [text.get_text() for each in drawn.figure.legends for text in each.get_texts()] == ["hatched: too few pairs"]


def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of(content: str) -> None:
        with output.all_or_nothing(tmp_path / "out") as made:
            for name in ("a.csv", "b.csv"):
                output.write(made / name, content)

    all_of("old")
    whole = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "b.csv":
            raise OSError(28, "No space left on device")
        return whole(path, content)

    def read_only(path: Path, content: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AnalysisError, match=r"out \(No space left on device\): make room, or choose another --out"):
        all_of("new")
    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(AnalysisError, match=r"out \(Read-only file system\): make that place writable, or choose"):
        all_of("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"a.csv": "old", "b.csv": "old"}


def test_what_a_killed_one_left_is_cleared_and_what_another_writes_is_not(tmp_path: Path) -> None:
    left = tmp_path / "out[1]" / ".analyze-abcd1234"
    left.mkdir(parents=True)
    (left / "part.csv").touch()
    (left.with_name(".mine")).mkdir()
    with output.all_or_nothing(tmp_path / "out[1]") as first:
        assert not left.exists()
        with output.all_or_nothing(tmp_path / "out[1]") as second:
            output.write(second / "b.csv", "b")
        output.write(first / "a.csv", "a")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine", "a.csv", "b.csv", "out[1]"]


def test_a_place_that_cannot_be_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for wrong in (tmp_path / ("x" * 300), tmp_path / "loop" / "out", Path("s3://bucket/figures")):
        refused = pytest.raises(AnalysisError, match=r"cannot write |must be a folder of this machine")
        with refused, output.all_or_nothing(wrong):
            pass
    with pytest.raises(FileNotFoundError), output.all_or_nothing(tmp_path / "new"):
        (tmp_path / "runs" / "run.json").read_text()  # what is read is not what cannot be written
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_subfolder_may_lie_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.replace

    def across(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        whole(source, target)

    monkeypatch.setattr(output.os, "replace", across)
    with output.all_or_nothing(tmp_path) as made:
        output.write(made / "figures" / "a.csv", "a")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.csv"]


def test_a_page_takes_away_what_the_last_one_left_and_nothing_else(tmp_path: Path) -> None:
    for names in (("figures/a.png", "figures/b.png"), ("figures/b.png",)):
        with output.all_or_nothing(tmp_path, whole=True) as made:
            for name in names:
                output.write(made / name, "")
        (tmp_path / "figures" / "mine.png").touch()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["b.png", "mine.png"]


def test_a_list_of_another_leads_nowhere_else(tmp_path: Path) -> None:
    """Its own .files may name what it likes: only files of a report, and none through a link, are taken away."""
    (tmp_path / "away").mkdir()
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    kept = [tmp_path / "keep.csv", tmp_path / "away" / "keep.csv", out / "notes.md", out / "figures" / "a.tex"]
    for path in [*kept, out / "figures" / "old.csv"]:
        path.touch()
    (out / "figures" / "linked.csv").symlink_to(tmp_path / "keep.csv")
    (out / "figures" / "folder.csv").mkdir()
    names = [
        "../keep.csv",
        str(tmp_path / "keep.csv"),
        "figures/../../keep.csv",
        "notes.md",
        "figures/a.tex",
        "figures",
    ]
    names += ["figures/linked.csv", "figures/folder.csv", "figures/old.csv", ".files", "", "\0"]
    (out / ".files").write_text("\n".join(names))

    def write() -> None:
        with output.all_or_nothing(out, whole=True) as made:
            output.write(made / "figures" / "new.csv", "")

    write()
    assert all(path.is_file() for path in kept) and (out / "figures" / "linked.csv").is_symlink()
    assert not (out / "figures" / "old.csv").exists()
    shutil.rmtree(out / "figures")
    (out / "figures").symlink_to(tmp_path / "away")
    (out / ".files").write_text("figures/keep.csv")
    with pytest.raises(UserError, match=r"figures is a link to .*away, and nothing is written through links"):
        write()
    assert [path.name for path in (tmp_path / "away").iterdir()] == ["keep.csv"]
    (out / "figures").unlink()
    (out / ".files").unlink()
    (out / ".files").symlink_to(tmp_path / "keep.csv")  # replaced, not written through
    write()
    assert (tmp_path / "keep.csv").read_text() == "" and not (out / ".files").is_symlink()


def test_every_model_has_its_own_look() -> None:
    assert set(style.LOOKS) == set(MODELS)
    for name in ("colour", "marker", "dash"):
        assert len({str(getattr(look, name)) for look in style.LOOKS.values()}) == len(MODELS)


def test_analysis_runs_with_torch_absent(demo: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.argv = ['analyze', 'fig1', {str(demo[0])!r}, '--out', {str(tmp_path)!r}]\n"
        "from analysis.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure1-literal.svg").exists()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the line of a new figure."""
    monkeypatch.setitem(sys.modules, "analysis.figures.toy_scale", toy_figure)
    monkeypatch.setitem(FIGURES, "toy-scale", toy_figure.SPEC)


@pytest.mark.usefixtures("toy")
def test_a_new_figure_costs_a_file_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the notebook, `analyze figure NAME` and the page know it."""
    run = planted.write_run(tmp_path / "run", scores=planted.falling(planted.BETAS))
    study = analysis.load(run)
    assert study.frames("toy-scale")[""]["scale"].tolist() == [0.25]
    app = runpy.run_path(cli.__file__, run_name="cli_that_knows_it")["app"]
    done = CliRunner().invoke(app, ["figure", "toy-scale", str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "The scale, literal." in done.output
    kinds = ("csv", "pdf", "png", "svg", "txt")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"toy-scale-literal.{kind}" for kind in kinds]
    monkeypatch.setattr(report_figures, "FIGURES", {"toy-scale": toy_figure.SPEC})
    page = write_report(study, tmp_path / "report").read_text("utf-8")
    assert '<a href="#toy-scale">Toy scale</a>' in page
    assert "Toy scale: how far is the scale of a dump&#x27;s depth from 1?" in page
    assert (tmp_path / "report" / "figures" / "toy-scale-pseudo-literal.csv").read_text() == "model,scale\nm4ch,0.25\n"


def test_a_figure_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(AnalysisError, match=r"figure must be one of .*cka \(11\).*, got 'cca'"):
        figure_of("cca")
