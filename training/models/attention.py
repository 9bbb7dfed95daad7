"""Multi-head attention with an optional additive bias: explicit arithmetic, or PyTorch's fused kernel.

    scores = Q K^T / sqrt(d_h),   pattern = softmax(scores + bias),   out = pattern V W_o

Taps recorded per block when a `Taps` is given (then the explicit path runs, so that what is seen is what acts):

| name                            | shape                       |
|---------------------------------|-----------------------------|
| blocks.<i>.attn.scores_pre_bias | (batch, heads, query, key)  |
| blocks.<i>.attn.bias            | (batch, heads, query, key)  |
"""

import torch.nn.functional as F
from torch import Tensor, nn

Taps = dict[str, Tensor]


class Attention(nn.Module):
    """Self-attention of width `width` with `heads` heads; parameter names follow timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None, taps: Taps | None = None, name: str = "") -> Tensor:
        """(batch, tokens, width) -> same; `bias` broadcasts to (batch, heads, query, key)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if taps is None:
            # A mask of another dtype than q can be silently wrong in some kernels: cast it here, also under autocast.
            mask = None if bias is None else bias.to(q.dtype).expand(batch, self.heads, tokens, tokens)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        else:
            out = self.explicit(q, k, v, bias, taps, name)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))

    def explicit(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, taps: Taps | None = None, name: str = ""
    ) -> Tensor:
        """The reference: (batch, heads, tokens, head_dim) each -> same."""
        scores = self.scale * (q @ k.transpose(-2, -1))
        total = scores if bias is None else scores + bias.to(scores.dtype)
        if taps is not None:
            taps[f"{name}.scores_pre_bias"] = scores
            if bias is not None:
                taps[f"{name}.bias"] = bias.expand_as(scores)
        return total.softmax(-1) @ v
