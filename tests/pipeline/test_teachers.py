"""One contract over every class of teacher: tiny random models, saved, loaded through the real path."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    BeitConfig,
    DepthAnythingConfig,
    DepthProConfig,
    DepthProImageProcessor,
    Dinov2Config,
    DPTConfig,
    DPTImageProcessor,
    GLPNConfig,
    GLPNImageProcessor,
    PromptDepthAnythingConfig,
    PromptDepthAnythingImageProcessor,
    Swinv2Config,
    ZoeDepthConfig,
    ZoeDepthImageProcessor,
)

import data_manifests
from pipeline.ranks import usable_cpus
from pipeline.teachers import TeacherError, UnfitImage, open_teacher
from pipeline.teachers.hub import HubTeacher

_SHAPES = (90, 130), (130, 90), (90, 130)  # two shapes, so that a batch holds two of three


def _dinov2(**options: Any) -> Dinov2Config:
    return Dinov2Config(
        **{
            "image_size": 56, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
            "mlp_ratio": 2, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False,
        } | options
    )  # fmt: skip


def _anything(**options: Any) -> DepthAnythingConfig:
    return DepthAnythingConfig(
        backbone_config=_dinov2(), reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=4, **options,
    )  # fmt: skip


def _prompt() -> PromptDepthAnythingConfig:
    return PromptDepthAnythingConfig(
        backbone_config=_dinov2(), reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=4,
    )  # fmt: skip


def _dpt_vit(**options: Any) -> DPTConfig:
    return DPTConfig(
        **{
            "image_size": 64, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
            "intermediate_size": 64, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16],
            "fusion_hidden_size": 8,
        } | options
    )  # fmt: skip


def _dpt_hybrid() -> DPTConfig:
    bit = {
        "model_type": "bit", "global_padding": "same", "layer_type": "bottleneck", "depths": [1, 1, 1],
        "hidden_sizes": [8, 16, 32, 32], "embedding_size": 8, "num_groups": 1,
        "out_features": ["stage1", "stage2", "stage3"], "embedding_dynamic_padding": True,
    }  # fmt: skip
    return _dpt_vit(
        is_hybrid=True, backbone_config=bit, backbone_featmap_shape=[1, 32, 4, 4], neck_hidden_sizes=[8, 16, 16, 16]
    )


def _dpt(backbone: Any, **options: Any) -> DPTConfig:
    return DPTConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, readout_type="ignore",
        reassemble_factors=[4, 2, 1, 0.5], **options,
    )  # fmt: skip


def _beit() -> BeitConfig:
    return BeitConfig(
        image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        use_relative_position_bias=True, reshape_hidden_states=False, out_features=[f"stage{n}" for n in (1, 2, 3, 4)],
    )  # fmt: skip


def _dpt_swin() -> DPTConfig:
    swin = Swinv2Config(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return DPTConfig(
        backbone_config=swin, neck_hidden_sizes=[8, 16, 32, 64], fusion_hidden_size=8, add_projection=False,
        readout_type="ignore",
    )  # fmt: skip


def _glpn() -> GLPNConfig:
    return GLPNConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], mlp_ratios=[2] * 4,
        decoder_hidden_size=8,
    )  # fmt: skip


_PATCH_TRANSFORMER = {"hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 2}  # has 4 layers always


def _zoe(*heads: str) -> ZoeDepthConfig:
    bins = [{"n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0 * (n + 1), "name": h} for n, h in enumerate(heads)]
    several = {f"patch_transformer_{k}": v for k, v in _PATCH_TRANSFORMER.items()} if len(bins) > 1 else {}
    if several:
        several["num_patch_transformer_layers"] = 4
    return ZoeDepthConfig(
        backbone_config=_beit(), neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16, bottleneck_features=16,
        num_relative_features=8, bin_embedding_dim=16, num_attractors=[4, 2, 2, 1], bin_configurations=bins, **several,
    )  # fmt: skip


def _pro(**options: Any) -> DepthProConfig:
    part = _dinov2(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, out_indices=None).to_dict()
    return DepthProConfig(
        **{
            "patch_size": 32, "fusion_hidden_size": 16, "intermediate_hook_ids": [1, 0],
            "intermediate_feature_dims": [8, 8], "scaled_images_feature_dims": [8, 8, 8], "use_fov_model": True,
            "image_model_config": part, "patch_model_config": part, "fov_model_config": part,
        } | options
    )  # fmt: skip


def _tips() -> Any:
    vision = transformers.Tipsv2VisionConfig(
        image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    return transformers.Tipsv2DptConfig(
        backbone_config=vision, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, num_depth_bins=16
    )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _dpt_processor(side: int = 64, multiple: int = 1, keep: bool = False) -> DPTImageProcessor:
    return DPTImageProcessor(size=_square(side), ensure_multiple_of=multiple, keep_aspect_ratio=keep)


_CLOSER, _FARTHER = "closer_is_larger", "farther_is_larger"


@dataclass(frozen=True)
class Kind:
    """A class of teacher, tiny."""

    config: Callable[[], Any]
    processor: Callable[[], Any]
    polarity: str
    unit: str
    square: bool = False  # the class allows no other aspect
    plain: dict[str, Any] = field(default_factory=dict)  # what to tell a plain processor for the same pixels


_MADE_OF_14 = Kind(
    _anything, lambda: _dpt_processor(56, 14, keep=True), _CLOSER, "relative inverse depth"
)  # as published: keep, 14
KINDS = {
    "depth_anything": _MADE_OF_14,
    "depth_anything-metric": Kind(
        lambda: _anything(depth_estimation_type="metric", max_depth=20), _MADE_OF_14.processor, _FARTHER, "m"
    ),
    "prompt_depth_anything": Kind(
        _prompt,
        lambda: PromptDepthAnythingImageProcessor(size=_square(56), ensure_multiple_of=14, keep_aspect_ratio=True),
        _FARTHER,
        "relative depth",
    ),
    "dpt-vit": Kind(_dpt_vit, _dpt_processor, _CLOSER, "relative inverse depth", square=True),
    "dpt-hybrid": Kind(_dpt_hybrid, _dpt_processor, _CLOSER, "relative inverse depth", square=True),
    "dpt-beit": Kind(
        lambda: _dpt(_beit()), _dpt_processor, _CLOSER, "relative inverse depth",
        plain={"keep_aspect_ratio": True, "ensure_multiple_of": 16},
    ),
    "dpt-swinv2": Kind(_dpt_swin, _dpt_processor, _CLOSER, "relative inverse depth", square=True),
    "dpt-dinov2": Kind(lambda: _dpt(_dinov2()), lambda: _dpt_processor(56, 14, keep=True), _FARTHER, "m"),
    "glpn": Kind(_glpn, GLPNImageProcessor, _FARTHER, "m"),
    "zoedepth": Kind(
        lambda: _zoe("nyu"), lambda: ZoeDepthImageProcessor(size={"height": 64, "width": 96}, ensure_multiple_of=32),
        _FARTHER, "m",
    ),
    "zoedepth-two-heads": Kind(
        lambda: _zoe("nyu", "kitti"), lambda: ZoeDepthImageProcessor(size={"height": 64, "width": 96}),
        _FARTHER, "m", plain={"ensure_multiple_of": 32},  # the class's own 1/32 rounds to nothing
    ),
    "depth_pro": Kind(_pro, lambda: DepthProImageProcessor(size=_square(128)), _FARTHER, "m", square=True),
}  # fmt: skip
if hasattr(transformers, "Tipsv2DptConfig"):  # newer than the oldest transformers that we allow
    KINDS["tipsv2_dpt"] = Kind(
        _tips, lambda: transformers.Tipsv2DptImageProcessor(size=_square(56)), _FARTHER, "m", square=True
    )


def build(kind: Kind, folder: Path) -> Path:
    """Save the model as transformers does, with every weight drawn so that depth varies within an image."""
    torch.manual_seed(0)
    model = AutoModelForDepthEstimation.from_config(kind.config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:  # default weights are so small that depth is constant, or zero after a ReLU
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif "lambda" in name:  # layer scale
                parameter.fill_(1)
        heads = [getattr(model, "head", None), getattr(getattr(model, "fov_model", None), "head", None)]
        for head, bias in zip(heads, (1.0, 60.0), strict=True):  # a field of view is in degrees
            biases = [m.bias for m in (head.modules() if head else ()) if isinstance(m, torch.nn.Conv2d)]
            if biases and biases[-1] is not None:
                biases[-1].fill_(bias)
    model.save_pretrained(folder)
    kind.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = build(KINDS[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    crops = china[100:, 200:], flower[150:, 250:], china[60:, 30:]
    return [crop[:height, :width].copy() for crop, (height, width) in zip(crops, _SHAPES, strict=True)]


def load(path: Path, kind: Kind, **options: Any) -> HubTeacher:
    return HubTeacher(str(path), "cpu", **{"aspect": "square" if kind.square else "keep"} | options)


def plainly(path: Path, photo: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """What the documentation of transformers says to do."""
    processor = AutoImageProcessor.from_pretrained(path)
    model = AutoModelForDepthEstimation.from_pretrained(path)
    inputs = processor(images=torch.from_numpy(photo).permute(2, 0, 1), return_tensors="pt", **settings)
    with torch.no_grad():
        outputs = model(**inputs)
    sizes = "source_sizes" if model.config.model_type == "zoedepth" else "target_sizes"
    result = processor.post_process_depth_estimation(outputs, **{sizes: [photo.shape[:2]]})
    return result[0]["predicted_depth"].clamp_min(0).numpy()


@pytest.mark.parametrize("name", KINDS)
def test_contract(name, folder, photos):
    kind = KINDS[name]
    teacher = load(folder(name), kind)
    assert (teacher.polarity, teacher.unit) == (kind.polarity, kind.unit)
    pixels = [teacher.prepare(photo) for photo in photos]
    alone = [teacher.estimate([p], [photo.shape[:2]])[0] for p, photo in zip(pixels, photos, strict=True)]
    for estimate, photo in zip(alone, photos, strict=True):
        assert estimate.shape == photo.shape[:2]
        assert estimate.dtype == np.float32
        assert np.isfinite(estimate).all()
        assert estimate.min() >= 0
        assert estimate.std() > 0.005 * estimate.mean() > 0
        np.testing.assert_allclose(estimate, plainly(folder(name), photo, kind.plain), rtol=1e-4, atol=1e-6)
    together = teacher.estimate([pixels[0], pixels[2]], [_SHAPES[0], _SHAPES[2]])
    for one, other in zip(together, (alone[0], alone[2]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert np.abs(alone[0] - alone[2]).max() > 1e-3 * alone[0].mean()
    identity = json.loads(json.dumps(teacher.identity()))
    assert identity["model_type"] == teacher.model.config.model_type
    assert identity["weights_sha256"] == load(folder(name), kind).identity()["weights_sha256"]


@pytest.mark.parametrize("dtype", ["fp16", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_half_precision(name, dtype, folder, photos):
    full, half = load(folder(name), KINDS[name]), load(folder(name), KINDS[name], dtype=dtype)
    assert half.identity()["dtype"] == {"fp16": "float16"}.get(dtype, dtype)
    assert half.identity()["weights_sha256"] == full.identity()["weights_sha256"]
    pixels, sizes = [full.prepare(photos[0])], [_SHAPES[0]]
    expected, estimate = full.estimate(pixels, sizes)[0], half.estimate(pixels, sizes)[0]
    assert np.isfinite(estimate).all()
    assert np.abs(estimate - expected).mean() < 0.1 * expected.mean()


def test_every_type_in_the_manifest_is_tested():
    untested = set(data_manifests.load("teachers")["types"]) - {name.split("-")[0] for name in KINDS}
    assert untested == (set() if hasattr(transformers, "Tipsv2DptConfig") else {"tipsv2_dpt"})


# --- size and aspect ------------------------------------------------------------------------------------------------

# What the model is shown of a 90x130 photograph.
_SEEN = [
    ("depth_anything", {}, (56, 84)),
    ("depth_anything", {"aspect": "square"}, (56, 56)),
    ("depth_anything", {"size": 224}, (154, 224)),  # smaller than 224: the long side fits
    ("depth_anything", {"size": 70}, (70, 98)),  # larger: the short side
    ("depth_anything", {"size": 224, "aspect": "square"}, (224, 224)),
    ("prompt_depth_anything", {"size": 70}, (70, 98)),
    ("dpt-vit", {}, (64, 64)),
    ("dpt-vit", {"size": 96}, (96, 96)),
    ("dpt-beit", {"size": 96}, (96, 144)),
    ("dpt-dinov2", {"size": 70}, (70, 98)),
    ("dpt-hybrid", {}, (64, 64)),
    ("dpt-swinv2", {"size": 64}, (64, 64)),
    ("glpn", {}, (64, 128)),
    ("zoedepth", {}, (64, 96)),
    ("zoedepth", {"size": 96, "aspect": "square"}, (96, 96)),
    ("zoedepth-two-heads", {}, (64, 96)),
    ("depth_pro", {}, (128, 128)),
    ("tipsv2_dpt", {"size": 70}, (70, 70)),
]


@pytest.mark.parametrize(("name", "options", "seen"), _SEEN)
def test_what_the_model_sees(name, options, seen, folder, photos):
    if name not in KINDS:
        pytest.skip("this transformers does not have it")
    teacher = load(folder(name), KINDS[name], **options)
    pixels = teacher.prepare(photos[0])
    assert pixels.shape == (3, *seen)
    estimate = teacher.estimate([pixels], [_SHAPES[0]])[0]
    assert estimate.std() > 0.005 * estimate.mean() > 0
    settings = KINDS[name].plain
    if "size" in options:
        settings = settings | {"size": _square(options["size"])}
    if "aspect" in options:
        settings = settings | {"keep_aspect_ratio": False}
    np.testing.assert_allclose(estimate, plainly(folder(name), photos[0], settings), rtol=1e-4, atol=1e-6)
    identity = teacher.identity()
    assert (identity["size"], identity["aspect"]) == (options.get("size"), teacher.aspect)
    if "size" in options:
        assert dict(identity["processor"]["size"]) == _square(options["size"])


@pytest.mark.parametrize("name", ["depth_anything", "depth_anything-metric", "prompt_depth_anything"])
def test_nothing_is_floored_after_preparing(name, folder, photos):
    """DepthAnything floors a side that is no multiple of its patch, and transformers lets it: 225 gives 224."""
    teacher = load(folder(name), KINDS[name])
    for photo in photos:
        pixels = teacher.prepare(photo)[None]
        assert teacher.model(pixel_values=pixels).predicted_depth.shape[-2:] == pixels.shape[-2:]
    floored = teacher.model(pixel_values=torch.zeros(1, 3, 57, 71)).predicted_depth
    assert floored.shape[-2:] == (56, 70)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("depth_anything", {"size": 225}, "multiple of 14 .* got 225: use 224 or 238"),
        ("depth_anything", {"size": 9}, "use 14$"),
        ("depth_anything", {"size": 225, "aspect": "square"}, "multiple of 14"),
        ("dpt-beit", {"size": 100}, "use 96 or 112"),
        ("zoedepth-two-heads", {"size": 48}, "use 32 or 64"),
        ("zoedepth", {"aspect": "square"}, "its own size is 64x96; give a --teacher-size"),
        ("dpt-vit", {"aspect": "keep"}, "squares only: add --teacher-aspect square"),
        ("dpt-hybrid", {"aspect": "keep"}, "squares only"),
        ("dpt-hybrid", {"size": 80}, "works at 64 px only, got --teacher-size 80"),
        ("dpt-swinv2", {"size": 128}, "works at 64 px only"),
        ("depth_pro", {"aspect": "keep"}, "squares only"),
        ("depth_pro", {"size": 256}, "works at 128 px only"),
        ("glpn", {"size": 224}, "its own size, floored to multiples of 32"),
        ("glpn", {"aspect": "square"}, "its own size, floored to multiples of 32"),
        ("depth_anything", {"size": 0}, "--teacher-size must be at least 1, got 0"),
        ("depth_anything", {"size": -14}, "at least 1"),
        ("depth_anything", {"aspect": "crop"}, "--teacher-aspect must be keep or square, got 'crop'"),
        ("depth_anything", {"dtype": "float64"}, "--dtype must be auto, float32, float16 or bfloat16, got 'float64'"),
        ("depth_anything", {"threads": 0}, "--threads must be 1 to 1024"),
        ("depth_anything", {"revision": "main"}, "local folder, which has no revisions"),
    ],
)
def test_refusals(name, options, message, folder):
    with pytest.raises(TeacherError, match=message) as refusal:
        load(folder(name), KINDS[name], **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "shape"), [("dpt-vit", (64, 96)), ("dpt-hybrid", (96, 96)), ("depth_pro", (96, 96))])
def test_what_is_refused_does_not_work(name, shape, folder):
    teacher = load(folder(name), KINDS[name])
    with pytest.raises((RuntimeError, ValueError)):
        teacher.model(pixel_values=torch.zeros(1, 3, *shape))


@pytest.mark.parametrize("name", ["depth_anything", "glpn", "zoedepth"])
def test_a_photograph_thinner_than_a_patch_is_refused(name, folder):
    teacher = load(folder(name), KINDS[name])
    for thin in (np.zeros((10, 200, 3), np.uint8), np.zeros((200, 10, 3), np.uint8)):
        with pytest.raises(UnfitImage, match="too thin"):
            teacher.prepare(thin)


# --- quirks ---------------------------------------------------------------------------------------------------------


def change(path: Path, copy: Path, name: str = "preprocessor_config.json", **values: Any) -> Path:
    shutil.copytree(path, copy)
    facts = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(facts | values))
    return copy


def test_bicubic_undershoot_is_clamped(folder, photos, monkeypatch):
    teacher = load(folder("depth_anything"), KINDS["depth_anything"])
    step = torch.zeros(1, 8, 8)
    step[..., 4:] = 1
    monkeypatch.setattr(teacher, "_forward", lambda pixel_values: transformers.modeling_outputs.DepthEstimatorOutput(
        predicted_depth=step.clone()))  # fmt: skip
    upsampled = torch.nn.functional.interpolate(step[None], (40, 40), mode="bicubic")[0, 0]
    assert upsampled.min() < -0.05
    estimate = teacher.estimate([teacher.prepare(photos[0])], [(40, 40)])[0]
    np.testing.assert_array_equal(estimate, upsampled.clamp_min(0).numpy())
    step[0, 0, 0] = math.nan  # is the caller's to see
    assert np.isnan(teacher.estimate([teacher.prepare(photos[0])], [(8, 8)])[0][0, 0])


def test_glpn_is_not_normalised(folder):
    teacher = load(folder("glpn"), KINDS["glpn"])
    assert torch.all(teacher.prepare(np.full((64, 64, 3), 255, np.uint8)) == 1)


def test_zoedepth_strips_its_padding(folder, photos):
    teacher = load(folder("zoedepth"), KINDS["zoedepth"])
    pixels = teacher.prepare(photos[0])
    raw = teacher.model(pixel_values=pixels[None]).predicted_depth[None]
    stretched = torch.nn.functional.interpolate(raw, _SHAPES[0], mode="bicubic")[0, 0].numpy()
    estimate = teacher.estimate([pixels], [_SHAPES[0]])[0]
    assert np.abs(estimate - stretched).max() > 0.01 * estimate.mean()
    pad = int(math.sqrt(90 / 2) * 3), int(math.sqrt(130 / 2) * 3)
    padded = torch.nn.functional.interpolate(raw, (90 + 2 * pad[0], 130 + 2 * pad[1]), mode="bicubic")[0, 0]
    np.testing.assert_allclose(estimate, padded[pad[0] : -pad[0], pad[1] : -pad[1]].numpy(), rtol=1e-5)


def test_zoedepth_images_of_a_batch_do_not_vote_for_each_other(folder, photos):
    teacher = load(folder("zoedepth-two-heads"), KINDS["zoedepth-two-heads"])
    pixels = [teacher.prepare(photo) for photo in (photos[0], photos[2])]
    votes = teacher.model(pixel_values=torch.stack(pixels)).domain_logits
    lead = votes[:, 0] - votes[:, 1]
    teacher.model.metric_head.mlp_classifier.linear2.bias[1] += lead.mean()  # now one votes for each head
    sizes = [_SHAPES[0], _SHAPES[2]]
    alone = [teacher.estimate([p], [size])[0] for p, size in zip(pixels, sizes, strict=True)]
    together = teacher.model(pixel_values=torch.stack(pixels)).predicted_depth
    single = [teacher.model(pixel_values=p[None]).predicted_depth[0] for p in pixels]
    assert max(float((a - b).abs().max()) for a, b in zip(together, single, strict=True)) > 0.02
    for one, other in zip(teacher.estimate(pixels, sizes), alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_depthpro_gives_metres_by_its_field_of_view(folder, photos):
    teacher = load(folder("depth_pro"), KINDS["depth_pro"])
    pixels = teacher.prepare(photos[0])
    outputs = teacher.model(pixel_values=pixels[None])
    degrees = float(outputs.field_of_view)
    focal = 0.5 / math.tan(math.radians(degrees) / 2)  # in widths
    inverse = torch.nn.functional.interpolate(outputs.predicted_depth[None], _SHAPES[0], mode="bilinear")[0, 0]
    estimate = teacher.estimate([pixels], [_SHAPES[0]])[0]
    assert abs(focal - 1) > 0.05
    np.testing.assert_allclose(estimate, focal / inverse.clamp_min(1e-4 * focal).numpy(), rtol=1e-4)


def test_depthpro_without_field_of_view_is_refused(tmp_path):
    kind = Kind(lambda: _pro(use_fov_model=False), KINDS["depth_pro"].processor, _FARTHER, "m")
    with pytest.raises(TeacherError, match="no field-of-view head"):
        HubTeacher(str(build(kind, tmp_path)), "cpu", aspect="square")


def test_a_processor_that_pads_instead_of_resizing(folder, photos, tmp_path):
    """Like facebook/dpt-dinov2-*-nyu: transformers would leave the padding in the depth."""
    path = change(folder("dpt-dinov2"), tmp_path / "pads", do_resize=False, do_pad=True, size_divisor=32)
    with pytest.raises(TeacherError, match="no size of its own: give --teacher-size"):
        HubTeacher(str(path), "cpu")
    assert HubTeacher(str(path), "cpu", size=70).prepare(photos[0]).shape == (3, 70, 98)


@pytest.mark.parametrize("name", ["depth_anything", "dpt-vit", "zoedepth"])
def test_weights_that_nothing_uses_may_be_absent(name, folder, photos, tmp_path):
    """Intel/dpt-large lacks them; transformers then draws them anew on every load."""
    shutil.copytree(folder(name), tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "fusion_stage.layers.0.residual_layer1" not in k}
    assert len(kept) == len(weights) - 4
    save_file(kept, tmp_path / "copy" / "model.safetensors", {"format": "pt"})
    whole, partial, again = (load(p, KINDS[name]) for p in (folder(name), *[tmp_path / "copy"] * 2))
    assert partial.identity()["weights_sha256"] == again.identity()["weights_sha256"]
    pixels = whole.prepare(photos[0])
    estimates = [teacher.estimate([pixels], [_SHAPES[0]])[0] for teacher in (whole, partial)]
    np.testing.assert_array_equal(*estimates)


# --- how it runs ----------------------------------------------------------------------------------------------------


def test_threads_are_ours_and_only_for_the_call(folder, photos):
    kind, before = KINDS["depth_anything"], torch.get_num_threads()
    teacher = load(folder("depth_anything"), kind, size=224)
    assert teacher.identity()["num_threads"] == usable_cpus()
    assert load(folder("depth_anything"), kind, threads=3).identity()["num_threads"] == 3
    seen = []
    teacher.model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    results = []
    try:
        for outside in (1, 2):
            torch.set_num_threads(outside)
            results.append(teacher.estimate([teacher.prepare(photos[0])], [_SHAPES[0]])[0])
            assert torch.get_num_threads() == outside
    finally:
        torch.set_num_threads(before)
    assert seen == [teacher.threads] * 2
    np.testing.assert_array_equal(*results)


def test_preparing_in_many_threads_changes_nothing(folder, photos):
    from concurrent.futures import ThreadPoolExecutor

    teacher = load(folder("depth_anything"), KINDS["depth_anything"], size=518)
    expected = [teacher.prepare(photo) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        for position, pixels in enumerate(pool.map(teacher.prepare, photos * 4)):
            assert torch.equal(pixels, expected[position % len(photos)])


def test_automatic_dtype_and_device(folder):
    teacher = HubTeacher(str(folder("depth_anything")))
    on_gpu = torch.cuda.is_available()
    assert teacher.device.type == ("cuda" if on_gpu else "cpu")
    identity = teacher.identity()
    assert identity["dtype"] == ("float16" if on_gpu else "float32")
    assert (identity["num_threads"] is None) == on_gpu


def test_revision_is_pinned_and_recorded(folder, tmp_path, monkeypatch):
    """Two commits of one repository in a hub cache, without a network."""
    later = change(folder("depth_anything-metric"), tmp_path / "later", size=_square(70))
    commits = {"a" * 40: folder("depth_anything"), "b" * 40: later}
    repository = tmp_path / "models--someone--depth"
    for commit, path in commits.items():
        shutil.copytree(path, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    newest, pinned = HubTeacher("someone/depth", "cpu"), HubTeacher("someone/depth", "cpu", revision="a" * 40)
    assert (newest.identity()["revision"], newest.unit) == ("b" * 40, "m")
    assert (pinned.identity()["revision"], pinned.unit) == ("a" * 40, "relative inverse depth")
    assert [dict(teacher.processor.size) for teacher in (newest, pinned)] == [_square(70), _square(56)]
    with pytest.raises(TeacherError, match=r"at revision cccccccc.* nor reachable on the hub"):
        HubTeacher("someone/depth", "cpu", revision="c" * 40)
    with pytest.raises(TeacherError, match=r"nor reachable on the hub .* or use --against toy$"):
        open_teacher("someone/depth", "cpu", revision="c" * 40, given_as="--against")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch 2.11 deprecates its own
def test_compiled_equals_eager(folder, photos):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    eager, compiled = (load(folder("depth_anything"), KINDS["depth_anything"], compile=c) for c in (False, True))
    assert compiled.identity() == eager.identity() | {"compile": True}
    pixels, sizes = [eager.prepare(photos[0])], [_SHAPES[0]]
    np.testing.assert_allclose(
        compiled.estimate(pixels, sizes)[0], eager.estimate(pixels, sizes)[0], rtol=1e-3, atol=1e-4
    )


def test_compiling_without_a_compiler_is_refused(folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TeacherError, match=r"--compile needs a C\+\+ compiler"):
        load(folder("depth_anything"), KINDS["depth_anything"], compile=True)


# --- what is no teacher ---------------------------------------------------------------------------------------------


def test_broken_folders_end_in_one_line(folder, tmp_path):
    path = folder("depth_anything")
    cases = {
        "not a depth model": change(path, tmp_path / "type", "config.json", depth_estimation_type="guess"),
        "weights do not fit its config.json": change(path, tmp_path / "wide", "config.json", fusion_hidden_size=12),
    }
    (empty := tmp_path / "no-processor").mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(path / file, empty)
    cases["no-processor"] = empty
    for message, broken in cases.items():
        with pytest.raises(TeacherError, match=message) as refusal:
            HubTeacher(str(broken), "cpu")
        assert "\n" not in str(refusal.value)


def test_a_type_that_the_manifest_does_not_know_is_refused(folder, monkeypatch):
    manifest = {"types": {"glpn": {}}, "default": "somebody/depth"}
    monkeypatch.setattr(data_manifests, "load", lambda name: manifest)
    with pytest.raises(TeacherError, match="of type 'depth_anything'; polarity and unit are known for glpn"):
        HubTeacher(str(folder("depth_anything")), "cpu")
