"""A sparse-query network as a teacher: its folder, its depth densely and at points, its labels, and online."""

import json
import shutil

import numpy as np
import pytest
import torch
from running import command, contents, fails_in_one_line, label
from sparse_networks import DESIGNS, MEAN_M, STD_M, folder_of, tiny

from pipeline import shards
from pipeline.teachers import TeacherError, UnfitImage, open_teacher
from pipeline.teachers.sparse_teacher import QUERIES_AT_ONCE, answered, load, save
from training.models.patch_depth import patch_depth
from training.tasks.classification.config import resolve
from training.tasks.classification.online import OnlineDepth


@pytest.fixture(scope="module", params=DESIGNS)
def folder(request, tmp_path_factory):
    return folder_of(request.param, tmp_path_factory.mktemp(request.param) / "teacher")


@pytest.fixture(scope="module")
def teacher(folder):
    return open_teacher(str(folder), "cpu")


def photograph(height=60, width=90):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_folder_is_the_network_that_was_saved(folder, tmp_path):
    network, said = load(folder)
    assert said.short_side_px == 64 and said.standardisation.std == STD_M
    original = tiny(said.model_type).eval()
    rgb = torch.randn(1, 3, 2 * network.multiple, 3 * network.multiple)
    with torch.no_grad():
        torch.testing.assert_close(network(rgb), original(rgb), rtol=0, atol=0)
    save(network, tmp_path / "again", short_side_px=64, mean=MEAN_M, std=STD_M, facts={"run": "x"})
    assert contents(tmp_path / "again") == contents(folder)


def test_tells_metres_at_points_of_the_photograph(teacher):
    rgb = photograph()
    assert (teacher.polarity, teacher.unit, teacher.stats) == ("farther_is_larger", "m", (MEAN_M, STD_M))
    seen = teacher.prepare(rgb)
    assert all(side % teacher.network.multiple == 0 for side in seen.shape[1:])
    points = np.array([[0, 0], [89, 59], [-0.5, 59.5], [44.25, 30.5]])
    found = teacher.at(rgb, points)
    assert found.shape == (4,) and found.dtype == np.float32 and (found > 0).all()
    with torch.no_grad():
        expected = teacher.network(seen[None], torch.tensor(points[None]).float() * 0)  # all at the first pixel
        scale = torch.tensor([seen.shape[2] / 90, seen.shape[1] / 60])
        in_seen = (torch.tensor(points).float() + 0.5) * scale - 0.5
        expected = teacher.network(seen[None], in_seen[None])[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_answers_do_not_depend_on_how_many_are_asked(teacher):
    rgb, points = photograph(), np.random.default_rng(1).random((QUERIES_AT_ONCE + 45, 2)) * [89, 59]
    together = teacher.at(rgb, points)
    np.testing.assert_allclose(teacher.at(rgb, points[::-1])[::-1], together, rtol=1e-5)
    np.testing.assert_allclose(teacher.at(rgb, points[-3:]), together[-3:], rtol=1e-5)
    with torch.no_grad():
        encoded = teacher.network.encode(teacher.prepare(rgb)[None])
        queries = torch.from_numpy(points[None]).float()
        np.testing.assert_allclose(answered(teacher.network, encoded, queries, (60, 90))[0], together, rtol=1e-5)


def test_labels_with_the_dense_map(teacher):
    rgb = photograph()
    [depth] = teacher.estimate([teacher.prepare(rgb)], [(60, 90)])
    assert depth.shape == (60, 90) and depth.dtype == np.float32
    with torch.no_grad():
        expected = teacher.network(teacher.prepare(rgb)[None])
    resized = torch.nn.functional.interpolate(
        teacher.network.dense(teacher.network.encode(teacher.prepare(rgb)[None]))[None], (60, 90), mode="bilinear"
    )[0, 0]
    assert expected.shape[0] == 1
    np.testing.assert_allclose(depth, resized.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ([], "at least one"), (np.zeros((0, 2)), "at least one"), ([1.0, 2.0], "shape"), ([[1, 2, 3]], "shape"),
        ([[0, 0], [90, 0]], "1 do not .first: u 90, v 0"), ([[0, -0.6]], "60 px"), ([[np.nan, 0]], "u nan"),
    ],
)  # fmt: skip
def test_refuses_points_that_are_none_or_outside(teacher, points, told):
    with pytest.raises(TeacherError, match=told):
        teacher.at(photograph(), points)


def test_sees_a_photograph_at_the_size_it_is_told(folder):
    multiple = load(folder)[0].multiple
    squared = open_teacher(str(folder), "cpu", size=2 * multiple, aspect="square")
    assert squared.prepare(photograph()).shape == (3, 2 * multiple, 2 * multiple)
    kept = open_teacher(str(folder), "cpu", size=2 * multiple)
    assert kept.prepare(photograph(600, 900)).shape == (3, 2 * multiple, 3 * multiple)
    with pytest.raises(UnfitImage, match="too thin"):
        kept.prepare(photograph(4, 900))
    for options, fix in (({"size": multiple + 1}, f"use {multiple} or {2 * multiple}"),
                         ({"compile": True}, "--compile"),
                         ({"revision": "main"}, "no revisions"), ({"size": 3}, f"use {multiple}")):  # fmt: skip
        with pytest.raises(TeacherError, match=fix):
            open_teacher(str(folder), "cpu", **options)


