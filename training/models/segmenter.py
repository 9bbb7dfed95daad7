"""A backbone and a head that labels pixels."""

from typing import Literal

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.models.backbone import BackboneSettings, FigureParameters
from training.models.ham import LightHam
from training.models.heads import LinearHead, PyramidHead, SimplePyramid


class HeadConfig(BaseModel):
    """`linear` reads patches, `pyramid` and `ham` a pyramid of scales; ham is DFormer's head and the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    kind: Literal["linear", "pyramid", "ham"] = "ham"
    num_classes: int = Field(gt=0, le=255)
    channels: int = Field(256, gt=0, le=65_536)  # of each level of the pyramid that a plain ViT is given
    width: int = Field(512, gt=0, le=65_536)  # of ham
    rank: int = Field(64, gt=0, le=65_536)  # of ham's factorisation
    dropout: float = Field(0.1, ge=0, lt=1)


class Segmenter(nn.Module):
    """RGB (batch, 3, height, width) and depth (batch, 1, height, width) to logits (batch, classes, height, width).

    `crop` is the size it is trained at: a ViT's position embedding lives on that grid. The head computes at its own
    stride (`multiple` tells which sizes fit); the logits are resized bilinearly.
    """

    def __init__(self, config: BackboneSettings, head: HeadConfig, crop: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = config.backbone(crop)
        self.multiple = self.backbone.multiple
        channels = self.backbone.channels
        self.pyramid: SimplePyramid | None = None
        if len(channels) == 1 and head.kind != "linear":
            self.pyramid = SimplePyramid(channels[0], head.channels, 4 if head.kind == "pyramid" else 3)
            channels = self.pyramid.channels
        elif len(channels) > 1:
            channels = channels[1:]
        self.decode_head = self._head(head, channels)

    @staticmethod
    def _head(head: HeadConfig, channels: tuple[int, ...]) -> nn.Module:
        if head.kind == "ham":
            return LightHam(channels, head.num_classes, head.width, head.rank, head.dropout)
        if head.kind == "pyramid":
            return PyramidHead(head.channels, head.num_classes, head.dropout)
        return LinearHead(channels[0], head.num_classes)

    def features(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        """The maps that the head reads, finest first."""
        found = self.backbone.maps(rgb, depth)
        if len(found) > 1:
            return found[1:]  # strides 8, 16, 32
        return self.pyramid(found[0]) if self.pyramid else found

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        logits = self.decode_head(self.features(rgb, depth))
        return F.interpolate(logits.float(), rgb.shape[2:], mode="bilinear", align_corners=False)

    def figure_parameters(self) -> FigureParameters:
        return self.backbone.figure_parameters()
