"""The two-branch blocks against literal transcriptions of their authors', and what they must not lose."""

import copy

import pytest
import torch
from literal_blocks import made_literal
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.config import ConfigError
from training.engine.describe import count_macs
from training.models.fusion.mdf1 import Mdf1Config
from training.models.fusion.mgem import MgemConfig
from training.tasks.classification.config import resolve
from training.tasks.classification.task import PreTraining

SMALL = {"image_size": 40, "patch_size": 8, "width": 48, "depth": 3, "heads": 3, "num_classes": 5}


def redrawn(model: nn.Module) -> nn.Module:
    """Every parameter anew, norms and LayerScale about 1, the rest about 0, in fp64: nothing is zero or near it."""
    generator = torch.Generator().manual_seed(0)
    model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = float("layer_scale" in name or ("norm" in name and name.endswith("weight")))
            parameter.copy_(around + 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def inputs(size=40):
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)
    return rgb, torch.randn(3, 1, size, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    "config",
    [
        Mdf1Config(**SMALL, fusion_blocks=2),  # 5x5 tokens pooled to 2x2: cells overlap
        Mdf1Config(**SMALL | {"image_size": 48}, fusion_blocks=2, pooled_grid=3),
        Mdf1Config(**SMALL, fusion_blocks=2, dead_tail="removed"),
        MgemConfig(**SMALL, fusion_blocks=2),
        MgemConfig(**SMALL, fusion_blocks=2, cross_heads=2, mlp_ratio=2),
    ],
    ids=["mdf1", "mdf1-even", "mdf1-removed", "mgem", "mgem-2-heads"],
)
def test_blocks_equal_the_literal_ones_in_every_gradient(config):
    model = redrawn(config.build())
    literal = made_literal(copy.deepcopy(model))
    rgb, depth = inputs(config.image_size)
    rgb, depth = rgb.requires_grad_(), depth.requires_grad_()
    weight = torch.randn(3, model.config.num_positions + 1, config.width, dtype=torch.float64)
    results = []
    for each in (model, literal):
        out = each.tokens(rgb, depth)
        # The literal's names are longer; the order is the same.
        later = ("blocks.", "norm.", "head.")
        wanted = [p for name, p in each.named_parameters() if p.requires_grad and not name.startswith(later)]
        gradients = torch.autograd.grad((out * weight).sum(), [rgb, depth, *wanted])
        results.append((out, gradients))
    (fast, fast_gradients), (slow, slow_gradients) = results
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    assert len(fast_gradients) == len(slow_gradients) > 50
    for ours, theirs in zip(fast_gradients, slow_gradients, strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11 * float(theirs.abs().max()))


def test_the_key_bias_of_mgem_has_no_gradient_and_is_part_of_one_that_has():
    """Two keys' scores move together with it: structurally zero, in nn.MultiheadAttention as in ours."""
    model = redrawn(MgemConfig(**SMALL).build())
    model(*inputs()).square().sum().backward()
    for attention in (model.fusion[0].attn.cross_attn_0_to_1, model.fusion[0].attn.cross_attn_1_to_0):
        query, key, value = attention.in_proj_bias.grad.chunk(3)
        assert query.abs().min() > 0
        assert key.abs().max() == 0
        assert value.abs().min() > 0


def literal_macs(moniker: str) -> int:
    config = resolve("thesis", moniker).model
    with torch.device("meta"):
        model = made_literal(config.build())
        rgb, depth = torch.zeros(1, 3, 224, 224), torch.zeros(1, 1, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(rgb, depth, taps=lambda name, tensor: tensor)
    return counter.get_total_flops() // 2


def test_literal_costs_at_full_size():
    assert literal_macs("mdf1") == 20_283_850_752  # the last block's depth output included
    # 16,822,609,920 and the products with the two keys and values, 2 * 2 * 384 a token, which our design leaves out.
    assert literal_macs("mgem") == 16_822_609_920 + 4 * 2 * 196 * 4 * 384


def test_mdf1_without_its_dead_tail():
    frozen, removed = (Mdf1Config(**SMALL, dead_tail=kind).build() for kind in ("frozen", "removed"))
    removed.double()
    ours = set(removed.state_dict())
    dead = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert set(frozen.state_dict()) - ours == dead
    assert all(parameter.requires_grad for parameter in removed.parameters())
    removed.load_state_dict({name: value for name, value in redrawn(frozen).state_dict().items() if name in ours})
    torch.testing.assert_close(removed(*inputs()), frozen(*inputs()), rtol=0, atol=0)
    with torch.device("meta"):
        full = [resolve("thesis", "mdf1", [f"model.dead_tail={kind}"]).model.build() for kind in ("frozen", "removed")]
    counts = [sum(p.numel() for p in model.parameters()) for model in full]
    assert counts[0] - counts[1] == sum(p.numel() for p in full[0].parameters() if not p.requires_grad) == 1_788_672


def test_mdf1_as_the_appendix_has_it():
    """The dead tail computed, and the class token twice: more work, no other weights."""
    ours, literal = (Mdf1Config(**SMALL, dead_tail=kind).build() for kind in ("frozen", "computed"))
    literal.double().load_state_dict(redrawn(ours).state_dict())
    torch.testing.assert_close(literal(*inputs()), ours(*inputs()), rtol=0, atol=0)
    literal(*inputs()).square().sum().backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in literal.parameters())
    assert count_macs(PreTraining(resolve("thesis", "mdf1", ["model.dead_tail=computed"]))) == 20_283_850_752

    twice = Mdf1Config(**SMALL, cls_copies=2).build().double()
    twice.load_state_dict(ours.state_dict())
    assert twice.tokens(*inputs()).shape[1] == ours.tokens(*inputs()).shape[1] + 1
    assert torch.equal(twice.tokens(*inputs())[:, 0], twice.tokens(*inputs())[:, 1])
    assert (twice(*inputs()) - ours(*inputs())).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("moniker", "setting", "complaint"),
    [
        ("mdf1", "model.fusion_blocks=12", "model.fusion_blocks must be below model.depth 12 .* got 12"),
        ("mgem", "model.depth=1", "model.fusion_blocks must be below model.depth 1"),
        ("mgem", "model.width=780", "model.width must be a multiple of twice model.heads 12 .* got 780"),
        ("mgem", "model.cross_heads=7", "model.cross_heads must divide half of model.width, 384, got 7"),
        ("mdf1", "model.pooled_grid=15", "model.pooled_grid must be at most the token grid 14, got 15"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(moniker, setting, complaint):
    with pytest.raises(ConfigError, match=complaint):
        resolve("thesis", moniker, [setting])