def test_labels_are_the_same_bytes_for_any_ranks_and_after_an_interruption(folder, bundled_photos, tmp_path):
    alone = label(bundled_photos, tmp_path / "alone", folder)
    assert alone.returncode == 0, alone.stderr
    expected = contents(tmp_path / "alone")
    for rank in (1, 0):
        done = label(bundled_photos, tmp_path / "ranks", folder, "--rank", rank, "--world-size", 2)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "ranks") == expected
    shutil.copytree(tmp_path / "alone", tmp_path / "cut")
    train = tmp_path / "cut" / "train"
    for gone in ("index.json", *(path.name for path in sorted(train.glob("*0001*")))):
        (train / gone).unlink()
    assert label(bundled_photos, tmp_path / "cut", folder).returncode == 0
    assert contents(tmp_path / "cut") == expected
    index = shards.open_split(tmp_path / "alone", "train").index
    assert index.depth["pseudo"].unit == "m"
    assert command("precompute-depth", "verify", tmp_path / "alone").returncode == 0


def test_a_run_is_a_teacher_once_it_is_finished(folder, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(TeacherError, match="without a finished teacher"):
        open_teacher(str(tmp_path), "cpu")
    shutil.copytree(folder, tmp_path / "teacher")
    assert open_teacher(str(tmp_path), "cpu").stats == (MEAN_M, STD_M)


def test_folders_that_are_not_whole_are_refused_in_one_line(folder, tmp_path, bundled_photos):
    def changed(name, change):
        copy = shutil.copytree(folder, tmp_path / name)
        change(copy)
        return copy

    def said(**new):
        def change(copy):
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps(config | new))

        return change  # fmt: skip

    network = json.loads((folder / "config.json").read_text())["network"]
    wider = {"width": 2 * network["width"]} if network["name"] == "spd-v15" else {"num_offsets": 5}
    other = "spd-v13" if network["name"] == "spd-v15" else "spd-v15"
    heads = "heads" if network["name"] == "spd-v15" else "encoder_heads"
    cases = {
        "other-heads": (said(network=network | {heads: 1}), "is not of the network that model.safetensors was trained"),
        "no-weights": (lambda copy: (copy / "model.safetensors").unlink(), "cannot be read"),
        "cut": (lambda copy: (copy / "model.safetensors").write_bytes(b"xx"), "cannot be read"),
        "wider": (said(network=network | wider), "its weights are not those"),
        "other-design": (said(model_type=other), f"model_type '{other}' and a network '{network['name']}'"),
        "infinite": (said(standardisation={"mean": 1.0, "std": 0.0}), "standardisation.std"),
    }
    for name, (change, told) in cases.items():
        with pytest.raises(TeacherError, match=told):
            open_teacher(str(changed(name, change)), "cpu")
    fails_in_one_line(label(bundled_photos, tmp_path / "out", tmp_path / "wider"), "its weights are not those")
    assert not (tmp_path / "out").exists()


# --- online -----------------------------------------------------------------------------------------------------------


def online(folder, *settings):
    config = resolve("tiny", "mlin", [f"data.teacher={folder}", "model.image_size=64", *settings])
    return OnlineDepth(config, torch.device("cpu")), config


def test_online_depth_is_the_dense_map_in_its_own_constants(folder, teacher):
    rgb = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    depth, _ = online(folder, "model.patch_depth=mean")
    assert (depth.mean, depth.std) == (MEAN_M, STD_M), "not the default, which is another teacher's"
    metres = teacher.online(torch.device("cpu"))(rgb)
    assert metres.shape == (2, 64, 64)
    torch.testing.assert_close(depth(rgb)[:, 0], (metres - MEAN_M) / STD_M)
    chosen, _ = online(folder, "model.patch_depth=mean", "data.teacher_stats=[1.0, 2.0]")
    torch.testing.assert_close(chosen(rgb)[:, 0], (metres - 1) / 2)


@pytest.mark.parametrize("patch_px", [8, 16, 3])
def test_online_asks_the_centres_of_patches_alone_where_these_are_read(folder, teacher, patch_px):
    side = 48 if patch_px == 3 else 64
    rgb = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(6))
    settings = [f"model.patch_size={patch_px}", f"model.image_size={side}"]
    asked, config = online(folder, "model.patch_depth=center4", *settings)
    z = asked(rgb)
    at_a_patch = 1 if patch_px % 2 else 4
    assert (~z.isnan()).sum() == 2 * at_a_patch * (side // patch_px) ** 2
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    every = torch.stack([columns, rows], -1).view(-1, 2).float()
    metres = teacher.online_at(torch.device("cpu"))(rgb, every).view(2, 1, side, side)
    everywhere = (metres - MEAN_M) / STD_M
    torch.testing.assert_close(
        patch_depth(z, patch_px, "center4"), patch_depth(everywhere, patch_px, "center4"), rtol=1e-4, atol=1e-4
    )
    model = config.model.build().eval()
    for bias in (weight for name, weight in model.named_parameters() if "alpha" in name or "bias" in name):
        torch.nn.init.constant_(bias, 0.5)
    with torch.no_grad():
        torch.testing.assert_close(model(rgb, z), model(rgb, everywhere), rtol=1e-4, atol=1e-4)
