"""`train depth`: the loss, what a network is shown, asked and started from, and that it is a run like any other."""

import json
import shutil
import tomllib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from running import command, fails_in_one_line
from runs import assert_same_run, assert_same_state, final_state, kill, start, wait_for
from safetensors.torch import load_file, save_file

from pipeline import job, scenes, shards, teachers
from pipeline.sources.toyrooms import ToyRooms
from pipeline.teachers import sparse_teacher
from training import records
from training.config import ConfigError, as_toml
from training.engine.machine import Machine
from training.engine.share import Share
from training.engine.step import TrainingStep
from training.loading.metric import open_metric
from training.models.positions import resampled
from training.models.vit import ModelError
from training.random_numbers import generator
from training.tasks.sparse_depth import data, metrics
from training.tasks.sparse_depth.augment import TooSmall, augmented, moved
from training.tasks.sparse_depth.config import AugmentConfig, resolve
from training.tasks.sparse_depth.data import EvalBatches, TrainBatches, asked, decode
from training.tasks.sparse_depth.loss import silog
from training.tasks.sparse_depth.start import initialise
from training.tasks.sparse_depth.task import SparseDepthTraining

CONSOLE = Console(quiet=True)
# All of the augmentation, a factor on the encoder's rate, averaged weights, accumulation: what a resume has to carry.
SETTINGS = (
    "augment.crop=[42, 56]", "augment.rotation=2.5", "augment.gamma=[0.9, 1.1]", "augment.colour=[0.9, 1.1]",
    "augment.scale=[0.95, 1.1]", "optim.epochs=2", "optim.batch_size=8", "optim.warmup_epochs=0",
    "optim.warmup_steps=3", "optim.encoder_factor=0.5", "optim.ema_decay=0.9", "model.encoder_width=48",
    "runtime.micro_batch=4", "runtime.checkpoint_every=4", "runtime.log_every=3", "data.queries=0",
)  # fmt: skip

ONE_STEP = ("optim.epochs=1", "optim.steps_per_epoch=1", "optim.warmup_steps=1")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    out = tmp_path_factory.mktemp("rooms") / "shards"
    job.run(ToyRooms(48, 20, 7, scenes.SceneConfig(size_px=64)), None, out, job.Options(), console=CONSOLE)
    return out


def words(rooms, out, *settings, model="spd-v15", preset="tiny", more=()):
    line = ["depth", "--model", model, "--preset", preset, "--data", rooms, "--out", out, "--depth", "raw", *more]
    return line + [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]


def task_of(*settings):
    return SparseDepthTraining(resolve("tiny", "spd-v15", [*SETTINGS, *settings], "raw"))


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    done = command("train", *words(rooms, out))
    assert done.returncode == 0, done.stderr
    assert "delta1" in done.stdout
    return out


# --- the run -------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_a_teacher_of_its_last_weights(rooms, trained):
    _, said = sparse_teacher.load(trained / "teacher")
    [evaluation] = records.load_run(trained).scores
    facts = json.loads((trained / "teacher/training.json").read_text())
    assert facts["metrics"] == evaluation.scores and facts["checkpoint"] == "step-12"
    assert said.short_side_px == 56, "of rooms of 64 px, in patches of 14"
    stored = open_metric(rooms, "train", "raw").index.depth["raw"]
    assert (said.standardisation.mean, said.standardisation.std) == (stored.mean, stored.std)
    assert evaluation.num_samples == 20 and evaluation.scores["abs_rel"] < 1
    teacher = teachers.open_teacher(str(trained), device="cpu")
    rgb = scenes.render(8, 0, scenes.SceneConfig(size_px=80)).rgb
    [depth] = teacher.estimate([teacher.prepare(rgb)], [(80, 80)])
    assert depth.shape == (80, 80) and depth.std() > 0.01
    lines = records.load_run(trained).lines(records.TrainLine)
    # Steps 3, 6, 9 and 12 are the second after the warm-up's last and so on: cosines from 2e-3 to 1e-6 over 9 steps.
    expected = [2e-3 * (0.01 + 0.99 * 2 / 3)]
    expected += [1e-6 + (2e-3 - 1e-6) * (1 + np.cos(np.pi * (step - 3) / 9)) / 2 for step in (5, 8, 11)]
    assert [line.lr for line in lines] == pytest.approx(expected)


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_run_and_the_same_teacher(rooms, trained, tmp_path):
    out = tmp_path / "run"
    process = start(words(rooms, out, more=["--resume"]))
    wait_for((out / "checkpoints" / "step-4").exists, process)
    kill(process)
    done = command("train", *words(rooms, out, more=["--resume"]))
    assert done.returncode == 0 and "resuming" in done.stdout
    assert_same_run(out, trained)
    assert (out / "teacher/model.safetensors").read_bytes() == (trained / "teacher/model.safetensors").read_bytes()


