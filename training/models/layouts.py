"""Names of a plain ViT's weights, as timm (and we), torchvision and their wrappers write them, brought to ours.

Ours are timm's: patch_embed.proj, cls_token, pos_embed, norm, head and, of each block, norm1, attn.qkv, attn.proj,
norm2, mlp.fc1, mlp.fc2. torchvision's `vit_b_16` holds the same tensors in the same shapes under other names.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.models.vit import ModelError

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # an average is what its authors evaluated
_PREFIX = re.compile(r"^(module\.|_orig_mod\.|backbone\.)+")
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

_TORCHVISION = (
    (r"class_token", "cls_token"),
    (r"conv_proj\.", "patch_embed.proj."),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"heads\.head\.", "head."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
)

# What weights beyond ours, or ours that lack, say of an architecture: part of the name -> words.
_MORE = {
    "norm_pre.": "a norm before its first block",
    "reg_token": "register tokens",
    "dist": "a distillation token",
    ".ls1.": "LayerScale in its blocks",
    "gamma": "LayerScale in its blocks",
    "q_norm.": "normalised queries and keys",
    "fc_norm.": "a head on averaged tokens",
    "attn_pool.": "a head that attends to the tokens",
    "relative_position": "relative positions",
}
_LESS = {
    "cls_token": "no class token",
    "pos_embed": "no position embedding",
    "attn.qkv.bias": "no bias in its queries, keys and values",
    "patch_embed.proj.bias": "no bias in its patch embedding",
}


def unwrapped(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in what a file holds: wrappers (state_dict, model, their averages) and prefixes removed."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{where} must hold named weights, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{where} must hold named weights, got {type(value).__name__} under {name!r}")
    return {_PREFIX.sub("", name): value for name, value in content.items()}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names to ours; others stay."""
    if "encoder.pos_embedding" not in state:
        return state
    new = {}
    for name, value in state.items():
        for pattern, ours in _TORCHVISION:
            changed, count = re.subn(f"^{pattern}", ours, name)
            if count:
                name = changed
                break
        new[name] = value
    return new


def is_plain(name: str) -> bool:
    """Is it a weight of the plain ViT, one that every variant's counterpart starts from?"""
    head, _, kind = name.rpartition(".")
    if name in ("cls_token", "pos_embed"):
        return True
    return kind in ("weight", "bias") and (
        head in ("patch_embed.proj", "norm", "head") or re.sub(r"^blocks\.\d+\.", "", head) in _BLOCK
    )


def refuse_other_architectures(state: Mapping[str, Tensor], where: str) -> None:
    """ModelError, one line, unless `state` is a plain ViT's: all our weights but perhaps the head, and no others."""
    if "blocks.0.mlp.fc1.weight" not in state:
        raise ModelError(f"{where} must be a Vision Transformer of timm, torchvision or ours, got {_first(state)}, ...")
    fix = "choose a plain ViT such as timm's vit_base_patch16_224 or torchvision's vit_b_16"
    for name in state:
        if not is_plain(name):
            words = next((words for part, words in _MORE.items() if part in name), f"weights we do not know ({name})")
            raise ModelError(f"{where} has {words}, which these models have not: {fix}")
    depth = num_blocks(state)
    names = [
        f"blocks.{index}.{part}.{kind}" for index in range(depth) for part in _BLOCK for kind in ("weight", "bias")
    ]
    kinds = [f"{part}.{kind}" for part in ("patch_embed.proj", "norm") for kind in ("weight", "bias")]
    for name in ("cls_token", "pos_embed", *kinds, *names):
        if name not in state:
            words = next((words for part, words in _LESS.items() if name.endswith(part)), f"no {name}")
            raise ModelError(f"{where} has {words}, which these models need: {fix}")


def num_blocks(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if re.match(r"blocks\.\d+\.", name))


def _first(state: Mapping[str, Tensor]) -> str:
    return ", ".join(list(state)[:3])
