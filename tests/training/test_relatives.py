"""DFormer-Tiny and DFormerv2-Small: published sizes, literal models, missing depth."""

import json

import pytest
import torch
from literal_relatives import literal_dformer, literal_dformerv2
from pydantic import ValidationError
from tiny_relatives import BOTH, DFORMER, DFORMERV2, PUBLISHED, TINY, layout, redrawn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

from training.models.ham import LightHam
from training.models.relatives.dformer import DFormerTinyConfig
from training.models.relatives.dformerv2 import DFormerV2SmallConfig


def inputs(batch=2, height=64, width=96, dtype=torch.float64):
    """With a hole in the depth that leaves cells of every grid without, and lone invalid pixels."""
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randn(batch, 3, height, width, generator=generator, dtype=dtype)
    depth = torch.randn(batch, 1, height, width, generator=generator, dtype=dtype)
    depth[0, :, 8:60, 30:80] = torch.nan
    depth[torch.rand(depth.shape, generator=generator) < 0.2] = torch.nan
    return rgb, depth


@pytest.mark.parametrize(
    ("kind", "in_backbone", "in_head"),
    [(DFormerTinyConfig, 4_964_000, 1_039_912), (DFormerV2SmallConfig, 25_416_730, 1_269_288)],
)
def test_published_numbers_of_parameters(kind, in_backbone, in_head):
    with torch.device("meta"):
        backbone = kind().build()
        head = LightHam(backbone.channels[1:], 40)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == in_backbone
    assert sum(parameter.numel() for parameter in head.parameters()) == in_head
    assert backbone.channels == kind().dims


@pytest.mark.parametrize(
    ("kind", "in_backbone", "in_head"),
    [(DFormerTinyConfig, 6_815_677_440, 7_974_420_480), (DFormerV2SmallConfig, 31_505_203_200, 9_075_425_280)],
)
def test_costs_at_480_by_640(kind, in_backbone, in_head):
    """Multiplications and additions of convolutions and matrix products; 3.0 G of the head are the factorisation's."""
    with torch.device("meta"):
        backbone = kind().build().eval()
        head = LightHam(backbone.channels[1:], 40).eval()
        rgb, depth = torch.zeros(1, 3, 480, 640), torch.zeros(1, 1, 480, 640)
    with FlopCounterMode(display=False) as counter:
        maps = backbone(rgb, depth)
    assert counter.get_total_flops() == 2 * in_backbone
    with FlopCounterMode(display=False) as counter:
        assert head(maps[1:]).shape == (1, 40, 60, 80)
    assert counter.get_total_flops() == 2 * in_head


@pytest.mark.parametrize(("kind", "name"), PUBLISHED)
def test_names_and_shapes_are_those_of_the_authors_checkpoints(kind, name):
    with torch.device("meta"):
        backbone = kind().build()
        head = LightHam(backbone.channels[1:], 40)
    for module, part in ((backbone, "backbone"), (head, "decode_head")):
        assert {key: list(value.shape) for key, value in module.state_dict().items()} == layout(name)[part]


@BOTH
def test_equal_to_the_literal_model_in_every_gradient(config):
    model = redrawn(config.build())
    literal = literal_dformer if config is DFORMER else literal_dformerv2
    rgb, depth = inputs()
    rgb.requires_grad_()
    names, parameters = zip(*model.named_parameters(), strict=True)
    results = []
    for function in (model, lambda rgb, depth: literal(model, rgb, depth)):
        maps = function(rgb, depth)
        generator = torch.Generator().manual_seed(2)
        weights = [torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in maps]
        total = sum((each * weight).sum() for each, weight in zip(maps, weights, strict=True))
        results.append((maps, torch.autograd.grad(total, [rgb, *parameters])))
    (fast, fast_gradients), (slow, slow_gradients) = results
    assert [tuple(each.shape[1:]) for each in fast] == [(8, 16, 24), (8, 8, 12), (12, 4, 6), (16, 2, 3)]
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    for name, ours, theirs in zip(["rgb", *names], fast_gradients, slow_gradients, strict=True):
        largest = float(theirs.abs().max())
        assert largest > 1e-6, name
        torch.testing.assert_close(
            ours, theirs, rtol=1e-8, atol=1e-9 * largest, msg=lambda m, name=name: f"{name}: {m}"
        )


