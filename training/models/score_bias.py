"""What a fusion technique adds to the scores of attention, kept in the form that needs the least memory.

    LinearBias   bias_hij = c_h * |d_i - d_j|   (mlin)
    TableBias    bias_hij = c_h * T_ij          (mmlp)

`dense` is the reference; `mask` is the same numbers as PyTorch's fused attention wants them. The class token and
patches without valid depth have no bias: their depth is NaN, their rows and columns of a table are zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.patch_depth import signed_difference

_MASK_ALIGNMENT = 8  # elements; PyTorch's memory-efficient kernel copies masks whose rows are not a multiple of it


@dataclass(frozen=True)
class LinearBias:
    """c_h * |d_i - d_j|, exactly zero where either depth is NaN. Depths get no gradient."""

    coefficient: Tensor  # (heads,)
    depths: Tensor  # (batch, tokens)

    def dense(self) -> Tensor:
        """(batch, heads, query, key)."""
        return _scaled(self.coefficient, _pairs(self.depths))

    def mask(self, dtype: torch.dtype) -> Tensor:
        """`dense` in `dtype`, of aligned rows: (batch, heads, query, key)."""
        return _Mask.apply(self.coefficient, self.depths, dtype)


@dataclass(frozen=True)
class TableBias:
    """c_h * T_ij. The table is zero on the class token's row and column and for pairs without valid depth."""

    coefficient: Tensor  # (heads,)
    table: Tensor  # (batch, tokens, tokens), shared by all heads

    def dense(self) -> Tensor:
        """(batch, heads, query, key)."""
        return _scaled(self.coefficient, self.table)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """`dense` in `dtype`, of aligned rows: (batch, heads, query, key)."""
        return _Mask.apply(self.coefficient, self.table, dtype)


ScoreBias = LinearBias | TableBias


def _scaled(coefficient: Tensor, pairs: Tensor) -> Tensor:
    return coefficient[:, None, None] * pairs[:, None]


def _pairs(source: Tensor) -> Tensor:
    """(batch, query, key) of depths (batch, tokens), or the table itself."""
    return source if source.ndim == 3 else signed_difference(source).abs()


class _Mask(torch.autograd.Function):
    """The mask of fused attention. Backward needs the depths or the table alone, nothing that has a head dimension."""

    @staticmethod
    def forward(ctx: Any, coefficient: Tensor, source: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(coefficient, source)
        tokens = source.shape[-1]
        pairs = F.pad(_pairs(source), (0, -tokens % _MASK_ALIGNMENT))
        mask = pairs.new_empty((len(pairs), len(coefficient), *pairs.shape[1:]), dtype=dtype)
        torch.mul(coefficient[:, None, None], pairs[:, None], out=mask)  # rounds once, without a copy in fp32
        return mask[..., :tokens]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        coefficient, source = ctx.saved_tensors
        grad_coefficient = (grad * _pairs(source)[:, None]).sum((0, 2, 3)).to(coefficient.dtype)
        is_table = source.ndim == 3
        grad_table = (grad * coefficient[:, None, None]).sum(1).to(source.dtype) if is_table else None
        return grad_coefficient, grad_table, None
