"""The configuration of a teacher that is trained on rendered depth."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from pipeline.shards import DepthName
from training.config import Section, StudyConfig, apply, preset, validated

KIND = "depth"


class TeacherConfig(Section):
    """A Depth Anything of 0.59 M parameters."""

    name: Literal["depth-anything-tiny"] = "depth-anything-tiny"
    size_px: int = Field(112, gt=0, le=4096)  # the side it sees, a multiple of its patch of 14

    @model_validator(mode="after")
    def _divides(self) -> "TeacherConfig":
        if self.size_px % 14:
            raise ValueError(f"model.size_px must be a multiple of 14 (the patch size), got {self.size_px}")
        return self


class DataConfig(Section):
    depth: DepthName = "exact"  # in metres


class MirrorConfig(Section):
    flip: float = Field(0.5, ge=0, le=1)


class DepthConfig(StudyConfig):
    model: TeacherConfig = TeacherConfig()
    data: DataConfig = DataConfig()
    augment: MirrorConfig = MirrorConfig()

    @model_validator(mode="after")
    def _without_effect(self) -> "DepthConfig":
        if self.init is not None:
            raise ValueError("init must be left out: the tiny teacher starts fresh")
        if self.runtime.augment != "auto":
            raise ValueError("runtime.augment has no effect on train teacher: leave it out")
        return self


def resolve(name: str, settings: Sequence[str] = (), depth: str | None = None, init: str | None = None) -> DepthConfig:
    """The preset, then options, then `--set section.key=value`."""
    values = preset(name, KIND) | {"init": init}
    if depth is not None:
        values["data"] = {**values.get("data", {}), "depth": depth}
    for setting in settings:
        apply(values, setting, DepthConfig)
    return validated(values, DepthConfig)
