"""The study file: which runs there are, what becomes of each, and which are fine-tuned. TOML, refused by name."""

import tomllib
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from pipeline import files
from pipeline.shards import DepthName
from training.config import ConfigError, Section, Several, check_moniker, validated
from training.models.registry import MONIKERS, NO_DEPTH
from training.noise.sweep import Kind

STAGES = ("pretrain", "dump", "noise", "gap")  # what becomes of a run, in their order; `stages` makes them
_MOST_BYTES = 1 << 20
Seed = Annotated[int, Field(ge=0, le=2**62)]
Images = Annotated[int, Field(ge=0, le=10**8)]
Kept = Annotated[str, Field(pattern=r"^(best|epoch-(0|[1-9][0-9]{0,6}))$")]


class Named(NamedTuple):
    """A run of the study; its folder has its name."""

    model: str
    depth: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.depth}-{self.seed}"


class Combinations(Section):
    """Every model with every depth and every seed."""

    models: Several[str] = Field(min_length=1)
    depths: Several[DepthName] = Field(min_length=1)
    seeds: Several[Seed] = Field(min_length=1)

    @field_validator("models", "depths", "seeds")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"runs must name each model, depth and seed once, got {twice[0]!r} twice: leave one out")
        return values

    @property
    def named(self) -> list[Named]:
        several = product(self.models, self.depths, self.seeds)
        return [Named(*each) for each in several if each[0] != NO_DEPTH or each[1] == self.depths[0]]


class Runs(Combinations):
    stages: Several[str] = ()  # after pre-training
    checkpoints: Several[Kept] | None = None  # in place of the dump section's

    @field_validator("models")
    @classmethod
    def _known_models(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        for model in models:
            try:
                check_moniker(model, MONIKERS)
            except ConfigError as error:
                raise ValueError(str(error).replace("--model", "runs.models")) from None
        return models

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := next((stage for stage in stages if stage not in STAGES), None):
            raise ValueError(f"runs.stages must be of {', '.join(STAGES)}, got {unknown!r}")
        return stages


class DumpOptions(Section):
    """As `train dump` has them. `checkpoints` come beside the last: the same images, no raw scores, depth untouched."""

    images: Annotated[int, Field(ge=2, le=10**8)] | None = None  # all of val
    raw: Images = 64
    causal: Images = 0
    checkpoints: Several[Kept] = ()


class Tunings(Combinations):
    tuning_seeds: Several[Seed] = Field((0,), min_length=1)  # of fine-tuning, each from the same pre-trained run

    @field_validator("tuning_seeds")
    @classmethod
    def _tuned_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"matrix.runs.tuning_seeds must name each seed once, got {list(seeds)}")
        return seeds


class MatrixOptions(Section):
    """Table 3: `train matrix` over some of the runs."""

    data: str
    preset: str = "dformer-nyu"
    settings: Several[str] = ()
    runs: Several[Tunings] = Field(min_length=1)


class StudyFile(Section):
    data: str
    pairs: str | None = None  # shards with pseudo and sensor depth, for the stage gap
    preset: str
    settings: Several[str] = ()  # as --set of train pretrain
    noise: Several[Kind] = Field(("pixel", "patch"), min_length=1)
    dump: DumpOptions = DumpOptions()
    runs: Several[Runs] = Field(min_length=1)
    matrix: MatrixOptions | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> "StudyFile":
        known: dict[tuple[str, str, int], str] = {}
        for each in (named for runs in self.runs for named in runs.named):
            result = (each.model, "" if each.model == NO_DEPTH else each.depth, each.seed)
            if result in known:
                why = "" if known[result] == each.name else f", which is {known[result]}: {NO_DEPTH} reads no depth"
                raise ValueError(f"runs must name each run once, got {each.name} twice{why}: leave one out")
            known[result] = each.name
        if self.pairs is None and any("gap" in runs.stages for runs in self.runs):
            raise ValueError("pairs must name shards with pseudo and sensor depth where a stage is gap, got none")
        names = set(known.values())
        tuned = [each.name for tunings in (self.matrix.runs if self.matrix else ()) for each in tunings.named]
        for name in tuned:
            if name not in names:
                raise ValueError(
                    f"matrix.runs must be of this study's runs, got {name}: add it to runs, or leave it out"
                )
            if tuned.count(name) > 1:
                raise ValueError(f"matrix.runs must name each run once, got {name} twice: leave one out")
        for setting in self.settings:
            if (key := setting.partition("=")[0].strip()) in ("seed", "data.depth"):
                raise ValueError(f"settings must leave {key} to runs, got {setting!r}: leave it out")
        for setting in self.matrix.settings if self.matrix else ():
            if setting.partition("=")[0].strip() == "seed":
                raise ValueError(f"matrix.settings must leave seed to tuning_seeds, got {setting!r}: leave it out")
        return self


def read(path: Path) -> StudyFile:
    """The file, checked; ConfigError names it and the key at fault."""
    try:
        values = tomllib.loads(files.read_bytes(path, _MOST_BYTES).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"study file {path} does not exist: give a TOML file, such as training/presets/study/demo.toml"
        ) from None
    except files.ReadError as error:
        raise ConfigError(f"study file {path} must be a TOML file, got {error}") from None
    except RecursionError:
        raise ConfigError(f"study file {path} must be TOML, got tables nested too deeply") from None
    except ValueError as error:  # TOML's, and of bytes that are no text
        raise ConfigError(f"study file {path} must be TOML, got {str(error).splitlines()[0]}") from None
    try:
        return validated(values, StudyFile)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
