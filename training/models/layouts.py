"""Names of a plain ViT's weights, as timm (and we), torchvision and their wrappers write them, brought to ours.

Ours are timm's: patch_embed.proj, cls_token, pos_embed, norm, head and, of each block, norm1, attn.qkv, attn.proj,
norm2, mlp.fc1, mlp.fc2. torchvision's `vit_b_16` holds the same tensors in the same shapes under other names.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.models.vit import ModelError

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # an average is what its authors evaluated
_COUNTER = "n_averaged"  # what torch's AveragedModel keeps beside the weights
_PREFIX = re.compile(r"^(module\.|_orig_mod\.|backbone\.)+")
_INDEX = re.compile(r"blocks\.(0|[1-9][0-9]{0,3})\.")  # bounded: a name must not cost time or memory
_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

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
    """The state dict in what a file holds, without wrappers (state_dict, averages, AveragedModel) and prefixes."""
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{where} must hold named weights, got {type(content).__name__}: save its state dict alone")
    if _COUNTER in content and all(name == _COUNTER or str(name).startswith("module.") for name in content):
        content = {name: value for name, value in content.items() if name != _COUNTER}
    for name, value in content.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
            got = ascii(name)[:80] if isinstance(name, str) else f"a {type(name).__name__}"
            raise ModelError(f"{where} must name its weights in one short line, got {got}: choose other weights")
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{where} must hold named weights, got {type(value).__name__} under {name!r}: save its state dict alone"
            )
    state = {_PREFIX.sub("", name): value for name, value in content.items()}
    if len(state) < len(content):
        raise ModelError(f"{where} must name each weight once, got the same names under several prefixes")
    return state


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
    if name in ("cls_token", "pos_embed"):
        return True
    head, _, kind = name.rpartition(".")
    block = _INDEX.match(head)
    return kind in ("weight", "bias") and (
        head[block.end() :] in _BLOCK if block else head in ("patch_embed.proj", "norm", "head")
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
    return 1 + max(int(match[1]) for match in map(_INDEX.match, state) if match)


def refuse_odd_tensors(state: Mapping[str, Tensor], where: str) -> None:
    """ModelError, one line, unless each is a dense tensor of finite real numbers, of the dimensions its name tells."""
    for name, value in state.items():
        if fault := _fault(name, value):
            raise ModelError(f"{where}: {name} must {fault}: choose other weights or save them anew")


def _fault(name: str, value: Tensor) -> str:
    """What is wrong with it; the later questions may be asked only of what passed the earlier."""
    if value.layout != torch.strided:
        return f"be a dense tensor, got {value.layout}"
    if value.is_meta:
        return "have values, got a tensor on the meta device"
    if value.dtype not in _FLOATS:
        return f"be of {', '.join(str(dtype).removeprefix('torch.') for dtype in _FLOATS)}, got {value.dtype}"
    shape = tuple(value.shape)
    if is_plain(name) and len(shape) != _num_dimensions(name):
        return f"have {_num_dimensions(name)} dimensions, got shape {shape}"
    if 0 in shape:
        return f"not be empty, got shape {shape}"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"be stored whole, got shape {shape} expanded from fewer numbers"
    if not (finite := value.float().isfinite()).all():
        return f"be finite in float32, got {value.numel() - int(finite.sum()):,} of {value.numel():,} that are not"
    return ""


def _num_dimensions(name: str) -> int:
    """Of a plain ViT's weight."""
    if name in ("cls_token", "pos_embed"):
        return 3
    if name == "patch_embed.proj.weight":
        return 4
    return 1 if name.endswith(".bias") or "norm" in name else 2


def _first(state: Mapping[str, Tensor]) -> str:
    return ", ".join(list(state)[:3])
