"""Runs and dumps of before still open: run.json of schema 4, whose `optim` held the schedule, and dumps of schema 4."""

import json
import shutil

import numpy as np
import pytest
import zarr
from running import command, fails_in_one_line
from runs import SMALL, arguments
from segments import FAST, words

from training import records
from training.dumps import store
from training.dumps.from_raw import raw_bias, raw_depth
from training.engine import checkpoint


def as_schema_4(run):
    """What version 4 wrote of the same run."""
    path = run / "run.json"
    record = json.loads(path.read_text())
    config = record["config"]
    schedule = config.pop("schedule")
    kind = schedule.pop("kind")
    config["optim"] |= {("schedule" if k == "every" else k): v for k, v in schedule.items()}
    config["optim"].pop("decay_1d" if kind == "poly" else "steps_per_epoch")
    for key in ("freeze", "drop_path", "head_init"):
        config["model"].pop(key, None)
    before, record["study_hash"] = record["study_hash"], records.study_hash(config)
    record["schema_version"] = 4
    path.write_text(json.dumps(record))
    for info in run.glob("checkpoints/*/checkpoint.json"):
        info.write_text(info.read_text().replace(before, record["study_hash"]))


@pytest.fixture
def older(run):
    as_schema_4(run)
    return run


def test_a_run_of_schema_4_is_evaluated_dumped_resumed_and_started_from(older, rooms, tmp_path):
    assert '"schedule": {' not in (older / "run.json").read_text()
    assert command("train", "evaluate", older, "--data", rooms).returncode == 0
    assert command("train", "dump", older, "--data", rooms, "--images", 10, "--raw", 2).returncode == 0
    shutil.rmtree(checkpoint.find(older, "latest"))
    done = command("train", *arguments(rooms, older), "--resume")
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    changed = command("train", *arguments(rooms, older, settings=(*SMALL, "schedule.min_lr=1e-5")), "--resume")
    fails_in_one_line(changed, "schedule.min_lr was 1e-06, now 1e-05")
    tuned = tmp_path / "tuned"
    line = words(rooms, tuned, older, (*FAST, "optim.epochs=1"))
    assert command("train", *line, "--depth", "raw").returncode == 0
    as_schema_4(tuned)
    assert command("train", *line, "--depth", "raw", "--resume").returncode == 0
    assert command("train", "evaluate", tuned, "--data", rooms).returncode == 0


def test_a_run_of_schema_5_goes_on(run, rooms):
    """Its model knew no drop path and loaded any head that fits."""
    path = run / "run.json"
    record = json.loads(path.read_text()) | {"schema_version": 5}
    for key in ("drop_path", "head_init"):
        del record["config"]["model"][key]
    before, record["study_hash"] = record["study_hash"], records.study_hash(record["config"])
    path.write_text(json.dumps(record))
    for info in run.glob("checkpoints/*/checkpoint.json"):
        info.write_text(info.read_text().replace(before, record["study_hash"]))
    shutil.rmtree(checkpoint.find(run, "latest"))
    done = command("train", *arguments(rooms, run), "--resume")
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    assert command("train", "evaluate", run, "--data", rooms).returncode == 0


def test_a_dump_of_schema_4_is_read_as_it_was(run, rooms):
    assert command("train", "dump", run, "--data", rooms, "--images", 10, "--raw", 2).returncode == 0
    path = run / "dumps/latest.zarr"
    now = store.open_dump(path)
    depth = raw_depth(now, "mean", slice(0, 2))
    bias = raw_bias(now, 1, depth, slice(0, 2))
    scale = np.asarray(now["parameters/head_scale"])
    assert scale.shape == (3, 4)
    shutil.rmtree(path / "parameters/head_scale")
    parameters = zarr.open_group(path / "parameters", mode="r+")
    like = parameters["alpha"]
    parameters.create_array("head_scale", data=scale[0], compressors=like.compressors, fill_value=like.fill_value)
    content = json.loads((path / "zarr.json").read_text())
    attributes = content["attributes"]
    attributes.pop(store._CHECKSUM)
    attributes |= {"schema_version": 4, "cls_index": 0, "layer_base": 0, "tf32": False}
    attributes[store._CHECKSUM] = store._checksum(attributes)
    (path / "zarr.json").write_text(json.dumps(content))
    then = store.open_dump(path)
    assert then.info.bias == "linear" and then.info.schema_version == 4
    again = raw_bias(then, 1, depth, slice(0, 2))
    np.testing.assert_array_equal(again.table, bias.table)
    np.testing.assert_array_equal(again.head_scale, bias.head_scale)
    less = command("train", "dump", run, "--data", rooms, "--images", 5, "--raw", 1)
    fails_in_one_line(less, "holds 10 images, 2 raw, 0 causal of this checkpoint")
