"""What a run can be told besides its recipe: dry runs, profiles, averages, online depth, trackers, other weights."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from running import command, fails_in_one_line
from runs import SMALL, arguments, final_state, without_timings

from training import records
from training.engine import checkpoint
from training.engine.trackers import scalars
from training.tasks.classification.config import resolve
from training.tasks.classification.online import OnlineDepth

PLAIN = ("model.width=32", "model.depth=2", "optim.epochs=1", "optim.batch_size=32", "data.depth=raw",
         "runtime.workers=0", "runtime.log_every=2")  # fmt: skip


def test_a_dry_run_says_what_it_takes_and_writes_nothing(rooms, tmp_path):
    out = tmp_path / "run"
    done = command("train", *arguments(rooms, out, settings=SMALL), "--dry-run")
    assert done.returncode == 0, done.stderr
    for told in ("steps, of which an epoch", "14, 4.7", "a step on this cpu", "peak memory", "checkpoints at the end"):
        assert told in done.stdout
    assert not out.exists()
    fails_in_one_line(command("train", *arguments(rooms, out, settings=[*PLAIN, "optim.batch_size=9999"]), "--dry-run"),
                      "must be at most the 150")  # fmt: skip


def test_a_profile_is_a_table_and_a_trace(rooms, tmp_path):
    out = tmp_path / "run"
    done = command("train", *arguments(rooms, out, settings=[*PLAIN, "optim.epochs=3"]), "--profile")
    assert done.returncode == 0, done.stderr
    assert "aten::" in done.stdout
    assert json.loads((out / "profile" / "trace.json").read_text())["traceEvents"]


def test_averaged_weights_are_what_is_evaluated(run):
    state = final_state(run)
    assert state.keys() >= {"model", "ema"}
    assert any(not torch.equal(state["model"][key], state["ema"][key]) for key in state["model"])
    loaded = checkpoint.load(checkpoint.find(run, "best"))
    assert loaded.weights is loaded.state["ema"]


def test_accumulation_changes_no_weight_beyond_rounding(rooms, tmp_path):
    states = []
    for name, extra in (("whole", ()), ("parts", ("runtime.micro_batch=8",))):
        done = command("train", *arguments(rooms, tmp_path / name, "m4ch", [*PLAIN, *extra]))
        assert done.returncode == 0, done.stderr
        states.append((final_state(tmp_path / name)["model"], without_timings(tmp_path / name)))
    (whole, lines), (parts, other_lines) = states
    torch.testing.assert_close(parts["patch_embed.proj.weight"], whole["patch_embed.proj.weight"], rtol=1e-3, atol=1e-4)
    for a, b in zip(lines, other_lines, strict=True):
        if a["kind"] == "train":
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


# --- the paper's protocol: the teacher in the loop ------------------------------------------------------------------


@pytest.mark.parametrize("pixels", ["ImageNet's", "its own"])
def test_online_depth_is_the_teachers_standardised_and_farther_is_larger(random_teacher, tmp_path, pixels):
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    if pixels == "its own":
        random_teacher = shutil.copytree(random_teacher, tmp_path / "teacher")
        said = json.loads((random_teacher / "preprocessor_config.json").read_text())
        said |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.4, 0.5]}
        (random_teacher / "preprocessor_config.json").write_text(json.dumps(said))
    config = resolve("tiny", "m4ch", [f"data.teacher={random_teacher}", "data.teacher_stats=[2.0, 0.5]"])
    rgb = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise

    ours = OnlineDepth(config, torch.device("cpu"))(
        normalise(torch.from_numpy(rgb).permute(2, 0, 1)[None], RGB_MEAN, RGB_STD)
    )
    processor = AutoImageProcessor.from_pretrained(random_teacher)
    model = AutoModelForDepthEstimation.from_pretrained(random_teacher).eval()
    with torch.no_grad():
        theirs = model(**processor(Image.fromarray(rgb), return_tensors="pt")).predicted_depth
    assert theirs.std() > 0
    torch.testing.assert_close(ours[:, 0], -(theirs - 2.0) / 0.5, rtol=1e-4, atol=1e-4)


def test_a_run_with_online_depth(rooms, random_teacher, tmp_path):
    out = tmp_path / "run"
    online = [*PLAIN, "data.depth=online", f"data.teacher={random_teacher}", "augment.mixup_alpha=0.8",
              "augment.mix_group=16"]  # fmt: skip
    done = command("train", *arguments(rooms, out, "m4ch", online))
    assert done.returncode == 0, done.stderr
    loaded = records.load_run(out)
    assert loaded.record.shards.depth_field == "online"
    assert loaded.record.shards.teacher == str(random_teacher)
    assert loaded.evaluations[0].depth_field == "online"
    again = command("train", "evaluate", out, "--data", rooms)
    assert again.returncode == 0, again.stderr
    assert records.load_run(out).evaluations[0].correct1 == records.load_run(out).evaluations[1].correct1
    other = command("train", "evaluate", out, "--data", rooms, "--depth", "exact")
    assert other.returncode == 0, other.stderr
    fails_in_one_line(command("train", "dump", out, "--data", rooms), "online depth", "--depth")
    dumped = command("train", "dump", out, "--data", rooms, "--depth", "raw", "--images", 4)
    assert dumped.returncode == 0, dumped.stderr
    missing = [*PLAIN, "data.depth=online", "data.teacher=./nowhere"]
    fails_in_one_line(command("train", *arguments(rooms, tmp_path / "new", "m4ch", missing)), "nowhere does not exist")
    assert not (tmp_path / "new").exists()


# --- dashboards ----------------------------------------------------------------------------------------------------


def test_tensorboard_has_every_curve_once_also_after_a_resume(run, rooms):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.rmtree(run / "checkpoints" / "step-14")
    assert command("train", *arguments(rooms, run), "--resume").returncode == 0
    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    lines = records.load_run(run).lines(records.TrainLine)
    seen = curves.Scalars("train/loss")
    assert [event.step for event in seen] == [line.step for line in lines]
    np.testing.assert_allclose([event.value for event in seen], [line.loss for line in lines], rtol=1e-6)
    assert len(curves.Scalars("eval/top1")) == 3
    assert len(curves.Scalars("parameters/alpha/2")) == 4


def test_every_kind_of_line_makes_curves_of_its_numbers():
    """Also scores by name, of tasks without a line of their own: `train teacher` and `train depth` end an epoch so."""
    line = records.ScoresLine(
        step=3, epoch=1, scores={"abs_rel": 0.2, "delta1": 0.5}, loss=1.5, num_samples=4, seconds=2
    )
    assert scalars(line) == {
        "scores/epoch": 1, "scores/abs_rel": 0.2, "scores/delta1": 0.5, "scores/loss": 1.5, "scores/num_samples": 4,
        "scores/seconds": 2,
    }  # fmt: skip
    told = {"classification": records.EvalLine(step=1, epoch=1, top1=0.5, top5=1, loss=1, num_samples=2, seconds=1)}
    told["segmentation"] = records.SegmentationLine(
        step=1, epoch=1, miou=0.1, pixel_accuracy=0.2, loss=1, num_samples=2, seconds=1
    )
    assert scalars(told["classification"])["eval/top1"] == 0.5
    assert scalars(told["segmentation"])["segmentation/miou"] == 0.1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_are_told_where_they_are_installed(rooms, tmp_path, monkeypatch, name):
    settings = [*PLAIN, f'runtime.loggers=["{name}"]']
    out = tmp_path / "run"
    fails_in_one_line(command("train", *arguments(rooms, out, "mlin", settings)), f"{name} is not installed")
    assert not out.exists()
    (tmp_path / f"{name}.py").write_text(
        "calls = []\n"
        "def init(**settings): calls.append(('init', settings))\n"
        "def log(values, step): calls.append((step, values))\n"
        "def finish(): calls.append(('finish', None))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = command("train", *arguments(rooms, out, "mlin", settings))
    assert done.returncode == 0, done.stderr
    calls = sys.modules.pop(name).calls
    assert calls[0][0] == "init" and calls[0][1]["project"] == "pseudodepth" and calls[0][1]["resume"] == "allow"
    assert calls[-1] == ("finish", None)
    losses = {step: values["train/loss"] for step, values in calls[1:-1] if "train/loss" in values}
    assert losses == {line.step: line.loss for line in records.load_run(out).lines(records.TrainLine)}
    assert not (out / "tensorboard").exists()


# --- weights in, weights out ---------------------------------------------------------------------------------------


def test_an_export_loads_by_itself_and_starts_another_run(run, rooms, tmp_path):
    from training.export import from_pretrained

    done = command("train", "export", run, tmp_path / "exported", "--checkpoint", "best")
    assert done.returncode == 0, done.stderr
    model = from_pretrained(tmp_path / "exported")
    weights = checkpoint.load(checkpoint.find(run, "best")).weights
    assert weights.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[key]), key
    out = tmp_path / "from-export"
    small = [*SMALL, "optim.epochs=1", "runtime.snapshot_epochs=[0]"]
    begun = command("train", *arguments(rooms, out, settings=small), "--init", tmp_path / "exported")
    assert begun.returncode == 0, begun.stderr
    assert "loaded" in begun.stdout
    first = checkpoint.load(out / "checkpoints" / "epoch-0").state["model"]
    assert torch.equal(first["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])
    assert records.load_run(out).record.init_sha256
    again = command("train", *arguments(rooms, out, settings=small), "--resume")
    fails_in_one_line(again, "init was")
    fails_in_one_line(command("train", "export", run, run), "exist")


def test_weights_that_do_not_fit_end_in_one_line(run, rooms, tmp_path):
    out = tmp_path / "new"
    begin = lambda where: command("train", *arguments(rooms, out, settings=PLAIN), "--init", where)  # noqa: E731
    fails_in_one_line(begin(tmp_path / "nowhere"), "nowhere")
    (tmp_path / "text.pth").write_text("no weights")
    fails_in_one_line(begin(tmp_path / "text.pth"), "text.pth")
    fails_in_one_line(begin(run), "depth")  # three blocks, not two
    assert not out.exists()


def test_modern_differs_from_thesis_where_its_file_says():
    thesis, modern = (resolve(preset, "mlin") for preset in ("thesis", "modern"))
    assert thesis.optim.decay_1d and not modern.optim.decay_1d
    assert (thesis.schedule.every, modern.schedule.every) == ("epoch", "step")
    assert (thesis.model.patch_depth, modern.model.patch_depth) == ("center4", "mean")
    assert modern.optim.lr == pytest.approx(thesis.optim.lr * (1024 / 192) ** 0.5, rel=0.01)
    same = {"crop_scale", "crop_ratio", "flip", "rand_augment_ops", "mixup_alpha", "cutmix_alpha", "eval_crop"}
    assert thesis.augment.model_dump(include=same) == modern.augment.model_dump(include=same)
