"""LightHam against its formulas, and what our evaluation does otherwise than the public head's."""

import pytest
import torch
from literal_relatives import literal_ham, literal_nmf

from training.models import ham
from training.models.ham import LightHam, factorised

CHANNELS = (6, 8, 10)


def head_and_maps(dtype=torch.float64, **more):
    torch.manual_seed(0)
    head = LightHam(CHANNELS, 5, width=16, rank=4, **more).to(dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        for name, value in head.named_buffers():
            if name.endswith("running_mean"):
                value += 0.2 * torch.randn_like(value)
            elif name.endswith("running_var"):
                value += torch.rand_like(value)
    sizes = ((8, 12), (4, 6), (2, 3))
    maps = [torch.randn(3, width, *size, dtype=dtype) for width, size in zip(CHANNELS, sizes, strict=True)]
    return head.eval(), maps


def test_equal_to_the_literal_head_in_every_gradient():
    head, maps = head_and_maps()
    maps = [each.requires_grad_() for each in maps]
    bases = head.hamburger.eval_bases
    names, parameters = zip(*head.named_parameters(), strict=True)
    results = []
    for logits in (head(maps), literal_ham(head, maps, bases, steps=7)):
        weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
        results.append((logits, torch.autograd.grad((logits * weight).sum(), [*maps, *parameters])))
    (fast, fast_gradients), (slow, slow_gradients) = results
    assert fast.shape == (3, 5, 8, 12)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)
    for name, ours, theirs in zip([*"abc", *names], fast_gradients, slow_gradients, strict=True):
        assert theirs.abs().max() > 1e-6, name
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9 * float(theirs.abs().max()))


def test_names_of_the_public_head():
    kinds = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    norms = ("squeeze.bn", "hamburger.ham_out.bn", "align.bn")
    convolutions = ("squeeze.conv", "hamburger.ham_out.conv", "align.conv")
    expected = {f"{norm}.{kind}" for norm in norms for kind in kinds}
    expected |= {f"{convolution}.weight" for convolution in convolutions}
    expected |= {f"{name}.{kind}" for name in ("hamburger.ham_in.conv", "conv_seg") for kind in ("weight", "bias")}
    head, _ = head_and_maps()
    assert head.state_dict().keys() == expected and len(expected) == 22
    norms = [module for module in head.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-3, 0.1)] * 3


def test_evaluation_is_deterministic_and_leaves_the_global_generator_alone():
    head, maps = head_and_maps()
    before = torch.get_rng_state()
    assert torch.equal(head(maps), head(maps))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    again = LightHam(CHANNELS, 5, width=16, rank=4).double().eval()
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(maps), head(maps), rtol=0, atol=1e-6)  # whose bases have been float32, too


def test_evaluation_does_not_depend_on_the_batch():
    head, maps = head_and_maps()
    together = head(maps)
    for index in range(3):
        alone = head([each[index : index + 1] for each in maps])
        torch.testing.assert_close(alone, together[index : index + 1], rtol=1e-9, atol=1e-10)


def test_training_draws_bases_for_each_image_from_the_global_generator():
    head, maps = head_and_maps(dropout=0.0)
    head.train()
    torch.manual_seed(3)
    first = head(maps)
    torch.manual_seed(3)
    assert torch.equal(head(maps), first)
    assert not torch.equal(head(maps), first)
    bases = head.hamburger.bases(torch.zeros(2, 16, 7, dtype=torch.float64))
    assert bases.shape == (2, 16, 4) and (bases >= 0).all() and not torch.equal(bases[0], bases[1])
    torch.testing.assert_close(bases.norm(dim=1), torch.ones(2, 4, dtype=torch.float64))
    torch.testing.assert_close(head.hamburger.eval_bases.norm(dim=0), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(("training", "steps"), [(True, 6), (False, 7)])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_factorisation_runs_in_float32(monkeypatch, training, steps, autocast):
    seen = []

    def spied(x, bases, num_steps):
        out = factorised(x, bases, num_steps)
        seen.append((x.dtype, bases.dtype, out.dtype, num_steps))
        return out

    monkeypatch.setattr(ham, "factorised", spied)
    head, maps = head_and_maps(torch.float32)
    head.train(training)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = head(maps)
    assert seen == [(torch.float32, torch.float32, torch.float32, steps)]
    logits.float().square().mean().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_factorisation_comes_nearer_with_each_step_and_survives_zeros():
    generator = torch.Generator().manual_seed(0)
    factors = (torch.rand(2, *shape, generator=generator, dtype=torch.float64) for shape in ((16, 4), (4, 40)))
    left, right = factors
    x, bases = left @ right, torch.rand(2, 16, 4, generator=generator, dtype=torch.float64)
    errors = [float((factorised(x, bases, steps) - x).norm() / x.norm()) for steps in (1, 6, 50)]
    assert errors[0] > errors[1] > errors[2]
    torch.testing.assert_close(factorised(x, bases, 6)[1], literal_nmf(x[1], bases[1], 6))
    nothing = torch.zeros_like(x, requires_grad=True)
    out = factorised(nothing, bases, 6)
    out.sum().backward()
    assert (out == 0).all() and nothing.grad.isfinite().all()


def test_compiled_equals_eager():
    head, maps = head_and_maps()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(maps), head(maps))


def test_other_maps_are_refused():
    head, maps = head_and_maps()
    with pytest.raises(ValueError, match=r"must be maps of \(6, 8, 10\) channels, got \[\(3, 8"):
        head(maps[1:])
