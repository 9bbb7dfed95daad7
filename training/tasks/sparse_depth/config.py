"""The configuration of a network that answers depth where it is asked."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.shards import DepthName
from pipeline.teachers.sparse_teacher import NETWORKS, NetworkChoice
from training.config import (
    ConfigError,
    CosineSchedule,
    Often,
    OptimConfig,
    Pair,
    Samples,
    Section,
    StudyConfig,
    apply,
    check_moniker,
    preset,
    validated,
)

KIND = "sparse-depth"
MODELS: tuple[str, ...] = tuple(NETWORKS)
Side = Annotated[int, Field(gt=0, le=16_384)]
Factor = Annotated[float, Field(ge=0.1, le=10)]


class DataConfig(Section):
    depth: DepthName = "real"  # in metres
    queries: int = Field(0, ge=0, le=1_000_000)  # pixels with depth that an image is asked at; 0: the whole map
    edge_share: float = Field(0.0, ge=0, le=1)  # of them, where neighbours differ by more than a tenth


class AugmentConfig(Section):
    """Geometry is of RGB and depth alike, photometry of RGB. A range is what a factor is drawn from, evenly."""

    crop: Pair[Side]  # height, width: cut at random
    flip: float = Field(0.5, ge=0, le=1)
    rotation: float = Field(0.0, ge=0, le=45)  # degrees at most, either way
    scale: Pair[Factor] = (1.0, 1.0)  # images are resized by it before they are cut
    scale_depth: bool = False  # depth is divided by it, which keeps the camera; else depth stays as it is
    gamma: Pair[Factor] = (1.0, 1.0)
    brightness: Pair[Factor] = (1.0, 1.0)
    contrast: Pair[Factor] = (1.0, 1.0)
    saturation: Pair[Factor] = (1.0, 1.0)
    hue: float = Field(0.0, ge=0, le=0.5)  # turns at most, either way
    colour: Pair[Factor] = (1.0, 1.0)  # of each channel its own

    @model_validator(mode="after")
    def _ranges(self) -> "AugmentConfig":
        for name in ("scale", "gamma", "brightness", "contrast", "saturation", "colour"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"augment.{name} must be two rising factors, got {low:g} and {high:g}")
        if self.scale_depth and self.scale == (1.0, 1.0):
            raise ValueError("augment.scale_depth has no effect where augment.scale is 1: leave it out")
        return self


class SparseOptim(OptimConfig):
    epochs: int = Field(10, gt=0, le=1_000_000)
    batch_size: Samples = 2  # global
    lr: float = Field(1e-4, gt=0, le=100)
    weight_decay: float = Field(0.01, ge=0, le=100)
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_steps: Often | None = None  # in place of warmup_epochs: so many steps, whatever the data
    encoder_factor: float = Field(1.0, gt=0, le=100)  # on lr, of the encoder

    @model_validator(mode="after")
    def _one_warm_up(self) -> "SparseOptim":
        if self.warmup_steps is not None and self.warmup_epochs > 0:
            raise ValueError(
                f"optim.warmup_steps {self.warmup_steps} and optim.warmup_epochs {self.warmup_epochs:g} say the same: "
                "leave one out"
            )
        return self


class SparseDepthConfig(StudyConfig):
    model: NetworkChoice
    data: DataConfig = DataConfig()
    augment: AugmentConfig
    optim: SparseOptim = SparseOptim()

    @model_validator(mode="after")
    def _fits(self) -> "SparseDepthConfig":
        if self.data.edge_share and not self.data.queries:
            raise ValueError("data.edge_share is of data.queries, of which there are none: set data.queries too")
        if self.runtime.augment != "auto":
            raise ValueError("runtime.augment has no effect on train depth: leave it out")
        lowest = self.optim.lr * min(1.0, self.optim.encoder_factor)
        if isinstance(self.schedule, CosineSchedule) and lowest < self.schedule.min_lr:
            raise ValueError(
                f"schedule.min_lr must be at most the highest rate of every part, {lowest:g}, got "
                f"{self.schedule.min_lr:g}: lower it, or raise optim.lr or optim.encoder_factor"
            )
        return self


def resolve(
    name: str, model: str | None, settings: Sequence[str] = (), depth: str | None = None, init: str | None = None
) -> SparseDepthConfig:
    """The preset, then what it says of this model (`[models.<moniker>.<section>]`), then options, then `--set`."""
    values = preset(name, KIND)
    section = values.get("model")
    its = section.get("name") if isinstance(section, dict) else None
    if None not in (model, its) and model != its:
        raise ConfigError(f"--model must be {its} as --preset {name} is, got {model!r}")
    model = model or its
    if model is None:
        raise ConfigError(f"--model must be given: {' or '.join(MODELS)}")
    check_moniker(model, MODELS)
    own: dict[str, Any] = values.pop("models", {}).get(model, {})
    for section_name, keys in own.items():
        values[section_name] = {**values.get(section_name, {}), **keys}
    values |= {"init": init, "model": {**values.get("model", {}), "name": model}}
    if depth is not None:
        if any(setting.partition("=")[0].strip() == "data.depth" for setting in settings):
            raise ConfigError("--set data.depth: --depth chooses it: leave one out")
        values["data"] = {**values.get("data", {}), "depth": depth}
    for setting in settings:
        apply(values, setting, SparseDepthConfig)
    return validated(values, SparseDepthConfig)
