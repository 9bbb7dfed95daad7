"""Fine-tuning through the command line: whole runs, kills, two ranks, what they leave, and the refusals."""

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from nyu_file import facts_for, small_arrays, write_nyu
from rich.console import Console
from running import command, fails_in_one_line
from runs import assert_same_run, final_state, kill, patched, start, wait_for, without_timings
from segments import FAST, words

from pipeline import job, shards
from pipeline.sources.nyu import Nyu
from training import records
from training.engine import checkpoint
from training.tasks.segmentation.start import Start

HAM = (*FAST, "head.channels=8", "head.width=8", "head.rank=4")
FRESH = (*HAM, "model.image_size=48", "model.width=24", "model.depth=2", "model.heads=3")


def finetuned(*arguments, resume=(), **more):
    done = command("train", *words(*arguments, **more), *resume)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tuned_once(rooms, run_once, tmp_path_factory) -> Path:
    """From a pre-trained mlin at 48 px, trained with raw depth."""
    out = tmp_path_factory.mktemp("tuned") / "mlin"
    finetuned(rooms, out, run_once, HAM, resume=("--depth", "raw"))
    return out


@pytest.fixture
def tuned(tuned_once, tmp_path) -> Path:
    shutil.copytree(tuned_once, tmp_path / "tuned" / "mlin")
    return tmp_path / "tuned" / "mlin"


# --- what a run leaves ---------------------------------------------------------------------------------------------


def test_a_run_leaves_what_the_contract_says(tuned, run_once, rooms):
    loaded = records.load_run(tuned)
    record = loaded.record
    assert (record.task, record.model, record.num_steps, record.steps_per_epoch) == ("segmentation", "mlin", 10, 5)
    seen = record.shards
    assert (seen.depth_field, seen.num_classes, seen.num_val) == ("raw", 9, 70)
    assert 150 * 0.88 < seen.num_train <= 150 * 0.9
    began = records.load_run(run_once).record
    assert record.started_from == {
        "run": "mlin", "checkpoint": "latest", "study_hash": began.study_hash, "seed": 0, "depth_field": "raw",
        "source": "toyrooms", "teacher": None,
    }  # fmt: skip
    assert record.init_sha256 == checkpoint.load(checkpoint.find(run_once, "latest")).info.sha256
    assert record.frozen == [] and record.config["select"]["rule"] == "best-on-val"
    assert [line.step for line in loaded.lines(records.TrainLine)] == [2, 4, 6, 8, 10]
    lines = loaded.lines(records.SegmentationLine)
    assert [line.epoch for line in lines] == [1, 2] and {line.num_samples for line in lines} == {150 - seen.num_train}
    assert loaded.lines(records.TrainLine)[0].lr == pytest.approx(1e-3 * 1 / 5)
    assert [line.epoch for line in loaded.lines(records.ParametersLine)] == [0, 1, 2], "alpha goes on"
    (final,) = loaded.segmentations
    assert final.num_samples == 70 and final.selection == "best-on-val" and final.checkpoint == "best"
    best = max(lines, key=lambda line: line.miou)
    assert final.epoch == best.epoch
    assert not loaded.evaluations and loaded.lines(records.EndLine)
    assert {p.name for p in (tuned / "checkpoints").iterdir()} == {"best", "step-9", "step-10"}


def test_it_begins_with_the_pretrained_weights_at_the_crops_grid(run_once, rooms, tmp_path):
    out = tmp_path / "run"
    chosen = (*HAM, "augment.crop=[32,48]", "runtime.snapshot_epochs=[0]", "optim.epochs=1", "optim.ema_decay=0.0")
    said = finetuned(rooms, out, f"{run_once}:epoch-1", chosen)
    assert "6x6 to 4x6" in said and "fresh" in said
    before = checkpoint.load(run_once / "checkpoints" / "epoch-1").weights
    after = checkpoint.load(out / "checkpoints" / "epoch-0").weights
    moved = {key.removeprefix("backbone."): value for key, value in after.items() if key.startswith("backbone.")}
    assert moved.keys() == before.keys() - {"head.weight", "head.bias"}
    for key in moved.keys() - {"pos_embed"}:
        assert torch.equal(moved[key], before[key]), key
    assert moved["pos_embed"].shape[1] == 1 + 4 * 6
    assert records.load_run(out).record.started_from["checkpoint"] == "epoch-1"


