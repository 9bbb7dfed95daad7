"""What does not belong together, or is damaged, is refused by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import planted
import pytest

import analysis
from analysis import read
from analysis.attention import Variant, slopes
from analysis.figures import figure_of
from analysis.load import AnalysisError
from analysis.runs import final_evaluation, recipe_differences
from training import records
from training.dumps.schema import OLDEST_SCHEMA, SCHEMA_VERSION
from training.dumps.store import Dump, DumpError, DumpWriter
from training.records import RecordError, Run

VERSION = f'"schema_version": {SCHEMA_VERSION}'


def test_study_is_the_notebook_api(demo: list[Path]) -> None:
    study = analysis.load(demo)
    assert len(study.runs) == 7
    assert len(study.dumps) == 9
    assert study.depth_fields() == ["pseudo", "real", "exact"]
    assert [dump.info.epoch for dump in study.epoch_dumps()] == [0, 1, 5]
    assert [dump.info.model for dump in study.last_dumps("real")] == ["mlin", "m4ch"]
    assert study.table(1)["model"].tolist() == ["m3ch", "mlin", "m4ch"]
    with pytest.raises(AnalysisError, match="figure must be one of"):
        study.figure(2)
    with pytest.raises(AnalysisError, match="must be one of pseudo, real, exact"):
        study.last_dumps("raw")


def test_one_path_may_be_a_string_and_a_bare_dump(demo: list[Path]) -> None:
    study = analysis.load(str(demo[0] / "dumps" / "epoch-5.zarr"))
    assert not study.runs
    assert study.last_dumps()[0].info.model == "m3ch"
    with pytest.raises(AnalysisError, match=r"bare \.zarr serves figures only"):
        study.table(2)


def test_a_folder_of_runs_is_all_of_them(demo: list[Path], analyze: Callable[..., tuple[int, str, str]]) -> None:
    study = analysis.load(demo[0].parent)
    assert [run.folder for run in study.runs] == [run.folder for run in analysis.load(demo).runs]
    with pytest.raises(AnalysisError, match="m3ch is given twice"):
        analysis.load([demo[0].parent, demo[0]])
    assert analyze("table1", demo[0].parent) == analyze("table1", *demo)


def test_a_run_of_a_task_that_is_not_drawn_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, analyze: Callable[..., tuple[int, str, str]]
) -> None:
    planted.write_run(tmp_path / "run")

    def load_run(folder: Path) -> Run:
        run = records.load_run(folder)
        return replace(run, record=run.record.model_copy(update={"task": "completion"}))

    monkeypatch.setattr(read, "load_run", load_run)
    told = f"error: {tmp_path / 'run'} is a run of task 'completion', which analyze does not draw: leave it out\n"
    for arguments in (("fig7", tmp_path / "run", "--out", tmp_path / "out"), ("table1", tmp_path)):
        assert analyze(*arguments) == (1, "", told)


def test_the_same_run_twice_is_refused(demo: list[Path], tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="m3ch is given twice"):
        analysis.load([demo[0], demo[0]])
    shutil.copytree(demo[1], tmp_path / "copy")
    with pytest.raises(AnalysisError, match=r"mlin-pseudo and .*copy are both mlin with depth pseudo and seed 0"):
        analysis.load([demo[1], tmp_path / "copy"])


def test_other_validation_shards_are_refused(demo: list[Path], tmp_path: Path) -> None:
    other = planted.write_run(tmp_path / "other", fingerprint="other-fingerprint")
    with pytest.raises(AnalysisError, match=r"m3ch and .*other have different val shards"):
        analysis.load([demo[0], other]).table(2)


def test_missing_evaluation_names_the_command(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", evaluated=False)
    with pytest.raises(AnalysisError, match=f"train evaluate {run} --data demo/shards"):
        analysis.load(run).table(2)


@pytest.mark.parametrize("change", [{"correct1": "01"}, {"top1": 0.123}, {"num_samples": 999}])
def test_evaluation_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    run = planted.write_run(tmp_path / "run")
    path = run / "evaluations" / "val-final.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AnalysisError, match="run: the evaluation of epoch 5 is damaged, correct1"):
        final_evaluation(analysis.load(run).runs[0])


def test_the_latest_evaluation_of_the_runs_own_depth_counts(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", top1=0.7)
    path = run / "evaluations" / "val-final.json"
    content = json.loads(path.read_text())
    for name, change in {"early": {"epoch": 1}, "real": {"depth_field": "real", "epoch": 9}}.items():
        (path.parent / f"{name}.json").write_text(json.dumps({**content, **change}))
    assert final_evaluation(analysis.load(run).runs[0]).epoch == 5


def test_newer_run_is_refused(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(RecordError, match=r"run\.json has schema version 99"):
        analysis.load(run)


def test_dump_of_another_run_is_refused(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run")
    planted.write_dump(run / "dumps" / "latest.zarr", planted.constant(), seed=7)
    with pytest.raises(AnalysisError, match=r"latest\.zarr was made from another run"):
        analysis.load(run)


def test_dumps_without_common_axes_are_refused(tmp_path: Path) -> None:
    first = planted.write_dump(tmp_path / "a.zarr", planted.falling(planted.BETAS))
    other = {"mean": 1.0, "std": 1.6, "polarity": "farther_is_larger", "unit": "m"}
    for name, changes in {
        "polarity": {"standardisation": other},
        "standardisation": {"standardisation": {**other, "polarity": "closer_is_larger"}},
        "class list": {"classes_sha256": "d" * 64},
        "patch depth": {"patch_depth": "center4"},
        "data": {"fingerprint": "another"},
    }.items():
        second = planted.write_dump(tmp_path / "b.zarr", planted.falling(planted.BETAS), model="m3ch", **changes)
        fix = {"patch depth": "make both with 'train dump RUN --data SHARDS --patch-depth mean'"}
        with pytest.raises(
            AnalysisError, match=rf"b.zarr and .*a.zarr differ in {name} .*: {fix.get(name, 'draw them')}"
        ):
            analysis.load([first, second]).figure(1)


def test_dumps_that_a_figure_does_not_draw_need_no_common_axes(tmp_path: Path) -> None:
    """mmlp reads the centre of a patch: figures of other models, and of features, do not mind."""
    scores = planted.falling(planted.BETAS)
    paths = [
        planted.write_dump(tmp_path / f"{model}.zarr", scores, model=model, **changes)
        for model, changes in {"m3ch": {}, "m4ch": {}, "mdf1": {}, "mmlp": {"patch_depth": "center4"}}.items()
    ]
    study = analysis.load(paths)
    captions = {}
    for number in (10, 11, 12, 13):
        drawn = figure_of(number).drawn(study)
        assert set(drawn.frames[""]["model"]) == {10: {"m4ch"}, 11: {"m4ch", "mdf1", "mmlp"}}.get(number, {"mdf1"})
        captions[number] = drawn.caption
    assert "patch depth center4 and mean" in captions[11]
    for number in (1, 9):
        with pytest.raises(AnalysisError, match="differ in patch depth"):
            figure_of(number).drawn(study)


def test_a_run_may_hold_dumps_of_both_patch_depths(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", scores=planted.falling(planted.BETAS))
    planted.write_dump(run / "dumps" / "centre.zarr", planted.falling(planted.BETAS), patch_depth="center4")
    study = analysis.load(run)
    sets = study.panel_sets("pseudo")
    assert [[dump.info.patch_depth for dump in dumps] for dumps in sets] == [["center4"], ["mean"]]
    assert [dump.info.patch_depth for dump in study.epoch_dumps("m4ch")] == ["mean"]


def test_a_run_may_hold_dumps_with_several_depths(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", scores=planted.falling(planted.BETAS))
    planted.write_dump(run / "dumps" / "more.zarr", planted.falling(planted.BETAS), depth_field="real", num_images=80)
    study = analysis.load(run)
    assert study.depth_fields() == ["pseudo", "real"]
    assert [dump.info.depth_field for dump in study.last_dumps()] == ["pseudo"]
    assert [dump.info.num_images for dump in study.last_dumps("real")] == [80]


def test_of_a_runs_dumps_those_of_its_own_data_are_drawn(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", scores=planted.falling(planted.BETAS))
    other = {"fingerprint": "other", "num_images": 80, "own_data": False}
    planted.write_dump(run / "dumps" / "latest-nyu.zarr", planted.falling(planted.BETAS), **other)
    study = analysis.load(run)
    assert [dump.info.num_images for dump in study.last_dumps()] == [40]
    assert [len(dumps) for dumps in study.panel_sets("pseudo")] == [1, 1]
    bare = analysis.load(run / "dumps" / "latest-nyu.zarr")
    assert [dump.info.num_images for dump in bare.last_dumps()] == [80]


def test_dumps_of_other_data_are_refused_together(tmp_path: Path) -> None:
    for name in ("val-fingerprint", "other"):
        planted.write_dump(tmp_path / f"{name}.zarr", planted.falling(planted.BETAS), fingerprint=name, seed=len(name))
    with pytest.raises(AnalysisError, match="differ in data"):
        analysis.load(tmp_path.glob("*.zarr")).last_dumps()


def test_dumps_of_two_depth_fields_need_a_choice(demo: list[Path]) -> None:
    study = analysis.load([demo[3], demo[5]])
    with pytest.raises(AnalysisError, match=r"--depth must be one of real, exact"):
        study.figure(1)


def _chunk(dump: Path, array: str) -> Path:
    return next(path for path in (dump / array / "c").rglob("*") if path.is_file())


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _use(dump: Dump) -> None:
    for variant in get_args(Variant):
        slopes(dump, variant)


@pytest.mark.parametrize("harm", [_flip, Path.unlink])
@pytest.mark.parametrize("name", ["pairs/centred", "pairs/literal", "content/rows", "content/bins/sum"])
def test_damaged_chunk_is_refused(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    array = f"statistics/{name}"
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS))
    harm(_chunk(path, array))
    with pytest.raises((DumpError, AnalysisError), match=rf"d\.zarr: array {array}"):
        _use(analysis.load(path).dumps[0])


def test_unfinished_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.zarr"
    info = analysis.load(planted.write_dump(path, planted.falling(planted.BETAS))).dumps[0].info
    with DumpWriter(path, info) as writer:
        writer.write_keys(0, ["one"] * 12)
    with pytest.raises(DumpError, match=r"d\.zarr is incomplete, 12 of 40 images"):
        analysis.load(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (VERSION, '"schema_version": 99', f"schema version 99, this version reads {SCHEMA_VERSION}: use a newer one"),
        (VERSION, '"schema_version": null', f"version None, this version reads {OLDEST_SCHEMA} on: make it again"),
        (VERSION, '"schema_version": 1', f"schema version 1, this version reads {OLDEST_SCHEMA} on: make it again"),
        ('"model": "m4ch"', '"mode": "m4ch"', "is not a dump of train dump"),
        ("{", "[", "not a Zarr store"),
    ],
)
def test_damaged_attributes_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS))
    text = (path / "zarr.json").read_text()
    assert old in text
    (path / "zarr.json").write_text(text.replace(old, new, 1))
    with pytest.raises(DumpError, match=message):
        analysis.load(path)


def _misspell(path: Path) -> None:
    text = path.read_text()
    assert '"level"' in text
    path.write_text(text.replace('"level"', '"leVel"'))


@pytest.mark.parametrize("harm", [lambda path: path.write_text("{"), Path.unlink, _misspell])
def test_damaged_array_metadata_is_refused(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS))
    harm(path / "statistics" / "pairs" / "literal" / "zarr.json")
    with pytest.raises(DumpError, match=r"d\.zarr: array statistics/pairs/literal is"):
        analysis.load(path)


def test_recipe_differences_are_told(tmp_path: Path) -> None:
    runs = [planted.write_run(tmp_path / "a"), planted.write_run(tmp_path / "b", model="m3ch", epochs=3)]
    assert recipe_differences(analysis.load(runs).runs) == ["optim.epochs: 3 or 5"]


def test_changed_depth_is_not_left_out_for_a_dump_of_more_images(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", scores=planted.falling(planted.BETAS))
    changed = {"num_causal": 8, "interventions": ["swap"], "num_images": 8, "causal": -0.1}
    planted.write_dump(run / "dumps" / "few.zarr", planted.falling(planted.BETAS), **changed)
    with pytest.raises(AnalysisError, match=r"few.zarr holds changed depth and .*epoch-5.zarr more images"):
        analysis.load(run)
