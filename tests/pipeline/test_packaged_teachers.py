"""Depth Anything 3 and MoGe-2 with small random weights, held to the package that their networks are of."""

import importlib
import importlib.util
import json
import math
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from rich.console import Console
from running import command
from safetensors.torch import load_file, save_file, save_model

from pipeline import job, shards
from pipeline.ranks import Rank
from pipeline.sources.folder import Folder
from pipeline.teachers import PACKAGED, TeacherError, UnfitImage, moge, open_teacher, packaged, placed
from pipeline.teachers.packaged import DepthAnything3, open_packaged

if importlib.util.find_spec("depth_estimation") is None and not os.environ.get("PSEUDODEPTH_REQUIRE_DEPTH_ESTIMATION"):
    needs_package = pytest.mark.skip(reason="needs the package depth-estimation")
else:
    needs_package = pytest.mark.usefixtures("weights")

SIZE = 56


def redraw(net: torch.nn.Module) -> None:
    """Weights with which depth varies within an image."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif "gamma" in name:
                parameter.fill_(1)


def modules(family: str):
    """The package's networks of a family, and its configurations."""
    where = f"depth_estimation.models.{family}"
    return tuple(importlib.import_module(f"{where}.{kind}_{family}") for kind in ("modeling", "configuration"))


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Networks as the package's in kind, of four narrow blocks: it takes no widths, so its smallest has 26 million."""
    narrow = {"embed_dim": 96, "num_heads": 3}
    networks, configs = modules("depth_anything_v3")
    patch.setattr(networks, "vit_small", lambda **options: networks.DinoVisionTransformer(
        depth=4, mlp_ratio=2, **narrow, **options))  # fmt: skip
    ours, _ = modules("moge")
    patch.setattr(ours, "_vit_small", lambda **options: ours._DinoVisionTransformer(
        depth=4, mlp_ratio=2, **narrow, **options))  # fmt: skip
    small = narrow | {
        "num_layers": 4, "dinov2_name": "vits", "features": 32, "out_channels": [16, 16, 32, 32],
        "out_layers": [0, 1, 2, 3],
    }  # fmt: skip
    views = {"head_dim_in": 192, "alt_start": 1, "qknorm_start": 1, "rope_start": 1}
    for name, more in (("small", views), ("mono_large", {"head_dim_in": 96}), ("metric_large", {"head_dim_in": 96})):
        patch.setitem(configs._V3_BACKBONE_CONFIGS, name, configs._V3_BACKBONE_CONFIGS[name] | small | more)


