"""`train finetune --task classification`: a new head on a pre-trained model, what it is worth, and the refusals."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from running import command, fails_in_one_line
from runs import SMALL, arguments, assert_same_run, kill, patched, start, wait_for
from segments import words

from pipeline import shards
from training import records, runs
from training.engine import checkpoint
from training.export import read_export
from training.models.vit import ModelError
from training.tasks.classification.config import resolve
from training.tasks.classification.data import eval_loader
from training.tasks.classification.evaluate import Outcome
from training.tasks.classification.finetune import Tuning
from training.weights import read

# Everything that a bit-identical resume has to carry, drop path too.
FAST = (
    "optim.epochs=2", "optim.batch_size=32", "optim.ema_decay=0.9", "augment.rand_augment_ops=1",
    "augment.cutmix_alpha=1.0", "augment.mix_group=16", "runtime.workers=1", "runtime.log_every=2",
    "runtime.checkpoint_every=3", "runtime.snapshot_epochs=[0]", "runtime.loggers=[]",
)  # fmt: skip
DEPTH = ("--depth", "raw")


def line(data: object, out: Path, init: object, settings: Sequence[str] = FAST, preset="finetune-tiny") -> list[str]:
    return [*words(data, out, init, settings, preset), "--task", "classification"]


def tuned(*given, more: Sequence[object] = DEPTH, **named) -> str:
    done = command("train", *line(*given, **named), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def renamed(data: Path, copy: Path, change: Callable[[list[str]], list[str]], splits=("train", "val")) -> Path:
    """The same shards whose classes have other names."""
    shutil.copytree(data, copy)
    for split in splits:
        path = copy / split / "index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps(index | {"class_names": change(index["class_names"])}))
    return copy


@pytest.fixture(scope="module")
def scenes(rooms: Path, tmp_path_factory) -> Path:
    """As many classes as the rooms have, of other names."""
    return renamed(rooms, tmp_path_factory.mktemp("scenes") / "shards", lambda names: [f"scene {n}" for n in names])


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Twenty classes, of which val's twenty images have not all."""
    out = tmp_path_factory.mktemp("digits") / "shards"
    done = command("precompute-depth", "digits", out, "--teacher", "none", "--samples", 40, "--val-samples", 20,
                   "--size", 48)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def on_scenes(scenes: Path, run_once: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "mlin"
    tuned(scenes, out, run_once)
    return out


def test_it_begins_with_all_of_the_source_but_the_head_even_where_classes_are_as_many(on_scenes, run_once, scenes):
    source = checkpoint.load(checkpoint.find(run_once, "latest"))
    begun = checkpoint.load(on_scenes / "checkpoints" / "epoch-0").weights
    assert source.weights["head.weight"].any() and not begun["head.weight"].any() and not begun["head.bias"].any()
    for name in source.weights.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(begun[name], source.weights[name]), name
    ended = checkpoint.load(checkpoint.find(on_scenes, "latest")).weights
    assert ended["head.weight"].any() and not torch.equal(ended["pos_embed"], begun["pos_embed"])

    loaded = records.load_run(on_scenes)
    record = loaded.record
    assert (record.task, record.model, record.preset) == ("classification", "mlin", "finetune-tiny")
    assert (record.shards.depth_field, record.shards.num_classes, record.init_sha256) == ("raw", 6, source.info.sha256)
    assert record.started_from is not None and record.started_from["run"] == "mlin"
    model, before = record.config["model"], records.load_run(run_once).record.config["model"]
    assert {key for key in model if model[key] != before[key]} == {"drop_path", "head_init"}
    assert (model["drop_path"], model["head_init"]) == (0.1, "fresh")
    assert [row["what"] for row in record.init_rows if row["how"] == "fresh"] == ["head"]
    (final,) = loaded.evaluations
    assert final.classes == shards.open_split(scenes, "val").index.class_names and final.classes[0].startswith("scene ")


def test_another_number_of_classes_and_another_image_size(digits, run_once, tmp_path):
    """What is reported is worked out again from the predictions; classes without a sample are left out and named."""
    out = tmp_path / "run"
    said = tuned(digits, out, run_once, (*FAST, "model.image_size=64", "optim.epochs=1"))
    assert "6x6 to 8x8" in said and "for 20 classes, the source has one for 6" in said
    loaded = runs.load(out)
    val = shards.open_split(digits, "val")
    (batch,) = eval_loader(val, loaded.task.config, "raw", 20)
    with torch.no_grad():
        guess = loaded.model.eval()(*loaded.task.inputs(batch)[:2]).argmax(1).numpy()
    label = batch.label.numpy()
    present = sorted(set(label))
    assert 1 < len(present) < 20
    recall = {number: float(np.mean(guess[label == number] == number)) for number in present}
    final = records.parse(records.Evaluation, out / "evaluations" / "val-final.json")
    assert final.top1 == pytest.approx(np.mean(guess == label))
    assert final.mean_class == pytest.approx(sum(recall.values()) / len(recall))
    assert final.class_recall == [pytest.approx(recall[n]) if n in recall else None for n in range(20)]
    assert final.classes == val.index.class_names
    told = " ".join(said.split())
    absent = next(name for number, name in enumerate(val.index.class_names) if number not in recall)
    assert f"mean-class is over {len(present)} of 20 classes" in told and absent in told


def test_mean_class_is_the_mean_of_the_classes_recalls():
    found = Outcome([True, True, True, False, True], [True] * 5, [0, 0, 0, 1, 3], 1.0, 0.0)
    assert found.top1 == 0.8
    assert found.recall(5) == [1.0, 0.0, None, 1.0, None]
    assert found.mean_class == pytest.approx(2 / 3)
    assert found.largest_class == 0.6


def test_a_record_whose_mean_is_not_that_of_its_classes_is_refused(on_scenes, tmp_path):
    record = json.loads((on_scenes / "evaluations" / "val-final.json").read_text())
    path = tmp_path / "val-final.json"
    for change, fault in (
        ({"mean_class": 0.999}, "mean_class must be the mean"),
        ({"class_recall": [0.5]}, "class_recall must be of the 6 classes"),
    ):
        path.write_text(json.dumps(record | change))
        with pytest.raises(records.RecordError, match=fault):
            records.parse(records.Evaluation, path)
    older = {k: v for k, v in record.items() if k not in ("mean_class", "classes", "class_recall")}
    path.write_text(json.dumps(older | {"schema_version": 5}))
    assert records.parse(records.Evaluation, path).mean_class is None


def test_it_is_a_run_of_classification_to_every_other_command(on_scenes, scenes, run_once, rooms, tmp_path):
    run = shutil.copytree(on_scenes, tmp_path / "mlin")
    done = command("train", "evaluate", run, "--data", scenes, "--depth", "real")
    assert done.returncode == 0 and "mean-class" in done.stdout, done.stderr
    assert command("train", "evaluate", run, "--data", scenes, "--noise", "pixel", "--sigma", "0,1").returncode == 0
    assert command("train", "dump", run, "--data", scenes, "--images", 10).returncode == 0
    assert command("train", "export", run, tmp_path / "exported").returncode == 0
    assert read_export(tmp_path / "exported")[0].num_classes == 6
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms), "other classes than the run was trained on")
    assert "finished" in command("train", "status", run).stdout
    # It starts others, which take its size and not its recipe.
    assert command("train", *line(scenes, tmp_path / "a", run, ()), *DEPTH, "--dry-run").returncode == 0
    segmentation = command("train", *words(rooms, tmp_path / "b", run, ("augment.crop=[48,48]",)), *DEPTH,
                           "--print-config")  # fmt: skip
    assert "drop_path = 0.0" in segmentation.stdout and 'head_init = "source"' in segmentation.stdout


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(on_scenes, scenes, run_once, tmp_path):
    """The source is gone by then: what the model is stands in run.json."""
    source, out = shutil.copytree(run_once, tmp_path / "source"), tmp_path / "mlin"
    again = [*line(scenes, out, source), *DEPTH, "--resume"]
    process = start(again, **patched(tmp_path, SLOWING))
    wait_for((out / "checkpoints" / "step-6").exists, process)
    kill(process)
    shutil.rmtree(source)
    done = command("train", *again)
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    assert_same_run(out, on_scenes)
    fails_in_one_line(command("train", *again, "--set", "model.drop_path=0.3"), "model.drop_path was 0.1, now 0.3")


