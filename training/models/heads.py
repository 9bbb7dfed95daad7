"""From one map of patch features to pixels: a linear head, a pyramid of scales and a head that adds it up.

A plain ViT has features at one stride. `SimplePyramid` makes several of them, as ViTDet does (Li et al., "Exploring
Plain Vision Transformer Backbones for Object Detection", ECCV 2022); `PyramidHead` reads them all, and the relatives'
Ham head (training/models/ham.py) the last three.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, rows, columns)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """(batch, width, rows, columns) -> maps of `channels` at 4, 2, 1 and 1/2 times the resolution; `levels` last ones.

    Transposed convolutions enlarge, a pool of 2 shrinks; then 1x1 and 3x3 convolutions with LayerNorms, as in ViTDet.
    """

    def __init__(self, width: int, channels: int, levels: int = 4) -> None:
        super().__init__()
        half, quarter = max(1, width // 2), max(1, width // 4)
        scaled: list[tuple[nn.Module, int]] = [
            (
                nn.Sequential(
                    nn.ConvTranspose2d(width, half, 2, 2), ChannelNorm(half, eps=1e-6), nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
                quarter,
            ),
            (nn.ConvTranspose2d(width, half, 2, 2), half),
            (nn.Identity(), width),
            (nn.MaxPool2d(2, 2, ceil_mode=True), width),
        ]  # fmt: skip
        self.channels = (channels,) * levels
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(inside, channels, 1, bias=False),
                ChannelNorm(channels, eps=1e-6),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels, eps=1e-6),
            )
            for scale, inside in scaled[-levels:]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [level(x) for level in self.levels]


class LinearHead(nn.Module):
    """A linear classifier of each patch."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classify(features[0])


class PyramidHead(nn.Module):
    """The maps, resized to the finest and added; dropout of whole channels; a linear classifier of each cell."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[2:]
        total = features[0]
        for feature in features[1:]:
            total = total + F.interpolate(feature, size, mode="bilinear", align_corners=False)
        return self.classify(self.dropout(F.relu(total)))
