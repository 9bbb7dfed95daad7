"""A backbone and a head that labels pixels."""

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.models.fusion.m3ch import M3chConfig
from training.models.fusion.m4ch import M4chConfig
from training.models.fusion.mdf1 import Mdf1Config
from training.models.fusion.mgem import MgemConfig
from training.models.fusion.mlin import MlinConfig
from training.models.fusion.mmlp import MmlpConfig
from training.models.ham import LightHam
from training.models.heads import LinearHead, PyramidHead, SimplePyramid
from training.models.relatives.backbone import Backbone
from training.models.relatives.dformer import DFormerTinyConfig
from training.models.relatives.dformerv2 import DFormerV2SmallConfig
from training.models.vit import VisionTransformer

BackboneConfig = Annotated[
    M3chConfig
    | MlinConfig
    | MmlpConfig
    | M4chConfig
    | Mdf1Config
    | MgemConfig
    | DFormerTinyConfig
    | DFormerV2SmallConfig,
    Field(discriminator="name"),
]

RELATIVES: tuple[str, ...] = ("dformer-tiny", "dformerv2-small")


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

    def __init__(self, backbone: BackboneConfig, head: HeadConfig, crop: tuple[int, int]) -> None:
        super().__init__()
        self.backbone: VisionTransformer | Backbone = backbone.build()
        # The coarsest stride: 32 for the relatives and for patches of 16, where the authors' evaluation has 32 as well.
        self.multiple = backbone.stride * (2 if isinstance(self.backbone, VisionTransformer) else 1)
        self.pyramid: SimplePyramid | None = None
        if isinstance(self.backbone, VisionTransformer):
            del self.backbone.head  # the classifier of pre-training
            self.backbone.regrid((crop[0] // backbone.stride, crop[1] // backbone.stride))
            if head.kind != "linear":
                levels = 4 if head.kind == "pyramid" else 3
                self.pyramid = SimplePyramid(self.backbone.config.width, head.channels, levels)
        self.decode_head = self._head(head)

    def _head(self, head: HeadConfig) -> nn.Module:
        if head.kind == "ham":
            if isinstance(self.backbone, VisionTransformer):
                assert self.pyramid is not None
                channels = self.pyramid.channels
            else:
                channels = self.backbone.channels[1:]
            return LightHam(channels, head.num_classes, head.width, head.rank, head.dropout)
        assert isinstance(self.backbone, VisionTransformer)
        if head.kind == "pyramid":
            return PyramidHead(head.channels, head.num_classes, head.dropout)
        return LinearHead(self.backbone.config.width, head.num_classes)

    def features(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        """The maps that the head reads, finest first."""
        if not isinstance(self.backbone, VisionTransformer):
            return self.backbone(rgb, depth)[1:]  # strides 8, 16, 32
        found = self.backbone.features(rgb, depth)
        return self.pyramid(found) if self.pyramid else [found]

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        logits = self.decode_head(self.features(rgb, depth))
        return F.interpolate(logits.float(), rgb.shape[2:], mode="bilinear", align_corners=False)

    def figure_parameters(self) -> dict[str, list[float] | list[list[float]]]:
        """The backbone's, where it has some."""
        return self.backbone.figure_parameters() if isinstance(self.backbone, VisionTransformer) else {}
