"""mgem: GeminiFusion blocks in place of the first ViT blocks.

RGB and depth tokens of width C = model.width / 2 (a patch convolution each, one position embedding for both) pass
`fusion_blocks` blocks side by side; then they are joined to the full width, RGB first, the class token joins and ViT
blocks follow. The two branches share every Linear layer and have LayerNorms (eps 1e-6) of their own. A block:

    x'  = self-attention(LayerNorm(x)), heads merged, not yet projected (qkv without bias), on each branch alone
    x  += proj(x' + cross(x'_own, x'_other))
    x  += fc2(GELU(DWConv3x3(fc1(LayerNorm(x)))))

`cross`, for each token alone, is attention over just two keys, its own token and the other branch's at the same place:

    r      = softmax over channels of fc2(GELU(fc1([x_own, x_other])))     the same for both directions
    keys   = {x_own + n_k,  x_own * r}                      n_k, n_v: a vector each for both directions, N(0, 1)
    values = {x_own + n_v,  x_other}

through a `nn.MultiheadAttention` a direction. Two keys make a softmax a sigmoid, so what is computed here is

    d   = W_k ((r - 1) * x_own - n_k)                       the second key less the first; the key bias cancels
    g   = sigmoid(<W_q x_own + b_q, d>_head / sqrt(C / cross_heads))
    out = W_o lerp(W_v (x_own + n_v), W_v x_other, g) + W_o b_v + b_o

with the products of one input stacked: 16 C² multiply-accumulates a pair of tokens where two keys take 18 C². The
literal form, which loops over the batch in Python, is in `tests/training/literal_blocks.py`; outputs and all gradients
agree to fp64 rounding.

Source: Jia et al., "GeminiFusion: Efficient Pixel-wise Multimodal Fusion for Vision Transformer" (ICML 2024), its
`Attention` without spatial reduction; its initialisation: Linear truncated normal (0.02) with zero bias, depthwise
convolution N(0, 2 / fan_out), noise N(0, 1). Only the class token is ours: having no position embedding, it starts
N(0, 0.02), as zeros would enter a LayerNorm. Invalid depth enters as z = 0, the data set's mean.

Parameters: 71,613,928, as published. Key biases are part of `in_proj_bias` and always get a gradient of zero. The paper
prints 17.31 GMACs; the literal blocks cost 16.82, whatever is counted beside products, and these 16.59.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.models.attention import Taps
from training.models.fusion.two_branch import TwoBranchConfig
from training.models.positions import Grid
from training.models.vit import PatchEmbed, VisionTransformer


def _cross_heads(known: dict[str, int]) -> int:
    """8, GeminiFusion's, where a branch's width can be cut so; else as many as self-attention has."""
    return 8 if known.get("width", 768) // 2 % 8 == 0 else known.get("heads", 12)


class MgemConfig(TwoBranchConfig):
    name: Literal["mgem"] = "mgem"
    cross_heads: int = Field(default_factory=_cross_heads, gt=0)

    @model_validator(mode="after")
    def _cuts(self) -> "MgemConfig":
        if self.stem_width % self.cross_heads:
            raise ValueError(
                f"model.cross_heads must divide half of model.width, {self.stem_width}, got {self.cross_heads}"
            )
        return self

    @property
    def stem_width(self) -> int:
        return self.width // 2

    @property
    def unseen_sizes(self) -> dict[str, int]:
        return {"cross_heads": self.cross_heads}

    def build(self) -> VisionTransformer:
        return Mgem(self)


class Mgem(VisionTransformer):
    """Two branches of half the width; `fusion` holds the GeminiFusion blocks, `blocks` the ViT blocks after them."""

    def __init__(self, config: MgemConfig) -> None:
        super().__init__(config)
        self.depth_embed = PatchEmbed(1, config.patch_size, config.stem_width)
        self.fusion = nn.ModuleList(GeminiBlock(config) for _ in range(config.fusion_blocks))
        self.depth_embed.initialise()
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.fusion.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)  # depthwise: fan_out = fan_in
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def tokens(self, rgb: Tensor, depth: Tensor, taps: Taps | None = None) -> Tensor:
        e = self.depth_embed(depth.nan_to_num(0.0).to(rgb.dtype))
        x = torch.stack([self.embed(rgb, depth), e]) + self.positions(rgb)
        for layer, block in enumerate(self.fusion):
            x = block(x, self.grid_of(rgb))
            if taps is not None:
                names = ("rgb", "depth")
                x = torch.stack([taps(f"blocks.{layer}.{name}.resid_post", x[i]) for i, name in enumerate(names)])
        x = torch.cat([x[0], x[1]], -1)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)


class GeminiBlock(nn.Module):
    """(2, batch, tokens, C), RGB first, of tokens on a grid (rows, columns) -> same."""

    def __init__(self, config: MgemConfig) -> None:
        super().__init__()
        width = config.stem_width
        self.norm1 = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = GeminiAttention(width, config.heads, config.cross_heads)
        self.norm2 = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.mlp = GridMlp(width, config.mlp_ratio)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = x + self.attn(torch.stack([norm(branch) for norm, branch in zip(self.norm1, x, strict=True)]))
        return x + self.mlp(torch.stack([norm(branch) for norm, branch in zip(self.norm2, x, strict=True)]), grid)


class GeminiAttention(nn.Module):
    """(2, batch, tokens, C) -> same: self-attention of each branch, then each token with its partner."""

    def __init__(self, width: int, heads: int, cross_heads: int) -> None:
        super().__init__()
        self.heads, self.cross_heads = heads, cross_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        # Of these two only the parameters are used, under the public names: RGB's own tokens are 0, depth's are 1.
        self.cross_attn_0_to_1 = nn.MultiheadAttention(width, cross_heads)
        self.cross_attn_1_to_0 = nn.MultiheadAttention(width, cross_heads)
        self.judge_fc1 = nn.Linear(2 * width, width)
        self.judge_fc2 = nn.Linear(width, width)
        self.k_noise = nn.Embedding(2, width)
        self.v_noise = nn.Embedding(2, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(x)
        return self.proj(x + self.pair(x))

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention, heads merged, before the output projection."""
        branches, batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(branches * batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(branches, batch, tokens, width)

    def pair(self, x: Tensor) -> Tensor:
        """Attention of each token over itself and its partner; both directions in every product."""
        branches, batch, tokens, width = x.shape
        x = x.flatten(1, 2)  # (direction, batch * tokens, C)
        cross = (self.cross_attn_0_to_1, self.cross_attn_1_to_0)
        w_q, w_k, w_v = torch.stack([each.in_proj_weight for each in cross]).chunk(3, 1)  # (direction, C, C) each
        b_q, _, b_v = torch.stack([each.in_proj_bias for each in cross])[:, None].chunk(3, 2)
        w_o = torch.stack([each.out_proj.weight for each in cross])
        b_o = torch.stack([each.out_proj.bias for each in cross])[:, None]
        judge_own, judge_other = self.judge_fc1.weight.chunk(2, 1)

        # All that is made of one input in one product. Value and judgement of the other's token come from its row.
        shared = torch.cat([judge_own, judge_other]).expand(branches, -1, -1)
        stacked = x @ torch.cat([w_q, w_v, w_v.flip(0), shared], 1).transpose(1, 2)
        q, v_own, v_for_other, j_own, j_for_other = stacked.chunk(5, 2)
        judged = F.gelu(j_own + j_for_other.flip(0) + self.judge_fc1.bias)
        r = self.judge_fc2(judged).softmax(-1)
        d = ((r - 1) * x - self.k_noise.weight[:, None]) @ w_k.transpose(1, 2)
        products = ((q + b_q) * d).unflatten(2, (self.cross_heads, -1))
        g = torch.sigmoid(products.sum(-1, keepdim=True) * products.shape[-1] ** -0.5)
        g = g.expand_as(products).flatten(2)
        v_own = v_own + self.v_noise.weight[:, None] @ w_v.transpose(1, 2)
        y = v_own + g * (v_for_other.flip(0) - v_own) + b_v
        return (y @ w_o.transpose(1, 2) + b_o).view(branches, batch, tokens, width)


class GridMlp(nn.Module):
    """fc2(GELU(DWConv3x3(fc1(x)))) on the token grid; (branches, batch, tokens, C) -> same."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.dwconv = nn.Conv2d(ratio * width, ratio * width, 3, padding=1, groups=ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        # (branches * batch, rows, columns, channels) seen as (n, c, h, w) is PyTorch's channels_last: no copy.
        hidden = self.fc1(x).flatten(0, 1).unflatten(1, grid).permute(0, 3, 1, 2)
        hidden = F.gelu(self.dwconv(hidden)).permute(0, 2, 3, 1)
        return self.fc2(hidden.reshape(*x.shape[:3], -1))
