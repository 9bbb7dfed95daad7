"""Multi-head attention with an optional additive bias, computed in one of two ways.

    scores = Q K^T / sqrt(d_h),   pattern = softmax(scores + bias),   out = pattern V W_o

| path     | what it is                                                                                        |
|----------|---------------------------------------------------------------------------------------------------|
| explicit | the equations above; the reference, and what taps see                                             |
| sdpa     | PyTorch's fused kernels; with a bias on a GPU its memory-efficient one, given a dense mask         |

Taps recorded per block when a `Taps` is given (then the explicit path runs, so that what is seen is what acts):

| name                            | shape                       |
|---------------------------------|-----------------------------|
| blocks.<i>.attn.scores_pre_bias | (batch, heads, query, key)  |
| blocks.<i>.attn.bias            | (batch, heads, query, key)  |
"""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.score_bias import ScoreBias

Taps = dict[str, Tensor]
Path = Literal["explicit", "sdpa"]
Requested = Literal["auto", "explicit", "sdpa"]


class AttentionError(ValueError):
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
        path: Path = "explicit" if taps is not None else choose_path(self.requested)
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
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
        added = None if bias is None else bias.dense()
        if taps is not None:
            taps[f"{name}.scores_pre_bias"] = scores
            if added is not None:
                taps[f"{name}.bias"] = added
        total = scores if added is None else scores + added
        return total.softmax(-1).to(v.dtype) @ v


def set_attention(model: nn.Module, requested: Requested) -> None:
    """Make every `Attention` of `model` use this path (config `runtime.attention`); raises AttentionError."""
    if requested not in get_args(Requested):
        raise AttentionError(f"attention must be one of {', '.join(get_args(Requested))}, got {requested!r}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.requested = requested


def choose_path(requested: Requested) -> Path:
    """The path that runs; every path takes every kind of bias."""
    return "sdpa" if requested == "auto" else requested
