"""`train teacher`: the loss, the metrics, the teacher it leaves, and that it is a run like any other."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats
import torch
from rich.console import Console
from running import command, fails_in_one_line
from runs import assert_same_run, kill, start, wait_for

from pipeline import depth_codec, job, scenes, shards, teachers
from pipeline.sources.toyrooms import ToyRooms
from training import records
from training.engine.share import DataError
from training.loading.metric import open_metric
from training.tasks.depth import metrics, network
from training.tasks.depth.data import EvalBatches, position_mean, scene
from training.tasks.depth.loss import ssi_loss

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    out = tmp_path_factory.mktemp("rooms") / "shards"
    job.run(ToyRooms(192, 24, 5, scenes.SceneConfig(camouflage=0.0)), None, out, job.Options(), console=CONSOLE)
    return out


WORDS = ("--set", "optim.epochs=2", "--set", "optim.batch_size=32", "--set", "model.size_px=56", "--set",
         "optim.warmup_epochs=0.5", "--set", "runtime.checkpoint_every=5")  # fmt: skip


def words(rooms, out):
    return ["teacher", "--data", rooms, "--out", out, "--resume", *WORDS]


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    done = command("train", *words(rooms, out))
    assert done.returncode == 0, done.stderr
    assert "residual_spearman" in done.stdout
    return out


def test_reads_inverse_metres(rooms):
    split = open_metric(rooms, "train", "exact")
    rgb, inverse_depth, seg = scene(split, split.members(7, ("rgb", "exact", "seg")), "exact")
    true = scenes.render(5, int(split.key(7).split("-")[1]), scenes.SceneConfig(camouflage=0.0))
    np.testing.assert_array_equal(rgb, true.rgb)
    np.testing.assert_array_equal(seg, true.seg)
    np.testing.assert_allclose(1 / inverse_depth, true.exact_m, atol=0.005)


def test_loss_ignores_scale_shift_and_unknown_pixels():
    true, other = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    assert (ssi_loss(5 * true + 2, true) < 1e-5).all()
    assert (ssi_loss(-true, true) > 1).all()
    torch.testing.assert_close(ssi_loss(3 * other - 1, true), ssi_loss(other, true))
    true[:, :4] = torch.nan
    loss = ssi_loss(other, true)
    other[:, :4] = 100.0
    torch.testing.assert_close(ssi_loss(other, true), loss)
    true[1] = torch.nan
    assert ssi_loss(other, true)[1] == 0, "of what nothing is known"
    torch.testing.assert_close(ssi_loss(other, true)[[0, 2]], loss[[0, 2]])


def test_loss_is_the_formula_written_out():
    rng = np.random.default_rng(0)
    estimated, true = rng.random((2, 2, 12, 17))
    true[0, 3:6, 4:9] = np.nan
    found = ssi_loss(torch.from_numpy(estimated), torch.from_numpy(true))
    for place in range(2):
        known = np.isfinite(true[place])
        centred = [each[place] - each[place][known].mean() for each in (estimated, true)]
        error = np.subtract(*(each / np.abs(each[known]).mean() for each in centred))  # NaN where unknown
        expected = np.nanmean(np.abs(error))
        for step in (1, 2, 4, 8):
            coarse = error[::step, ::step]
            steps = sum(np.nansum(np.abs(np.diff(coarse, axis=axis))) for axis in (0, 1))
            expected += 0.5 * steps / np.isfinite(coarse).sum()
        assert found[place].item() == pytest.approx(expected, rel=1e-6)


def test_build_is_alive_and_takes_any_shape():
    torch.manual_seed(0)
    model = network.build(56)
    rgb = torch.randint(0, 256, (2, 40, 64, 3), dtype=torch.uint8)
    depth = network.estimate(model, rgb, 56)
    assert depth.shape == (2, 40, 64)
    assert (depth.flatten(1).std(dim=1) > 0.01).all()
    depth.square().mean().backward()
    unused = "mask_token", "fusion_stage.layers.0.residual_layer1"  # by design of the architecture
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in idle if not any(part in name for part in unused)] == []


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 20, 500), rng.integers(0, 20, 500)
    second[:250] = first[:250]
    assert metrics._spearman(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
    assert metrics._spearman(first, np.ones(500)) == 0


def test_metrics_of_a_perfect_teacher_and_of_the_position_mean(rooms):
    mean = position_mean(open_metric(rooms, "train", "exact"), "exact")
    [batch] = [EvalBatches(open_metric(rooms, "val", "exact"), "exact")[0]]
    true = batch.inverse_depth.numpy()
    found = metrics.means(metrics.collected([(3 * true + 1, true, batch.seg.numpy())], mean))
    for name in ("spearman", "residual_spearman", "box_spearman"):
        assert found[name] == pytest.approx(1) and found["position_" + name] < 0.9
    assert found["abs_rel"] == pytest.approx(0, abs=1e-6) and found["residual_error"] == pytest.approx(0, abs=1e-4)


def test_errors_of_a_map_are_those_written_out():
    """Aligned to 0.5, 1.5, 1.5 and 0.5 per metre, where 0.5, 1, 2 and 0.5 are true and 1.2 is the mean everywhere."""
    estimated, true = np.array([[[1.0, 2.0, 2.0, 1.0]]]), np.array([[[0.5, 1.0, 2.0, 0.5]]])
    found = metrics.collected([(estimated, true, np.zeros(true.shape, np.uint8))], np.full((1, 4), 1.2))
    metres = [abs(1 / 1.5 - 1) / 1, abs(1 / 1.5 - 0.5) / 0.5]  # of two pixels; the others are exact
    assert found["abs_rel"] == pytest.approx([sum(metres) / 4])
    assert found["residual_error"] == pytest.approx([(0.5 + 0.5) / (0.7 + 0.2 + 0.8 + 0.7)])


def test_the_run_ends_with_a_teacher(trained):
    assert sorted(path.name for path in (trained / "teacher").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json", "training.json"
    ]  # fmt: skip
    [evaluation] = records.load_run(trained).scores
    assert json.loads((trained / "teacher/training.json").read_text())["metrics"] == evaluation.scores
    assert evaluation.scores["spearman"] > 0.3
    loaded = teachers.open_teacher(str(trained), device="cpu")
    assert loaded.polarity == "closer_is_larger"
    rgb = scenes.render(99, 0).rgb
    for picture in (rgb, np.ascontiguousarray(rgb[:40])):
        [depth] = loaded.estimate([loaded.prepare(picture)], [picture.shape[:2]])
        assert depth.shape == picture.shape[:2]
        assert depth.std() > 0.01


def test_prepares_pictures_as_the_processor_does(trained):
    loaded = teachers.open_teacher(str(trained), device="cpu")
    for size in ((64, 64), (40, 64), (90, 64)):
        rgb = np.ascontiguousarray(scenes.render(98, 1, scenes.SceneConfig(size_px=96)).rgb[: size[0], : size[1]])
        ours = network.prepare(torch.from_numpy(rgb)[None], 56)[0]
        theirs = loaded.prepare(rgb)
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().mean() < 0.01  # half a grey level: the processor rounds to 8 bits in between
        assert (ours - theirs).abs().max() < 0.06


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_run_and_the_same_teacher(rooms, trained, tmp_path):
    out = tmp_path / "run"
    process = start(words(rooms, out))
    wait_for((out / "checkpoints" / "step-5").exists, process)
    kill(process)
    done = command("train", *words(rooms, out))
    assert done.returncode == 0 and "resuming" in done.stdout
    assert_same_run(out, trained)
    assert (out / "teacher/model.safetensors").read_bytes() == (trained / "teacher/model.safetensors").read_bytes()


@pytest.mark.slow
def test_two_ranks_are_one_run(rooms, trained, tmp_path):
    process = start(words(rooms, tmp_path / "pair"), ranks=2)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    one, two = (records.load_run(run).lines(records.ScoresLine)[0] for run in (trained, tmp_path / "pair"))
    assert two.loss == pytest.approx(one.loss, rel=1e-3)


def test_an_evaluation_of_the_run_says_the_same(rooms, trained):
    done = command("train", "evaluate", trained, "--data", rooms)
    assert done.returncode == 0, done.stderr
    first, again = records.load_run(trained).scores
    assert first.scores == again.scores
    for option in (("--depth", "raw"), ("--split", "train"), ("--multi-scale",)):
        fails_in_one_line(command("train", "evaluate", trained, "--data", rooms, *option), "their own depth, exact")


def test_depth_of_another_size_than_its_scene_is_refused(rooms):
    split = open_metric(rooms, "train", "exact")
    members = split.members(0, ("rgb", "exact", "seg"))
    members.data["exact"] = ("exact.pdz", depth_codec.encode(np.zeros((96, 96), np.float32), 2**-8))
    with pytest.raises(shards.ShardError, match=r"differ in size \(rgb 64x64, exact 96x96, seg 64x64\)"):
        scene(split, members, "exact")


def test_a_folder_that_holds_something_else_is_left_alone(rooms, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    fails_in_one_line(command("train", *words(rooms, tmp_path / "precious")), "precious is not empty and holds no run")


def test_bad_input_is_named(rooms, tmp_path):
    out = tmp_path / "out"
    for setting, message in (
        ("model.size_px=100", "model.size_px must be a multiple of 14 (the patch size), got 100"),
        ("optim.lr=0", "optim.lr must be greater than 0, got 0"),
        ("data.depth=pseudo", "must hold 'pseudo' depth, it has exact"),
        ("runtime.augment=device", "runtime.augment has no effect"),
    ):  # fmt: skip
        fails_in_one_line(command("train", *words(rooms, out), "--set", setting), message)
    fails_in_one_line(command("train", *words(tmp_path / "nowhere", out)), "does not exist")
    assert not out.exists()
    lost = shutil.copytree(rooms, tmp_path / "lost")
    index = lost / "train/index.json"
    index.write_text(index.read_text().replace('"unit": "m"', '"unit": "ft"').replace('"unit":"m"', '"unit":"ft"'))
    with pytest.raises(DataError, match="depth must be in m, got 'ft'"):
        open_metric(lost, "train", "exact")