def moge_config() -> dict:
    plain = {"num_res_blocks": [0] * 5, "resamplers": ["conv_transpose"] * 4, "dim_res_blocks": [32] * 5}
    head = plain | {"dim_in": [32] * 5, "res_block_in_norm": "none", "res_block_hidden_norm": "none"}
    return {
        "encoder": {"backbone": "dinov2_vits14", "intermediate_layers": 4, "dim_out": 32},
        "neck": head | {"dim_in": [34, 2, 2, 2, 2], "dim_out": None},
        "points_head": head | {"dim_out": [None] * 4 + [3]},
        "mask_head": head | {"dim_out": [None] * 4 + [1]},
        "scale_head": {"dims": [96, 16, 1]},
        "remap_output": "exp",
        "num_tokens_range": [8, 30],
    }


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder a model, as their authors publish them."""
    out = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        networks, configs = modules("depth_anything_v3")
        for name in ("da3-small", "da3mono-large", "da3metric-large"):
            net = networks._DepthAnythingV3Net(configs.DepthAnythingV3Config(backbone=PACKAGED[name]["network"]))
            redraw(net)
            (out / name).mkdir()
            save_model(torch.nn.ModuleDict({"model": net}), str(out / name / "model.safetensors"))
            (out / name / "config.json").write_text(json.dumps({"model_name": name}))
        net = modules("moge")[0]._MoGeModelV2(**moge_config())
        redraw(net)
        (out / "moge").mkdir()
        torch.save({"model_config": moge_config(), "model": net.state_dict()}, out / "moge" / "model.pt")
        yield out


@pytest.fixture(scope="module")
def opened(weights):
    """Teachers of those weights, made once for each set of options."""
    made = {}

    def get(name: str, **options):
        key = (name, *options.items())
        if key not in made:
            where = weights / ("moge" if name.startswith("moge") else name)
            made[key] = open_packaged(f"{name}={where}", "cpu", **options)
        return made[key]

    return get


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return [china[100:170, 200:298].copy(), flower[150:270, 250:340].copy(), china[60:130, 30:128].copy()]


def asked(teacher, rgb: np.ndarray) -> np.ndarray:
    return teacher.estimate([teacher.prepare(rgb)], [rgb.shape[:2]])[0]


# --- Depth Anything 3 ------------------------------------------------------------------------------------------------


@needs_package
def test_depth_is_the_packages(opened, weights, images, monkeypatch):
    """Where nothing is to be resized, up to the stretching of its pipeline."""
    networks, configs = modules("depth_anything_v3")
    same_size = types.SimpleNamespace(INTER_CUBIC=2, resize=lambda image, size, interpolation: image.copy())
    monkeypatch.setitem(sys.modules, "cv2", same_size)  # of which the package's processor wants no more
    pipelines = importlib.import_module("depth_estimation.pipeline_utils")
    processors = importlib.import_module("depth_estimation.processing_utils")
    rgb = images[0]
    for name in ("da3-small", "da3mono-large"):
        config = configs.DepthAnythingV3Config(backbone=PACKAGED[name]["network"], input_size=70)
        model = networks.DepthAnythingV3Model(config).eval()
        stored = load_file(weights / name / "model.safetensors")
        absent, beside = model.net.load_state_dict(
            {k.removeprefix("model."): v for k, v in stored.items()}, strict=False
        )
        assert all("output_conv2_aux" in key for key in absent) and not beside  # share a tensor with one that is there
        processor = processors.DepthProcessor(config)
        teacher = opened(name, size=98)
        pixels = processor(rgb)["pixel_values"]
        torch.testing.assert_close(teacher.prepare(rgb)[None], pixels, rtol=0, atol=1e-5)
        with torch.no_grad():
            plain = model(pixels)[0].numpy()
        monkeypatch.setattr(packaged, "_SKY", math.inf)  # the package fills no sky
        estimate = asked(teacher, rgb)
        np.testing.assert_allclose(estimate, plain, rtol=1e-4)
        assert estimate.shape == rgb.shape[:2] and estimate.std() > 0.05 * estimate.mean() > 0
        stretched = pipelines.DepthPipeline(model, processor, "cpu")(rgb, colorize=False).depth
        ours = (estimate - estimate.min()) / (estimate.max() - estimate.min())
        np.testing.assert_allclose(ours, stretched, rtol=0, atol=1e-4)


@needs_package
def test_what_the_network_sees_and_what_comes_back(opened):
    """The long side becomes the size, both are rounded to multiples of 14; 504 is the authors' own."""
    keep, square, own = opened("da3-small", size=SIZE), opened("da3-small", size=SIZE, aspect="square"), DepthAnything3
    for (height, width), seen in (((90, 130), (42, 56)), ((300, 100), (56, 14)), ((40, 40), (56, 56))):
        rgb = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        assert keep.prepare(rgb).shape == (3, *seen)
        assert square.prepare(rgb).shape == (3, SIZE, SIZE)
        for teacher in (keep, square):
            estimate = asked(teacher, rgb)
            assert estimate.shape == (height, width) and estimate.dtype == np.float32 and np.isfinite(estimate).all()
    assert own.own_size == 504 and keep.polarity == "farther_is_larger" and keep.unit == "relative depth"
    with pytest.raises(UnfitImage, match="4000x20 pixels: too thin"):
        keep.prepare(np.zeros((20, 4000, 3), np.uint8))
    grey = keep.prepare(np.full((56, 56, 3), 128, np.uint8))
    torch.testing.assert_close(grey[:, 0, 0], (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]))  # fmt: skip
    stripes = np.zeros((560, 560, 3), np.uint8)
    stripes[:, ::2] = 255
    middle = keep.prepare(stripes)[0, 5:-5, 5:-5] * 0.229 + 0.485
    torch.testing.assert_close(middle, torch.full_like(middle, 0.5), atol=0.02, rtol=0)  # antialiased


