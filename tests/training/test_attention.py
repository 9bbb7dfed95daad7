"""Every path of attention against the explicit one."""

import pytest
import torch
from torch import nn

from training.config import resolve
from training.models import attention as paths
from training.models.attention import Attention, AttentionError, set_attention
from training.models.score_bias import LinearBias, TableBias

HEADS, TOKENS = 3, 13
KINDS = ("none", "linear", "table")
TINY = ("model.image_size=32", "model.width=48", "model.depth=2", "model.heads=3")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def token_depths(batch=2, tokens=TOKENS, dtype=torch.float64):
    depths = 1.5 * torch.randn(batch, tokens, generator=generator(1), dtype=dtype)
    depths[:, 0] = torch.nan  # the class token
    depths[0, 4] = torch.nan  # a patch without valid depth
    return depths


def redrawn(module: nn.Module, dtype=torch.float64):
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator(10 + number)))
    return module.to(dtype)


def make_bias(kind, depths):
    """A bias and what of it gets a gradient."""
    coefficient = torch.tensor([-0.3, 0.8, -1.7], dtype=depths.dtype, device=depths.device, requires_grad=True)
    if kind == "none":
        return None, []
    if kind == "linear":
        return LinearBias(coefficient, depths), [coefficient]
    table = torch.randn(*depths.shape, depths.shape[1], generator=generator(4), dtype=depths.dtype).to(depths.device)
    missing = depths.isnan()
    table = table.masked_fill(missing[:, :, None] | missing[:, None, :], 0.0).requires_grad_()
    return TableBias(coefficient, table), [coefficient, table]


def outputs_and_gradients(path, kind, dtype=torch.float64, device="cpu", head_dim=16, tokens=TOKENS):
    """The output, then the gradients of the input, the attention's parameters and the bias's."""
    attention = redrawn(Attention(HEADS * head_dim, HEADS), dtype).to(device)
    x = torch.randn(2, tokens, HEADS * head_dim, generator=generator(2), dtype=torch.float64).to(device, dtype)
    weight = torch.randn(2, tokens, HEADS * head_dim, generator=generator(3), dtype=torch.float64).to(device, dtype)
    x.requires_grad_()
    # Depths and coefficients stay fp32 in training, also where q is bf16.
    depths = token_depths(tokens=tokens).to(device, torch.promote_types(dtype, torch.float32))
    bias, of_bias = make_bias(kind, depths)
    attention.requested = path
    out = attention(x, bias)
    return [out, *torch.autograd.grad((out * weight).sum(), [x, *attention.parameters(), *of_bias])]


@pytest.mark.parametrize("kind", KINDS)
def test_sdpa_equals_explicit_in_every_gradient(kind):
    for fused, explicit in zip(
        outputs_and_gradients("sdpa", kind), outputs_and_gradients("explicit", kind), strict=True
    ):
        assert explicit.abs().max() > 1e-6
        torch.testing.assert_close(fused, explicit, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("path", ["explicit", "sdpa"])
@pytest.mark.parametrize("kind", ["linear", "table"])
def test_no_path_drops_the_bias(path, kind):
    with_bias, without = outputs_and_gradients(path, kind)[0], outputs_and_gradients(path, "none")[0]
    assert (with_bias - without).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["linear", "table"])
def test_under_autocast_the_mask_is_of_the_dtype_of_q_and_aligned(kind, monkeypatch):
    reference = outputs_and_gradients("explicit", kind, torch.float32)
    seen = []
    fused = paths.F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask, scale):
        seen.append((q, attn_mask))
        return fused(q, k, v, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(paths.F, "scaled_dot_product_attention", spy)
    with torch.autocast("cpu", torch.bfloat16):
        results = outputs_and_gradients("sdpa", kind, torch.float32)
    [(q, mask)] = seen
    assert q.dtype == mask.dtype == torch.bfloat16
    assert mask.shape == (2, HEADS, TOKENS, TOKENS)
    assert mask.stride() == (HEADS * TOKENS * 16, TOKENS * 16, 16, 1)  # 13 keys in rows of 16
    for half, full in zip(results, reference, strict=True):
        assert (half - full).norm() / full.norm() < 0.03


def test_mask_keeps_nothing_per_head_for_backward():
    for kind in ("linear", "table"):
        bias, _ = make_bias(kind, token_depths())
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=saved: kept.append(t.numel()) or t, lambda t: t):
            bias.mask(torch.bfloat16)
        assert saved and max(saved) <= 2 * TOKENS * TOKENS


def test_taps_cost_nothing_when_off(monkeypatch):
    def refuse(*args):
        raise AssertionError("the explicit path ran")

    monkeypatch.setattr(Attention, "explicit", refuse)
    for kind in KINDS:
        outputs_and_gradients("auto", kind)
    with pytest.raises(AssertionError):
        outputs_and_gradients("explicit", "none")


# --- choice --------------------------------------------------------------------------------------------------------


def test_set_attention_reaches_every_block():
    model = resolve("tiny", "mlin", TINY).model.build()
    set_attention(model, "explicit")
    assert {block.attn.requested for block in model.blocks} == {"explicit"}
    with pytest.raises(AttentionError, match="must be one of"):
        set_attention(model, "flash")
    assert {block.attn.requested for block in model.blocks} == {"explicit"}


# --- compiled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moniker", ["mlin"])
def test_compiled_equals_eager_in_every_gradient(moniker):
    model = redrawn(resolve("tiny", moniker, TINY, num_classes=5).model.build(), torch.float64)
    rgb = torch.randn(2, 3, 32, 32, generator=generator(4), dtype=torch.float64)
    depth = torch.randn(2, 1, 32, 32, generator=generator(5), dtype=torch.float64)
    depth[0, :, :8, :8] = torch.nan
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        logits = run(rgb, depth)
        results.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    names = ["logits", *dict(model.named_parameters())]
    for name, eager, compiled in zip(names, *results, strict=True):
        assert eager.abs().max() > 0, name
        torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("moniker", ["mlin"])
def test_nothing_reads_the_last_blocks_bias(moniker):
    """Logits read the class token, whose row has no bias: what the last block adds for patches goes nowhere."""
    model = redrawn(resolve("tiny", moniker, TINY, num_classes=5).model.build(), torch.float32)
    rgb = torch.randn(2, 3, 32, 32, generator=generator(4))
    depth = torch.randn(2, 1, 32, 32, generator=generator(5))
    model(rgb, depth).square().sum().backward()
    blocks = model.alpha.grad
    assert (blocks[0] != 0).any()
    assert (blocks[1] == 0).all()
