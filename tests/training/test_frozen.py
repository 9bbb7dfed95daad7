"""A frozen backbone under a head that is trained: `train finetune --set model.freeze=backbone`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from running import command, fails_in_one_line
from runs import assert_same_run, kill, start, wait_for
from segments import FAST, config_of, words
from test_seg_step import batch_of

from training import runs
from training.engine import checkpoint, frozen
from training.engine.machine import Machine
from training.engine.share import Share
from training.engine.step import TrainingStep
from training.tasks.classification.config import resolve
from training.tasks.segmentation.task import FineTuning

FREEZE = (*FAST, "model.freeze=backbone", "head.channels=8")


@pytest.fixture(scope="module")
def source(run_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(run_once, tmp_path_factory.mktemp("source") / "mlin"))


@pytest.fixture(scope="module")
def tuned(rooms: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    done = command("train", *words(rooms, out, source, FREEZE), "--depth", "raw", "--head", "linear")
    assert done.returncode == 0, done.stderr
    return out


def test_what_is_frozen_stays_to_the_bit_and_is_in_no_checkpoint(tuned, source):
    for name in ("best", "latest"):
        state = checkpoint.load(checkpoint.find(tuned, name)).state
        for part in ("model", "ema"):
            assert state[part].keys() == {"decode_head.classify.weight", "decode_head.classify.bias"}
    resumable = checkpoint.load(checkpoint.find(tuned, "latest")).state
    assert len(resumable["optimizer"]["state"]) == 2, "moments of what is trained alone"
    model = runs.load(tuned).model
    theirs = runs.load(source).model.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    record = json.loads((tuned / "run.json").read_text())
    assert record["init_sha256"] and record["config"]["model"]["freeze"] == "backbone"


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_run(tuned, rooms, source, tmp_path):
    out = tmp_path / "run"
    line = [*words(rooms, out, source, FREEZE), "--depth", "raw", "--head", "linear", "--resume"]
    process = start(line)
    wait_for((out / "checkpoints" / "step-3").exists, process)
    kill(process)
    done = command("train", *line)
    assert done.returncode == 0, done.stderr
    assert_same_run(out, tuned)


def test_another_source_is_refused_on_resume_and_on_reading_back(tuned, rooms, source, tmp_path):
    copy = shutil.copytree(tuned, tmp_path / "run")
    line = [*words(rooms, copy, source, FREEZE), "--depth", "raw", "--head", "linear", "--resume"]
    latest = checkpoint.find(source, "latest")
    hidden = latest.with_name("hidden")
    try:
        latest.rename(hidden)  # an older checkpoint is the latest now
        fails_in_one_line(command("train", *line), "are not those the run began with")
        fails_in_one_line(command("train", "evaluate", copy, "--data", rooms), "are not those", "keeps frozen")
    finally:
        hidden.rename(latest)
    source.rename(tmp_path / "moved")
    try:
        fails_in_one_line(command("train", "evaluate", copy, "--data", rooms), "nothing there")
    finally:
        (tmp_path / "moved").rename(source)
    assert command("train", "evaluate", copy, "--data", rooms).returncode == 0


def test_freezing_needs_weights(rooms, tmp_path):
    line = words(rooms, tmp_path / "run", None, FREEZE)
    done = command("train", *line, "--model", "m4ch", "--depth", "raw", "--head", "linear")
    fails_in_one_line(done, "model.freeze=backbone keeps the weights of --init, got none")
    plain = tmp_path / "plain.pth"
    torch.save(resolve("tiny", "m3ch", num_classes=5).model.build().state_dict(), plain)
    done = command("train", *words(rooms, tmp_path / "run", plain, FREEZE), "--model", "mmlp", "--depth", "raw")
    fails_in_one_line(done, "plain.pth has none for phi", "give a run or export of a mmlp")
    assert not (tmp_path / "run").exists()
    done = command("train", "pretrain", "--preset", "tiny", "--model", "m4ch", "--data", rooms, "--out", tmp_path / "p",
                   "--set", "model.freeze=backbone", "--set", "data.depth=raw")  # fmt: skip
    fails_in_one_line(done, "model.freeze has no effect on pre-training")


def test_frozen_modules_are_in_evaluation_mode_in_steps_and_after_an_evaluation():
    task = FineTuning(config_of("dformer-tiny", "augment.crop=[32,32]", "optim.batch_size=2"))
    model = task.build()
    backbone = model.backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    freezing = task.config.model.model_copy(update={"freeze": "backbone"})
    frozen_task = FineTuning(task.config.model_copy(update={"model": freezing}))
    step = TrainingStep(frozen_task, model, Machine.here(task.config), Share.of(task.config))
    assert step.model.training and not any(module.training for module in backbone.modules())
    step([batch_of(torch.randint(0, 5, (2, 32, 32)))], 0, 1.0)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), f"{name}: a batch norm counted"
    step.model.eval()
    frozen.train_mode(step.model, frozen_task.frozen)
    assert step.model.decode_head.training and not backbone.training
    assert {id(p) for group in step.optimizer.param_groups for p in group["params"]}.isdisjoint(
        id(p) for p in backbone.parameters()
    )
