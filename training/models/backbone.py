"""What a head needs of a backbone, be it a plain ViT, a relative with four stages or another."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

FigureParameters = dict[str, list[float] | list[list[float]]]


class Backbone(nn.Module):
    """RGB (batch, 3, height, width) and depth (batch, 1, height, width), NaN invalid, to maps.

    `channels`: of each map, finest first. One map of patches, which a pyramid may make into several, or several, of
    which heads read all but the finest. `multiple`: what sides of images are rounded up to, so that the coarsest map
    is whole.
    """

    channels: tuple[int, ...]
    multiple: int

    def maps(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        """(batch, channels, rows, columns) each."""
        raise NotImplementedError

    def figure_parameters(self) -> FigureParameters:
        """Parameters the figures follow over epochs: name -> one number or list a block."""
        return {}


class BackboneSettings(BaseModel):
    """What every backbone's config has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    freeze: Literal["none", "backbone"] = "none"  # backbone: its weights stay those of --init, only a head is trained

    @property
    def stride(self) -> int:
        """Pixels that a side of a training crop must be a multiple of."""
        raise NotImplementedError

    @property
    def num_maps(self) -> int:
        raise NotImplementedError

    @property
    def input_convention(self) -> str:
        """How RGB and depth are prepared: z, or as another's weights expect it."""
        return "z"

    def backbone(self, crop: tuple[int, int]) -> Backbone:
        """Without a classifier, for training on crops of this size (rows, columns)."""
        raise NotImplementedError
