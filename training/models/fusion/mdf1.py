"""mdf1: DFormer's first-generation blocks in place of the first ViT blocks.

RGB tokens x of width C (with position embedding) and depth tokens e of width C/2 (a patch convolution of their own, no
position embedding) pass `fusion_blocks` blocks; then e is dropped, the class token joins and ViT blocks follow. What a
block does, on channels-last grids (batch, rows, columns, channels), after a LayerNorm (eps 1e-6) on each branch:

    y      = GELU(l(x))
    base   = q(x) * a(DWConv7x7(y))                                               C channels
    local  = q_cut(x) * e_back(DWConv7x7(e_fore(e)))                              C/2
    global = upsample(softmax(m K^T / sqrt(d)) V)                                 C/2
             m = short_cut_linear(pool([x, e])), a query for each pooled cell;  [K, V] = kv(y);  d = C / (2 heads)
    z      = [base, global, local];   x += γ1 * proj(z);   e += γ1_e * proj_e(z)
    x     += γ2 * MLP(x);   e += γ2_e * MLP_e(e);   MLP = fc2(GELU(h + DWConv3x3(h))), h = fc1(LayerNorm(.))

Source: Yin et al., "DFormer: Rethinking RGBD Representation Learning for Semantic Segmentation" (ICLR 2024), whose
parameter names these are. Pooling is adaptive averaging, upsampling bilinear (align_corners False), γ starts at 1e-6.

What we do otherwise than the paper's appendix, and why:

- The depth output of the last block goes nowhere, so its gradient does not exist and DDP would wait for it. It is not
  computed; its parameters stay, without gradient, so that the published count 103,039,336 holds (`dead_tail`; the
  appendix's is "computed"). Without it a forward pass costs 19.93 GMACs, which fits the 19.96 printed; with it 20.28.
- The appendix adds the class token twice; once is meant (`cls_copies`; the appendix's is 2, its head reads the first).
- The public block's default `mlp_ratio=4.0` gives a float number of channels; 4 is meant, and `mlp_ratio` here.
- Linear layers start truncated normal (0.02) with zero bias, depthwise convolutions as PyTorch does; the public code
  leaves both to PyTorch. The class token, having no position embedding, starts N(0, 0.02): zeros would enter a
  LayerNorm.
- Invalid depth enters as z = 0, the data set's mean.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.models.attention import Taps
from training.models.fusion.two_branch import TwoBranchConfig
from training.models.vit import PatchEmbed, VisionTransformer


def _pooled_side(known: dict[str, int]) -> int:
    """Half the token grid: 7 of 14 in the paper."""
    return max(1, known.get("image_size", 224) // known.get("patch_size", 16) // 2)


class Mdf1Config(TwoBranchConfig):
    name: Literal["mdf1"] = "mdf1"
    pooled_grid: int = Field(default_factory=_pooled_side, gt=0)  # the global branch has its square of queries
    layer_scale: float = Field(1e-6, gt=0, le=100)  # γ at the start
    # The last block's depth output, which nobody reads: as in the appendix, its parameters alone, or nothing of it.
    dead_tail: Literal["computed", "frozen", "removed"] = "frozen"
    cls_copies: Literal[1, 2] = 1

    @model_validator(mode="after")
    def _pools(self) -> "Mdf1Config":
        if self.pooled_grid > self.grid[0]:
            raise ValueError(f"model.pooled_grid must be at most the token grid {self.grid[0]}, got {self.pooled_grid}")
        return self

    @property
    def num_prefix(self) -> int:
        return self.cls_copies

    def build(self) -> VisionTransformer:
        return Mdf1(self)


class Mdf1(VisionTransformer):
    """RGB width C, depth width C/2; `fusion` holds the DFormer blocks, `blocks` the ViT blocks after them."""

    def __init__(self, config: Mdf1Config) -> None:
        super().__init__(config)
        self.depth_embed = PatchEmbed(1, config.patch_size, config.width // 2)
        self.cls_copies = config.cls_copies
        last = config.fusion_blocks - 1
        self.fusion = nn.ModuleList(
            DFormerBlock(config, depth_out="yes" if index < last else config.dead_tail)
            for index in range(config.fusion_blocks)
        )
        self.depth_embed.initialise()
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.fusion.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, rgb: Tensor, depth: Tensor, taps: Taps | None = None) -> Tensor:
        grid = self.grid_of(rgb)
        e = self.depth_embed(depth.nan_to_num(0.0).to(rgb.dtype)).unflatten(1, grid).contiguous()
        x = (self.embed(rgb, depth) + self.positions(rgb)).unflatten(1, grid).contiguous()
        for layer, block in enumerate(self.fusion):
            x, e = block(x, e)
            if taps is not None:
                x = taps(f"blocks.{layer}.rgb.resid_post", x.flatten(1, 2)).unflatten(1, grid)
                e = taps(f"blocks.{layer}.depth.resid_post", e.flatten(1, 2)).unflatten(1, grid)
        return torch.cat([self.cls_token.expand(len(x), self.cls_copies, -1), x.flatten(1, 2)], 1)


class DFormerBlock(nn.Module):
    """(batch, rows, columns, C) and (batch, rows, columns, C/2) -> same.

    `depth_out`: "yes", or how to treat the parameters of a depth output that nobody reads; e then comes back unchanged.
    """

    def __init__(self, config: Mdf1Config, depth_out: Literal["yes", "computed", "frozen", "removed"]) -> None:
        super().__init__()
        width, half = config.width, config.width // 2
        self.depth_out = depth_out in ("yes", "computed")
        self.attn = DFormerAttention(width, config.heads, config.pooled_grid)
        self.mlp = GridMlp(width, config.mlp_ratio)
        self.layer_scale_1 = nn.Parameter(torch.full((width,), config.layer_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((width,), config.layer_scale))
        if depth_out == "removed":
            return
        self.attn.proj_e = nn.Linear(2 * width, half)
        self.mlp_e2 = GridMlp(half, config.mlp_ratio)
        self.layer_scale_1_e = nn.Parameter(torch.full((half,), config.layer_scale))
        self.layer_scale_2_e = nn.Parameter(torch.full((half,), config.layer_scale))
        if depth_out in ("computed", "frozen"):
            self.attn.proj_e.requires_grad_(False)
            self.mlp_e2.requires_grad_(False)
            self.layer_scale_1_e.requires_grad_(False)
            self.layer_scale_2_e.requires_grad_(False)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        z = self.attn(x, e)
        x = x + self.layer_scale_1 * self.attn.proj(z)
        x = x + self.layer_scale_2 * self.mlp(x)
        if self.depth_out:
            e = e + self.layer_scale_1_e * self.attn.proj_e(z)
            e = e + self.layer_scale_2_e * self.mlp_e2(e)
        return x, e


class DFormerAttention(nn.Module):
    """x, e -> z (batch, rows, columns, 2C); `proj` and, where the block has one, `proj_e` read z."""

    proj_e: nn.Linear

    def __init__(self, width: int, heads: int, pooled: int) -> None:
        super().__init__()
        half = width // 2
        self.heads, self.pooled = heads, pooled
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.norm_e = nn.LayerNorm(half, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.q_cut = nn.Linear(width, half)
        self.l = nn.Linear(width, width)
        self.a = nn.Linear(width, width)
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.e_fore = nn.Linear(half, half)
        self.e_conv = nn.Conv2d(half, half, 7, padding=3, groups=half)
        self.e_back = nn.Linear(half, half)
        self.short_cut_linear = nn.Linear(width + half, half)
        self.kv = nn.Linear(width, width)
        self.proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x, e = self.norm(x), self.norm_e(e)
        y = F.gelu(self.l(x))
        base = self.q(x) * self.a(on_grid(self.conv, y))
        local = self.q_cut(x) * self.e_back(on_grid(self.e_conv, self.e_fore(e)))
        return torch.cat([base, self.attend(x, e, y), local], -1)

    def attend(self, x: Tensor, e: Tensor, y: Tensor) -> Tensor:
        """The global branch: (batch, rows, columns, C/2)."""
        batch, rows, columns, width = x.shape
        head_dim = width // 2 // self.heads
        k, v = self.kv(y).view(batch, rows * columns, 2, self.heads, head_dim).permute(2, 0, 3, 1, 4)
        pooled = F.adaptive_avg_pool2d(torch.cat([x, e], -1).permute(0, 3, 1, 2), self.pooled).permute(0, 2, 3, 1)
        queries = self.short_cut_linear(pooled).view(batch, self.pooled**2, self.heads, head_dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(queries, k, v)
        out = out.transpose(1, 2).reshape(batch, self.pooled, self.pooled, width // 2).permute(0, 3, 1, 2)
        return F.interpolate(out, (rows, columns), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


class GridMlp(nn.Module):
    """DFormer's MLP, LayerNorm included: fc2(GELU(h + DWConv3x3(h))), h = fc1(LayerNorm(x)); channels last."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * width
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, hidden)
        self.pos = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(self.norm(x))
        return self.fc2(F.gelu(hidden + on_grid(self.pos, hidden)))


def on_grid(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution over (batch, rows, columns, channels): a permuted view is PyTorch's channels_last, no copy."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
