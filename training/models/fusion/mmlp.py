"""mmlp: an attention bias that is a learned function of the signed difference of patch depths.

    scores_h = Q K^T / sqrt(d_h) + s_h * φ(Δ),   φ = Linear(1 -> 32) -> ReLU -> Linear(32 -> 1, no bias)

One φ a block, shared by its heads; s_h as in `mlin`, fixed and negative, so the bias is negative where φ is positive.
The bias is 0 on the class token's row and column and for patches without depth. φ(0) need not be 0. As in `mlin`, the
last block's φ acts on nothing that the logits read, and gets no gradient.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.dumps.schema import PHI_HIDDEN, Mode
from training.models.backbone import FigureParameters
from training.models.fusion.mlin import DecayRange, InitialValue, head_scale
from training.models.patch_depth import patch_depth, token_depth
from training.models.score_bias import ScoreBias, TableBias
from training.models.vit import VisionTransformer, VitConfig

GRID = tuple(number / 10 for number in range(-40, 41))  # Δ at which figures see φ; depth is z-standardised


class MmlpConfig(VitConfig):
    name: Literal["mmlp"] = "mmlp"
    initial_value: InitialValue = 2.0
    decay_range: DecayRange = 4.0
    patch_depth: Mode = "mean"  # the paper's text; its appendix code computes `center4`

    def build(self) -> VisionTransformer:
        return Mmlp(self)


class Mmlp(VisionTransformer):
    """m3ch with φ(Δ) in every block's scores; adds 96 parameters a block."""

    has_bias = True

    def __init__(self, config: MmlpConfig) -> None:
        super().__init__(config)
        self.patch_depth_mode = config.patch_depth
        self.phi = nn.ModuleList(Phi() for _ in range(config.depth))
        scale = head_scale(config.initial_value, config.decay_range, config.heads)
        self.register_buffer("head_scale", scale, persistent=False)
        self.head_scale: Tensor

    def biases(self, depth: Tensor) -> list[ScoreBias | None]:
        depths = token_depth(patch_depth(depth, self.config.patch_size, self.patch_depth_mode))
        return [PhiBias(self.head_scale, phi(depths), phi) for phi in self.phi]  # type: ignore[arg-type]

    @torch.no_grad()
    def figure_parameters(self) -> FigureParameters:
        grid = self.head_scale.new_tensor(GRID)
        curves = []
        for phi in self.phi:
            assert isinstance(phi, Phi)
            curves.append(phi.curve(grid).tolist())
        return {"phi": curves, "phi_grid": list(GRID)}


@dataclass(frozen=True)
class PhiBias(TableBias):
    """A table that φ gives, which a dump keeps by φ's own numbers."""

    stored: ClassVar[str] = "phi"

    phi: "Phi"

    def parameters(self) -> dict[str, Tensor]:
        w, b, a = self.phi.parameters()  # φ(Δ) = Σ a ReLU(w Δ + b)
        return {"phi": torch.stack([w[:, 0], b, a[0]])}


class Phi(nn.Module):
    """φ: a scalar to a scalar; 96 parameters, initialised as nn.Linear is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(1, PHI_HIDDEN)
        self.fc2 = nn.Linear(PHI_HIDDEN, 1, bias=False)

    def curve(self, difference: Tensor) -> Tensor:
        """φ of a few numbers (n,), literally: (n,)."""
        return self.fc2(self.fc1(difference[:, None]).relu())[:, 0]

    def forward(self, depths: Tensor) -> Tensor:
        """(batch, tokens) -> φ(d_i - d_j) of all pairs (batch, tokens, tokens), zero where either depth is NaN."""
        parameters = (self.fc1.weight[:, 0], self.fc1.bias, self.fc2.weight[0])
        return _PairwisePhi.apply(depths, *(parameter.to(depths.dtype) for parameter in parameters))


class _PairwisePhi(torch.autograd.Function):
    """Σ_k a_k ReLU(w_k Δ + b_k) of all differences Δ of a row of depths, without an intermediate 32 times as large.

    φ is piecewise linear with a knot a unit at Δ = -b_k / w_k. Forward finds the segment of each Δ among the sorted
    knots and evaluates its line. Backward needs, per unit, Σ g and Σ g Δ over the pairs where the unit is active. With
    the depths of an image in order these pairs are one end of every row, so cumulative sums along the rows hold all 64
    sums. At ViT-B/16 on a CPU this was faster than a loop over units, a product with 0/1 masks and a scatter by
    segment; unlike the scatter it adds in the same order every time, on a GPU too. Depths get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, depths: Tensor, w: Tensor, b: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(depths, w, b, a)
        knots, order = _knots(w, b).sort()
        w, b, a = w[order], b[order], a[order]
        unit = torch.arange(len(w), device=w.device)
        segment = torch.arange(len(w) + 1, device=w.device)[:, None]  # segment m lies right of m knots
        active = torch.where(w >= 0, unit < segment, unit >= segment)
        slope, offset = (active * a * w).sum(1), (active * a * b).sum(1)
        difference = depths[:, :, None] - depths[:, None, :]
        where = torch.bucketize(difference, knots, out_int32=True).flatten()
        line = torch.addcmul(offset.index_select(0, where), slope.index_select(0, where), difference.flatten())
        return line.view_as(difference).masked_fill(difference.isnan(), 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        depths, w, b, a = ctx.saved_tensors
        missing = depths.isnan()
        ordered, order = depths.masked_fill(missing, torch.inf).sort()
        depths = depths.masked_fill(missing, 0.0)
        grad = grad.masked_fill(missing[:, :, None] | missing[:, None, :], 0.0)
        grad = grad.gather(2, order[:, None].expand_as(grad))
        difference = depths[:, :, None] - ordered.masked_fill(ordered.isinf(), 0.0)[:, None]
        # Δ_ij lies right of knot k where d_j < d_i - knot_k: so many of the row's first pairs.
        bounds = (depths[:, :, None] - _knots(w, b)).flatten(1)
        count = torch.searchsorted(ordered, bounds).view(*depths.shape, len(w))
        sums = []
        for weighted in (grad, grad * difference):
            right = F.pad(weighted.cumsum(2), (1, 0)).gather(2, count).sum((0, 1))
            sums.append(torch.where(w >= 0, right, weighted.sum() - right))
        total, moment = sums  # of g and of g Δ, over the pairs where a unit is active
        return None, a * moment, a * total, w * moment + b * total


def _knots(w: Tensor, b: Tensor) -> Tensor:
    """Where each unit switches; a unit that Δ cannot switch counts as rising, at -inf if it is on and inf if off."""
    constant = torch.where(b > 0, -torch.inf, torch.inf).to(w.dtype)
    return torch.where(w == 0, constant, -b / w)
