"""Fine-tuning's configuration; what it has in common with pre-training's comes from training/config.py."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.shards import DepthName
from training.config import (
    ConfigError,
    OptimConfig,
    Pair,
    PolySchedule,
    Samples,
    Schedule,
    Section,
    Several,
    StudyConfig,
    apply,
    check_moniker,
    preset,
    validated,
)
from training.models.registry import MONIKERS, RELATIVES, BackboneConfig
from training.models.segmenter import HeadConfig

KIND = "segmentation"
Selection = Literal["best-on-val", "best-on-test"]
Scale = Annotated[float, Field(ge=0.1, le=4)]
Side = Annotated[int, Field(ge=16, le=16_384)]


class DataConfig(Section):
    depth: DepthName = "real"


class CropConfig(Section):
    """Flip, scale, crop; RGB and depth are padded with 0 after normalisation, labels with void."""

    flip: float = Field(0.5, ge=0, le=1)
    scales: Several[Scale] = Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), min_length=1)
    crop: Pair[Side]  # rows, columns


class SegmentationOptim(OptimConfig):
    epochs: int = Field(500, gt=0, le=1_000_000)
    steps_per_epoch: int = Field(50, gt=0, le=1_000_000)  # whatever the data
    batch_size: Samples = 16  # global
    lr: float = Field(6e-5, gt=0, le=100)
    weight_decay: float = Field(0.01, ge=0, le=100)
    grad_clip: float | None = Field(None, gt=0, le=1e9)
    grouping: Literal["complete", "dformer-compat"] = "complete"  # dformer-compat: freezes what the authors' code does


class SelectConfig(Section):
    """Which checkpoint is reported. The authors look at the test split many times and keep the best."""

    rule: Selection = "best-on-val"
    share: float = Field(0.1, gt=0, lt=1)  # of the training split, set aside in whole scenes, for best-on-val
    every: int = Field(10, gt=0, le=1_000_000)  # epochs


class TestConfig(Section):
    scales: Several[Scale] = Field((0.5, 0.75, 1.0, 1.25, 1.5), min_length=1)  # of multi-scale evaluation, each flipped


class FinetuneConfig(StudyConfig):
    model: BackboneConfig
    head: HeadConfig
    data: DataConfig = DataConfig()
    augment: CropConfig
    optim: SegmentationOptim = SegmentationOptim()
    schedule: Schedule = PolySchedule()
    select: SelectConfig = SelectConfig()
    test: TestConfig = TestConfig()

    @model_validator(mode="after")
    def _fits(self) -> "FinetuneConfig":
        runtime = {"eval_every": self.runtime.eval_every, "augment": self.runtime.augment}
        for key, without_effect in (("eval_every", 1), ("augment", "auto")):
            if runtime[key] != without_effect:
                raise ValueError(f"runtime.{key} has no effect on fine-tuning: leave it out (select.every evaluates)")
        stride = self.model.stride
        if any(side % stride for side in self.augment.crop):
            raise ValueError(
                f"augment.crop must be whole steps of {stride} px as {self.model.name} divides images, got "
                f"{list(self.augment.crop)}"
            )
        if self.model.num_maps > 1 and self.head.kind != "ham":
            raise ValueError(f"head.kind must be ham for {self.model.name}, got {self.head.kind!r}")
        if self.model.freeze == "backbone" and self.init is None:
            raise ValueError("model.freeze=backbone keeps the weights of --init, got none: give a run, export or file")
        if self.model.freeze == "backbone" and self.optim.grouping != "complete":
            raise ValueError("optim.grouping must be complete where model.freeze is backbone: the two freeze apart")
        return self


MODELS: tuple[str, ...] = (*MONIKERS, *RELATIVES)


def resolve(
    name: str,
    model: dict[str, Any],
    settings: Sequence[str] = (),
    *,
    num_classes: int,
    init: str | None = None,
    depth: str | None = None,
    head: str | None = None,
    rule: str | None = None,
) -> FinetuneConfig:
    """The preset, then what it says of this model (`[models.<moniker>.<section>]`), then options, then `--set`.

    `model` is the backbone as its pre-training's config has it, or {"name": moniker} for the preset's size, which is of
    plain ViTs alone.
    """
    values = preset(name, KIND)
    check_moniker(model["name"], MODELS)
    own = values.pop("models", {}).get(model["name"], {})
    if model["name"] not in MONIKERS or model.keys() != {"name"}:
        values.pop("model", None)  # the size of a plain ViT
    for section, keys in own.items():
        values[section] = {**values.get(section, {}), **keys}
    values |= {"init": init, "model": {**values.get("model", {}), **model}}
    values["head"] = {**values.get("head", {}), "num_classes": num_classes}
    for section, key, value in (("data", "depth", depth), ("head", "kind", head), ("select", "rule", rule)):
        if value is not None:
            if any(setting.partition("=")[0].strip() == f"{section}.{key}" for setting in settings):
                raise ConfigError(f"--set {section}.{key}: it is chosen by an option or by the command: leave it out")
            values[section] = {**values.get(section, {}), key: value}
    for setting in settings:
        apply(values, setting, FinetuneConfig)
    return validated(values, FinetuneConfig)


def validate(values: dict[str, Any]) -> FinetuneConfig:
    return validated(values, FinetuneConfig)