def test_the_run_it_began_with_is_known_however_its_path_is_written(run, tmp_path, monkeypatch):
    assert command("train", "export", run, tmp_path / "exported").returncode == 0
    monkeypatch.chdir(tmp_path)
    for source, name in (
        ("./mlin", "latest"),
        ("mlin/", "latest"),
        ("./mlin:epoch-1", "epoch-1"),
        (str(run), "latest"),
    ):
        start = Start.read(source, None)
        assert (start.model["name"], start.origin["run"], start.origin["checkpoint"]) == ("mlin", "mlin", name)
    monkeypatch.chdir(run)
    assert Start.read("../exported", None).origin is None, "not the run that happens to lie here"


def test_evaluate_writes_a_record_and_a_sheet(tuned, rooms):
    done = command("train", "evaluate", tuned, "--data", rooms)
    assert done.returncode == 0, done.stderr
    folder = tuned / "evaluations"
    again, final = (records.read_evaluation(folder / name) for name in ("val-raw-best.json", "val-final.json"))
    assert again.single == final.single and again.multi is None and again.keys == final.keys
    assert (folder / "val-raw-best.png").stat().st_size > 10_000
    done = command("train", "evaluate", tuned, "--data", rooms, "--depth", "exact", "--multi-scale", "--checkpoint",
                   "latest", "--split", "train")  # fmt: skip
    assert done.returncode == 0, done.stderr
    multi = records.read_evaluation(folder / "train-exact-step-10-multi.json")
    assert multi.num_samples == 150 and multi.multi is not None and multi.scales == [0.5, 1.0, 1.5]
    assert "6 views" in done.stdout
    assert len(records.load_run(tuned).segmentations) == 3


def test_a_run_of_every_kind_of_evaluation_is_read(tuned, run_once):
    kinds = tuned / "evaluations"
    shutil.copy(run_once / "evaluations" / "val-final.json", kinds / "pretraining.json")
    loaded = records.load_run(tuned)
    assert len(loaded.evaluations) == len(loaded.segmentations) == 1
    new = json.loads((kinds / "pretraining.json").read_text()) | {"kind": "panoptic"}
    (kinds / "new.json").write_text(json.dumps(new))
    with pytest.raises(records.RecordError, match="of kind 'panoptic', this version reads classification, segm"):
        records.load_run(tuned)


# --- selection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["best-on-val", "best-on-test"])
def test_test_images_are_read_at_the_end_alone_unless_they_choose(rooms, tmp_path, rule):
    read: list[tuple[str, int]] = []
    members = shards.Split.members

    def watched(self, position, fields=None):
        if "seg" in (fields or ()):
            read.append((self.index.split, len(without_timings(out)) if (out / "metrics.jsonl").exists() else 0))
        return members(self, position, fields)

    out = tmp_path / "run"
    with patch.object(shards.Split, "members", watched):
        finetuned(rooms, out, None, (*FRESH, "runtime.workers=0", "head.kind=linear"),
                  resume=("--model", "m4ch", "--select", rule))  # fmt: skip
    loaded = records.load_run(out)
    lines = [line.kind for line in loaded.metrics]
    first_eval = lines.index("segmentation")
    on_test = [done for split, done in read if split == "val"]
    if rule == "best-on-val":
        assert len(on_test) == 70 and min(on_test) > first_eval
        assert loaded.lines(records.SegmentationLine)[0].num_samples < 20
    else:
        assert len(on_test) == 3 * 70 and min(on_test) <= first_eval
        assert loaded.lines(records.SegmentationLine)[0].num_samples == 70
        assert loaded.record.shards.num_train == 150
        assert loaded.segmentations[0].single.miou == max(line.miou for line in loaded.lines(records.SegmentationLine))
    assert loaded.record.config["select"]["rule"] == loaded.segmentations[0].selection == rule


