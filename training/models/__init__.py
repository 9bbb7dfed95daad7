"""The registry: one config class a fusion technique, told apart by `name`, and the module it builds."""

from typing import Annotated

from pydantic import Field

from training.models.fusion.m3ch import M3ch, M3chConfig
from training.models.fusion.m4ch import M4ch, M4chConfig
from training.models.fusion.mlin import Mlin, MlinConfig
from training.models.vit import VisionTransformer, VitConfig

ModelConfig = Annotated[M3chConfig | MlinConfig | M4chConfig, Field(discriminator="name")]

_MODULES: dict[type[VitConfig], type[VisionTransformer]] = {M3chConfig: M3ch, MlinConfig: Mlin, M4chConfig: M4ch}
MONIKERS = tuple(kind.model_fields["name"].default for kind in _MODULES)


def build(config: M3chConfig | MlinConfig | M4chConfig) -> VisionTransformer:
    """The model of a config, freshly initialised from the global generator."""
    return _MODULES[type(config)](config)
