"""Which size a segmenter has, and which it is evaluated at."""

import pytest
import torch

from training.models.segmenter import Segmenter
from training.tasks.segmentation.config import resolve
from training.tasks.segmentation.evaluate import segmented


@pytest.mark.parametrize(
    ("model", "patch", "multiple"),
    [("m4ch", 16, 32), ("m4ch", 8, 16), ("m4ch", 14, 28), ("dformer-tiny", None, 32), ("dformerv2-small", None, 32)],
)
def test_sides_are_rounded_up_to_the_coarsest_stride(model, patch, multiple):
    settings = ["augment.crop=[224, 224]"]
    settings += [] if patch is None else [f"model.patch_size={patch}", "model.width=24", "model.depth=1"]
    with torch.device("meta"):
        config = resolve("dformer-nyu", {"name": model}, settings, num_classes=2)
        assert Segmenter(config.model, config.head, config.augment.crop).multiple == multiple


@pytest.mark.parametrize("head", ["linear", "pyramid", "ham"])
def test_an_image_of_the_crops_size_is_seen_as_it_is(head):
    """Anything else would test a model at another scale than it was trained at."""
    settings = ["augment.crop=[48, 80]"]
    config = resolve("tiny", {"name": "m3ch"}, settings, num_classes=3, head=head)
    model = Segmenter(config.model, config.head, config.augment.crop).eval()
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    with torch.no_grad():
        logits = segmented(model, torch.randn(1, 3, 48, 80), torch.randn(1, 1, 48, 80))
        segmented(model, torch.randn(1, 3, 50, 80), torch.randn(1, 1, 50, 80))
    assert seen == [(48, 80), (64, 80)] and logits.shape == (1, 3, 48, 80)


@pytest.mark.parametrize("given", [{}, {"inputs": "dformer-greys"}])
def test_a_presets_size_is_of_plain_vits_alone(given):
    plain = resolve("tiny", {"name": "m4ch"}, num_classes=3).model
    assert (plain.width, plain.depth, plain.patch_size) == (64, 4, 8)
    relative = resolve("tiny", {"name": "dformerv2-small", **given}, num_classes=3).model
    assert relative.dims == (64, 128, 256, 512)


@pytest.mark.parametrize("given", [{}, {"inputs": "dformer-greys"}])
def test_what_a_preset_says_of_a_relative_holds(given):
    settings = {"dformer-tiny": 0.1, "dformerv2-small": 0.25}
    for name, drop_path in settings.items():
        assert resolve("dformer-nyu", {"name": name, **given}, num_classes=3).model.drop_path == drop_path