# --- interruptions and ranks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tuned_once, rooms, run_once, tmp_path):
    out = tmp_path / "mlin"
    line = [*words(rooms, out, run_once, HAM), "--depth", "raw", "--resume"]
    process = start(line, **patched(tmp_path, SLOWING))
    wait_for((out / "checkpoints" / "step-6").exists, process)
    kill(process)
    assert checkpoint.steps_of(out)[-1] < 10
    done = command("train", *line)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout
    assert_same_run(out, tuned_once)


SLOWING = """
if module.__name__ == "training.engine.step":
    call = module.TrainingStep.__call__
    def slow(self, pieces, number, *rest):
        time.sleep(1 if number >= 6 else 0)
        return call(self, pieces, number, *rest)
    module.TrainingStep.__call__ = slow
"""


def test_a_finished_run_stays_as_it_is_and_other_settings_are_refused(tuned, rooms, run_once, tmp_path):
    before = {path: path.read_bytes() for path in tuned.rglob("*") if path.is_file()}
    again = lambda *more, settings=HAM: command(  # noqa: E731
        "train", *words(rooms, tuned, run_once, settings), "--depth", "raw", *more
    )
    done = again("--resume")
    assert done.returncode == 0 and "is finished" in done.stdout
    fails_in_one_line(again(), "holds a run: add --resume")
    fails_in_one_line(again("--resume", settings=(*HAM, "optim.lr=2e-3")), "optim.lr was 0.001, now 0.002")
    fails_in_one_line(again("--resume", "--head", "pyramid"), "head.kind was 'ham', now 'pyramid'")
    fails_in_one_line(again("--resume", "--select", "best-on-test"), "select.rule was 'best-on-val'")
    fails_in_one_line(again("--resume", "--depth", "real"), "data.depth was 'raw', now 'real'")
    fails_in_one_line(again("--resume", "--model", "m4ch"), "--model m4ch must be mlin")
    other = command("train", *words(rooms, tuned, None, HAM), "--depth", "raw", "--resume")
    fails_in_one_line(other, "init was")
    assert {path: path.read_bytes() for path in tuned.rglob("*") if path.is_file()} == before
    assert again("--resume", settings=(*HAM, "runtime.workers=0")).returncode == 0


@pytest.mark.slow
def test_two_ranks_finish_and_equal_one(rooms, tmp_path):
    """A linear head has no batch norm, whose statistics would differ with what a rank sees. Padding is void and not
    alike on both ranks, so a mean of the ranks' means would be another loss."""
    linear = (*FRESH, "head.kind=linear", "optim.epochs=1", "augment.scales=[0.25,1.0]", "runtime.log_every=1")
    line = lambda out: [*words(rooms, out, None, linear), "--model", "mdf1", "--depth", "exact"]  # noqa: E731
    process = start(line(tmp_path / "two"), ranks=2)
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0, said + error
    assert command("train", *line(tmp_path / "one")).returncode == 0
    one, two = (records.load_run(tmp_path / name) for name in ("one", "two"))
    assert two.record.machine["world_size"] == 2
    for a, b in zip(one.lines(records.TrainLine), two.lines(records.TrainLine), strict=True):
        assert (a.loss, a.grad_norm) == pytest.approx((b.loss, b.grad_norm), rel=1e-3)
    for name, weights in final_state(tmp_path / "one")["model"].items():
        torch.testing.assert_close(final_state(tmp_path / "two")["model"][name], weights, rtol=1e-2, atol=2e-3)
    (a,), (b,) = one.segmentations, two.segmentations
    assert a.keys == b.keys and len(b.single.per_image) == 70
    pixels = np.array(a.single.confusion).sum()
    assert np.array(b.single.confusion).sum() == pixels
    assert np.abs(np.array(a.single.confusion) - np.array(b.single.confusion)).sum() < 0.05 * pixels


