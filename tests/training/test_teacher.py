"""`train teacher`: the loss, the metrics, the saved folder, and that it learns."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
from rich.console import Console

from pipeline import job, scenes, shards, teachers
from pipeline.sources.toyrooms import ToyRooms
from training.tasks.depth import metrics as depth_metrics
from training.tasks.depth import toy_teacher as teacher

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    out = tmp_path_factory.mktemp("rooms") / "shards"
    job.run(ToyRooms(192, 24, 5, scenes.SceneConfig(camouflage=0.0)), None, out, job.Options(), console=CONSOLE)
    return out


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "teacher"
    metrics = teacher.train_teacher(rooms, out, epochs=2, batch_size=32, size_px=56, device="cpu")
    return out, metrics


def test_reads_inverse_metres(rooms):
    split = shards.open_split(rooms, "train")
    rgb, inverse_depth, seg = teacher.InverseDepths(split)[7]
    scene = scenes.render(5, int(split.key(7).split("-")[1]), scenes.SceneConfig(camouflage=0.0))
    np.testing.assert_array_equal(rgb, scene.rgb)
    np.testing.assert_array_equal(seg, scene.seg)
    np.testing.assert_allclose(1 / inverse_depth, scene.exact_m, atol=0.005)


def test_loss_ignores_scale_shift_and_unknown_pixels():
    true, other = torch.rand(3, 16, 16), torch.rand(3, 16, 16)
    assert teacher.ssi_loss(5 * true + 2, true) < 1e-5
    assert teacher.ssi_loss(-true, true) > 1
    torch.testing.assert_close(teacher.ssi_loss(3 * other - 1, true), teacher.ssi_loss(other, true))
    true[:, :4] = torch.nan
    loss = teacher.ssi_loss(other, true)
    other[:, :4] = 100.0
    torch.testing.assert_close(teacher.ssi_loss(other, true), loss)


def test_build_is_alive_and_takes_any_shape():
    torch.manual_seed(0)
    model = teacher.build(56)
    rgb = torch.randint(0, 256, (2, 40, 64, 3), dtype=torch.uint8)
    depth = teacher.estimate(model, rgb, 56)
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
    assert depth_metrics._spearman(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
    assert depth_metrics._spearman(first, np.ones(500)) == 0


class _Known:
    """Scenes whose inverse depth hides in the red channel."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.red = rng.integers(0, 256, (8, 32, 32)).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.red)

    def __getitem__(self, position: int):
        red = self.red[position]
        seg = np.zeros_like(red)
        seg[4:20, 8:30] = 3
        return np.stack([red] * 3, axis=2), 0.2 + red.astype(np.float32) / 255, seg


class _Oracle(torch.nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(sign))

    def forward(self, pixel_values):
        return type("Output", (), {"predicted_depth": self.sign * pixel_values[:, 0]})


def test_metrics_of_a_perfect_teacher_and_of_the_position_mean():
    known = _Known()
    mean = teacher.position_mean(known)
    np.testing.assert_allclose(mean, 0.2 + known.red.mean(axis=0) / 255, rtol=1e-5)
    metrics = depth_metrics.measure(teacher._estimates(_Oracle(3.0), known, 28), mean)
    for name in ("spearman", "residual_spearman", "box_spearman"):
        assert metrics["position_" + name] < 0.6
    # 32 px seen at 28 px: resampling costs a little, on noise a lot, so compare with the baseline only.
    assert metrics["spearman"] > metrics["position_spearman"]
    # At the very size of the picture nothing is lost.
    exact = [
        dict(depth_metrics._score(true, true, seg, mean)) for _, true, seg in (known[i] for i in range(len(known)))
    ]
    for scores in exact:
        assert scores["spearman"] == pytest.approx(1)
        assert scores["box_spearman"] == pytest.approx(1)
        assert scores["residual_spearman"] == pytest.approx(1)
        assert scores["abs_rel"] == pytest.approx(0, abs=1e-6)
        assert scores["residual_error"] == pytest.approx(0, abs=1e-6)


def test_saved_folder_is_a_teacher(trained):
    out, metrics = trained
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json", "training.json"
    ]  # fmt: skip
    facts = json.loads((out / "training.json").read_text())
    assert facts["metrics"] == metrics
    assert facts["scenes"]["train"] == 192
    loaded = teachers.open_teacher(str(out), device="cpu")
    assert loaded.polarity == "closer_is_larger"
    rgb = scenes.render(99, 0).rgb
    for picture in (rgb, np.ascontiguousarray(rgb[:40])):
        [depth] = loaded.estimate([loaded.prepare(picture)], [picture.shape[:2]])
        assert depth.shape == picture.shape[:2]
        assert depth.std() > 0.01


def test_prepares_pictures_as_the_processor_does(trained):
    loaded = teachers.open_teacher(str(trained[0]), device="cpu")
    for size in ((64, 64), (40, 64), (90, 64)):
        rgb = np.ascontiguousarray(scenes.render(98, 1, scenes.SceneConfig(size_px=96)).rgb[: size[0], : size[1]])
        ours = teacher.prepare(torch.from_numpy(rgb)[None], 56)[0]
        theirs = loaded.prepare(rgb)
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().mean() < 0.01  # half a grey level: the processor rounds to 8 bits in between
        assert (ours - theirs).abs().max() < 0.06


def test_learns_and_repeats(rooms, trained, tmp_path):
    out, metrics = trained
    assert metrics["spearman"] > 0.3
    again = teacher.train_teacher(rooms, tmp_path / "again", epochs=2, batch_size=32, size_px=56, device="cpu")
    assert again == metrics
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()


def test_replaces_its_own_result_but_nothing_else(trained, tmp_path):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="precious must be a new or empty folder"):
        teacher.train_teacher(tmp_path, folder)
    model, mine = teacher.build(56), tmp_path / "mine"
    for _ in range(2):
        teacher.save(model, mine, 56, {"round": _})
    assert json.loads((mine / "training.json").read_text()) == {"round": 1}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".mine")] == []


def test_bad_input_is_named(rooms, tmp_path):
    with pytest.raises(ValueError, match=r"--size-px must be a multiple of 14.*got 100"):
        teacher.train_teacher(rooms, tmp_path / "out", size_px=100)
    with pytest.raises(ValueError, match=r"must be positive"):
        teacher.train_teacher(rooms, tmp_path / "out", lr=0)
    with pytest.raises(ValueError, match="does not exist"):
        teacher.train_teacher(tmp_path / "nowhere", tmp_path / "out")
    split = shards.open_split(rooms, "train")
    split.index = split.index.model_copy(update={"depth": {}})
    with pytest.raises(ValueError, match="must hold 'exact' depth, got none"):
        teacher.InverseDepths(split)
