"""DFormerv2-Small: depth enters as a prior on self-attention, never as channels.

Source: Yin et al., "DFormerv2: Geometry Self-Attention for RGBD Semantic Segmentation" (CVPR 2025), whose parameter
names these are. On channels-last grids, LayerNorm eps 1e-6, n heads of width d:

    x += DWConv3x3(x);  x += GSA(LN(x));  x += FFN(LN(x));  FFN(x) = fc2(h + DWConv3x3(h)), h = GELU(fc1(x))

    GSA     = out_proj(softmax(RoPE(q) RoPE(k)^T / sqrt(d) + bias) v + DWConv5x5(v))
    bias_ij = (w0 |p_i - p_j| + w1 |z_i - z_j|) decay_h;   decay_h = log(1 - 2^(-2 - R h/n)),   h = 0..n-1

p are positions on the grid (Manhattan distance), z depth resized to it (bilinear, no antialias: the mean of a cell's
four central pixels), w learnable, one pair a block, 1 at the start; R is 4, 4, 6, 6. RoPE turns neighbouring channel
pairs by the flattened index times 1 / 10000^linspace(0, 1, d/2). In stages 1 to 3 attention is decomposed: along rows,
then along columns on the result, each with the biases of its line; in stage 4 it is full.

Stem: four 3x3 convolutions, strides 2, 1, 2, 1, each with BatchNorm, GELU between; between stages a 3x3 stride-2
convolution and BatchNorm. Maps 2 to 4 pass a LayerNorm (eps 1e-5) of their own, map 1 none.

Invalid depth is left out of the resize; a cell that reads no valid pixel has no |z_i - z_j|: 0 in its pairs.
"""

import math
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.models.drop_path import drop_path
from training.models.fusion.mdf1 import on_grid
from training.models.patch_depth import patch_depth
from training.models.relatives.stages import (
    STRIDES,
    PerStage,
    Ratio,
    Size,
    StagedBackbone,
    StagesConfig,
    channels_last,
    refuse_other_sizes,
    strided,
)


