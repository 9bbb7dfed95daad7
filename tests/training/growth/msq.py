"""A technique as somebody would add one: two inputs, and a bias of its own, -s_h γ Δ². Copied to models/fusion/."""

from typing import Literal

import torch
from torch import Tensor, nn

from training.models.patch_depth import patch_depth, signed_difference, token_depth
from training.models.score_bias import ScoreBias, TableBias
from training.models.vit import VisionTransformer, VitConfig


class MsqConfig(VitConfig):
    name: Literal["msq"] = "msq"

    def build(self) -> VisionTransformer:
        return Msq(self)


class Msq(VisionTransformer):
    """Heads learn how much, blocks how strongly, patches of other depths are left alone."""

    has_bias = True

    def __init__(self, config: MsqConfig) -> None:
        super().__init__(config)
        self.strength = nn.Parameter(torch.linspace(0.5, 2, config.heads))
        self.gamma = nn.Parameter(torch.ones(config.depth))

    def biases(self, depth: Tensor) -> list[ScoreBias | None]:
        depths = token_depth(patch_depth(depth, self.config.patch_size, "mean"))
        squares = signed_difference(depths).square()
        return [TableBias(-self.strength, gamma * squares) for gamma in self.gamma]
