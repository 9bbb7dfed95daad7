"""What both backbones have in common: four stages, their sizes, and what goes in and comes out."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, Strict
from torch import Tensor, nn

from training.models.backbone import Backbone, BackboneSettings
from training.models.drop_path import rates

STRIDES = (4, 8, 16, 32)

_Value = TypeVar("_Value")
PerStage = Annotated[tuple[_Value, _Value, _Value, _Value], Strict(False)]  # TOML and JSON know lists only
Size = Annotated[int, Field(gt=0, le=65_536)]
Ratio = Annotated[int, Field(gt=0, le=64)]


class StagesConfig(BackboneSettings):
    """Sizes of four stages; the tuples have one entry a stage."""

    dims: PerStage[Size]
    depths: PerStage[Annotated[int, Field(gt=0, le=1024)]]
    heads: PerStage[Size]
    mlp_ratios: PerStage[Ratio]
    drop_path: float = Field(ge=0, lt=1)  # of the last block; rises linearly from 0 at the first
    # What the data loader prepares: ours, what the authors' checkpoints expect, or that with linear grey levels. The
    # backbone only records it.
    inputs: Literal["z", "dformer-greys", "dformer-linear"] = "z"

    @property
    def stride(self) -> int:
        return STRIDES[-1]

    @property
    def num_maps(self) -> int:
        return len(STRIDES)

    @property
    def input_convention(self) -> str:
        return self.inputs

    def build(self) -> "StagedBackbone":
        raise NotImplementedError

    def backbone(self, crop: tuple[int, int]) -> "StagedBackbone":
        return self.build()

    def drop_paths(self) -> list[list[float]]:
        """The probability of each block, stage by stage."""
        each = iter(rates(self.drop_path, sum(self.depths)))
        return [[next(each) for _ in range(depth)] for depth in self.depths]


class StagedBackbone(Backbone):
    """Four maps, which lie channels last in memory. Height and width of images are multiples of 32."""

    multiple = STRIDES[-1]

    def __init__(self, config: StagesConfig) -> None:
        super().__init__()
        self.channels = config.dims

    def maps(self, rgb: Tensor, depth: Tensor) -> list[Tensor]:
        return self(rgb, depth)

    def initialise(self) -> None:
        """Linear layers truncated normal (0.02) with zero bias, the rest as PyTorch does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def refuse_other_sizes(rgb: Tensor, depth: Tensor) -> None:
    height, width = rgb.shape[-2:]
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise ValueError(f"images must have sides that are multiples of {STRIDES[-1]}, got {height}x{width}: pad them")
    if depth.shape[-2:] != rgb.shape[-2:]:
        raise ValueError(
            f"depth must have its image's size {height}x{width}, got {depth.shape[-2]}x{depth.shape[-1]}: resize it"
        )


def strided(channels: int, width: int, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1)


def channels_last(x: Tensor) -> Tensor:
    """(batch, channels, rows, columns) -> (batch, rows, columns, channels), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()