SLOWING = """
if module.__name__ == "training.engine.step":
    call = module.TrainingStep.__call__
    def slow(self, pieces, number, *rest):
        time.sleep(1 if number >= 6 else 0)
        return call(self, pieces, number, *rest)
    module.TrainingStep.__call__ = slow
"""


def test_a_frozen_backbone_stays_to_the_bit_and_is_in_no_checkpoint(scenes, run_once, tmp_path):
    out = tmp_path / "run"
    tuned(scenes, out, run_once, (*FAST, "model.freeze=backbone", "optim.epochs=1"))
    state = checkpoint.load(checkpoint.find(out, "latest")).state
    assert state["model"].keys() == state["ema"].keys() == {"head.weight", "head.bias"}
    assert len(state["optimizer"]["state"]) == 2
    model, theirs = runs.load(out).model.state_dict(), runs.load(run_once).model.state_dict()
    assert model["head.weight"].any()
    for name in model.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(model[name], theirs[name]), name
    assert command("train", "evaluate", out, "--data", scenes).returncode == 0
    with pytest.raises(ModelError, match="trained a head alone: give what it began with"):
        read(str(out))
    begun = Tuning(runs.load(out).task.config)
    assert set(begun.frozen) >= {"alpha", "blocks", "cls_token", "patch_embed", "pos_embed"}


