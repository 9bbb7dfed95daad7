"""The tiny Depth Anything that labels toy rooms: an ordinary `transformers` model, small, that learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import data_manifests
from pipeline import files

if TYPE_CHECKING:
    import transformers

PATCH_PX = 14
_RGB = data_manifests.load("imagenet1k")


def build(size_px: int = 112) -> transformers.DepthAnythingForDepthEstimation:
    """A Depth Anything of 0.59 M parameters: DINOv2 of width 96 and depth 4, DPT neck and head.

    transformers' own initialisation ends in a dead ReLU (constant 0): every weight is drawn anew as N(0, 1/fan_in) and
    the last bias starts at 2.
    """
    import transformers  # takes seconds, and few runs need it

    backbone = transformers.Dinov2Config(
        image_size=size_px, patch_size=PATCH_PX, hidden_size=96, num_hidden_layers=4, num_attention_heads=3,
        mlp_ratio=4, out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=PATCH_PX, reassemble_hidden_size=96, neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    model = transformers.DepthAnythingForDepthEstimation(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    nn.init.constant_(model.head.conv3.bias, 2.0)
    # The first fusion layer has nothing to fuse with, and no patch is masked.
    for idle in (model.backbone.embeddings.mask_token, *model.neck.fusion_stage.layers[0].residual_layer1.parameters()):
        idle.requires_grad_(False)
    model.set_attn_implementation("eager")  # at 65 tokens a third faster to train on CPU than the fused kernel
    embeddings = model.backbone.embeddings
    for tokens in (embeddings.cls_token, embeddings.position_embeddings):
        nn.init.normal_(tokens, std=0.02)
    return model.to(memory_format=torch.channels_last)


def prepare(rgb: Tensor, size_px: int) -> Tensor:
    """What `DPTImageProcessor` does, on tensors: uint8 (batch, height, width, 3) to normalised (batch, 3, h, w).

    One side becomes `size_px`, the one that changes less, and both are made multiples of 14.
    """
    height, width = rgb.shape[1:3]
    scale = min(size_px / height, size_px / width, key=lambda scale: abs(1 - scale))
    size = [max(PATCH_PX, round(side * scale / PATCH_PX) * PATCH_PX) for side in (height, width)]
    pixels = rgb.permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=True)
    pixels = pixels.round().clamp(0, 255) / 255
    mean, std = (pixels.new_tensor(c).view(1, 3, 1, 1) for c in (_RGB["rgb_mean"], _RGB["rgb_std"]))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def estimate(model: Callable[..., Any], rgb: Tensor, size_px: int) -> Tensor:
    """Relative inverse depth (batch, height, width) of `rgb` (batch, height, width, 3)."""
    depth = model(prepare(rgb, size_px)).predicted_depth
    return F.interpolate(depth[:, None].float(), size=rgb.shape[1:3], mode="bicubic", align_corners=False)[:, 0]


def save(model: transformers.PreTrainedModel, out: Path, size_px: int, facts: dict[str, Any]) -> None:
    """Write everything beside `out`, then put it in its place: `out` never holds half a teacher."""
    import transformers

    with files.making(out) as made:
        transformers.utils.logging.disable_progress_bar()
        model.to("cpu", memory_format=torch.contiguous_format).save_pretrained(made)
        transformers.DPTImageProcessor(
            size={"height": size_px, "width": size_px}, keep_aspect_ratio=True, ensure_multiple_of=PATCH_PX,
            image_mean=list(_RGB["rgb_mean"]), image_std=list(_RGB["rgb_std"]), do_pad=False,
        ).save_pretrained(made)  # fmt: skip
        (made / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
