"""DFormer-Tiny: an RGB branch of width C and a depth branch of width C/2 at every stage.

Source: Yin et al., "DFormer: Rethinking RGBD Representation Learning for Semantic Segmentation" (ICLR 2024), whose
parameter names these are. Stem: two 3x3 stride-2 convolutions, each with BatchNorm, GELU between; downsampling:
BatchNorm, then a 3x3 stride-2 convolution; the branches share nothing there. A block is that of `fusion/mdf1.py`, with
two differences by stage and place:

- In a stage with window 0 there is no global branch: z = [base, local], 3C/2 channels wide.
- The last block of all has no depth output: nothing reads it.

The maps are the RGB branch after each stage, without a norm of their own. Invalid depth enters as z = 0.

What starts otherwise than the authors' model: linear layers (see `StagedBackbone.initialise`), which theirs leaves to
PyTorch.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.models.drop_path import drop_path
from training.models.fusion.mdf1 import GridMlp, on_grid
from training.models.relatives.stages import (
    PerStage,
    Ratio,
    Size,
    StagedBackbone,
    StagesConfig,
    channels_last,
    refuse_other_sizes,
    strided,
)


class DFormerTinyConfig(StagesConfig):
    name: Literal["dformer-tiny"] = "dformer-tiny"
    dims: PerStage[Size] = (32, 64, 128, 256)
    depths: PerStage[Annotated[int, Field(gt=0, le=1024)]] = (3, 3, 5, 2)
    heads: PerStage[Size] = (1, 2, 4, 8)
    mlp_ratios: PerStage[Ratio] = (8, 8, 4, 4)
    windows: PerStage[Annotated[int, Field(ge=0, le=1024)]] = (0, 7, 7, 7)  # queries a side of the global branch
    layer_scale: float = Field(1e-6, gt=0, le=100)  # at the start
    drop_path: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> "DFormerTinyConfig":
        if self.dims[0] % 4:
            raise ValueError(f"model.dims must begin with a multiple of 4 (a quarter enters depth), got {self.dims[0]}")
        for width, heads in zip(self.dims, self.heads, strict=True):
            if width % (2 * heads):
                raise ValueError(f"model.dims must be multiples of twice model.heads {heads}, got {width}")
        return self

    def build(self) -> "DFormer":
        return DFormer(self)


class DFormer(StagedBackbone):
    def __init__(self, config: DFormerTinyConfig) -> None:
        super().__init__(config)
        self.config = config
        dims = config.dims
        self.downsample_layers = _downsampling(3, dims)
        self.downsample_layers_e = _downsampling(1, tuple(width // 2 for width in dims))
        rates = config.drop_paths()
        self.stages = nn.ModuleList(
            nn.ModuleList(
                DFormerBlock(config, stage, rate, depth_out=stage < 3 or index < config.depths[stage] - 1)
                for index, rate in enumerate(rates[stage])
            )
            for stage in range(4)
        )
        self.initialise()

    def forward(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        refuse_other_sizes(rgb, depth)
        x = rgb.contiguous(memory_format=torch.channels_last)
        e = depth.nan_to_num(0.0).to(rgb.dtype)
        maps = []
        for down, down_e, blocks in zip(self.downsample_layers, self.downsample_layers_e, self.stages, strict=True):
            x, e = channels_last(down(x)), channels_last(down_e(e))
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x, e = block(x, e)
            x, e = x.permute(0, 3, 1, 2), e.permute(0, 3, 1, 2)
            maps.append(x)
        return maps


def _downsampling(channels: int, dims: tuple[int, ...]) -> nn.ModuleList:
    """The stem, to a quarter of the image, and what halves the grid before each later stage."""
    stem = nn.Sequential(
        strided(channels, dims[0] // 2),
        nn.BatchNorm2d(dims[0] // 2),
        nn.GELU(),
        strided(dims[0] // 2, dims[0]),
        nn.BatchNorm2d(dims[0]),
    )
    later = [nn.Sequential(nn.BatchNorm2d(before), strided(before, after)) for before, after in pairwise(dims)]
    return nn.ModuleList([stem, *later])


class DFormerBlock(nn.Module):
    """(batch, rows, columns, C) and (batch, rows, columns, C/2) -> same; e unchanged without `depth_out`."""

    def __init__(self, config: DFormerTinyConfig, stage: int, rate: float, depth_out: bool) -> None:
        super().__init__()
        width, ratio = config.dims[stage], config.mlp_ratios[stage]
        self.depth_out = depth_out
        self.attn = DFormerAttention(width, config.heads[stage], config.windows[stage], depth_out)
        self.mlp = GridMlp(width, ratio)
        self.layer_scale_1 = nn.Parameter(torch.full((width,), config.layer_scale))
        self.layer_scale_2 = nn.Parameter(torch.full((width,), config.layer_scale))
        if depth_out:
            self.mlp_e2 = GridMlp(width // 2, ratio)
            self.layer_scale_1_e = nn.Parameter(torch.full((width // 2,), config.layer_scale))
            self.layer_scale_2_e = nn.Parameter(torch.full((width // 2,), config.layer_scale))
        self.drop_path = drop_path(rate)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        z = self.attn(x, e)
        x = x + self.drop_path(self.layer_scale_1 * self.attn.proj(z))
        x = x + self.drop_path(self.layer_scale_2 * self.mlp(x))
        if self.depth_out:
            e = e + self.drop_path(self.layer_scale_1_e * self.attn.proj_e(z))
            e = e + self.drop_path(self.layer_scale_2_e * self.mlp_e2(e))
        return x, e


class DFormerAttention(nn.Module):
    """x, e -> z (batch, rows, columns, 2C, or 3C/2 with window 0), which `proj` and `proj_e` read."""

    def __init__(self, width: int, heads: int, window: int, depth_out: bool) -> None:
        super().__init__()
        half = width // 2
        self.heads, self.window = heads, window
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
        if window:
            self.short_cut_linear = nn.Linear(width + half, half)
            self.kv = nn.Linear(width, width)
        fused = 4 * half if window else 3 * half
        self.proj = nn.Linear(fused, width)
        if depth_out:
            self.proj_e = nn.Linear(fused, half)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x, e = self.norm(x), self.norm_e(e)
        y = F.gelu(self.l(x))
        base = self.q(x) * self.a(on_grid(self.conv, y))
        local = self.q_cut(x) * self.e_back(on_grid(self.e_conv, self.e_fore(e)))
        branches = [base, self.attend(x, e, y), local] if self.window else [base, local]
        return torch.cat(branches, -1)

    def attend(self, x: Tensor, e: Tensor, y: Tensor) -> Tensor:
        """The global branch: (batch, rows, columns, C/2)."""
        batch, rows, columns, width = x.shape
        head_dim = width // 2 // self.heads
        k, v = self.kv(y).view(batch, rows * columns, 2, self.heads, head_dim).permute(2, 0, 3, 1, 4)
        pooled = torch.cat([self.pool(x), self.pool(e)], -1)  # each by itself: nothing is copied at full size
        queries = self.short_cut_linear(pooled).view(batch, self.window**2, self.heads, head_dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(queries, k, v)
        out = out.transpose(1, 2).reshape(batch, self.window, self.window, width // 2).permute(0, 3, 1, 2)
        return F.interpolate(out, (rows, columns), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)

    def pool(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.window).permute(0, 2, 3, 1)
