"""DFormer, DFormerv2 and LightHam step by step from their formulas, slow: what the fast ones must equal.

Each function takes our module and reads its parameters, so gradients land in the same tensors. BatchNorm is that of
evaluation; nothing is dropped.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def literal_dformer(model: nn.Module, rgb: Tensor, depth: Tensor) -> list[Tensor]:
    x, e, maps = rgb, torch.where(depth.isnan(), 0.0, depth), []
    for stage in range(4):
        x, e = (_downsampled(layers[stage], y) for layers, y in _branches(model, x, e))
        for block in model.stages[stage]:
            x, e = _dformer_block(block, x.movedim(1, -1), e.movedim(1, -1), model.config.windows[stage])
            x, e = x.movedim(-1, 1), e.movedim(-1, 1)
        maps.append(x)
    return maps


def _branches(model: nn.Module, x: Tensor, e: Tensor) -> list[tuple[nn.ModuleList, Tensor]]:
    return [(model.downsample_layers, x), (model.downsample_layers_e, e)]


def _downsampled(layers: nn.Sequential, x: Tensor) -> Tensor:
    if len(layers) == 2:
        return _conv(batch_norm(x, layers[0], 1e-5), layers[1], 2)
    return batch_norm(_conv(gelu(batch_norm(_conv(x, layers[0], 2), layers[1], 1e-5)), layers[3], 2), layers[4], 1e-5)


def _dformer_block(block: nn.Module, x: Tensor, e: Tensor, window: int) -> tuple[Tensor, Tensor]:
    at, width = block.attn, x.shape[-1]
    batch, rows, columns = x.shape[:3]
    normed, normed_e = layer_norm(x, at.norm, 1e-6), layer_norm(e, at.norm_e, 1e-6)
    y = gelu(at.l(normed))
    base = at.q(normed) * at.a(_depthwise(y, at.conv))
    local = at.q_cut(normed) * at.e_back(_depthwise(at.e_fore(normed_e), at.e_conv))
    z = [base, local]
    if window:
        heads = at.heads
        size = width // heads // 2
        both = torch.cat([normed, normed_e], 3).movedim(3, 1)
        queries = at.short_cut_linear(F.adaptive_avg_pool2d(both, window).movedim(1, 3)).flatten(1, 2)
        keys, values = at.kv(y).flatten(1, 2).split(width // 2, -1)
        out = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = queries[..., own] @ keys[..., own].transpose(1, 2) / size**0.5
            out.append(scores.softmax(-1) @ values[..., own])
        pooled = torch.cat(out, -1).transpose(1, 2).reshape(batch, width // 2, window, window)
        z.insert(1, F.interpolate(pooled, (rows, columns), mode="bilinear", align_corners=False).movedim(1, 3))
    fused = torch.cat(z, 3)
    if hasattr(block, "mlp_e2"):
        e = e + block.layer_scale_1_e * at.proj_e(fused)
        e = e + block.layer_scale_2_e * _dformer_mlp(block.mlp_e2, e)
    x = x + block.layer_scale_1 * at.proj(fused)
    return x + block.layer_scale_2 * _dformer_mlp(block.mlp, x), e


def _dformer_mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    hidden = mlp.fc1(layer_norm(x, mlp.norm, 1e-6))
    return mlp.fc2(gelu(hidden + _depthwise(hidden, mlp.pos)))


def literal_dformerv2(model: nn.Module, rgb: Tensor, depth: Tensor) -> list[Tensor]:
    layers, x = model.patch_embed.proj, rgb
    for index, stride in ((0, 2), (3, 1), (6, 2), (9, 1)):
        x = batch_norm(_conv(x, layers[index], stride), layers[index + 1], 1e-5)
        x = gelu(x) if index < 9 else x
    maps = []
    for stage, layer in enumerate(model.layers):
        cells = _cells(depth, 4 * 2**stage)
        x = x.movedim(1, 3)
        for block in layer.blocks:
            x = x + _depthwise(x, block.cnn_pos_encode.dwconv)
            x = x + _geometry_attention(block, layer_norm(x, block.layer_norm1, 1e-6), cells, decomposed=stage < 3)
            normed = layer_norm(x, block.layer_norm2, 1e-6)
            hidden = gelu(block.ffn.fc1(normed))
            x = x + block.ffn.fc2(hidden + _depthwise(hidden, block.ffn.dwconv.dwconv))
        maps.append((layer_norm(x, model.extra_norms[stage - 1], 1e-5) if stage else x).movedim(3, 1))
        x = x.movedim(3, 1)
        if stage < 3:
            x = batch_norm(_conv(x, layer.downsample.reduction, 2), layer.downsample.norm, 1e-5)
    return maps


def _cells(depth: Tensor, stride: int) -> Tensor:
    """Each cell's mean of the valid ones of its four central pixels; NaN where there is none."""
    batch, _, height, width = depth.shape
    cells = torch.empty(batch, height // stride, width // stride, dtype=depth.dtype)
    for sample in range(batch):
        for row in range(height // stride):
            for column in range(width // stride):
                top, left = row * stride + stride // 2 - 1, column * stride + stride // 2 - 1
                read = depth[sample, 0, top : top + 2, left : left + 2]
                cells[sample, row, column] = read[~read.isnan()].mean()
    return cells


def _geometry_attention(block: nn.Module, x: Tensor, cells: Tensor, decomposed: bool) -> Tensor:
    at, geo = block.Attention, block.Geo
    batch, rows, columns, width = x.shape
    size = width // at.heads
    angles = (1 / 10_000 ** torch.linspace(0, 1, size // 2)).to(x.dtype)
    index = torch.arange(rows * columns, dtype=x.dtype).view(rows, columns, 1)
    turn = torch.polar(torch.ones_like(index * angles), index * angles)
    position = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    values = at.v_proj(x)
    out = torch.empty_like(x)
    for sample in range(batch):
        for head in range(at.heads):
            own = slice(head * size, (head + 1) * size)
            q, k = (
                torch.view_as_real(torch.view_as_complex(projected[sample, ..., own].unflatten(-1, (-1, 2))) * turn)
                for projected in (at.q_proj(x), at.k_proj(x) * size**-0.5)
            )

            def attended(
                cell_index: Tensor, v: Tensor, q: Tensor = q, k: Tensor = k, head: int = head, sample: int = sample
            ) -> Tensor:
                """Attention among the cells of the flattened grid that `cell_index` names."""
                p, z = position.flatten(0, 1)[cell_index], cells[sample].flatten()[cell_index]
                far = (p[:, None] - p[None]).abs().sum(-1)
                deep = (z[:, None] - z[None]).abs()
                deep = torch.where(deep.isnan(), 0.0, deep)
                bias = (geo.weight[0, 0, 0, 0] * far + geo.weight[1, 0, 0, 0] * deep) * geo.decay[head]
                q, k = q.flatten(0, 1).flatten(1)[cell_index], k.flatten(0, 1).flatten(1)[cell_index]
                return (q @ k.T + bias).softmax(-1) @ v[cell_index]

            grid = torch.arange(rows * columns).view(rows, columns)
            v = values[sample, ..., own].flatten(0, 1)
            if decomposed:
                v = torch.cat([attended(line, v) for line in grid])
                done = torch.stack([attended(line, v) for line in grid.T], 1)
            else:
                done = attended(grid.flatten(), v).view(rows, columns, size)
            out[sample, ..., own] = done
    return at.out_proj(out + _depthwise(values, at.lepe.dwconv))


def literal_ham(head: nn.Module, features: list[Tensor], bases: Tensor, steps: int) -> Tensor:
    """Logits of LightHam from the given bases (channels, rank), one image at a time; no dropout."""
    size = features[0].shape[2:]
    resized = [F.interpolate(each, size, mode="bilinear", align_corners=False) for each in features]
    x = batch_norm(_conv1(torch.cat(resized, 1), head.squeeze.conv), head.squeeze.bn, 1e-3).clamp_min(0)
    pixels = _conv1(x, head.hamburger.ham_in.conv).clamp_min(0)
    cleaned = torch.stack([literal_nmf(image.flatten(1), bases, steps).view(image.shape) for image in pixels])
    burger = batch_norm(_conv1(cleaned, head.hamburger.ham_out.conv), head.hamburger.ham_out.bn, 1e-3)
    x = (x + burger).clamp_min(0)
    x = batch_norm(_conv1(x, head.align.conv), head.align.bn, 1e-3).clamp_min(0)
    return _conv1(x, head.conv_seg)


def literal_nmf(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """Lee and Seung's updates of x (channels, cells) = bases (channels, rank) @ codes (rank, cells)."""
    codes = (bases.T @ x).softmax(0)
    for _ in range(steps):
        codes = codes * (bases.T @ x) / (bases.T @ bases @ codes + 1e-6)
        bases = bases * (x @ codes.T) / (bases @ codes @ codes.T + 1e-6)
    codes = codes * (bases.T @ x) / (bases.T @ bases @ codes + 1e-6)
    return bases @ codes


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def layer_norm(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return norm.weight * centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() + norm.bias


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, eps: float) -> Tensor:
    scale = norm.weight / (norm.running_var + eps).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def _conv(x: Tensor, conv: nn.Conv2d, stride: int) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, stride, padding=1)


def _conv1(x: Tensor, conv: nn.Conv2d) -> Tensor:
    out = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], x)
    return out if conv.bias is None else out + conv.bias[:, None, None]


def _depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """On (batch, rows, columns, channels), as the sum over the shifted grids."""
    side = conv.weight.shape[-1]
    around = F.pad(x, (0, 0, side // 2, side // 2, side // 2, side // 2))
    rows, columns = x.shape[1:3]
    out = conv.bias.expand_as(x)
    for row in range(side):
        for column in range(side):
            out = out + around[:, row : row + rows, column : column + columns] * conv.weight[:, 0, row, column]
    return out
