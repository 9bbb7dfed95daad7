"""Multi-head attention with an optional additive bias, computed in one of three ways.

    scores = Q K^T / sqrt(d_h),   pattern = softmax(scores + bias),   out = pattern V W_o

| path     | what it is                                                                                        |
|----------|---------------------------------------------------------------------------------------------------|
| explicit | the equations above; the reference, and what taps see                                             |
| sdpa     | PyTorch's fused kernels; with a bias on a GPU its memory-efficient one, given a dense mask         |
| triton   | our kernels (`attention_triton`), which compute or read the bias inside and store nothing per head |

When `Taps` are given, the explicit path runs, so that what is seen is what acts. They are called at these places, in
this order, and what they return goes on from there: a recorder returns what it got, an intervention something else.
Layers <l> count from 0 over the whole model, blocks of two branches first.

| name                            | shape                           | where                                       |
|---------------------------------|---------------------------------|---------------------------------------------|
| blocks.<l>.rgb.resid_post       | (batch, patches, branch width)  | end of a two-branch block (mdf1, mgem)      |
| blocks.<l>.depth.resid_post     | (batch, patches, branch width)  | the same, depth branch                      |
| blocks.<l>.attn.scores_pre_bias | (batch, heads, query, key)      | QK^T / sqrt(d_h)                            |
| blocks.<l>.attn.bias            | (batch, heads, query, key)      | what is added (mlin, mmlp)                  |
| blocks.<l>.attn.pattern         | (batch, heads, query, key)      | softmax of their sum                        |
| blocks.<l>.resid_post           | (batch, tokens, width)          | end of the block                            |
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError
from training.models.score_bias import ScoreBias

Taps = Callable[[str, Tensor], Tensor]
AttentionPath = Literal["explicit", "sdpa", "triton"]
Requested = Literal["auto", "explicit", "sdpa", "triton"]

# The backward kernel holds all queries of one head at once, in 155 KB of shared memory at these limits (compiled for
# sm_90, which has 227 KB); a head dimension of 128 would take 295 KB.
MAX_TRITON_TOKENS = 256
TRITON_HEAD_DIMS = (16, 32, 64)

_HAS_TRITON = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it when it is imported


class Recorder(dict[str, Tensor]):
    """Taps that keep everything they see, by name."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        self[name] = tensor
        return tensor


class AttentionError(UserError):
    """The attention that was asked for cannot run here; one line that says why."""


class Attention(nn.Module):
    """Self-attention of width `width` with `heads` heads; parameter names follow timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.requested: Requested = "auto"
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: ScoreBias | None = None, taps: Taps | None = None, name: str = "") -> Tensor:
        """(batch, tokens, width) -> same."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x)
        if taps is not None:
            path: AttentionPath = "explicit"
        else:
            path = choose_path(self.requested, qkv.device.type, qkv.dtype, self.head_dim, tokens)
        if path == "triton":
            from training.models.attention_triton import attention  # triton exists on few platforms

            return self.proj(attention(qkv, self.heads, bias))
        q, k, v = qkv.view(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if path == "sdpa":
            # A mask of another dtype than q can be silently wrong in some kernels: cast it here, also under autocast.
            mask = None if bias is None else bias.mask(q.dtype)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        else:
            out = self.explicit(q, k, v, bias, taps, name)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, bias: ScoreBias | None, taps: Taps | None = None, name: str = ""
    ) -> Tensor:
        """The reference: (batch, heads, tokens, head_dim) each -> same."""
        scores = self.scale * (q @ k.transpose(-2, -1))
        if taps is not None:
            scores = taps(f"{name}.scores_pre_bias", scores)
        if bias is not None:
            added = bias.dense()
            scores = scores + (added if taps is None else taps(f"{name}.bias", added))
        pattern = scores.softmax(-1)
        if taps is not None:
            pattern = taps(f"{name}.pattern", pattern)
        return pattern.to(v.dtype) @ v


def set_attention(model: nn.Module, requested: Requested) -> None:
    """Make every `Attention` of `model` use this path (config `runtime.attention`); raises AttentionError."""
    if requested not in get_args(Requested):
        raise AttentionError(f"attention must be one of {', '.join(get_args(Requested))}, got {requested!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for module in model.modules():
        if isinstance(module, Attention):
            choose_path(requested, device, torch.float16, module.head_dim, tokens=1)  # raises what is known by now
            module.requested = requested


def choose_path(
    requested: Requested, device_type: str, dtype: torch.dtype, head_dim: int, tokens: int
) -> AttentionPath:
    """The path that runs; every path takes every kind of bias. `triton` is never replaced silently: AttentionError."""
    if requested == "auto":
        return "sdpa"  # until a GPU measurement shows triton more than 5 % faster; none has been made
    if requested == "triton" and (reason := triton_refusal(device_type, dtype, head_dim, tokens)):
        raise AttentionError(f"triton attention {reason}: --set runtime.attention=auto")
    return requested


def triton_refusal(device_type: str, dtype: torch.dtype, head_dim: int, tokens: int) -> str | None:
    """Why the Triton kernels cannot run such attention, or None. In Triton's interpreter a CPU will do."""
    if not _HAS_TRITON:
        return "needs the package triton, which is not installed"
    if device_type != "cuda" and not _INTERPRETED:
        return f"needs a CUDA GPU, got {device_type}"
    # The interpreter multiplies bfloat16 as the integers it is stored in; fp32 has not been fitted to a GPU's memory.
    allowed = (torch.float32, torch.float16) if _INTERPRETED else (torch.bfloat16, torch.float16)
    if dtype not in allowed:
        return f"needs {' or '.join(map(str, allowed))}, got {dtype}"
    if head_dim not in TRITON_HEAD_DIMS:
        return f"needs a head dimension of {', '.join(map(str, TRITON_HEAD_DIMS))}, got {head_dim}"
    if tokens > MAX_TRITON_TOKENS:
        return f"takes at most {MAX_TRITON_TOKENS} tokens, got {tokens}"
    return None