@needs_package
def test_each_photograph_is_a_scene_of_its_own_whatever_its_company(opened, bundled_photos, tmp_path):
    """A list of images would be views of one scene; and one alone differs in its last bits from one in a batch."""
    teacher, found = opened("da3-small", size=28), {}
    for batch_size, ranks in ((1, 1), (5, 1), (3, 2)):
        out = tmp_path / f"{batch_size}-{ranks}"
        for rank in range(ranks):
            options = job.Options(samples_per_shard=4, batch_size=batch_size, stats="3,2")
            where = Rank(rank, ranks, 0)
            source = Folder(bundled_photos, 96, 0.25)
            job.run(source, teacher, out, options, rank=where, console=Console(quiet=True))
        assert command("precompute-depth", "verify", out).returncode == 0
        found[batch_size] = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.tar"))}
    assert found[1] == found[3] == found[5] and len(found[1]) >= 4
    index = shards.open_split(tmp_path / "1-1", "train").index
    assert index.depth["pseudo"].unit == "relative depth" and index.teacher["model"] == "da3-small"


@needs_package
def test_metres_need_a_field_of_view(opened, images):
    """metres = output * focal length in pixels of what the network sees / 300 (the README of Depth Anything 3)."""
    plain, known = opened("da3metric-large", size=SIZE), opened("da3metric-large", size=SIZE, fov=60.0)
    assert (plain.unit, known.unit) == ("m at a focal length of 300 px", "m")
    for rgb in images:
        height, width = rgb.shape[:2]
        seen = known.prepare(rgb).shape[1:]
        focal = width / 2 / math.tan(math.radians(30))
        fx, fy = focal * seen[1] / width, focal * seen[0] / height
        np.testing.assert_allclose(asked(known, rgb), asked(plain, rgb) * (fx + fy) / 2 / 300, rtol=1e-5)
    assert known.identity()["fov"] == 60.0 and known.identity()["unit"] == "m"


def test_sky_is_filled_with_all_of_the_rest():
    """The original draws 100,000 of the other pixels, unseeded."""
    depth = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=(400, 500)).astype(np.float32))
    sky = torch.zeros(400, 500, dtype=torch.bool)
    sky[:100] = True
    filled = packaged._sky_filled(depth, sky)
    assert torch.equal(filled[100:], depth[100:]) and torch.equal(filled, packaged._sky_filled(depth, sky))
    np.testing.assert_allclose(filled[:100], np.quantile(depth[100:], 0.99), rtol=1e-5)
    for few in (torch.zeros_like(sky), ~torch.zeros_like(sky)):
        few[0, :10] = ~few[0, :10]
        assert torch.equal(packaged._sky_filled(depth, few), depth)


@needs_package
def test_sky_is_found_by_its_head(opened, images):
    teacher = opened("da3mono-large", size=SIZE)
    pixels = teacher.prepare(images[0])[None]
    layers, _ = teacher.net.backbone(pixels[:, None], export_feat_layers=[])
    found = teacher.net.head(layers, *pixels.shape[2:], patch_start_idx=0)
    sky = found["sky"][0, 0] >= 0.3
    assert 10 < int(sky.sum()) < sky.numel() - 10
    estimate = teacher._depth(pixels, [pixels.shape[2:]])[0]
    assert len(set(estimate[sky].tolist())) == 1
    torch.testing.assert_close(estimate[~sky], found["depth"][0, 0][~sky])


@needs_package
def test_sixteen_bits_by_autocast(opened, images):
    for name, dtypes in (("da3-small", ("fp16", "bf16")), ("moge-2-vits-normal", ("fp16",))):
        exact = asked(opened(name, size=SIZE), images[0])
        for dtype in dtypes:
            found = asked(opened(name, size=SIZE, dtype=dtype), images[0])
            off = np.nanmean(np.abs(found - exact)) / np.nanmean(exact)
            assert 0 < off < 0.05, (name, dtype)


# --- MoGe ------------------------------------------------------------------------------------------------------------


@needs_package
def test_moge_is_the_packages_up_to_the_shift(opened, images):
    """Its mask and its points; what is added to z is found by scipy, as in the original."""
    teacher = opened("moge-2-vits-normal")
    assert (teacher.unit, teacher.masks, teacher.num_patches) == ("m", True, 30)
    for rgb in images[:2]:
        pixels = teacher.prepare(rgb)
        with pytest.warns(UserWarning, match="In CPU autocast"):
            theirs = teacher.net.infer(pixels, use_fp16=False)
        ours = asked(teacher, rgb)
        assert ours.shape == rgb.shape[:2] and 0.02 < np.isnan(ours).mean() < 0.98
        both = theirs["mask"].numpy() & ~np.isnan(ours)
        assert both.mean() > 0.9 * theirs["mask"].float().mean()  # a shift moves some to behind the camera
        offset = (ours - theirs["depth"].numpy())[both]
        np.testing.assert_allclose(offset, offset.mean(), atol=1e-4 * np.abs(ours[both]).max())


