"""Depth that was added beside finished shards is a depth field like any other, for every command of `train`."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from running import command, fails_in_one_line
from runs import arguments
from test_stream import config, put, streamed

from pipeline import shards
from training.tasks.classification.data import eval_loader, open_shards

FAST = (
    "model.image_size=48", "model.width=32", "model.depth=2", "optim.epochs=1", "optim.batch_size=50",
    "data.depth=mine", "runtime.workers=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def twice(rooms, tmp_path_factory) -> Path:
    """Rooms with a second field: inverse depth of the truth, as a teacher would give it."""
    folder = tmp_path_factory.mktemp("twice")
    shutil.copytree(rooms, folder / "shards")
    add(folder, 1.0)
    return folder / "shards"


def add(folder: Path, offset: float) -> None:
    maps = folder / "maps"
    for name in shards.SPLITS:
        split = shards.open_split(folder / "shards", name)
        for position in range(len(split)):
            sample = split.read(position, ("exact",))
            (maps / name).mkdir(parents=True, exist_ok=True)
            metres = split.index.depth["exact"].standardisation.invert(sample["exact"])
            np.save(maps / name / f"{sample['key']}.npy", 1 / metres + offset)
    done = command(
        "precompute-depth", "add", folder / "shards", "--as", "mine", "--depth-from", maps, "--format", "npy", "--kind",
        "disparity", "--files", "{split}/{key}.npy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def run(twice, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    done = command("train", *arguments(twice, out, "m4ch", FAST))
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_says_what_it_was_trained_with(run, twice):
    seen = json.loads((run / "run.json").read_text())["shards"]
    split = shards.open_split(twice, "train")
    assert (seen["depth_field"], seen["provenance"]["kind"], seen["provenance"]["by"]) == ("mine", "estimated", "maps")
    assert seen["train_fingerprint"] == split.own.fingerprint
    assert seen["depth_fingerprints"] == {
        name: shards.open_split(twice, name).sidecars["mine"].fingerprint for name in shards.SPLITS
    }


def test_every_command_reads_it(run, twice, tmp_path):
    for words in (
        ("evaluate", run, "--data", twice),
        ("evaluate", run, "--data", twice, "--noise", "pixel", "--sigma", "0,1"),
        ("gap", run, "--data", twice, "--sigma", "0,1"),
        ("dump", run, "--data", twice, "--out", tmp_path / "dump", "--images", 8, "--raw", 2),
    ):
        done = command("train", *words)
        assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in (run / "evaluations").glob("*.json")]
    assert len(found) >= 3
    assert {each.get("pseudo_field") or each["depth_field"] for each in found} == {"mine"}


def test_its_runs_have_their_place_in_figures(run, twice, tmp_path):
    """A name that no source writes: figures by depth show it after those that they know."""
    import analysis
    from analysis.figures.headline import depth_figure
    from analysis.figures.training import training_curves

    assert command("train", *arguments(twice, tmp_path / "m3ch", "m3ch", FAST)).returncode == 0
    study = analysis.load([run, tmp_path / "m3ch"])
    figure, frame = depth_figure(study)
    assert frame["depth"].tolist() == ["mine"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["mine"]
    assert [axes.get_title() for axes in training_curves(study.runs)[0].axes] == ["mine depth"]


def test_a_changed_or_unfinished_field_is_noticed(run, twice, tmp_path):
    out, data = tmp_path / "run", tmp_path / "shards"
    shutil.copytree(twice, data)
    words = arguments(data, out, "m4ch", FAST)
    assert command("train", *words).returncode == 0
    for folder in (data / "sidecars" / "mine", data / "train" / "mine", data / "val" / "mine"):
        shutil.rmtree(folder)
    add(tmp_path, 2.0)
    fails_in_one_line(command("train", *words, "--resume"), "the mine depth of the shards is not the one the run began")
    (data / "train" / "mine" / "index.json").unlink()
    fails_in_one_line(
        command("train", *arguments(data, tmp_path / "new", "m4ch", FAST)), f"{data}/train/mine is not finished"
    )


def test_it_is_streamed_from_a_url_with_its_rgb(twice):
    import fsspec

    fs = fsspec.filesystem("memory")
    put(fs, "/twice", twice)
    try:
        settings = config("data.depth=mine")
        local, remote = (open_shards(where, "train", "mine") for where in (twice, "memory://twice"))
        assert sorted(remote.sidecars) == ["mine"]
        batches = iter(streamed(remote, settings))
        keys = [key for _ in range(4) for key in next(batches).keys]
        assert len({*keys}) == 32
        ours, theirs = (next(iter(eval_loader(split, settings, "mine", 4))) for split in (local, remote))
        assert ours.keys == theirs.keys and bool((ours.depth == theirs.depth).all())
        tar = "/twice/train/mine/shard-000000.tar"
        data = bytearray(fs.cat_file(tar))
        data[2000] ^= 1
        fs.pipe_file(tar, bytes(data))
        with pytest.raises(shards.ShardError, match=r"mine/shard-000000\.tar"):
            list(islice(batches, 20))
    finally:
        fs.store.clear()


@pytest.mark.slow
def test_a_matrix_takes_an_added_field_for_pseudo_and_notices_that_it_was_made_anew(run, twice, tmp_path):
    shutil.copytree(twice.parent, tmp_path / "twice")
    data, out = tmp_path / "twice" / "shards", tmp_path / "table3"
    settings = (
        "augment.crop=[48,48]", "optim.epochs=1", "optim.steps_per_epoch=2", "optim.batch_size=4", "select.every=1",
        "head.channels=8", "head.width=8", "head.rank=4", "runtime.workers=0",
    )  # fmt: skip
    words = ["--preset", "tiny", "--data", data, "--pseudo", "mine", *(w for s in settings for w in ("--set", s))]
    done = command("train", "matrix", run, *words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.glob("run-*")} == {"run-real", "run-mine"}
    assert json.loads((out / "matrix.json").read_text())["fields"] == {"real": "real", "pseudo": "mine"}

    def tested() -> dict[str, str]:
        found = [json.loads(p.read_text()) for p in (out / "run-real" / "evaluations").glob("*.json")]
        return {e["depth_field"]: e["depth_fingerprint"] for e in found}

    before = tested()
    assert before["real"] == "" and len(before["mine"]) == 64
    for name in shards.SPLITS:
        shutil.rmtree(data / name / "mine")
    shutil.rmtree(data / "sidecars" / "mine")
    shutil.rmtree(tmp_path / "twice" / "maps")
    add(tmp_path / "twice", 3.0)
    done = command("train", "matrix", out / "run-real", *words, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert tested()["mine"] == shards.open_split(data, "val").depth_fingerprint("mine") != before["mine"]
    fails_in_one_line(command("train", "matrix", run, *words, "--out", out), "mine")
