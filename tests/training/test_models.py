"""One contract over every variant, the golden sizes, and compiled against eager."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from training.engine.describe import count_macs
from training.models.attention import Recorder
from training.models.fusion.mlin import head_scale
from training.models.patch_depth import patch_depth, signed_difference, token_depth
from training.models.registry import MONIKERS
from training.tasks.classification.config import resolve
from training.tasks.classification.task import PreTraining

TINY = ("model.image_size=32", "model.width=24", "model.depth=2", "model.heads=3")

# Parameters that get no gradient, by the start of their names, and why. Everything else must get one.
NO_GRADIENT = {
    # What mdf1's last DFormer block would make of the depth tokens, which nobody reads; kept for the published count.
    "mdf1": (
        "fusion.0.attn.proj_e.",
        "fusion.0.mlp_e2.",
        "fusion.0.layer_scale_1_e",
        "fusion.0.layer_scale_2_e",
    ),
}


def tiny(moniker: str):
    return resolve("tiny", moniker, TINY, num_classes=5).model


def redrawn(model: nn.Module, dtype=torch.float32) -> nn.Module:
    """Every parameter from N(0, 0.02) + something, or a zero head compares zeros with zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def inputs(size=32, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randn(batch, 3, size, size, generator=generator, dtype=dtype)
    depth = torch.randn(batch, 1, size, size, generator=generator, dtype=dtype)
    return rgb, depth


@pytest.mark.parametrize(
    ("moniker", "parameters", "macs"),
    [
        ("m3ch", 86_567_656, 17_563_828_224),
        ("mlin", 86_567_668, 17_563_828_224),
        ("mmlp", 86_568_808, 17_563_828_224),  # φ is not made of products: see its docstring
        ("m4ch", 86_764_264, 17_563_828_224 + 196 * 256 * 768),
        ("mdf1", 103_039_336, 19_934_324_736),  # the dead tail is not computed; with it: test_fusion_blocks.py
        # 16 C² a pair of tokens where the literal form takes 18, and W_v n_v of both directions; C = 384.
        ("mgem", 71_613_928, 16_822_609_920 - 4 * 196 * 2 * 384**2 + 4 * 2 * 384**2),
    ],
)
def test_golden_sizes_at_vit_b16(moniker, parameters, macs):
    config = resolve("thesis", moniker)
    with torch.device("meta"):
        model = config.model.build()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert count_macs(PreTraining(config)) == macs


@pytest.mark.parametrize(("moniker", "expected"), [("m4ch", [0.2, 0.4, 0.6]), ("mgem", [0.2, 0.4, 0.6])])
def test_drop_path_rises_over_plain_blocks_and_acts_in_training_alone(moniker, expected):
    """Of mgem's four blocks the first has two branches and none."""
    config = tiny(moniker).model_copy(update={"drop_path": 0.6, "depth": 4})
    model, plain = redrawn(config.build()), redrawn(config.model_copy(update={"drop_path": 0.0}).build())
    model.load_state_dict(plain.state_dict())
    rates = [each.p for each in model.modules() if isinstance(each, StochasticDepth)]
    assert rates == pytest.approx(expected)
    rgb, depth = inputs()
    assert torch.equal(model.eval()(rgb, depth), plain.eval()(rgb, depth))
    model.train()
    assert not torch.equal(model(rgb, depth), model(rgb, depth))
    assert torch.equal(plain.train()(rgb, depth), plain(rgb, depth))


@pytest.mark.parametrize("moniker", MONIKERS)
def test_contract(moniker):
    model = redrawn(tiny(moniker).build())
    rgb, depth = inputs()
    logits = model(rgb, depth)
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()
    logits.square().sum().backward()
    exempt = NO_GRADIENT.get(moniker, ())
    for name, parameter in model.named_parameters():
        if name.startswith(exempt):
            assert not parameter.requires_grad, name
            continue
        assert parameter.grad is not None, name
        # Nothing reads the last block's bias: see test_nothing_reads_the_last_blocks_bias.
        assert parameter.grad.abs().sum() > 0 or name.startswith("phi.1."), name
    assert all(any(name.startswith(e) for name, _ in model.named_parameters()) for e in exempt)
    again = tiny(moniker).build()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(rgb, depth), logits, rtol=0, atol=0)


@pytest.mark.parametrize("moniker", MONIKERS)
def test_depth_reaches_the_logits_of_all_but_m3ch(moniker):
    model = redrawn(tiny(moniker).build())
    rgb, depth = inputs()
    changed = (model(rgb, depth) - model(rgb, depth.flip(3))).abs().max()
    assert (changed == 0) == (moniker == "m3ch")


@pytest.mark.parametrize("moniker", MONIKERS)
def test_missing_depth_is_the_mean_in_channels_and_no_bias_in_scores(moniker):
    model = redrawn(tiny(moniker).build())
    rgb, depth = inputs()
    holes = depth.clone()
    holes[:, :, :8, :8] = torch.nan
    filled = holes.nan_to_num(0.0)
    logits = model(rgb, holes)
    assert torch.isfinite(logits).all()
    if moniker in ("m4ch", "mdf1", "mgem"):
        torch.testing.assert_close(logits, model(rgb, filled))
    if model.has_bias:
        bias = model.biases(holes)[0].dense()
        assert (bias[:, :, 1] == 0).all()  # the patch without a valid pixel
        assert (bias[:, :, :, 1] == 0).all()
        assert (bias[:, :, 2, 3:] != 0).any()