def test_a_dry_run_writes_nothing(rooms, run_once, tmp_path):
    done = command("train", *words(rooms, tmp_path / "run", run_once, HAM), "--dry-run", "--depth", "raw")
    assert done.returncode == 0, done.stderr
    for told in ("a step on this cpu", "10, 5.0", "checkpoints at the end", "2 of 15 images"):
        assert told in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_authors_grouping_leaves_what_it_freezes_bit_identical_and_lists_it(rooms, run_once, tmp_path):
    out = tmp_path / "run"
    chosen = (*HAM, "optim.grouping=dformer-compat", "optim.ema_decay=0.0", "runtime.snapshot_epochs=[0]",
              "optim.epochs=1", "optim.warmup_epochs=0")  # fmt: skip
    finetuned(rooms, out, run_once, chosen, resume=("--depth", "raw"))
    frozen = records.load_run(out).record.frozen
    assert {"backbone.alpha", "backbone.cls_token", "backbone.pos_embed", "backbone.blocks.2.attn.qkv.weight"} <= set(
        frozen
    )
    before, after = (checkpoint.load(out / "checkpoints" / name).weights for name in ("epoch-0", "step-5"))
    for name in before:
        if "running" in name or "num_batches" in name:
            continue
        assert torch.equal(before[name], after[name]) == (name in frozen), name


def test_what_a_killed_start_leaves_is_no_obstacle(rooms, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".run.json.partial").write_text("{")
    finetuned(
        rooms, out, None, (*FRESH, "optim.epochs=1", "head.kind=linear"), resume=("--model", "m4ch", "--depth", "raw")
    )
    assert (out / "run.json").exists()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_mistakes_end_in_one_line_and_write_nothing(rooms, run_once, tuned_once, tmp_path):
    out = tmp_path / "new"

    def refused(*fragments, init=run_once, more=(), settings=HAM, preset="tiny", data=rooms):
        fails_in_one_line(command("train", *words(data, out, init, settings, preset), *more), *fragments)
        assert not out.exists()

    refused("has no 'pseudo' depth, it has exact, real, raw: choose one with --depth", more=("--depth", "pseudo"))
    refused("has no 'fake' depth", more=("--depth", "fake"))
    refused("does not exist", data=tmp_path / "none")
    refused("--model must be given", init=None)
    refused("--model must be one of m3ch", init=None, more=("--model", "m9"))
    refused("--model m4ch must be mlin", more=("--model", "m4ch"))
    refused("nothing there", init=tmp_path / "nowhere")
    refused("optim.batch_size must be at most the 1", "got 500", settings=(*HAM, "optim.batch_size=500"))
    refused("augment.crop must be whole steps of 8 px as mlin", settings=(*HAM, "augment.crop=[50,48]"))
    refused("head.kind must be ham for dformer-tiny", init=None, more=("--model", "dformer-tiny", "--head", "linear"),
            settings=(*HAM, "augment.crop=[64,64]"))  # fmt: skip
    refused("--preset must be one of dformer-nyu, tiny", preset="thesis")
    refused("did you mean 'optim.lr'", settings=(*HAM, "optim.lrr=1"))
    refused("head.num_classes must be the 9 labels", settings=(*HAM, "head.num_classes=10"))
    refused("fine-tuned", "give a run of train pretrain", init=tuned_once)
    refused("a file of the DFormer authors' weights", more=("--model", "dformer-tiny"),
            settings=(*HAM, "augment.crop=[64,64]"))  # fmt: skip
    (tmp_path / "text.pth").write_text("no weights")
    refused("text.pth", "damaged or no weights file", init=tmp_path / "text.pth", more=("--model", "m4ch"))
    shutil.copytree(run_once, tmp_path / "damaged")
    path = checkpoint.find(tmp_path / "damaged", "latest") / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    refused("damaged", init=tmp_path / "damaged")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    done = command("train", *words(rooms, tmp_path / "full", run_once, HAM), "--depth", "raw")
    fails_in_one_line(done, "is not empty and holds no run")


