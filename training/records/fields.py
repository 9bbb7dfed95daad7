"""What the fields of records may hold: what is read may be a stranger's. No torch."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from pipeline import files
from pipeline.errors import UserError

SCHEMA_VERSION = 6
FIRST_OF_MATRIX = 4  # that has pseudo-values
OtherDepth = list[str]  # in what the shards' depth differs from that the run was trained with
Fraction = Annotated[float, Field(ge=0, le=1)]  # and no NaN
Amount = Annotated[FiniteFloat, Field(ge=0)]

# What is read may be a stranger's: names match a pattern (not a list: new ones come), numbers have bounds.
Name = Annotated[str, Field(max_length=255, pattern=r"^[^/\x00]+$")]  # of a file or folder
Place = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
Word = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # a model, preset, source, unit
Stamp = Annotated[str, Field(pattern=r"^[0-9A-Za-z:+.-]{1,40}$")]
CheckpointName = Annotated[str, Field(pattern=r"^(latest|best|(epoch|step)-[0-9]{1,15})$")]
SplitName = Annotated[str, Field(pattern=r"^[a-z]{1,16}$")]
Hash = Annotated[str, Field(pattern=r"^[A-Za-z0-9_:-]{0,128}$")]
Text = Annotated[str, Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Some = Annotated[int, Field(ge=1, le=10**12)]
Step = Annotated[int, Field(ge=0, le=10**15)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Bits = Annotated[str, Field(max_length=10**9, pattern=r"^[01]*$")]  # one '0' or '1' a sample
Sides = Annotated[int, Field(ge=0, le=10**6)]
MOST_BYTES = 2 << 30  # of one file


class RecordError(UserError):
    """A run's file is missing, damaged or newer than this version; the message names it."""


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _shallow(cls, value: Any) -> Any:
        if isinstance(value, dict) and files.too_deep(value):
            raise ValueError("nested too deeply")
        return value
