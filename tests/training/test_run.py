"""Runs end to end through the command line: train, evaluate, dump, and the refusals."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from running import BIN, command, fails_in_one_line
from runs import SMALL, arguments, assert_same_state, final_state
from test_gap import pairs

from analysis.explorer import pack
from pipeline import shards
from training import records
from training.dumps.schema import arrays
from training.dumps.store import open_dump
from training.random_numbers import generator


def test_a_run_leaves_what_the_contract_says(run, rooms):
    loaded = records.load_run(run)
    assert loaded.record.model == "mlin"
    assert loaded.record.num_steps == 3 * 150 // 32
    assert loaded.record.shards.depth_field == "raw"
    assert len(loaded.lines(records.EvalLine)) == 3
    assert loaded.lines(records.EndLine)[0].epoch == 3
    alphas = loaded.lines(records.ParametersLine)
    assert [line.epoch for line in alphas] == [0, 1, 2, 3]
    assert alphas[0].values["alpha"] == [1.0, 1.0, 1.0]
    assert alphas[3].values["alpha"] != alphas[0].values["alpha"]
    evaluation = loaded.evaluations[0]
    assert evaluation.num_samples == len(evaluation.correct1) == 70
    assert evaluation.top1 == evaluation.correct1.count("1") / 70
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "best", "epoch-0", "epoch-1", "epoch-2", "step-12", "step-14",
    }  # fmt: skip


def test_loss_falls_on_a_learnable_problem(run):
    lines = records.load_run(run).lines(records.TrainLine)
    assert lines[-1].loss < lines[0].loss


def test_workers_do_not_change_a_weight(run_once, rooms, tmp_path):
    out = tmp_path / "mlin"
    done = command("train", *arguments(rooms, out, settings=[*SMALL, "runtime.workers=0"]))
    assert done.returncode == 0, done.stderr
    assert_same_state(final_state(out)["model"], final_state(run_once)["model"])


def test_a_run_folder_is_never_overwritten(run, rooms):
    fails_in_one_line(command("train", *arguments(rooms, run)), "holds a run", "--resume")


def test_mistakes_end_in_one_line(rooms, tmp_path, run):
    out = tmp_path / "new"

    def pretrain(*settings, data=rooms, model="m4ch"):
        return command("train", *arguments(data, out, model, settings))

    fails_in_one_line(pretrain(data=tmp_path / "none"), "does not exist")
    fails_in_one_line(pretrain("optim.lrr=1"), "did you mean 'optim.lr'")
    fails_in_one_line(pretrain(model="m9"), "--model must be one of")
    fails_in_one_line(
        pretrain("data.depth=pseudo"), "no 'pseudo' depth", "it has exact, real, raw", "--set data.depth=FIELD"
    )
    fails_in_one_line(pretrain("data.depth=exact", "model.num_classes=3"), "at least the 6 classes")
    fails_in_one_line(
        pretrain("data.depth=exact", "optim.batch_size=100000"), "must be at most the 150 training samples"
    )
    assert not out.exists()
    fails_in_one_line(
        command("train", "evaluate", run, "--data", rooms, "--checkpoint", "epoch-77"), "it has best, epoch-0"
    )
    fails_in_one_line(command("train", "evaluate", tmp_path, "--data", rooms), "run.json does not exist")
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms, "--depth", "pseudo"), "no 'pseudo' depth")


def test_damaged_shards_stop_training_by_name(rooms, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(rooms, copy)
    tar = copy / "train" / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    for position in range(700, len(data), 5000):
        data[position] ^= 255
    tar.write_bytes(data)
    done = command("train", *arguments(copy, tmp_path / "run", settings=[*SMALL, "runtime.workers=0"]))
    fails_in_one_line(done, "shard-000000.tar, key room-", "damaged")
    with_workers = command("train", *arguments(copy, tmp_path / "run2"))
    fails_in_one_line(with_workers, "shard-000000.tar, key room-", "damaged")


def test_evaluate_again_equals_the_final_evaluation(run, rooms):
    done = command("train", "evaluate", run, "--data", rooms)
    assert done.returncode == 0, done.stderr
    again = records.parse(records.Evaluation, run / "evaluations" / "val-raw-step-14.json")
    final = records.parse(records.Evaluation, run / "evaluations" / "val-final.json")
    assert again.correct1 == final.correct1
    val = shards.open_split(rooms, "val")
    labels = [val[place]["cls"] for place in range(len(val))]
    assert again.largest_class == final.largest_class == max(map(labels.count, labels)) / len(val)
    hits = list(map(int, final.correct1))
    for name, number, recall in zip(final.classes, range(6), final.class_recall, strict=True):
        own = [hit for hit, label in zip(hits, labels, strict=True) if label == number]
        assert name == val.index.class_names[number] and recall == pytest.approx(sum(own) / len(own))
    assert again.mean_class == final.mean_class == pytest.approx(sum(final.class_recall) / 6)
    assert records.load_run(run).lines(records.EvalLine)[-1].mean_class == final.mean_class
    assert f"{final.mean_class:.2%}" in done.stdout and "mean-class is over" not in done.stdout
    other = command("train", "evaluate", run, "--data", rooms, "--depth", "exact", "--checkpoint", "epoch-0")
    assert other.returncode == 0
    assert records.parse(records.Evaluation, run / "evaluations" / "val-exact-epoch-0.json").epoch == 0


# --- dumps ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def dumped(run, rooms):
    done = command("train", "dump", run, "--data", rooms, "--images", 50, "--raw", 20)
    assert done.returncode == 0, done.stderr
    assert "50 images, 20 raw, 0 causal (0 changes), 3 layers x 4 heads: at most" in done.stdout
    return open_dump(run / "dumps" / "latest.zarr")


def test_a_dump_with_other_depth_lies_beside_the_runs_own(dumped, run, rooms):
    described = records.parse(records.RunRecord, run / "run.json")
    other = "real" if described.shards.depth_field != "real" else "exact"
    assert command("train", "dump", run, "--data", rooms, "--images", 5, "--depth", other).returncode == 0
    assert open_dump(run / "dumps" / "latest.zarr").info.num_images == 50
    assert open_dump(run / "dumps" / f"latest-{other}.zarr").info.depth_field == other


def test_a_checkpoint_that_is_missing_is_told_before_any_dump(run, rooms):
    done = command("train", "dump", run, "--data", rooms, "--checkpoint", "epoch-0", "--checkpoint", "epoch-9")
    fails_in_one_line(done, "has no checkpoint 'epoch-9'")
    assert not (run / "dumps" / "epoch-0.zarr").exists()


def test_a_run_without_checkpoints_is_told_to_be_trained(run, rooms):
    shutil.rmtree(run / "checkpoints")
    done = command("train", "dump", run, "--data", rooms)
    fails_in_one_line(done, "holds no checkpoint: train it first")


def test_ranks_make_no_dump(run, rooms, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    fails_in_one_line(command("train", "dump", run, "--data", rooms), "a dump is made by one process")


def test_a_dump_that_sigterm_ends_leaves_nothing(run, rooms, tmp_path, monkeypatch):
    monkeypatch.setattr("training.dumping.dump.observe", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    done = command("train", "dump", run, "--data", rooms, "--images", 5, "--out", tmp_path / "d.zarr")
    assert done.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("*d.zarr*"))
    assert not list(tmp_path.glob(".*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_dump_replaces_a_dump_and_nothing_else(dumped, run, rooms, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for target in (run, tmp_path / "mine", tmp_path / "file"):
        done = command("train", "dump", run, "--data", rooms, "--images", 5, "--out", target)
        fails_in_one_line(done, "exists and is no dump")
    assert (tmp_path / "mine" / "data").read_text() == (tmp_path / "file").read_text() == "precious"
    assert (run / "run.json").exists()
    held = open_dump(run / "dumps" / "latest.zarr").info
    done = command("train", "dump", run, "--data", rooms, "--images", 5)
    fails_in_one_line(done, "of this checkpoint, and 5 images, 5 raw, 0 causal were asked for")
    assert open_dump(run / "dumps" / "latest.zarr").info == held
    assert command("train", "dump", run, "--data", rooms, "--causal", 4).returncode == 0
    assert open_dump(run / "dumps" / "latest.zarr").info.num_causal == 4


@pytest.fixture
def other_classes(rooms, tmp_path):
    """The same rooms, whose class numbers mean something else."""
    other = tmp_path / "other"
    shutil.copytree(rooms, other)
    index = json.loads((other / "val" / "index.json").read_text())
    index["class_names"] = index["class_names"][::-1]
    (other / "val" / "index.json").write_text(json.dumps(index))
    return other


def test_shards_of_other_classes_are_no_evaluation(run, other_classes):
    fails_in_one_line(command("train", "evaluate", run, "--data", other_classes), "other classes")


def test_images_of_other_classes_are_dumped_without_labels(dumped, run, other_classes, tmp_path):
    """All but labels is as of the same images with their classes."""
    out = tmp_path / "d.zarr"
    done = command("train", "dump", run, "--data", other_classes, "--images", 50, "--raw", 20, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "has other classes than the run was trained on: the dump has no labels" in done.stdout
    without = open_dump(out)
    assert (dumped.info.labelled, without.info.labelled) == (True, False)
    assert (without["statistics/labels"] == -1).all() and (dumped["statistics/labels"] >= 0).all()
    assert without.info.classes_sha256 == dumped.info.classes_sha256
    for name in arrays(without.info):
        if name != "statistics/labels":
            np.testing.assert_array_equal(without[name], dumped[name], err_msg=name)


def test_images_without_classes_tell_all_but_accuracy(dumped, run, tmp_path):
    """As NYU's: no class in the shards, a sensor's depth. The run's own dump stays."""
    other = pairs(tmp_path / "unlabelled", lambda z, key: z + 0.4 * generator(key).normal(size=z.shape))
    words = ("--images", 8, "--raw", 2, "--causal", 8, "--depth", "real")
    done = command("train", "dump", run, "--data", other, *words)
    assert done.returncode == 0, done.stderr
    assert "has no classes: the dump has no labels" in done.stdout
    assert open_dump(run / "dumps" / "latest.zarr").info == dumped.info
    (path,) = (run / "dumps").glob("latest-real-unlabelled-??????.zarr")
    found = open_dump(path)
    assert not found.info.labelled and found.info.outcomes == ("kl", "logit_mae", "changed")
    assert found.info.num_causal == 8 and "causal/base" not in arrays(found.info)
    kl, mae, changed = found["causal/outcomes"][:, found.info.interventions.index("swap")].T
    assert (kl > 0).all() and (mae > 0).all() and set(changed.tolist()) <= {0.0, 1.0}
    drawn = command("analyze", "causal", path)
    assert drawn.returncode == 0, drawn.stderr
    assert "no labels" in drawn.stdout and "nan" not in drawn.stdout
    shown = pack([found])["images"][0]["class"], pack([found])["models"][0]["images"][0]["predicted"]
    assert shown[0] == "no label" and shown[1].startswith("class ")


def test_a_dump_is_written_whole_or_not_at_all(dumped, run, rooms):
    keys = dumped.keys()
    assert len(keys) == len(set(keys)) == 50
    done = command("train", "dump", run, "--data", rooms, "--images", 0)
    fails_in_one_line(done, "--images must be at least 2")
    process = subprocess.Popen(
        [str(BIN / "train"), "dump", str(run), "--data", str(rooms), "--out", str(run / "killed.zarr")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(run.glob(".killed.zarr.*.partial")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (run / "killed.zarr").exists()
    again = command("train", "dump", run, "--data", rooms, "--images", 71, "--out", run / "killed.zarr")
    assert again.returncode == 0
    assert "val holds 70 images, fewer than the 71 asked for: all are taken" in again.stdout
    assert open_dump(run / "killed.zarr").info.num_images == 70
    assert not list(run.glob(".killed*"))