@BOTH
def test_gradient_reaches_every_parameter_in_training(config):
    """The last DFormer block has no parameters for a depth output, so none is left without."""
    model = redrawn(config.build(), torch.float32).train()
    sum(each.square().mean() for each in model(*inputs(dtype=torch.float32))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert not any(name.startswith("stages.3.1.") and "_e" in name.split(".")[-1] for name in model.state_dict())


def test_dformer_reads_invalid_depth_as_zero():
    model, (rgb, depth) = redrawn(DFORMER.build()), inputs()
    for ours, theirs in zip(model(rgb, depth), model(rgb, depth.nan_to_num(0.0)), strict=True):
        assert torch.equal(ours, theirs) and ours.isfinite().all()


def test_dformerv2_leaves_invalid_depth_out():
    """No valid pixel at all is like one depth everywhere; pixels the resize does not read change nothing."""
    model, (rgb, depth) = redrawn(DFORMERV2.build()), inputs()
    nowhere = model(rgb, torch.full_like(depth, torch.nan))
    for ours, theirs, seen in zip(nowhere, model(rgb, torch.ones_like(depth)), model(rgb, depth), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert (ours - seen).abs().max() > 1e-3
    valid = depth.nan_to_num(0.5)
    lone = valid.clone()
    lone[:, :, 1, 1] = torch.nan  # one of the four that cell (0, 0) of stride 4 reads, and no other cell of any grid
    filled = valid.clone()
    filled[:, :, 1, 1] = (valid[:, :, 1, 2] + valid[:, :, 2, 1] + valid[:, :, 2, 2]) / 3
    for ours, theirs in zip(model(rgb, lone), model(rgb, filled), strict=True):
        torch.testing.assert_close(ours, theirs)
    unread = valid.clone()
    unread[:, :, 0, :] = torch.nan
    for ours, theirs in zip(model(rgb, unread), model(rgb, valid), strict=True):
        assert torch.equal(ours, theirs)


def test_constants_of_dformerv2():
    geo = DFormerV2SmallConfig(**TINY | {"heads": (1, 2, 3, 4)}).build().layers[3].blocks[0].Geo
    expected = [torch.log1p(torch.tensor(-(2.0 ** (-2 - 6 * head / 4)), dtype=torch.float64)) for head in range(4)]
    torch.testing.assert_close(geo.decay.double(), torch.stack(expected), rtol=1e-6, atol=0)
    assert (geo.decay < 0).all() and geo.angle.tolist() == pytest.approx([1, 1, 1e-4, 1e-4])


@BOTH
@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_is_near_and_finite(config, training):
    model, (rgb, depth) = redrawn(config.build(), torch.float32).train(training), inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(rgb, depth)
    sum(each.float().square().mean() for each in rough).backward()
    for ours, theirs in zip(rough, model(rgb, depth), strict=True):
        assert (ours.float() - theirs).norm() < 0.05 * theirs.norm()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@BOTH
def test_compiled_equals_eager(config):
    short = {"depths": (1, 1, 1, 1)}  # a graph has every block by itself
    model, (rgb, depth) = redrawn(config.model_copy(update=short).build()), inputs()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for ours, theirs in zip(compiled(rgb, depth), model(rgb, depth), strict=True):
            torch.testing.assert_close(ours, theirs)


@BOTH
def test_drop_path_rises_from_block_to_block_and_acts_in_training_alone(config):
    model = redrawn(config.model_copy(update={"drop_path": 0.5}).build(), torch.float32)
    rates = [module.p for module in model.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert all(module.mode == "row" for module in model.modules() if isinstance(module, StochasticDepth))
    rgb, depth = inputs(dtype=torch.float32)
    assert torch.equal(model(rgb, depth)[3], model(rgb, depth)[3])
    model.train()
    assert not torch.equal(model(rgb, depth)[3], model(rgb, depth)[3])


@pytest.mark.parametrize(
    ("kind", "setting", "complaint"),
    [
        (DFormerTinyConfig, {"dims": (30, 64, 128, 256)}, "must begin with a multiple of 4"),
        (DFormerTinyConfig, {"heads": (1, 2, 5, 8)}, "multiples of twice model.heads 5"),
        (DFormerV2SmallConfig, {"heads": (4, 4, 8, 15)}, "multiples of twice model.heads 15"),
        (DFormerV2SmallConfig, {"depths": (1, 2, 3)}, "Field required"),
        (DFormerV2SmallConfig, {"depths": (1, 2, 3, "4")}, "valid integer"),
        (DFormerV2SmallConfig, {"drop_path": 1.0}, "less than 1"),
        (DFormerTinyConfig, {"inputs": "bgr"}, "'dformer-greys' or 'dformer-linear'"),
        (DFormerTinyConfig, {"width": 3}, "Extra inputs"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, setting, complaint):
    with pytest.raises(ValidationError, match=complaint):
        kind(**setting)


@pytest.mark.parametrize("kind", [DFormerTinyConfig, DFormerV2SmallConfig])
def test_configs_survive_lists_and_json(kind):
    config = kind(dims=[8, 16, 16, 32], heads=[1, 2, 2, 4], inputs="dformer-greys")
    assert config.dims == (8, 16, 16, 32)
    assert kind.model_validate(json.loads(config.model_dump_json())) == config
    assert (DFormerTinyConfig().drop_path, DFormerV2SmallConfig().drop_path) == (0.1, 0.25)


@BOTH
def test_images_of_other_sizes_are_refused(config):
    model = config.build()
    with pytest.raises(ValueError, match="multiples of 32, got 64x80: pad"):
        model(torch.zeros(1, 3, 64, 80), torch.zeros(1, 1, 64, 80))
    with pytest.raises(ValueError, match="size 64x96, got 32x96"):
        model(torch.zeros(1, 3, 64, 96), torch.zeros(1, 1, 32, 96))
