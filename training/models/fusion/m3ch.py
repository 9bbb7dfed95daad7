"""m3ch: RGB alone, the paper's baseline. Depth is accepted and not read."""

from typing import Literal

from training.models.vit import VisionTransformer, VitConfig


class M3chConfig(VitConfig):
    name: Literal["m3ch"] = "m3ch"

    def build(self) -> VisionTransformer:
        return M3ch(self)


class M3ch(VisionTransformer):
    """A plain Vision Transformer on three channels."""