@needs_package
def test_what_overflows_in_moge_is_no_hole(opened, images, monkeypatch):
    """Half a network in fp16 that overflows must end as a reject, not as pixels without depth."""
    teacher = opened("moge-2-vits-normal")
    pixels = teacher.prepare(images[0])
    found = teacher.net(pixels[None], num_tokens=30)
    for member, place in (("points", (0, 33, 44)), ("metric_scale", (0,)), ("mask", (0, 33, 44))):
        for value in (math.nan, math.inf):
            if member == "mask" and value == math.inf:
                continue  # it is surely seen
            spoiled = {name: tensor.clone() for name, tensor in found.items()}
            spoiled["mask"][0, 33, 44] = 1.0
            spoiled[member][place] = value
            if member == "mask":
                spoiled["points"][place] = value
            monkeypatch.setattr(teacher, "net", lambda *_, spoiled=spoiled, **__: spoiled)
            assert np.isinf(teacher.estimate([pixels], [images[0].shape[:2]])[0]).any(), (member, value)


@pytest.mark.parametrize("fov", [None, 70.0])
@pytest.mark.parametrize("shape", [(64, 64), (120, 90), (50, 333)])
def test_the_shift_puts_points_before_their_pixels(shape, fov):
    """A room of known depth, 70 degrees wide, moved by a known shift; some of it is masked, and nonsense there."""
    height, width = shape
    rng = np.random.default_rng(0)
    depth = 1.5 + np.kron(rng.uniform(0, 3, (5, 5)), np.ones((-(-height // 5), -(-width // 5))))[:height, :width]
    focal_px = width / 2 / math.tan(math.radians(35))
    x = (np.arange(width) + 0.5 - width / 2) / focal_px * depth
    y = ((np.arange(height) + 0.5 - height / 2) / focal_px)[:, None] * depth
    points = torch.from_numpy(np.stack([x, y, depth - 0.7], 2).astype(np.float32))
    seen = torch.ones(shape, dtype=torch.bool)
    seen[: height // 5], points[: height // 5] = False, 1e9
    assert moge._shift(points, seen, fov) == pytest.approx(0.7, abs=5e-3)
    assert moge._shift(points, torch.zeros_like(seen), fov) == 0
    points[height // 2, :] = math.inf
    assert math.isnan(moge._shift(points, seen, fov))


def test_the_shift_is_what_scipy_finds():
    """moge/utils/geometry_numpy.py asks for `ftol=1e-3` and Levenberg-Marquardt from 0; noise leaves a residual."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(64, 64, 3)).astype(np.float32) * 0.2 + np.float32([0, 0, 2])
    v, u = ((2 * np.indices((64, 64)) + 1 - 64) / math.hypot(64, 64)).reshape(2, -1)
    points[..., 0] += u.reshape(64, 64) * 2
    points[..., 1] += v.reshape(64, 64) * 2
    x, y, z = points.reshape(-1, 3).T.astype(np.float64)

    def residual(shift):
        p, q = x / (z + shift), y / (z + shift)
        focal = (p * u + q * v).sum() / (p**2 + q**2).sum()
        return np.stack([focal * p - u, focal * q - v], 1).ravel()

    expected = scipy.optimize.least_squares(residual, x0=0, ftol=1e-3, method="lm").x[0]
    assert abs(expected) > 0.05
    found = moge._shift(torch.from_numpy(points), torch.ones(64, 64, dtype=torch.bool), None)
    assert found == pytest.approx(expected, rel=1e-6)


@needs_package
def test_moge_labels_with_holes_the_same_in_any_company(opened, bundled_photos, tmp_path):
    teacher, found = opened("moge-2-vits-normal", size=SIZE), []
    assert teacher.num_patches == 16
    for batch_size in (1, 4):
        out, options = tmp_path / f"{batch_size}", job.Options(samples_per_shard=8, batch_size=batch_size, stats="3,2")
        job.run(Folder(bundled_photos, 96, 0.0), teacher, out, options, console=Console(quiet=True))
        assert command("precompute-depth", "verify", out).returncode == 0
        found.append({str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.tar"))})
    assert found[0] == found[1]
    split = shards.open_split(tmp_path / "1", "train")
    assert split.index.depth["pseudo"].unit == "m" and len(split) > 0
    for place in range(len(split)):
        sample = split[place]
        assert 0 < sample["json"]["pseudo"]["valid_fraction"] == pytest.approx(1 - np.isnan(sample["pseudo"]).mean())
    assert any(np.isnan(split[place]["pseudo"]).any() for place in range(len(split)))


# --- while training --------------------------------------------------------------------------------------------------


@needs_package
@pytest.mark.parametrize("name", ["da3-small", "da3mono-large", "moge-2-vits-normal"])
def test_online_depth_is_the_same_depth(name, weights, images):
    from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
    from training.tasks.classification.config import resolve
    from training.tasks.classification.online import OnlineDepth

    where = weights / ("moge" if name.startswith("moge") else name)
    config = resolve("tiny", "m4ch", [f"data.teacher={name}={where}", "data.teacher_stats=[2.0, 0.5]"])
    rgb = np.stack([images[0][:70, :70], images[2][:70, :70]])
    online = OnlineDepth(config, torch.device("cpu"))
    seen = normalise(torch.from_numpy(rgb).permute(0, 3, 1, 2), RGB_MEAN, RGB_STD)
    found = online(seen)
    teacher = open_packaged(f"{name}={where}", "cpu", **({} if name.startswith("moge") else {"size": 70}))
    expected = np.stack([asked(teacher, each) for each in rgb])
    assert found.shape == (2, 1, 70, 70) and not found.requires_grad
    np.testing.assert_allclose(found[:, 0].numpy(), (expected - 2.0) / 0.5, rtol=1e-3, atol=1e-3)
    assert np.isnan(expected).any() == name.startswith("moge")
    smaller = online(seen[..., :60, :65])
    assert smaller.shape == (2, 1, 60, 65)
    weight = torch.ones(1, requires_grad=True)
    (weight * smaller.nan_to_num()).sum().backward()  # a network may keep it for its backward pass
    assert online.identity["model"] == name


# --- names and what is refused ---------------------------------------------------------------------------------------


def test_names(tmp_path, monkeypatch):
    asked_for = []
    monkeypatch.setattr(packaged, "open_packaged", lambda name, *_, **__: asked_for.append(name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text('{"model_name": "da3-base"}')
    for name in ("da3-small", "da3-small=here", "moge-2-vitl=some/one", "depth-anything/DA3METRIC-LARGE", "here"):
        open_teacher(name)
    assert asked_for == ["da3-small", "da3-small=here", "moge-2-vitl=some/one", "da3metric-large", "da3-base=here"]
    assert placed("da3-small=here") == f"da3-small={tmp_path}/here"
    assert placed("here") == f"{tmp_path}/here"
    assert [placed(n) for n in ("da3-small", "da3-small=a/hub", "toy", "none")] == [
        "da3-small", "da3-small=a/hub", "toy", "none"]  # fmt: skip
    (tmp_path / "da3-small").mkdir()
    assert placed("da3-small") == "da3-small"
    (tmp_path / "here" / "config.json").write_text('{"model_name": "da3nested-giant-large"}')
    for name in ("da3-smal", "depth-anything/DA3-GIANT", "moge", "Ruicheng/moge-vitl", "da3nested-giant-large", "here"):
        with pytest.raises(TeacherError, match="of Depth Anything 3 and MoGe there are da3-small, ") as refusal:
            open_teacher(name)
        assert "\n" not in str(refusal.value)
    assert "random pixels of the whole batch" in str(refusal.value)


def test_a_machine_without_the_package_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "depth_estimation", None)
    for name in [name for name in sys.modules if name.startswith("depth_estimation.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(TeacherError, match=r"need the package depth-estimation .*pip install 'pseudodepth\["):
        open_packaged(f"da3-small={tmp_path}", "cpu")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("da3-small", {"size": 57}, "multiple of 14 for da3-small=.*, got 57: use 56 or 70"),
        ("da3-small", {"size": 9}, "got 9: use 14$"),
        ("da3-small", {"size": 5000}, "at most 4096"),
        ("da3-small", {"aspect": "crop"}, "must be keep or square"),
        ("da3-small", {"threads": 0}, "--threads must be 1 to 1024"),
        ("da3-small", {"fov": 60.0}, "gives no metres: leave out --teacher-fov"),
        ("da3metric-large", {"fov": 0.5}, "--teacher-fov must be 1 to less than 180 degrees, got 0.5"),
        ("da3-small", {"fov": math.nan}, "--teacher-fov must be 1 to"),
        ("da3-small", {"compile": True}, "is not compiled: leave out --compile"),
        ("da3-small", {"revision": "main"}, "without revisions: leave out --teacher-revision"),
        ("moge-2-vitl", {"aspect": "square"}, "at its own aspect: leave out --teacher-aspect"),
        ("moge-2-vitl", {"dtype": "bf16"}, "runs in fp16 or fp32, got --dtype bf16"),
        ("moge-2-vitl", {}, "model.pt does not exist: give a folder that holds it"),
    ],
)
def test_options_that_are_refused(name, options, told, tmp_path):
    with pytest.raises(TeacherError, match=told) as refusal:
        open_packaged(f"{name}={tmp_path}", "cpu", **options)
    assert "\n" not in str(refusal.value)


def test_the_hub_out_of_reach():
    for name, what in (
        ("da3-small", "model.safetensors of depth-anything/DA3-SMALL"),
        ("moge-2-vitl=a/b", "pt of a/b"),
    ):
        with pytest.raises(TeacherError, match=f"{what} cannot be had from the hub .*=FOLDER"):
            open_packaged(name, "cpu")


@needs_package
def test_weights_that_are_not_all_there(weights, tmp_path):
    """Loosely loaded, as by the package, each of these would estimate with random weights and say nothing."""
    stored = load_file(weights / "da3-small" / "model.safetensors")
    key = "model.backbone.pretrained.blocks.3.attn.qkv.weight"
    cases = {
        "lacks .* of .* weights .first: backbone": {k.removeprefix("model."): v for k, v in stored.items()},
        "lacks 1 of .* weights .first: backbone.pretrained.blocks.3.attn.qkv.weight": {
            k: v for k, v in stored.items() if k != key},
        r"blocks.3.attn.qkv.weight must have shape \(288, 96\), got \(3, 4\)": stored | {key: torch.zeros(3, 4)},
    }  # fmt: skip
    path = tmp_path / "model.safetensors"
    for told, content in cases.items():
        save_file(content, path)
        with pytest.raises(TeacherError, match=told):
            open_packaged(f"da3-small={path}", "cpu")
    save_file(stored | {"model.cam_dec.fc_t.weight": torch.zeros(3, 2)}, path)  # a head for poses
    ours = open_packaged(f"da3-small={path}", "cpu").identity()
    theirs = open_packaged(f"da3-small={weights / 'da3-small'}", "cpu").identity()
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TeacherError, match="cannot be read"):
        open_packaged(f"da3-small={tmp_path}", "cpu")
    with pytest.raises(TeacherError, match="holds da3metric-large: give the name of what it holds"):
        open_packaged(f"da3mono-large={weights / 'da3metric-large'}", "cpu")


@needs_package
def test_checkpoints_that_are_not_of_moge_2(weights, tmp_path):
    stored, path = torch.load(weights / "moge" / "model.pt"), tmp_path / "model.pt"
    other = {k: v for k, v in moge_config().items() if k != "scale_head"}
    lacking = {k: v for k, v in stored["model"].items() if k != "neck.input_blocks.0.weight"}
    for told, content in (
        ("is no MoGe-2 checkpoint .*model_config", {"state_dict": {}}),
        ("is no MoGe-2 checkpoint", {"model_config": {"encoder": 3, "neck": {}}, "model": {}}),
        ("is no MoGe-2 checkpoint", {"model_config": Path("x"), "model": {}}),
        ("no metric scale or no mask", {"model_config": other, "model": stored["model"]}),
        ("lacks 1 of .* weights .first: neck.input_blocks.0.weight", stored | {"model": lacking}),
    ):
        torch.save(content, path)
        with pytest.raises(TeacherError, match=told) as refusal:
            moge.MoGe2(f"moge-2-vitl={path}", "cpu")
        assert "\n" not in str(refusal.value)
    path.write_bytes(b"nothing")
    with pytest.raises(TeacherError, match="is no MoGe-2 checkpoint"):
        moge.MoGe2(f"moge-2-vitl={path}", "cpu")