def test_shards_without_pixel_labels_are_refused(rooms, run_once, tmp_path):
    copy = relabelled(rooms, tmp_path / "shards", lambda names: [])
    done = command("train", *words(copy, tmp_path / "run", run_once, HAM), "--depth", "raw")
    fails_in_one_line(done, "has no pixel labels: give shards of precompute-depth nyu, toyrooms or digits")
    assert not (tmp_path / "run").exists()


def relabelled(rooms, copy, change):
    """The same shards under other names of labels."""
    shutil.copytree(rooms, copy)
    for split in ("train", "val"):
        path = copy / split / "index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps(index | {"seg_names": change(index["seg_names"])}))
    return copy


def test_labels_out_of_range_stop_a_run_by_name(rooms, run_once, tmp_path):
    copy = relabelled(rooms, tmp_path / "shards", lambda names: names[:3])
    for workers in (0, 1):
        done = command("train", *words(copy, tmp_path / "run", run_once, (*HAM, f"runtime.workers={workers}")),
                       "--depth", "raw")  # fmt: skip
        fails_in_one_line(done, "shard-00000", "key room-", "labels must be 0 to 2 or 255 (void), got")
        shutil.rmtree(tmp_path / "run")


def test_what_is_for_the_other_kind_of_run_is_refused(tuned, run, rooms, tmp_path):
    fails_in_one_line(command("train", "export", tuned, tmp_path / "out"), "must be a run of train pretrain")
    fails_in_one_line(command("train", "dump", tuned, "--data", rooms), "must be a run of train pretrain")
    fails_in_one_line(command("train", "gap", tuned, "--data", rooms), "must be a run of train pretrain")
    fails_in_one_line(command("train", "evaluate", tuned, "--data", rooms, "--noise", "pixel"), "leave them out")
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms, "--multi-scale"), "leave it out")
    other = relabelled(rooms, tmp_path / "other", lambda names: names[::-1])
    fails_in_one_line(command("train", "evaluate", tuned, "--data", other), "other labels than the run was trained on")
    assert not (tmp_path / "out").exists()


# --- NYUDepthV2 ----------------------------------------------------------------------------------------------------


def test_from_nyus_file_to_a_miou(tmp_path):
    """Odd sizes, missing depth, forty classes and whole scenes; a variant, and a relative's default at 32 px."""
    arrays = small_arrays(12, 48, 60)
    mat = write_nyu(tmp_path / "small.mat", arrays)
    source = Nyu(mat, facts_for(arrays, train=list(range(1, 9)), test=[9, 10, 11, 12]))
    job.run(source, None, str(tmp_path / "nyu"), job.Options(), console=Console(quiet=True))
    out = tmp_path / "run"
    chosen = (*FRESH, "augment.crop=[32,48]", "optim.batch_size=4", "optim.steps_per_epoch=1", "select.share=0.3")
    finetuned(tmp_path / "nyu", out, None, chosen, resume=("--model", "mgem", "--depth", "raw"))
    loaded = records.load_run(out)
    assert (loaded.record.shards.source, loaded.record.shards.num_classes) == ("nyu", 40)
    assert loaded.record.shards.num_train in (4, 6), "two frames a scene"
    done = command("train", "evaluate", out, "--data", tmp_path / "nyu", "--depth", "real", "--multi-scale")
    assert done.returncode == 0, done.stderr
    found = records.read_evaluation(out / "evaluations" / "val-real-best-multi.json")
    labelled = sum(int((arrays.labels[k] != 0).sum()) for k in range(8, 12))
    for scores in (found.single, found.multi):
        assert np.array(scores.confusion).sum() == labelled
    assert sorted(found.keys) == ["nyu-0008", "nyu-0009", "nyu-0010", "nyu-0011"]
