"""What a fusion technique adds to the scores of attention, kept in the form that needs the least memory.

    bias_hij = s_h * T_ij:   one table for all heads, a factor a head

    LinearBias   T_ij = a * |d_i - d_j|   (mlin)
    TableBias    any table                (mmlp's φ is a kind of it)

`dense` is the reference; `mask` is the same numbers as PyTorch's fused attention wants them. The class token and
patches without valid depth have no bias: their depth is NaN, their rows and columns of a table are zero.

A dump keeps what a bias was in one of the forms `stored` (`training.dumps.schema`): "linear" and "phi" by a few
parameters, from which it is computed again; "raw", any other, as the tables of the raw tier's images.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.patch_depth import signed_difference

_MASK_ALIGNMENT = 8  # elements; PyTorch's memory-efficient kernel copies masks whose rows are not a multiple of it


@dataclass(frozen=True)
class LinearBias:
    """s_h * a * |d_i - d_j|, exactly zero where either depth is NaN. Depths get no gradient."""

    stored: ClassVar[str] = "linear"

    head_scale: Tensor  # (heads,): s
    slope: Tensor  # (): a
    depths: Tensor  # (batch, tokens)

    @property
    def coefficient(self) -> Tensor:
        """(heads,): s_h * a."""
        return self.head_scale * self.slope

    def parameters(self) -> dict[str, Tensor]:
        """What a dump keeps of a block's, beside `head_scale`."""
        return {"alpha": self.slope}

    def dense(self) -> Tensor:
        """(batch, heads, query, key)."""
        return _scaled(self.coefficient, _pairs(self.depths))

    def mask(self, dtype: torch.dtype) -> Tensor:
        """`dense` in `dtype`, of aligned rows: (batch, heads, query, key)."""
        return _Mask.apply(self.coefficient, self.depths, dtype)


@dataclass(frozen=True)
class TableBias:
    """s_h * T_ij. The table is zero on the class token's row and column and for pairs without valid depth."""

    stored: ClassVar[str] = "raw"

    head_scale: Tensor  # (heads,): s
    table: Tensor  # (batch, tokens, tokens), shared by all heads

    @property
    def coefficient(self) -> Tensor:
        """(heads,): s_h."""
        return self.head_scale

    def parameters(self) -> dict[str, Tensor]:
        """What a dump keeps of a block's, beside `head_scale`."""
        return {}

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
