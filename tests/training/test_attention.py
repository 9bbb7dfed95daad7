"""Every path of attention against the explicit one, and φ of mmlp against a literal network."""

import os
import subprocess
import sys

import pytest
import torch
from running import ROOT
from torch import nn

from training.models import attention as paths
from training.models.attention import Attention, AttentionError, choose_path, set_attention
from training.models.fusion.mmlp import GRID, Phi
from training.models.score_bias import LinearBias, TableBias
from training.tasks.classification.config import resolve

HEADS, TOKENS = 3, 13
KINDS = ("none", "mlin", "mmlp")
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
    if kind == "mlin":
        return LinearBias(coefficient, torch.ones((), dtype=depths.dtype, device=depths.device), depths), [coefficient]
    phi = redrawn(Phi(), depths.dtype).to(depths.device)
    return TableBias(coefficient, phi(depths)), [coefficient, *phi.parameters()]


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
@pytest.mark.parametrize("kind", ["mlin", "mmlp"])
def test_no_path_drops_the_bias(path, kind):
    with_bias, without = outputs_and_gradients(path, kind)[0], outputs_and_gradients(path, "none")[0]
    assert (with_bias - without).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["mlin", "mmlp"])
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
    for kind in ("mlin", "mmlp"):
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


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(paths, "_HAS_TRITON", True)
    monkeypatch.setattr(paths, "_INTERPRETED", False)
    good = {"device_type": "cuda", "dtype": torch.bfloat16, "head_dim": 64, "tokens": 197}
    assert choose_path("triton", **good) == "triton"
    assert choose_path("auto", **good) == "sdpa"
    for changed, reason in (
        ({"device_type": "cpu"}, "CUDA"), ({"dtype": torch.float32}, "got torch.float32"), ({"head_dim": 48}, "got 48"),
        ({"head_dim": 128}, "got 128"), ({"tokens": 257}, "256 tokens"),
    ):  # fmt: skip
        with pytest.raises(AttentionError, match=reason):
            choose_path("triton", **{**good, **changed})
        assert choose_path("auto", **{**good, **changed}) == "sdpa"
    monkeypatch.setattr(paths, "_HAS_TRITON", False)
    with pytest.raises(AttentionError, match="not installed"):
        choose_path("triton", **good)


def test_set_attention_reaches_every_block(monkeypatch):
    model = resolve("tiny", "mlin", TINY).model.build()
    set_attention(model, "explicit")
    assert {block.attn.requested for block in model.blocks} == {"explicit"}
    monkeypatch.setattr(paths, "_INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AttentionError, match="triton"):
        set_attention(model, "triton")
    with pytest.raises(AttentionError, match="must be one of"):
        set_attention(model, "flash")
    assert {block.attn.requested for block in model.blocks} == {"explicit"}


# --- compiled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moniker", ["mlin", "mmlp"])
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
        assert eager.abs().max() > 0 or name.startswith("phi.1.")  # see test_nothing_reads_the_last_blocks_bias
        torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("moniker", ["mlin", "mmlp"])
def test_nothing_reads_the_last_blocks_bias(moniker):
    """Logits read the class token, whose row has no bias: what the last block adds for patches goes nowhere."""
    model = redrawn(resolve("tiny", moniker, TINY, num_classes=5).model.build(), torch.float32)
    rgb = torch.randn(2, 3, 32, 32, generator=generator(4))
    depth = torch.randn(2, 1, 32, 32, generator=generator(5))
    model(rgb, depth).square().sum().backward()
    blocks = model.alpha.grad if moniker == "mlin" else [phi.fc1.weight.grad for phi in model.phi]
    assert (blocks[0] != 0).any()
    assert (blocks[1] == 0).all()


# --- φ -------------------------------------------------------------------------------------------------------------


def test_phi_equals_a_literal_network_in_every_gradient():
    phi = redrawn(Phi())
    with torch.no_grad():
        phi.fc1.weight[:3] = 0.0  # units that Δ cannot switch: on, off, and exactly between
        phi.fc1.bias[:3] = torch.tensor([0.7, -0.7, 0.0])
    literal = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1, bias=False)).double()
    literal.load_state_dict({"0.weight": phi.fc1.weight, "0.bias": phi.fc1.bias, "2.weight": phi.fc2.weight})
    depths = token_depths(3, 30)
    depths[1, 5] = depths[1, 6]  # ties
    grad = torch.randn(3, 30, 30, generator=generator(6), dtype=torch.float64)
    valid = ~(depths[:, :, None] - depths[:, None, :]).isnan()
    difference = (depths[:, :, None] - depths[:, None, :]).nan_to_num(0.0)
    expected = torch.where(valid, literal(difference[..., None])[..., 0], 0.0)
    table = phi(depths)
    torch.testing.assert_close(table, expected, rtol=1e-12, atol=1e-12)
    assert (table[~valid] == 0).all() and (table[valid] != 0).all()
    got = torch.autograd.grad((table * grad).sum(), list(phi.parameters()))
    want = torch.autograd.grad((expected * grad).sum(), list(literal.parameters()))
    for ours, theirs in zip(got, want, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["mlin", "mmlp"])
