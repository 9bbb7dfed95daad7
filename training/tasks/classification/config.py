"""Configuration of a variant that classifies images, of its pre-training and its fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, Strict, model_validator

from pipeline.shards import DepthName
from pipeline.teachers import DEFAULT_TEACHER, THESIS_STATS
from training.config import (
    ConfigError,
    OptimConfig,
    Section,
    StudyConfig,
    apply,
    check_moniker,
    preset,
    validated,
)
from training.loading.augment.config import AugmentConfig
from training.models.registry import MONIKERS, ModelConfig

KIND = "classification"


class DataConfig(Section):
    """`online` is what the paper did: the teacher sees every augmented and mixed batch, inside the training loop."""

    depth: DepthName = "pseudo"  # which depth of the shards the model sees; "online" reads none
    teacher: str = DEFAULT_TEACHER  # for online: a hub id, a folder, a run of train depth, or toy
    teacher_stats: Annotated[
        tuple[Annotated[float, Field(ge=-1e6, le=1e6)], Annotated[float, Field(ge=1e-6, le=1e6)]], Strict(False)
    ] = THESIS_STATS  # for online: mean, std; left as it is, those of its own training where a teacher knows them


class ClassificationOptim(OptimConfig):
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class Config(StudyConfig):
    model: ModelConfig
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: ClassificationOptim = ClassificationOptim()

    @model_validator(mode="after")
    def _whole_groups(self) -> "Config":
        if self.augment.mixes and self.augment.mix_group < 2:
            raise ValueError(
                f"augment.mix_group must be at least 2 where samples are mixed with each other, got "
                f"{self.augment.mix_group}: set it to a divisor of optim.batch_size {self.optim.batch_size}"
            )
        if self.augment.mixes and self.optim.batch_size % self.augment.mix_group:
            raise ValueError(
                f"optim.batch_size {self.optim.batch_size} must be a multiple of "
                f"augment.mix_group {self.augment.mix_group}"
            )
        return self

    @model_validator(mode="after")
    def _trains_something_new(self) -> "Config":
        if self.model.freeze != "none" and self.model.head_init != "fresh":
            raise ValueError("model.freeze has no effect on pre-training: leave it out, or freeze in train finetune")
        if self.model.freeze != "none" and self.init is None:
            raise ValueError("model.freeze=backbone keeps the weights of --init, got none: give a run, export or file")
        return self

    @property
    def mix_group(self) -> int:
        return self.augment.mix_group if self.augment.mixes else 1


def resolve(
    name: str,
    model: str,
    settings: Sequence[str] = (),
    num_classes: int | None = None,
    init: str | None = None,
    depth: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> Config:
    """The preset, then what it says of this model (`[models.<moniker>]`), then `--set section.key=value`.

    `given` is what is known of the model from elsewhere, such as the weights it begins with: before the preset's.
    """
    values = preset(name, KIND)
    check_moniker(model, MONIKERS)
    own = values.pop("models", {}).get(model, {})
    values["init"] = init
    values["model"] = {**values.get("model", {}), **own, **(given or {}), "name": model}
    if num_classes is not None:
        values["model"]["num_classes"] = num_classes
    if depth is not None:
        if any(setting.partition("=")[0].strip() == "data.depth" for setting in settings):
            raise ConfigError("--set data.depth: --depth chooses it: leave one out")
        values["data"] = {**values.get("data", {}), "depth": depth}
    for setting in settings:
        apply(values, setting, Config)
    return validate(values)


def validate(values: dict[str, Any]) -> Config:
    return validated(values, Config)
