"""One contract over every backbone with every head it may have, and position embeddings on another grid."""

import numpy as np
import pytest
import torch
from segments import RELATIVES, SIZE, VITS, config_of
from torch import nn

from training.models.positions import resampled
from training.models.segmenter import Segmenter
from training.models.vit import load_checked
from training.tasks.classification.config import resolve as resolve_pretraining

PAIRS = [(name, head) for name in VITS for head in ("linear", "pyramid", "ham")] + [(name, "ham") for name in RELATIVES]


def built(name, head=None, crop="[64,96]"):
    config = config_of(name, f"augment.crop={crop}", head=head)
    torch.manual_seed(0)
    return Segmenter(config.model, config.head, config.augment.crop)


def redrawn(model: nn.Module) -> nn.Module:
    """A zero scale or a zero depth weight would hide what is behind it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def images(height, width, batch=2):
    generator = torch.Generator().manual_seed(1)
    rgb, depth = (torch.randn(batch, channels, height, width, generator=generator) for channels in (3, 1))
    return rgb, depth


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_contract(name, head):
    """Logits a pixel at sizes that are not square, a gradient for every parameter, no NaN where depth is missing."""
    model = redrawn(built(name, head))
    for height, width in ((64, 96), (96, 32)):
        rgb, depth = images(height, width)
        depth[0, :, : height // 2] = torch.nan
        depth[1] = torch.nan
        model.eval()
        with torch.no_grad():
            logits = model(rgb, depth)
        assert logits.shape == (2, 5, height, width)
        assert torch.isfinite(logits).all()
    model.train()
    rgb, depth = images(64, 96)
    depth[0, :, :20, :30] = torch.nan
    logits = model(rgb, depth)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weights).sum().backward()
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{path} gets no gradient"
            assert torch.isfinite(parameter.grad).all(), path
            assert parameter.grad.abs().max() > 0, f"{path} gets a gradient of zeros"


@pytest.mark.parametrize(("name", "head"), PAIRS)
def test_depth_matters_to_all_but_m3ch_and_images_of_a_batch_not_to_each_other(name, head):
    model = redrawn(built(name, head)).eval()
    rgb, depth = images(64, 96)
    with torch.no_grad():
        logits, other = model(rgb, depth), model(rgb, depth.roll(11, 3))
        alone = model(rgb[1:], depth[1:])
    assert torch.equal(logits, other) == (name == "m3ch")
    torch.testing.assert_close(alone[0], logits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "head"), [("mlin", "ham"), ("mgem", "pyramid"), ("dformer-tiny", "ham")])
def test_weights_reload_to_identical_logits(name, head, tmp_path):
    model = redrawn(built(name, head))
    rgb, depth = images(64, 96)
    model(rgb, depth)  # running statistics
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = built(name, head)
    load_checked(again, torch.load(tmp_path / "weights.pt"), "weights")
    with torch.no_grad():
        assert torch.equal(again.eval()(rgb, depth), model.eval()(rgb, depth))


@pytest.mark.parametrize("name", ["m3ch", "mlin"])
def test_features_are_those_of_timm_at_any_grid(name):
    """With a bias of zeros mlin is the plain ViT; its patches and theirs after the last norm."""
    import timm

    theirs = timm.create_model(
        "vit_base_patch16_224", pretrained=False, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3,
        num_classes=5, dynamic_img_size=True,
    ).eval()  # fmt: skip
    ours = resolve_pretraining("tiny", name, SIZE, num_classes=5).model.build().eval()
    redrawn(theirs)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert set(missing) <= {"alpha"} and not unexpected
    if name == "mlin":
        nn.init.zeros_(ours.alpha)
    for height, width in ((32, 32), (48, 80)):
        rgb, depth = images(height, width)
        with torch.no_grad():
            expected = theirs.forward_features(rgb)[:, 1:].mT.unflatten(2, (height // 8, width // 8))
            torch.testing.assert_close(ours.maps(rgb, depth)[0], expected, rtol=1e-4, atol=1e-5)


def test_resampled_positions_are_bicubic_weights_of_the_old_grid():
    """Separable, so rows and columns do not get mixed up; Keys' kernel with a = -0.5, as antialias has it."""
    table = torch.randn(1, 1 + 3 * 5, 4, generator=torch.Generator().manual_seed(0))
    rows, columns = cubic(3, 6), cubic(5, 7)
    literal = np.einsum("ia,jb,abc->ijc", rows, columns, table[0, 1:].unflatten(0, (3, 5)).numpy())
    found = resampled(table, (3, 5), (6, 7))
    np.testing.assert_allclose(found[0, 1:].unflatten(0, (6, 7)), literal, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[:, :1], table[:, :1]), "the class token's row is kept"
    assert resampled(table, (3, 5), (3, 5)) is table
    without = resampled(table[:, 1:], (3, 5), (6, 7))
    assert torch.equal(without, found[:, 1:]), "of a table without a class token"


def cubic(have: int, want: int) -> np.ndarray:
    """(want, have) weights, an enlargement."""
    a = -0.5
    weights = np.zeros((want, have))
    for i in range(want):
        at = (i + 0.5) * have / want - 0.5
        for j in range(have):
            x = abs(at - j)
            if x < 1:
                weights[i, j] = (a + 2) * x**3 - (a + 3) * x**2 + 1
            elif x < 2:
                weights[i, j] = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("name", VITS)
def test_positions_move_to_the_crops_grid_and_are_learned_there(name):
    config = config_of(name, "augment.crop=[64,96]", head="linear")
    plain = config.model.build()
    model = built(name, "linear")
    assert model.backbone.grid == (8, 12)
    positions = 96 + (plain.pos_embed.shape[1] - 16)
    assert model.backbone.pos_embed.shape[1] == positions and model.backbone.pos_embed.requires_grad
    torch.nn.init.normal_(plain.pos_embed)
    expected = resampled(plain.pos_embed.detach(), (4, 4), (8, 12))
    plain.regrid((8, 12))
    assert torch.equal(plain.pos_embed, expected)
    assert "pos_embed" in dict(plain.named_parameters())


@pytest.mark.parametrize("name", ["mlin", "mmlp"])
def test_the_bias_of_attention_follows_rows_and_columns(name):
    """Mirrored images give mirrored features where positions are left out: depth lies where its patch does."""
    model = redrawn(config_of(name).model.build()).eval()
    nn.init.zeros_(model.pos_embed)
    with torch.no_grad():  # a patch embedding that does not see which side is left
        model.patch_embed.proj.weight.copy_((model.patch_embed.proj.weight + model.patch_embed.proj.weight.flip(3)) / 2)
        rgb, depth = images(32, 72)
        there = model.maps(rgb, depth)[0]
        mirrored = model.maps(rgb.flip(3), depth.flip(3))[0].flip(3)
        wrong = model.maps(rgb.flip(3), depth)[0].flip(3)
    torch.testing.assert_close(mirrored, there, rtol=1e-4, atol=1e-5)
    assert (wrong - there).abs().max() > 1e-3