@pytest.mark.slow
def test_two_ranks_are_one_run(rooms, trained, tmp_path):
    process = start(words(rooms, tmp_path / "pair"), ranks=2)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    one, two = (records.load_run(run).lines(records.TrainLine)[0] for run in (trained, tmp_path / "pair"))
    assert two.loss == pytest.approx(one.loss, rel=1e-4)
    one, two = (records.load_run(run).scores[0] for run in (trained, tmp_path / "pair"))
    assert two.num_samples == one.num_samples
    assert two.loss == pytest.approx(one.loss, rel=1e-2)


def test_the_other_design_trains_at_queries_and_is_the_same_when_it_goes_on(rooms, tmp_path):
    """With dropout, which is drawn anew every step, whatever came before."""
    settings = ("augment.crop=[64, 64]", "optim.epochs=1", "optim.steps_per_epoch=2", "optim.batch_size=4",
                "optim.warmup_epochs=0", "data.queries=16", "data.edge_share=0.3", "model.local_layers=1",
                "runtime.checkpoint_every=1", "runtime.workers=0", "runtime.loggers=[]")  # fmt: skip
    line = ["train", "depth", "--model", "spd-v13", "--preset", "tiny", "--data", rooms, "--resume"]
    line += [word for setting in settings for word in ("--set", setting)]
    done = command(*line, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/step-2")
    done = command(*line, "--out", tmp_path / "stopped")
    assert done.returncode == 0 and "at step 1 of 2" in done.stdout, done.stderr
    assert_same_state(final_state(tmp_path / "stopped"), final_state(tmp_path / "whole"))
    config = json.loads((tmp_path / "whole/teacher/config.json").read_text())
    assert (config["model_type"], config["short_side_px"]) == ("spd-v13", 64)


def test_it_learns_queries_as_well_and_an_average_of_micro_batches_is_a_batch(rooms):
    """The same gradient, hence the same losses, whether a batch goes through at once or in pieces."""
    found = []
    for micro_batch in (8, 2):
        settings = ("data.queries=32", f"runtime.micro_batch={micro_batch}", "runtime.workers=0", "runtime.device=cpu")
        task = task_of(*settings)
        task.open(str(rooms))
        share = Share.of(task.config)
        torch.manual_seed(0)
        step = TrainingStep(task, task.build(), Machine.here(task.config), share)
        loader = task.loader(share, 0, 4)
        found.append([step([next(loader) for _ in range(share.pieces)], n, 1.0 + n / 6) for n in range(4)])
        idle = [name for name, weight in step.model.named_parameters() if weight.grad is None]
        assert not idle, "which several ranks would wait for"
    for whole, parts in zip(*found, strict=True):
        assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
        assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-3)


