"""The mdf1 and mgem blocks step by step as their authors write them, slow: what the fast ones must equal.

Both take the place of our blocks: `LiteralDFormerBlock(block)` and `LiteralGeminiBlock(block)` share the parameters of
the block they are given, so gradients land in the same tensors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LiteralDFormerBlock(nn.Module):
    """DFormer's Block; computes the depth output wherever its parameters exist, read by nobody or not."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        block, at = self.block, self.block.attn
        batch, rows, columns, width = x.shape
        heads = at.heads
        normed, normed_e = layer_norm(x, at.norm), layer_norm(e, at.norm_e)
        y = at.l(normed)
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))  # GELU
        base = at.q(normed) * at.a(at.conv(y.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1))
        depth = at.e_conv(at.e_fore(normed_e).permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
        local = at.q_cut(normed) * at.e_back(depth)

        both = torch.cat([normed, normed_e], 3).permute(0, 3, 1, 2).contiguous()
        pooled = F.adaptive_avg_pool2d(both, (at.pooled, at.pooled)).permute(0, 2, 3, 1)
        queries = at.short_cut_linear(pooled).reshape(batch, -1, heads, width // heads // 2).permute(0, 2, 1, 3)
        kv = at.kv(y).reshape(batch, rows * columns, 2, heads, width // heads // 2).permute(2, 0, 3, 1, 4)
        pattern = (queries * (width // heads // 2) ** -0.5 @ kv[0].transpose(-2, -1)).softmax(-1)
        out = (pattern @ kv[1]).reshape(batch, heads, at.pooled, at.pooled, width // heads // 2)
        out = out.permute(0, 1, 4, 2, 3).reshape(batch, width // 2, at.pooled, at.pooled)
        out = F.interpolate(out, (rows, columns), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)

        z = torch.cat([base, out, local], 3)
        if hasattr(block, "mlp_e2"):
            new_e = e + block.layer_scale_1_e * at.proj_e(z)
            e = new_e + block.layer_scale_2_e * literal_dformer_mlp(block.mlp_e2, new_e)
        x = x + block.layer_scale_1 * at.proj(z)
        return x + block.layer_scale_2 * literal_dformer_mlp(block.mlp, x), e


def literal_dformer_mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    hidden = mlp.fc1(layer_norm(x, mlp.norm)).permute(0, 3, 1, 2).contiguous()
    hidden = (mlp.pos(hidden) + hidden).permute(0, 2, 3, 1)
    return mlp.fc2(F.gelu(hidden))


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return norm.weight * centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() + norm.bias


class LiteralGeminiBlock(nn.Module):
    """GeminiFusion's Block: a list of two branches, a loop over the batch, `nn.MultiheadAttention` over two keys."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        block = self.block
        branches = list(x)
        normed = [layer_norm(branch, norm) for branch, norm in zip(branches, block.norm1, strict=True)]
        attended = self.attention(normed)
        branches = [branch + out for branch, out in zip(branches, attended, strict=True)]
        normed = [layer_norm(branch, norm) for branch, norm in zip(branches, block.norm2, strict=True)]
        return torch.stack([branch + self.mlp(norm, grid) for branch, norm in zip(branches, normed, strict=True)])

    def attention(self, x: list[Tensor]) -> list[Tensor]:
        at = self.block.attn
        x = [self.self_attention(branch) for branch in x]
        cross = [at.cross_attn_0_to_1, at.cross_attn_1_to_0]
        out: list[list[Tensor]] = [[], []]
        for sample in range(len(x[0])):
            for own in range(2):
                query, other = x[own][sample][None], x[1 - own][sample][None]
                judged = at.judge_fc2(F.gelu(at.judge_fc1(torch.cat([query, other], -1)))).softmax(-1)
                keys = torch.cat([at.k_noise.weight[own] + query, query * judged], 0)
                values = torch.cat([at.v_noise.weight[own] + query, other], 0)
                out[own].append((query + cross[own](query, keys, values)[0])[0])
        return [at.proj(torch.stack(branch)) for branch in out]

    def self_attention(self, x: Tensor) -> Tensor:
        at = self.block.attn
        batch, tokens, width = x.shape
        q, k, v = at.qkv(x).reshape(batch, tokens, 3, at.heads, width // at.heads).permute(2, 0, 3, 1, 4)
        pattern = (q @ k.transpose(-2, -1) * (width // at.heads) ** -0.5).softmax(-1)
        return (pattern @ v).transpose(1, 2).reshape(batch, tokens, width)

    def mlp(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        mlp = self.block.mlp
        hidden = mlp.fc1(x).transpose(1, 2).reshape(len(x), -1, *grid)
        hidden = mlp.dwconv(hidden.contiguous()).flatten(2).transpose(1, 2)
        return mlp.fc2(F.gelu(hidden))


def made_literal(model: nn.Module) -> nn.Module:
    """The model with its fusion blocks replaced; same parameters, some under longer names."""
    kind = {"DFormerBlock": LiteralDFormerBlock, "GeminiBlock": LiteralGeminiBlock}
    model.fusion = nn.ModuleList(kind[type(block).__name__](block) for block in model.fusion)
    return model