def test_gradcheck(kind):
    depths = token_depths(2, 6)
    coefficient = torch.tensor([-0.3, 0.8], dtype=torch.float64, requires_grad=True)
    if kind == "mlin":
        slope = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda c, a: LinearBias(c, a, depths).mask(torch.float64), [coefficient, slope])
        return
    phi = redrawn(Phi())

    def mask(coefficient, *parameters):
        values = dict(zip(dict(phi.named_parameters()), parameters, strict=True))
        return TableBias(coefficient, torch.func.functional_call(phi, values, depths)).mask(torch.float64)

    assert torch.autograd.gradcheck(mask, [coefficient, *phi.parameters()])


def test_mmlp_has_96_parameters_a_block_and_a_negative_bias_where_phi_is_positive():
    plain, model = (resolve("thesis", name) for name in ("m3ch", "mmlp"))
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in config.model.build().parameters()) for config in (plain, model)]
    assert sizes[1] - sizes[0] == 1152
    tiny = resolve("tiny", "mmlp", TINY).model.build()
    with torch.no_grad():
        for phi in tiny.phi:
            phi.fc2.weight.abs_()
    bias = tiny.biases(torch.randn(2, 1, 32, 32, generator=generator(7)))[1].dense()
    assert (bias[:, :, 0] == 0).all() and (bias[:, :, :, 0] == 0).all()
    assert (bias[:, :, 1:, 1:] < 0).all()
    assert (bias != bias.transpose(2, 3)).any()  # Δ is signed


def test_figures_see_phi_as_it_acts():
    model = redrawn(resolve("tiny", "mmlp", TINY).model.build(), torch.float32)
    values = model.figure_parameters()
    assert values["phi_grid"] == list(GRID)
    assert [len(curve) for curve in values["phi"]] == [81, 81]
    depths = torch.tensor([[1.5, -0.5]])  # Δ = 2 and -2
    table = model.phi[1](depths)[0]
    assert table[0, 1].item() == pytest.approx(values["phi"][1][GRID.index(2.0)], rel=1e-5)
    assert table[1, 0].item() == pytest.approx(values["phi"][1][GRID.index(-2.0)], rel=1e-5)


# --- Triton --------------------------------------------------------------------------------------------------------

needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() or paths._INTERPRETED), reason="needs a CUDA GPU, or Triton's interpreter"
)
fusion_warning = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # of Triton 3.9's compiler


@needs_kernels
@fusion_warning
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_kernels_are_as_exact_as_the_fused_ones(kind, dtype):
    device = "cpu" if paths._INTERPRETED else "cuda"
    if paths.triton_refusal(device, dtype, 16, TOKENS):
        pytest.skip(f"no {dtype} on this {device}")
    for head_dim, tokens in ((16, 13), (32, 70)) if paths._INTERPRETED else ((16, 37), (64, 197), (64, 256)):
        shape = {"device": device, "head_dim": head_dim, "tokens": tokens}
        exact = outputs_and_gradients("explicit", kind, **shape)
        results = [outputs_and_gradients(path, kind, dtype, **shape) for path in ("triton", "triton", "sdpa")]
        for reference, ours, again, fused in zip(exact, *results, strict=True):
            error, theirs = ((result.double() - reference).norm() / reference.norm() for result in (ours, fused))
            assert error < 2 * theirs + 1e-5
            assert dtype is not torch.float32 or error < 1e-4
            assert torch.equal(ours, again)
        if kind != "none":
            without = outputs_and_gradients("triton", "none", dtype, **shape)[0]
            assert (results[0][0] - without).norm() > 0.1 * without.norm()


@needs_kernels
@fusion_warning
@pytest.mark.parametrize("moniker", ["mlin", "mmlp"])
def test_triton_kernels_compile_in_one_graph(moniker):
    device, dtype = ("cpu", torch.float32) if paths._INTERPRETED else ("cuda", torch.bfloat16)
    model = redrawn(resolve("tiny", moniker, TINY, num_classes=5).model.build(), torch.float32).to(device)
    set_attention(model, "triton")
    rgb = torch.randn(2, 3, 32, 32, generator=generator(4)).to(device)
    depth = torch.randn(2, 1, 32, 32, generator=generator(5)).to(device)
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        with torch.autocast(device, dtype, enabled=dtype is torch.bfloat16):
            logits = run(rgb, depth)
        results.append([logits, *torch.autograd.grad(logits.float().square().sum(), list(model.parameters()))])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-2 if device == "cuda" else 1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not paths._HAS_TRITON, reason="triton is not installed")
@pytest.mark.skipif(paths._INTERPRETED, reason="this is the interpreter")
def test_triton_kernels_in_the_interpreter():
    """On the CPU; Triton looks at the variable when it is imported, hence a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, "-k", "test_triton_kernels"],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "8 passed, 4 skipped" in done.stdout  # three without bfloat16, and this one