def test_bad_input_ends_in_one_line(rooms, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for settings, message in (
        (["data.depth=pseudo"], "--set data.depth: --depth chooses it: leave one out"),
        (["augment.crop=[60, 56]"], "augment.crop must be multiples of 14 px as spd-v15 takes images, got [60, 56]"),
        (["augment.gamma=[1.1, 0.9]"], "augment.gamma must be two rising factors"),
        (["augment.scale_depth=true", "augment.scale=[1, 1]"], "augment.scale_depth has no effect"),
        (["optim.warmup_epochs=1"], "optim.warmup_steps 3 and optim.warmup_epochs 1 say the same: leave one out"),
        (["optim.warmup_steps=13"], "optim.warmup_steps must be at most the run's 12 steps, got 13"),
        (["optim.encoder_factor=1e-4"], "schedule.min_lr must be at most the highest rate of every part, 2e-07"),
        (["data.edge_share=0.3"], "data.edge_share is of data.queries, of which there are none"),
        (["augment.rotate=3"], "did you mean 'augment.rotation'"),
        (["model.widht=3"], "did you mean 'model.width'"),
        (["runtime.augment=device"], "runtime.augment has no effect"),
    ):
        fails_in_one_line(command("train", *words(rooms, out, *settings)), message)
    fails_in_one_line(
        command("train", *words(rooms, out, model="spd-v9")), "--model must be one of spd-v15", "'spd-v9'"
    )
    line = words(rooms, out)
    line[line.index("raw")] = "pseudo"
    fails_in_one_line(command("train", *line), "must hold 'pseudo' depth, it has exact, real, raw")
    line = ["task", "sparse-depth", "--preset", "tiny", "--data", rooms, "--out", out]
    fails_in_one_line(command("train", *line), "--model must be given: spd-v15")
    done = command("train", *words(rooms, out, "augment.crop=[98, 98]"))
    fails_in_one_line(
        done, "augment.crop must fit into every image, got 98x98 of 64x64 px at augment.scale 0.95", "room-"
    )
    assert not out.exists()
    monkeypatch.setattr(SparseDepthTraining, "_first_fits", lambda task: None)  # as where another image is too small
    for workers in (0, 1):
        settings = ("augment.crop=[98, 98]", f"runtime.workers={workers}")
        done = command("train", *words(rooms, tmp_path / f"large-{workers}", *settings))
        fails_in_one_line(done, "key room-", "augment.crop must fit into every image once resized, got 98x98 of")

    def unknown(split, members, field):
        rgb, depth = decode(split, members, field)
        return rgb, torch.full_like(depth, torch.nan)

    monkeypatch.setattr(data, "decode", unknown)
    done = command("train", *words(rooms, tmp_path / "blind", *ONE_STEP, "runtime.workers=0"))
    fails_in_one_line(done, "val has no pixel with raw depth in the centres of its images that spd-v15 takes", "give")


# --- presets -------------------------------------------------------------------------------------------------------


def test_presets_say_what_the_documents_do(tmp_path):
    config = resolve("spd-v15", "spd-v15")
    assert config.optim.lr * config.optim.encoder_factor == pytest.approx(5e-6)
    assert (config.optim.batch_size, config.optim.epochs, config.optim.warmup_steps) == (2, 10, 500)
    assert (config.augment.crop, config.augment.rotation, config.data.queries) == ((350, 476), 2.5, 0)
    assert sum(p.numel() for p in meta(config).parameters()) == 22_614_337
    config = resolve("spd-v13", "spd-v13", ["data.edge_share=0.3"])
    assert config.optim.lr * config.optim.encoder_factor == pytest.approx(1e-5)
    assert (config.optim.batch_size, config.optim.epochs, config.data.queries) == (8, 30, 256)
    assert all(side <= 0.8 * whole for side, whole in zip(config.augment.crop, (480, 640), strict=True))
    assert sum(p.numel() for p in meta(config).parameters()) == 39_940_881
    with pytest.raises(ConfigError, match="--model must be spd-v13 as --preset spd-v13 is, got 'spd-v15'"):
        resolve("spd-v13", "spd-v15")
    own = tmp_path / "own.toml"
    own.write_text(as_toml(config))
    assert resolve(str(own), None).study() | {"preset": "spd-v13"} == config.study()


def test_a_warm_up_of_steps_is_as_long_whatever_the_data():
    task = SparseDepthTraining(resolve("spd-v15", "spd-v15"))
    for task.num_train in (795, 24_231):
        optim = task.config.optim.model_copy(update={"warmup_epochs": task.warmup_epochs})
        rates = [task.config.schedule.rate(optim, task.epochs.at(step)) for step in (0, 250, 500)]
        assert rates == pytest.approx([1e-6, 5.05e-5, 1e-4])


def meta(config):
    with torch.device("meta"):
        return sparse_teacher.build(config.model)


def test_published_rates_without_published_weights_are_told_of(rooms, tmp_path):
    words = ["--model", "spd-v15", "--data", rooms, "--out", tmp_path / "run", "--print-config"]
    done = command("train", "depth", "--preset", "spd-v15", *words)
    assert "# note: optim.encoder_factor 0.05 is for an encoder that was pre-trained" in done.stdout
    assert tomllib.loads(done.stdout)["optim"]["encoder_factor"] == 0.05, "a preset all the same"
    assert "note" not in command("train", "depth", "--preset", "spd-v15", *words, "--init", "timm:any").stdout
    assert "note" not in command("train", "depth", "--preset", "tiny", *words).stdout


# --- the loss ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_formula_and_forgives_scale_at_one():
    rng = np.random.default_rng(0)
    estimated, true = rng.uniform(0.5, 9, (2, 3, 40))
    true[0, :11] = np.nan
    error = [np.log(e / t)[np.isfinite(t)] for e, t in zip(estimated, true, strict=True)]
    expected = [np.sqrt((e**2).mean() - 0.5 * e.mean() ** 2 + 1e-8) for e in error]
    both = torch.from_numpy(estimated), torch.from_numpy(true)
    torch.testing.assert_close(silog(*both), torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(silog(3 * both[0], both[1], 1.0), silog(*both, 1.0))
    constant = torch.full((1, 50_000), 2.0)
    assert silog(5 * constant, constant, 1.0).item() == pytest.approx(1e-4, rel=0.1), (
        "no root of what rounding makes < 0"
    )


def test_the_loss_has_a_gradient_where_nothing_is_wrong_and_none_where_nothing_is_known():
    true = torch.rand(3, 8, 9) + 1
    estimated = true.clone()
    true[1] = torch.nan
    true[2, :4] = torch.nan
    estimated[2] += 0.1
    estimated.requires_grad_()
    loss = silog(estimated, true)
    assert loss[1] == 0 and loss[0].item() == pytest.approx(1e-4)
    loss.sum().backward()
    assert estimated.grad.isfinite().all()
    assert not estimated.grad[1].any() and not estimated.grad[2, :4].any() and estimated.grad[2, 4:].all()


def test_the_loss_is_in_full_precision_whatever_the_network_is():
    true = torch.full((1, 64), 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = silog(true.bfloat16() * 1.0078125, true)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.sqrt(0.5) * np.log(1.0078125), rel=1e-3)


def test_images_without_depth_do_not_count():
    task = task_of()
    batch = data.SparseBatch(torch.zeros(3, 3, 4, 4), torch.ones(3, 4, 4), None, ["a", "b", "c"])
    batch.depth[1] = torch.nan
    batch.depth[2, 1:] = torch.nan
    assert task.count(batch) == 2


# --- what it is shown ----------------------------------------------------------------------------------------------


def coordinates(height, width):
    """RGB that says where a pixel lies, red its column, green its row; metres that do, 1 + column + 1000 row."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([column, row, row]).to(torch.uint8), (1 + column + 1000 * row)[None].float()


@pytest.mark.parametrize(
    "settings", [{}, {"flip": 1.0}, {"rotation": 10.0}, {"flip": 1.0, "rotation": 2.5, "crop": (70, 90)}]
)
def test_rgb_and_depth_move_together(settings):
    rgb, depth = coordinates(100, 120)
    config = AugmentConfig(**{"crop": (56, 84), "flip": 0.0} | settings)
    seen = set()
    for number in range(20):
        light, metres = augmented(rgb, depth, config, generator(number))
        assert light.shape == (3, *config.crop) and metres.shape == (1, *config.crop)
        known = metres[0].isfinite()
        assert known.float().mean() > 0.8 and (config.rotation > 0 or known.all())
        column, row = (metres[0] - 1) % 1000, (metres[0] - 1) // 1000
        for channel, place in zip(light[:2].float(), (column, row), strict=True):  # half a pixel, and half a level
            assert ((channel - place).abs() <= 1.01)[known].all()
        seen.add((column[28, 42].item(), row[28, 42].item()))
    assert len(seen) > 15, "at another place every time"


def test_turning_is_about_the_centre_and_leaves_no_depth_beyond_the_image():
    rgb, depth = coordinates(64, 64)
    config = AugmentConfig(crop=(64, 64), flip=0.0, rotation=45.0)
    light, metres = moved(rgb, depth, config, [1, 1, 0, 0, 0])
    assert metres[0, 0, 0].isnan() and metres[0, 63, 63].isnan()
    assert light[:2, 0, 0].tolist() == [32, 0], "of the border: a corner turns to beyond the middle of the upper side"
    angle = np.radians(45)
    for y, x in ((32, 50), (10, 32), (40, 20)):
        dy, dx = y - 31.5, x - 31.5
        row, column = 31.5 + np.sin(angle) * dx + np.cos(angle) * dy, 31.5 + np.cos(angle) * dx - np.sin(angle) * dy
        assert abs((metres[0, y, x].item() - 1) % 1000 - column) <= 0.51
        assert abs((metres[0, y, x].item() - 1) // 1000 - row) <= 0.51


def test_scaling_never_mixes_what_is_unknown_in_and_keeps_the_camera_where_asked():
    rgb, depth = coordinates(100, 100)
    depth[:] = 4.0
    depth[0, 40:60, 30:70] = torch.nan
    for number in (0.0, 0.4, 1.0):
        for scale_depth in (False, True):
            config = AugmentConfig(crop=(70, 70), flip=0.0, scale=(0.8, 1.2), scale_depth=scale_depth)
            _, metres = moved(rgb, depth, config, [0, 0, number, 0.5, 0.5])
            expected = 4.0 / (0.8 + 0.4 * number) if scale_depth else 4.0
            torch.testing.assert_close(
                metres[metres.isfinite()], torch.tensor(expected).expand(metres.isfinite().sum())
            )
            assert metres.isnan().any()
    with pytest.raises(TooSmall, match="must fit into every image once resized, got 70x70 of 64x80 px"):
        moved(*coordinates(80, 100), config, [0, 0, 0, 0, 0])


def test_light_changes_colours_alone_and_neutral_settings_nothing():
    across = torch.arange(60).expand(60, 60)
    rgb = torch.stack([60 + 2 * across, 60 + 2 * across.T, 150 - across]).to(torch.uint8)
    depth = torch.rand(1, 60, 60) + 1
    plain, before = augmented(rgb, depth, AugmentConfig(crop=(56, 56)), generator(1))
    found = {}
    for setting in ("gamma", "brightness", "contrast", "saturation", "colour", "hue"):
        config = AugmentConfig(crop=(56, 56), **{setting: 0.1 if setting == "hue" else (0.8, 1.2)})
        found[setting], metres = augmented(rgb, depth, config, generator(1))
        assert torch.equal(metres, before)
        assert (found[setting] != plain).any()
    ratios = {name: found[name].double().flatten(1).sum(1) / plain.double().flatten(1).sum(1) for name in found}
    assert ratios["brightness"].std() < 1e-3 and 0.8 < ratios["brightness"].mean() < 1.2, "one factor for all channels"
    assert ratios["colour"].std() > 0.02 and ((ratios["colour"] - 1).abs() < 0.21).all(), "one for each"
    for name in ("contrast", "saturation"):  # about a mean that stays
        assert ratios[name].mean().item() == pytest.approx(1, abs=0.05)


def test_samples_are_a_function_of_seed_epoch_and_key_alone(rooms):
    split, config = open_metric(str(rooms), "train", "raw"), task_of("data.queries=16").config
    whole = TrainBatches(split, config, Share(0, 1, 8, 1))
    parts = TrainBatches(split, config, Share(0, 1, 4, 2))
    for step in (0, 5, 6):
        one, two = whole[step], [parts[2 * step], parts[2 * step + 1]]
        assert one.keys == two[0].keys + two[1].keys
        for name in ("rgb", "depth", "queries"):
            assert torch.equal(getattr(one, name), torch.cat([getattr(each, name) for each in two]))
        known = one.depth.isfinite()
        assert known.all() and (one.depth > 0).all(), "asked where there is depth alone"
    assert not torch.equal(whole[0].rgb, TrainBatches(split, config.model_copy(update={"seed": 1}), whole.share)[0].rgb)


def test_depth_of_nothing_is_unknown(rooms):
    split = open_metric(str(rooms), "train", "raw")
    members = split.members(3, ("rgb", "raw"))
    true = scenes.render(7, int(members.key.split("-")[1]), scenes.SceneConfig(size_px=64)).sensor_m
    rgb, metres = decode(split, members, "raw")
    np.testing.assert_allclose(metres[0], true, atol=0.005)
    nothing = -split.index.depth["raw"].mean / split.index.depth["raw"].std  # z of 0 m
    z = np.full((64, 64), 0.1, np.float32)
    z[0, :3] = nothing, nothing - 1, np.nan
    found = decode(
        split, SimpleNamespace(decode=lambda name, *_: rgb if name == "rgb" else z.copy(), check_sizes=print), "raw"
    )
    assert found[1].isnan().sum() == 3


def test_queries_are_even_over_what_has_depth_and_come_twice_only_where_there_is_too_little():
    depth = torch.full((20, 30), torch.nan)
    depth[5:15, 10:25] = torch.arange(150.0).view(10, 15) + 1
    counts = Counter()
    for number in range(200):
        queries, metres = asked(depth, 60, 0.0, generator(number))
        places = [tuple(map(int, place)) for place in queries.tolist()]
        assert len(set(places)) == 60
        assert metres.tolist() == [depth[v, u].item() for u, v in places]
        counts.update(places)
    assert len(counts) == 150 and min(counts.values()) > 40 and max(counts.values()) < 120, "80 each, on average"
    queries, metres = asked(depth, 400, 0.0, generator(0))
    assert queries.shape == (400, 2) and metres.isfinite().all()
    assert asked(torch.full((4, 4), torch.nan), 7, 0.3, generator(0))[1].isnan().all()


def test_a_share_of_the_queries_lies_at_edges():
    depth = torch.full((40, 40), 2.0)
    depth[:, 20:] = 2.3
    depth[10] = torch.nan
    depth[30, 5] = 2.1  # less than a tenth
    edges = metrics.edges(depth.numpy())
    assert edges[0, 20] and edges.sum() == 39
    queries, _ = asked(depth, 100, 0.3, generator(0))
    there = [edges[int(v), int(u)] for u, v in queries.tolist()]
    assert 30 <= sum(there) < 50
    flat, _ = asked(torch.ones(40, 40), 100, 0.3, generator(0))
    assert len(flat) == 100


def test_an_evaluation_sees_centres_of_whatever_size_each_image_once(rooms, monkeypatch):
    split = open_metric(str(rooms), "val", "raw")
    sizes = {split.key(place): (48, 90) if place in (3, 4) else (64, 64) for place in range(20)}

    def sized(split, members, field):
        rgb, depth = coordinates(*sizes[members.key])
        return rgb, depth

    monkeypatch.setattr(data, "decode", sized)
    batches = [batch for lot in range(3) for batch in EvalBatches(split, "raw", 14)[lot]]
    assert [len(batch.keys) for batch in batches] == [3, 2, 3, 8, 4]
    assert [batch.first for batch in batches] == [0, 3, 5, 8, 16]
    assert [tuple(batch.rgb.shape[2:]) for batch in batches[:2]] == [(56, 56), (42, 84)]
    batch = batches[1]
    assert batch.rgb[0, :2, 0, 0].tolist() == [3, 3], "cut evenly on both sides"
    (u, v), metres = batch.queries[0, 5].tolist(), batch.depth[0, 5].item()
    assert metres == 1 + (u + 3) + 1000 * (v + 3), "in pixels of the cut image"
    assert torch.equal(EvalBatches(split, "raw", 14)[0][1].queries, batch.queries)
    sizes[split.key(0)] = (10, 64)
    with pytest.raises(shards.ShardError, match="an image must be 14 px or more a side, got 10x64"):
        EvalBatches(split, "raw", 14)[0]


def test_scores_are_those_written_out():
    true, estimated = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 3.0, 4.4, 8.0])
    scores = metrics.over_images([metrics.image_errors(metrics.errors(estimated, true))])
    assert scores.abs_rel == pytest.approx((0.5 + 0.1) / 4)
    assert scores.rmse_m == pytest.approx(np.sqrt((1 + 0.16) / 4))
    assert scores.delta1 == 0.75


# --- what it starts from -------------------------------------------------------------------------------------------


def network(**changes):
    torch.manual_seed(changes.pop("seed", 0))
    config = task_of().config.model.model_copy(update=changes)
    return sparse_teacher.build(config)


def test_an_encoder_starts_from_a_file_in_timms_layout_and_its_positions_are_resampled(tmp_path):
    source = network(position_px=112, seed=1).encoder.state_dict()
    more = {"head.weight": torch.zeros(5, 48), "head.bias": torch.zeros(5), "mask_token": torch.zeros(1, 48)}
    save_file(source | more, tmp_path / "encoder.safetensors")
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = initialise(model, str(tmp_path / "encoder.safetensors"))
    rows = {row.what: row for row in report.rows}
    assert {what: row.how for what, row in rows.items()} == {
        "encoder": "loaded", "position embedding": "adapted", "decoder": "fresh"
    }  # fmt: skip
    assert rows["position embedding"].detail == "8x8 to 16x16" and len(report.sha256) == 64
    assert sum(row.parameters for row in report.rows) == sum(p.numel() for p in model.parameters())
    for name, value in model.state_dict().items():
        own = name.removeprefix("encoder.")
        if own == "pos_embed":
            assert torch.equal(value, resampled(source[own], (8, 8), (16, 16)))
        else:
            assert torch.equal(value, source[own] if name != own else before[name]), name
    torch.save({"state_dict": {f"module.{name}": value for name, value in source.items()}}, tmp_path / "wrapped.pth")
    assert initialise(network(), str(tmp_path / "wrapped.pth")).rows == report.rows


def test_weights_that_do_not_fit_are_refused_whole(tmp_path):
    source, model = network(seed=1).encoder.state_dict(), network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lacking = {name: value for name, value in source.items() if name != "norm.weight"}
    odd = source | {"norm.weight": torch.full((48,), torch.nan)}
    for state, message in (
        (lacking, r"no encoder of spd-v15: 1 weights missing, 0 unexpected \(first: norm.weight\)"),
        (source | {"neck.0": torch.zeros(1)}, r"0 weights missing, 1 unexpected \(first: neck.0\)"),
        (network(encoder_width=96).encoder.state_dict(), "must have shape .* as the model's sizes ask"),
        (source | {"pos_embed": torch.zeros(1, 7, 48)}, "pos_embed must have shape"),
        (odd, "norm.weight must be finite"),
    ):
        save_file(state, tmp_path / "encoder.safetensors")
        with pytest.raises(ModelError, match=message) as caught:
            initialise(model, str(tmp_path / "encoder.safetensors"))
        assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_design_is_refused_by_name(trained, tmp_path):
    other = sparse_teacher.build(resolve("tiny", "spd-v13").model)
    with pytest.raises(ModelError, match="is a spd-v15, which starts no spd-v13: choose --model spd-v15"):
        initialise(other, str(trained))


def test_a_convnexts_stages_are_found_by_both_of_timms_names(tmp_path):
    sizes = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}
    whole = timm.create_model("convnextv2_tiny", num_classes=3, **sizes)
    model = sparse_teacher.build(resolve("tiny", "spd-v13").model.model_copy(update=sizes | {"encoder_heads": 2}))
    for state in (whole.state_dict(), model.encoder.state_dict()):
        save_file(state, tmp_path / "encoder.safetensors")
        report = initialise(model, str(tmp_path / "encoder.safetensors"))
        assert [row.how for row in report.rows] == ["loaded", "fresh"]
        assert torch.equal(model.encoder.stages_2.blocks[0].conv_dw.weight, whole.stages[2].blocks[0].conv_dw.weight)


def test_timm_by_name(monkeypatch, tmp_path):
    source = network(seed=1).encoder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, message in (
        ("vit_small_patch14_dinov2.lvd142m", "could not be fetched .* give the file"),
        ("vit_smal", "has no such model"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            initialise(network(), f"timm:{name}")
        assert "\n" not in str(caught.value)
    model = network()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: source)
    report = initialise(model, "timm:vit_small_patch14_dinov2.lvd142m")
    assert report.source == "timm:vit_small_patch14_dinov2.lvd142m" and len(report.sha256) == 64
    assert torch.equal(model.encoder.blocks[2].attn.qkv.weight, source.blocks[2].attn.qkv.weight)


@pytest.mark.parametrize("where", ["", "teacher"])
def test_a_network_goes_on_from_a_run_or_its_teacher(trained, where):
    model = network(seed=3)
    report = initialise(model, str(trained / where))
    saved = load_file(trained / "teacher/model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert [(row.what, row.how) for row in report.rows] == [("encoder", "loaded"), ("decoder", "loaded")]


def test_a_run_starts_from_a_run_and_another_design_or_width_is_refused_in_one_line(rooms, trained, tmp_path):
    done = command("train", *words(rooms, tmp_path / "on", *ONE_STEP, more=["--init", trained]))
    assert done.returncode == 0, done.stderr
    assert "weights from" in done.stdout
    record = records.load_run(tmp_path / "on").record
    assert record.init_sha256 is not None and len(record.init_rows) == 2
    out = tmp_path / "out"
    for settings, init, message in (
        (["model.width=64"], trained, "model.width must be 64 as the model's is, got 32"),
        (["model.decoder=look-up"], trained, "model.decoder must be look-up as the model's is, got full"),
        ([], tmp_path / "nowhere", "--init must be timm:NAME, a file"),
        ([], rooms, "it has no config.json"),
    ):
        fails_in_one_line(command("train", *words(rooms, out, *settings, more=["--init", init])), message)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/run.json").write_text("{}")
    done = command("train", *words(rooms, out, more=["--init", tmp_path / "unfinished"]))
    fails_in_one_line(done, "a run without a finished teacher")
