"""Shards whose depth means something else are refused or told of, by every command; foreign results have names."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import command, fails_in_one_line
from runs import arguments

import analysis
from analysis.runs import final_evaluation
from pipeline import shards
from training import records
from training.provenance import differing

QUICK = (
    "model.image_size=48", "model.width=16", "model.depth=2", "model.heads=2", "optim.epochs=1", "runtime.workers=0",
    "optim.warmup_epochs=0", "optim.batch_size=32", "data.depth=raw",
)  # fmt: skip
TUNE = ("--preset", "tiny", "--set", "optim.epochs=1", "--set", "optim.steps_per_epoch=2", "--set", "runtime.workers=0")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Rooms whose depth was standardised with constants of their own."""
    out = tmp_path_factory.mktemp("other") / "other rooms"
    words = ("toyrooms", out, "--teacher", "none", "--samples", 40, "--val-samples", 40, "--size", 48, "--seed", 5)
    assert command("precompute-depth", *words, "--stats", "3,0.5").returncode == 0
    return out


@pytest.fixture(scope="module")
def quick(rooms, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("quick") / "m4ch"
    assert command("train", *arguments(rooms, run, model="m4ch", settings=QUICK)).returncode == 0
    return run


def test_evaluate_noise_and_dump_refuse_other_constants_unless_told(quick, other):
    said = ("raw depth of", "standardised with mean 3.0000 and std 0.5000", "--stats-from", "--accept-other-depth")
    before = sorted(quick.rglob("*"))
    for words in (("evaluate",), ("evaluate", "--noise", "pixel", "--sigma", "0,1"), ("dump", "--images", 8)):
        name, *rest = words
        fails_in_one_line(command("train", name, quick, "--data", other, *rest), *said)
        assert sorted(quick.rglob("*")) == before
    done = command("train", "evaluate", quick, "--data", other, "--accept-other-depth")
    assert done.returncode == 0, done.stderr
    [path] = (quick / "evaluations").glob("val-raw-step-*-other_rooms-*.json")
    assert "standardised with mean 3.0000" in records.read_evaluation(path).other_depth[0]
    dumped = command("train", "dump", quick, "--data", other, "--images", 8, "--raw", 0, "--accept-other-depth")
    assert dumped.returncode == 0, dumped.stderr
    assert "note: raw depth of" in " ".join(dumped.stdout.split())
    # Another field, asked for by hand: told of. The run's own evaluation still is what tables read.
    exact = command("train", "evaluate", quick, "--data", other, "--depth", "exact")
    assert exact.returncode == 0
    assert "note: raw depth of" in " ".join(exact.stdout.split())
    assert final_evaluation(analysis.load(quick).runs[0]).num_samples == 70
    assert not records.read_evaluation(quick / "evaluations" / "val-final.json").other_depth


def test_fine_tuning_and_the_matrix_tell_of_it(quick, other, tmp_path):
    done = command(
        "train", "finetune", *TUNE, "--init", quick, "--data", other, "--depth", "raw", "--out", tmp_path / "t"
    )
    assert done.returncode == 0, done.stderr
    assert "note: raw depth of" in " ".join(done.stdout.split())
    same = command("train", "evaluate", tmp_path / "t", "--data", other)
    assert same.returncode == 0 and "note:" not in same.stdout  # it was trained on these


def test_another_teacher_or_polarity_is_another_depth(rooms):
    index = shards.open_split(rooms, "train").index
    depth = index.depth["raw"]
    teacher = {"name": "toy", "weights_sha256": "a" * 64}
    unstated = depth.model_copy(update={"provenance": None})
    index = index.model_copy(update={"depth": {"pseudo": unstated}, "teacher": teacher})
    facts = {name: getattr(depth, name) for name in ("polarity", "unit", "mean", "std")}
    seen = records.ShardsSeen(
        path="x", source="toyrooms", train_fingerprint="a", val_fingerprint="b", num_train=1, num_val=1, num_classes=2,
        classes_sha256="c", depth_field="pseudo", standardisation=facts, teacher="/elsewhere/toy",
        teacher_sha256="a" * 64,
    )  # fmt: skip
    assert differing(seen, index) == []  # the same weights under another name
    for change, told in (
        ({"teacher_sha256": "b" * 64}, "the teacher is toy (aaaaaaaa), was /elsewhere/toy (bbbbbbbb)"),
        ({"teacher_sha256": None}, "the teacher is toy (aaaaaaaa), was /elsewhere/toy"),
        (
            {"standardisation": facts | {"polarity": "closer_is_larger"}},
            "the polarity is farther_is_larger, was closer",
        ),
        ({"standardisation": facts | {"unit": "km"}}, "the unit is m, was km"),
        ({"standardisation": facts | {"std": 0.1}}, "the run's with mean"),
    ):
        [difference] = differing(seen.model_copy(update=change), index)
        assert told in difference
    assert differing(seen.model_copy(update={"depth_field": "online"}), index) == []


def test_train_and_val_of_two_data_sets_are_no_data_set(rooms, other, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "train").symlink_to(rooms / "train")
    (mixed / "val").symlink_to(other / "val")
    done = command("train", *arguments(mixed, tmp_path / "run", model="m4ch", settings=QUICK))
    fails_in_one_line(done, "its raw depth must be made as that of", "--stats-from")


@pytest.fixture
def unwritable(quick, tmp_path) -> Iterator[Path]:
    """A run whose evaluations cannot be written: a file lies in the folder's place."""
    evaluations = quick / "evaluations"
    evaluations.rename(tmp_path / "aside")
    evaluations.write_text("")
    yield quick
    evaluations.unlink()
    (tmp_path / "aside").rename(evaluations)


def test_a_run_that_cannot_be_written_to_is_refused_before_the_work_and_out_helps(unwritable, rooms, tmp_path):
    for noise in ((), ("--noise", "pixel", "--sigma", "0,1")):
        done = command("train", "evaluate", unwritable, "--data", rooms, *noise)
        fails_in_one_line(done, "cannot write", "evaluations", "a place with --out FOLDER")
        assert "images in" not in done.stdout
        again = command("train", "evaluate", unwritable, "--data", rooms, *noise, "--out", tmp_path / "results")
        assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "results").glob("*.json"))) == 2


def test_a_result_that_cannot_be_written_after_all_was_shown(quick, rooms, tmp_path, monkeypatch):
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("training.engine.results.write_json", full)
    done = command("train", "evaluate", quick, "--data", rooms, "--out", tmp_path)
    assert done.returncode == 1 and "top-1" in done.stdout and "No space left" in done.stderr


def test_a_run_json_edited_by_hand_is_not_taken_with_its_old_hash(quick, rooms):
    path = quick / "run.json"
    content = path.read_text()
    try:
        edited = json.loads(content)
        edited["config"]["optim"]["lr"] = 0.123
        path.write_text(json.dumps(edited))
        fails_in_one_line(
            command("train", "evaluate", quick, "--data", rooms), "run.json is damaged", "was changed since"
        )
        edited = json.loads(content)
        edited["config"]["runtime"]["workers"] = 1  # may change
        path.write_text(json.dumps(edited))
        assert command("train", "evaluate", quick, "--data", rooms).returncode == 0
    finally:
        path.write_text(content)
