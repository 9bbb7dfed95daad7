"""How samples are augmented: crops and flips of RGB and depth, photometry of RGB, mixing."""

from typing import Annotated

from pydantic import Field, model_validator

from training.config import Pair, Samples, Section

Alpha = Annotated[float, Field(ge=0, le=1000)]


class AugmentConfig(Section):
    """Geometry acts on RGB and depth alike, photometry on RGB only."""

    crop_scale: Pair[float] = (0.08, 1.0)  # RandomResizedCrop, share of the area
    crop_ratio: Pair[Annotated[float, Field(ge=0.01, le=100)]] = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    rand_augment_ops: int = Field(0, ge=0, le=16)
    rand_augment_magnitude: int = Field(9, ge=0, le=30)
    mixup_alpha: Alpha = 0.0  # with cutmix_alpha > 0 as well: a coin flip per group
    cutmix_alpha: Alpha = 0.0
    mix_group: Samples = 1  # consecutive samples that are mixed with each other
    eval_crop: float = Field(0.875, ge=0.05, le=1)  # evaluation resizes to image_size / eval_crop, then centre-crops

    @model_validator(mode="after")
    def _ranges(self) -> "AugmentConfig":
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"augment.crop_scale must be two rising shares above 0 and up to 1, got {self.crop_scale}")
        if self.crop_ratio[0] > self.crop_ratio[1]:
            raise ValueError(f"augment.crop_ratio must be two rising numbers, got {self.crop_ratio}")
        return self

    @property
    def mixes(self) -> bool:
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0
