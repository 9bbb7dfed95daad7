"""The registry is a union type: one config class a fusion technique, told apart by `name`; each builds its module."""

from typing import Annotated, get_args

from pydantic import Field

from training.models.fusion.m3ch import M3chConfig
from training.models.fusion.m4ch import M4chConfig
from training.models.fusion.mdf1 import Mdf1Config
from training.models.fusion.mgem import MgemConfig
from training.models.fusion.mlin import MlinConfig
from training.models.fusion.mmlp import MmlpConfig

ModelConfig = Annotated[
    M3chConfig | MlinConfig | MmlpConfig | M4chConfig | Mdf1Config | MgemConfig, Field(discriminator="name")
]

MONIKERS: tuple[str, ...] = tuple(kind.model_fields["name"].default for kind in get_args(get_args(ModelConfig)[0]))
