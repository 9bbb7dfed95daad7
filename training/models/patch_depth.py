"""Depth on the token grid, in the paper's two readings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.dumps.schema import Mode


def patch_depth(depth: Tensor, patch_size: int, mode: Mode) -> Tensor:
    """(batch, 1, height, width) z with NaN at invalid pixels -> (batch, patches), NaN where a patch has none valid.

    `mean`: the paper's text, all pixels of a patch. `center4`: what its appendix computes, a bilinear resize without
    antialias: the mean of the four central pixels, or the central pixel of an odd patch. Invalid pixels are left out.
    """
    if mode == "center4":
        start, side = _centre(patch_size)
        batch, _, height, width = depth.shape
        tiles = depth.view(batch, 1, height // patch_size, patch_size, width // patch_size, patch_size)
        tiles = tiles[:, :, :, start : start + side, :, start : start + side]
        depth, patch_size = tiles.reshape(batch, 1, side * tiles.shape[2], side * tiles.shape[4]), side
    valid = ~depth.isnan()
    total = F.avg_pool2d(torch.where(valid, depth, 0.0), patch_size)
    share = F.avg_pool2d(valid.to(depth.dtype), patch_size)
    return torch.where(share > 0, total / share.clamp_min(1e-12), torch.nan).flatten(1)


def centre_pixels(length: int, patch_size: int, device: torch.device | None = None) -> Tensor:
    """The rows (or columns) of an image of this height (or width) that `center4` reads, int64, rising."""
    start, side = _centre(patch_size)
    first = torch.arange(start, length, patch_size, device=device)
    return (first[:, None] + torch.arange(side, device=device)).flatten()


def _centre(patch_size: int) -> tuple[int, int]:
    """Where a patch's central pixels begin, and how many a side there are."""
    side = 2 - patch_size % 2
    return (patch_size - side) // 2, side


def token_depth(patches: Tensor) -> Tensor:
    """(batch, patches) -> (batch, 1 + patches): NaN, which is no depth, for the class token."""
    return F.pad(patches, (1, 0), value=torch.nan)


def signed_difference(depths: Tensor) -> Tensor:
    """Δ_ij = d_i - d_j of depths (batch, tokens): (batch, tokens, tokens), zero where either is NaN."""
    return (depths[:, :, None] - depths[:, None, :]).nan_to_num(0.0)