def test_without_init_every_weight_starts_fresh_and_a_file_needs_the_model(digits, tmp_path):
    size = ("model.width=24", "model.depth=2", "model.heads=3", "optim.epochs=1")
    said = tuned(digits, tmp_path / "fresh", None, size, more=(*DEPTH, "--model", "mgem"))
    assert "weights from" not in said and "note: optim.batch_size is 40" in said
    plain = tmp_path / "plain.pth"
    torch.save(resolve("tiny", "m3ch", size[:3], num_classes=20).model.build().state_dict(), plain)
    fails_in_one_line(command("train", *line(digits, tmp_path / "x", plain, size), *DEPTH), "--model must be given")
    said = tuned(digits, tmp_path / "file", plain, size, more=(*DEPTH, "--model", "m4ch"))
    assert "depth channel: zero" in said and "for 20 classes, the source has one for 20" in said
    frozen = command("train", *line(digits, tmp_path / "x", plain, (*size, "model.freeze=backbone")), *DEPTH, "--model",
                     "mgem")  # fmt: skip
    fails_in_one_line(frozen, "model.freeze=backbone keeps the weights of --init", "has none for")
    fails_in_one_line(command("train", *line(digits, tmp_path / "x", None, (*size, "model.freeze=backbone")), *DEPTH,
                              "--model", "mgem"), "got none: give a run")  # fmt: skip


def test_mistakes_end_in_one_line_and_write_nothing(scenes, rooms, run_once, tmp_path):
    out = tmp_path / "new"

    def refused(*fragments, data=scenes, init=run_once, settings=FAST, more=DEPTH, **named):
        fails_in_one_line(command("train", *line(data, out, init, settings, **named), *more), *fragments)
        assert not out.exists()

    without = renamed(rooms, tmp_path / "without", lambda names: [])
    refused("has no classes, so nothing to classify: give shards whose samples have a cls", data=without)
    fewer = renamed(rooms, tmp_path / "fewer", lambda names: names[:4], splits=("val",))
    refused("train and val must have the same classes, got 6 and 4: make both from one source", data=fewer)
    refused("--preset must be one of finetune, finetune-tiny", "'dformer-nyu', which is of segm", preset="dformer-nyu")
    refused("no 'pseudo' depth, it has exact, real, raw", more=("--depth", "pseudo"))
    refused("--depth chooses it", settings=(*FAST, "data.depth=real"))
    refused("--head and --select: for --task segmentation alone",
            more=(*DEPTH, "--head", "linear", "--select", "best-on-test"))  # fmt: skip
    refused("--model m4ch must be mlin", more=(*DEPTH, "--model", "m4ch"))
    refused("--model must be given", init=None)
    refused("--model must be one of m3ch", "got 'dformer-tiny'", init=None, more=(*DEPTH, "--model", "dformer-tiny"))
    refused("nothing there", init=tmp_path / "nowhere")
    refused("unknown key 'head'", settings=(*FAST, "head.kind=ham"))
    done = command("train", *words(rooms, out, run_once, (), "finetune"), *DEPTH)
    fails_in_one_line(done, "--preset must be one of dformer-nyu, tiny", "'finetune', which is of classification")


def test_runs_of_other_tasks_start_nothing_and_are_not_gone_on_with(scenes, rooms, run_once, tmp_path):
    pixels = tmp_path / "pixels"
    small = (
        "augment.crop=[48,48]",
        "optim.epochs=1",
        "optim.steps_per_epoch=2",
        "optim.batch_size=4",
        "select.every=1",
    )
    assert command("train", *words(rooms, pixels, run_once, small), *DEPTH, "--head", "linear").returncode == 0
    done = command("train", *line(scenes, tmp_path / "run", pixels), *DEPTH)
    fails_in_one_line(done, "is a run fine-tuned for segmentation, whose weights start nothing: give a run of train")
    done = command("train", *line(scenes, pixels, run_once), *DEPTH, "--resume")
    fails_in_one_line(done, "holds a run of segmentation: choose another --out")
    copy = shutil.copytree(run_once, tmp_path / "pretrained")
    fails_in_one_line(command("train", *line(scenes, copy, run_once), *DEPTH, "--resume"), "cannot resume", "head_init")
    done = command("train", *arguments(rooms, tmp_path / "p", settings=(*SMALL, "model.freeze=backbone")))
    fails_in_one_line(done, "model.freeze has no effect on pre-training")


def test_the_preset_is_the_recipe_it_names():
    config = resolve("finetune", "m4ch")
    optim, augment = config.optim, config.augment
    assert optim.lr == pytest.approx(3e-4 * (optim.batch_size / 2048) ** 0.5, rel=0.01)
    assert (optim.epochs, optim.warmup_epochs, optim.weight_decay, optim.label_smoothing) == (50, 5, 0.02, 0.1)
    assert (config.model.drop_path, augment.cutmix_alpha, augment.mixup_alpha) == (0.15, 1.0, 0.0)
    assert (config.model.width, config.model.depth, config.model.image_size) == (768, 12, 224)
    assert config.data.depth == "real"
