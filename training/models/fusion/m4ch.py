"""m4ch: depth as a fourth input channel of the patch embedding, depth last.

Invalid pixels enter as z = 0, the data set's mean. Where a three-channel model's weights are the start, the depth slice
of the patch convolution is `depth_init`: zero, so that the logits are that model's, or the mean of the RGB slices.
"""

from typing import Literal

import torch
from torch import Tensor

from training.models.vit import VisionTransformer, VitConfig


class M4chConfig(VitConfig):
    name: Literal["m4ch"] = "m4ch"
    depth_init: Literal["zero", "mean"] = "zero"

    def depth_slice(self, weight: Tensor) -> Tensor:
        return weight.mean(1, keepdim=True) if self.depth_init == "mean" else super().depth_slice(weight)

    def build(self) -> VisionTransformer:
        return M4ch(self)


class M4ch(VisionTransformer):
    """Early fusion: one 16x16 convolution over RGB and depth together."""

    in_channels = 4

    def embed(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.patch_embed(torch.cat([rgb, depth.nan_to_num(0.0).to(rgb.dtype)], 1))