@pytest.mark.parametrize("moniker", MONIKERS)
def test_patterns_sum_to_one_and_taps_see_what_acts(moniker):
    model = redrawn(tiny(moniker).build(), torch.float64)
    rgb, depth = inputs(dtype=torch.float64)
    taps = Recorder()
    explicit = model(rgb, depth, taps)
    torch.testing.assert_close(explicit, model(rgb, depth), rtol=1e-10, atol=1e-10)
    last = f"blocks.{model.config.depth - 1}.attn"
    scores = taps[f"{last}.scores_pre_bias"]
    assert scores.shape == (2, 3, 17, 17)
    assert (f"{last}.bias" in taps) == model.has_bias
    assert len(model.biases(depth)) == len(model.blocks)
    pattern = (scores + taps.get(f"{last}.bias", 0)).softmax(-1)
    torch.testing.assert_close(taps[f"{last}.pattern"], pattern)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, 17, dtype=torch.float64))


@pytest.mark.parametrize("moniker", MONIKERS)
def test_what_taps_return_goes_on_from_there(moniker):
    model = redrawn(tiny(moniker).build())
    rgb, depth = inputs()
    seen = Recorder()
    logits = model(rgb, depth, seen)
    two_branches = moniker in ("mdf1", "mgem")
    assert ("blocks.0.rgb.resid_post" in seen) == ("blocks.0.depth.resid_post" in seen) == two_branches
    assert ("blocks.0.resid_post" in seen) != two_branches
    unread = f"blocks.{model.config.fusion_blocks - 1}.depth.resid_post" if moniker == "mdf1" else ""
    for name, tensor in seen.items():
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        changed = model(rgb, depth, lambda at, value, name=name, noise=noise: value + noise if at == name else value)
        assert torch.equal(changed, logits) == (name == unread), name
        assert tensor.shape[0] == len(rgb)


def logits_and_gradients(run, model, rgb, depth) -> list[torch.Tensor]:
    model.zero_grad()
    logits = run(rgb, depth)
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def assert_compiled_equals_eager(moniker, backend):
    model = redrawn(tiny(moniker).build())
    rgb, depth = inputs()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    eager = logits_and_gradients(model, model, rgb, depth)
    for ours, theirs in zip(logits_and_gradients(compiled, model, rgb, depth), eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max() + 1))


@pytest.mark.parametrize("moniker", MONIKERS)
def test_compiled_equals_eager(moniker):
    assert_compiled_equals_eager(moniker, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("moniker", ["mlin", "mgem"])
def test_inductor_equals_eager(moniker):
    assert_compiled_equals_eager(moniker, "inductor")


# A depthwise weight's second dimension has size 1, so its stride means nothing; DDP compares it all the same.
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning")
@pytest.mark.parametrize("moniker", MONIKERS)
def test_two_steps_under_ddp(moniker, tmp_path):
    """DDP waits for a gradient of every trainable parameter, and complains in the next step where one is missing."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(redrawn(tiny(moniker).build()))
        for _ in range(2):
            model(*inputs()).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()


# --- depth ---------------------------------------------------------------------------------------------------------


def test_center4_is_the_bilinear_resize_and_mean_the_area_resize():
    depth = torch.randn(2, 1, 224, 224, dtype=torch.float64)
    for mode, interpolation in (("center4", {"mode": "bilinear", "align_corners": False}), ("mean", {"mode": "area"})):
        expected = nn.functional.interpolate(depth, (14, 14), **interpolation).flatten(1)
        torch.testing.assert_close(patch_depth(depth, 16, mode), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["mean", "center4"])
def test_patch_depth_leaves_invalid_pixels_out(mode):
    depth = torch.full((1, 1, 8, 8), 3.0)
    depth[..., :4, :4] = torch.nan
    depth[..., 2, 6] = torch.nan
    values = patch_depth(depth, 4, mode)[0]
    assert values[0].isnan()
    torch.testing.assert_close(values[1:], torch.full((3,), 3.0))


def test_difference_is_signed_and_leaves_the_class_token_out():
    difference = signed_difference(token_depth(torch.tensor([[1.0, 3.0, torch.nan]])))[0]
    expected = torch.tensor([[0, 0, 0, 0], [0, 0, -2, 0], [0, 2, 0, 0], [0, 0, 0, 0]], dtype=torch.float32)
    torch.testing.assert_close(difference, expected)


def test_mlin_bias_has_the_right_sign_and_scale():
    scale = head_scale(2.0, 4.0, heads=12)
    assert (scale < 0).all()
    assert scale[0].item() == pytest.approx(-0.288, abs=5e-4)
    assert scale[-1].item() == pytest.approx(-0.0199, abs=5e-4)
    model = tiny("mlin").build()
    _, depth = inputs()
    bias = model.biases(depth)[1].dense().detach().numpy()
    assert bias.shape == (2, 3, 17, 17)
    assert (bias[:, :, 0] == 0).all()
    assert (bias[:, :, :, 0] == 0).all()
    assert (bias <= 0).all()
    patches = patch_depth(depth, 8, "mean")[0].numpy()
    expected = model.head_scale.numpy()[:, None, None] * np.abs(patches[:, None] - patches[None])
    np.testing.assert_allclose(bias[0, :, 1:, 1:], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("moniker", ["mlin", "mmlp"])
def test_starts_as_m3ch_but_for_its_bias(moniker):
    torch.manual_seed(3)
    plain = tiny("m3ch").build()
    torch.manual_seed(3)
    biased = tiny(moniker).build()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter, biased.get_parameter(name), rtol=0, atol=0)
