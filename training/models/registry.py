"""The registry is a union type: one config class a fusion technique, told apart by `name`; each builds its module.

A technique is one file in `fusion/` and its config's place in `Vit`. Relatives read RGB and depth too, but only under a
head: they are backbones without a classifier.
"""

from typing import Annotated, get_args

from pydantic import Field

from training.models.fusion.m3ch import M3chConfig
from training.models.fusion.m4ch import M4chConfig
from training.models.fusion.mdf1 import Mdf1Config
from training.models.fusion.mgem import MgemConfig
from training.models.fusion.mlin import MlinConfig
from training.models.fusion.mmlp import MmlpConfig
from training.models.relatives.dformer import DFormerTinyConfig
from training.models.relatives.dformerv2 import DFormerV2SmallConfig

Vit = M3chConfig | MlinConfig | MmlpConfig | M4chConfig | Mdf1Config | MgemConfig
Relative = DFormerTinyConfig | DFormerV2SmallConfig

ModelConfig = Annotated[Vit, Field(discriminator="name")]
BackboneConfig = Annotated[Vit | Relative, Field(discriminator="name")]

MONIKERS: tuple[str, ...] = tuple(kind.model_fields["name"].default for kind in get_args(Vit))
RELATIVES: tuple[str, ...] = tuple(kind.model_fields["name"].default for kind in get_args(Relative))
NO_DEPTH = "m3ch"  # reads no depth: one depth is its result for all
