"""Position embeddings on another token grid than they were learned on."""

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # rows, columns of patches


def resampled(table: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """(1, rows before the grid's + rows * columns, width) from `grid` to `wanted`; what stands before it is kept.

    Bicubic with antialias, as timm does.
    """
    if grid == wanted:
        return table
    head, patches = table.split([table.shape[1] - grid[0] * grid[1], grid[0] * grid[1]], 1)
    image = patches.unflatten(1, grid).permute(0, 3, 1, 2)
    image = F.interpolate(image.float(), wanted, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([head, image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], 1)
