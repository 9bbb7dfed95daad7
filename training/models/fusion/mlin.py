"""mlin: an attention bias linear in the absolute difference of patch depths.

    scores_h = Q K^T / sqrt(d_h) + s_h * alpha * |Δ|,   s_h = log(1 - 2^(-initial_value - decay_range * h / H))

alpha: one learnable scalar a block, init 1, of either sign. s_h: fixed, negative, one a head (RetNet's decay, by way of
DFormerv2, whose initial_value 2 and decay_range 4 we take: the thesis prints neither). The paper's Eq. 1 omits s_h,
its appendix code has it; A.2 prints `1 - 2 * (...)` where `2 ** (...)` as in A.1 is meant. We follow the code. The bias
is 0 on the class token's row and column and for patches without depth. The logits read the class token alone, so the
last block's alpha acts on nothing and gets no gradient; the published parameter count includes it.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.dumps.schema import Mode
from training.models.backbone import FigureParameters
from training.models.patch_depth import patch_depth, token_depth
from training.models.score_bias import LinearBias, ScoreBias
from training.models.vit import VisionTransformer, VitConfig

# s_h must be below zero and finite: 1 - 2^-x is 1 in double precision from x = 54 on, and 0 for the smallest x.
InitialValue = Annotated[float, Field(ge=0.001, le=24)]
DecayRange = Annotated[float, Field(ge=0, le=24)]


class MlinConfig(VitConfig):
    name: Literal["mlin"] = "mlin"
    initial_value: InitialValue = 2.0
    decay_range: DecayRange = 4.0
    patch_depth: Mode = "mean"  # the paper's text; its appendix code computes `center4`

    def build(self) -> VisionTransformer:
        return Mlin(self)


class Mlin(VisionTransformer):
    """m3ch with |Δ| in every block's scores; adds one parameter a block."""

    has_bias = True

    def __init__(self, config: MlinConfig) -> None:
        super().__init__(config)
        self.patch_depth_mode = config.patch_depth
        self.alpha = nn.Parameter(torch.ones(config.depth))
        self.register_buffer(
            "head_scale", head_scale(config.initial_value, config.decay_range, config.heads), persistent=False
        )
        self.head_scale: Tensor

    def biases(self, depth: Tensor) -> list[ScoreBias | None]:
        depths = token_depth(patch_depth(depth, self.config.patch_size, self.patch_depth_mode))
        return [LinearBias(self.head_scale, alpha, depths) for alpha in self.alpha]

    def figure_parameters(self) -> FigureParameters:
        return {"alpha": self.alpha.detach().float().tolist()}


def head_scale(initial_value: float, decay_range: float, heads: int) -> Tensor:
    """(heads,) s_h, all below zero."""
    return torch.tensor([math.log(1 - 2 ** (-initial_value - decay_range * head / heads)) for head in range(heads)])