class DFormerV2SmallConfig(StagesConfig):
    name: Literal["dformerv2-small"] = "dformerv2-small"
    dims: PerStage[Size] = (64, 128, 256, 512)
    depths: PerStage[Annotated[int, Field(gt=0, le=1024)]] = (3, 4, 18, 4)
    heads: PerStage[Size] = (4, 4, 8, 16)
    mlp_ratios: PerStage[Ratio] = (4, 4, 3, 3)
    decay_initial: float = Field(2.0, gt=0, le=64)
    decay_ranges: PerStage[Annotated[float, Field(ge=0, le=64)]] = (4.0, 4.0, 6.0, 6.0)
    drop_path: float = Field(0.25, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> "DFormerV2SmallConfig":
        for width, heads in zip(self.dims, self.heads, strict=True):
            if width % (2 * heads):
                raise ValueError(
                    f"model.dims must be multiples of twice model.heads {heads} (RoPE turns pairs), got {width}"
                )
        return self

    def build(self) -> "DFormerV2":
        return DFormerV2(self)


class DFormerV2(StagedBackbone):
    def __init__(self, config: DFormerV2SmallConfig) -> None:
        super().__init__(config)
        self.config = config
        self.patch_embed = Stem(config.dims[0])
        rates = config.drop_paths()
        self.layers = nn.ModuleList(Stage(config, stage, rates[stage]) for stage in range(4))
        self.extra_norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-5) for width in config.dims[1:])
        self.initialise()

    def forward(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        refuse_other_sizes(rgb, depth)
        x = self.patch_embed(rgb.contiguous(memory_format=torch.channels_last))
        norms = [nn.Identity(), *self.extra_norms]
        maps = []
        for stage, norm, stride in zip(self.layers, norms, STRIDES, strict=True):
            x = channels_last(x)
            # "center4" is the bilinear resize, exactly, where the stride is even
            out = stage(x, patch_depth(depth, stride, "center4").unflatten(1, x.shape[1:3]))
            maps.append(norm(out).permute(0, 3, 1, 2))
            if isinstance(stage.downsample, Merging):
                x = stage.downsample(out.permute(0, 3, 1, 2))
        return maps


class Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [(3, width // 2, 2), (width // 2, width // 2, 1), (width // 2, width, 2), (width, width, 1)]
        layers: list[nn.Module] = []
        for channels, out, stride in sizes:
            layers += [strided(channels, out, stride), nn.BatchNorm2d(out), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class Merging(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.reduction = strided(width, out)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


class Pairs(NamedTuple):
    """Distances between the cells of a line (or of the grid), which all blocks of a stage share."""

    manhattan: Tensor  # (cells, cells)
    depth: Tensor  # (batch, lines, cells, cells), or without lines; 0 where either is invalid


class Geometry(NamedTuple):
    """Of one stage's grid: RoPE's sine and cosine (rows, columns, 1, head width), and who is how far from whom."""

    sine: Tensor
    cosine: Tensor
    pairs: tuple[Pairs, ...]  # along rows and along columns, or of the whole grid


class Stage(nn.Module):
    """(batch, rows, columns, channels), depth (batch, rows, columns) with NaN -> (batch, rows, columns, channels)."""

    def __init__(self, config: DFormerV2SmallConfig, stage: int, rates: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, stage, rate) for rate in rates)
        self.decomposed = stage < 3
        self.downsample = Merging(*config.dims[stage : stage + 2]) if stage < 3 else None

    def forward(self, x: Tensor, depth: Tensor) -> Tensor:
        first = self.blocks[0]
        assert isinstance(first, Block)
        geometry = self.geometry(depth, first.Geo.angle)  # the angles are constants, the same in every block
        for block in self.blocks:
            x = block(x, geometry)
        return x

    def geometry(self, depth: Tensor, angle: Tensor) -> Geometry:
        _, rows, columns = depth.shape
        turns = torch.arange(rows * columns, device=angle.device).to(angle.dtype)[:, None] * angle
        turns = turns.view(rows, columns, 1, -1)
        down, across = (torch.arange(side, device=depth.device).to(depth.dtype) for side in (rows, columns))
        if self.decomposed:
            pairs: tuple[Pairs, ...] = (
                Pairs(_distances(across), _distances(depth)),
                Pairs(_distances(down), _distances(depth.transpose(1, 2))),
            )
        else:
            grid = _distances(down)[:, None, :, None] + _distances(across)[None, :, None, :]
            pairs = (Pairs(grid.reshape(rows * columns, -1), _distances(depth.flatten(1))),)
        return Geometry(turns.sin(), turns.cos(), pairs)


def _distances(values: Tensor) -> Tensor:
    """(..., cells) -> (..., cells, cells) of absolute differences; 0 where either is NaN."""
    return (values[..., :, None] - values[..., None, :]).abs().nan_to_num(0.0)


class Block(nn.Module):
    def __init__(self, config: DFormerV2SmallConfig, stage: int, rate: float) -> None:
        super().__init__()
        width, heads = config.dims[stage], config.heads[stage]
        self.cnn_pos_encode = DepthwiseConv(width, 3)
        self.layer_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.Attention = GeometryAttention(width, heads)
        self.Geo = GeometryPrior(width // heads, heads, config.decay_initial, config.decay_ranges[stage])
        self.layer_norm2 = nn.LayerNorm(width, eps=1e-6)
        self.ffn = FeedForward(width, config.mlp_ratios[stage])
        self.drop_path = drop_path(rate)

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:
        x = x + self.cnn_pos_encode(x)
        x = x + self.drop_path(self.Attention(self.layer_norm1(x), geometry, self.Geo))
        return x + self.drop_path(self.ffn(self.layer_norm2(x)))


class DepthwiseConv(nn.Module):
    """On channels-last grids."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, side, padding=side // 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return on_grid(self.dwconv, x)


class FeedForward(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.dwconv = DepthwiseConv(ratio * width, 3)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x))
        return self.fc2(hidden + self.dwconv(hidden))


class GeometryPrior(nn.Module):
    """What is added to the scores, and the constants of RoPE and of the decay."""

    angle: Tensor
    decay: Tensor

    def __init__(self, head_dim: int, heads: int, initial: float, span: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 1, 1, 1))
        # The device is named because transformers, once it has loaded a model, makes torch.linspace stay on the CPU.
        angle = 1 / 10_000 ** torch.linspace(0, 1, head_dim // 2, device=torch.get_default_device())
        self.register_buffer("angle", angle.repeat_interleave(2))
        exponents = -initial - span * torch.arange(heads, dtype=torch.float32) / heads
        self.register_buffer("decay", torch.log1p(-torch.exp(exponents * math.log(2))))

    def forward(self, pairs: Pairs) -> Tensor:
        """(batch * lines, heads, cells, cells), or (batch, heads, cells, cells) of the whole grid."""
        on_plane, in_depth = self.weight.flatten()
        distance = on_plane * pairs.manhattan + in_depth * pairs.depth
        bias = distance.unsqueeze(-3) * self.decay[:, None, None]
        return bias.flatten(0, -4)


class GeometryAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.lepe = DepthwiseConv(width, 5)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, geometry: Geometry, prior: GeometryPrior) -> Tensor:
        v = self.v_proj(x)
        lepe = self.lepe(v)
        # (batch, rows, columns, heads, head width)
        q, k, v = (each.unflatten(-1, (self.heads, -1)) for each in (self.q_proj(x), self.k_proj(x), v))
        q, k = (turned(each, geometry) for each in (q, k))
        biases = [prior(pairs).to(q.dtype) for pairs in geometry.pairs]
        out = decomposed(q, k, v, *biases) if len(biases) == 2 else full(q, k, v, *biases)
        return self.out_proj(out.flatten(3) + lepe)


def turned(x: Tensor, geometry: Geometry) -> Tensor:
    """RoPE on (batch, rows, columns, heads, head width), neighbouring channels a pair."""
    even, odd = x[..., ::2], x[..., 1::2]
    crossed = torch.stack([-odd, even], -1).flatten(-2)
    return (x * geometry.cosine + crossed * geometry.sine).to(x.dtype)


def decomposed(q: Tensor, k: Tensor, v: Tensor, bias_rows: Tensor, bias_columns: Tensor) -> Tensor:
    """Attention within each row, then within each column on its result; (batch, rows, columns, heads, width)."""
    v = _along_rows(q, k, v, bias_rows)
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    return _along_rows(q, k, v, bias_columns).transpose(1, 2)


def _along_rows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    grid = q.shape[:2]
    q, k, v = (each.transpose(2, 3).flatten(0, 1) for each in (q, k, v))  # (batch * rows, heads, columns, width)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).unflatten(0, grid).transpose(2, 3)


def full(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention over the whole grid; (batch, rows, columns, heads, width)."""
    grid = q.shape[1:3]
    q, k, v = (each.flatten(1, 2).transpose(1, 2) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).unflatten(1, grid)
