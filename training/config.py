"""One schema for configuration: frozen pydantic models, TOML presets, `--set section.key=value`.

This is pre-training's; fine-tuning's (training/tasks/segmentation/config.py) is made of the same parts. Everything but
`runtime` is the *study*: what the result depends on. It is hashed and must match on resume; `runtime` (device, workers,
logging) may change.
"""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from pipeline.errors import UserError
from training.models import MONIKERS, ModelConfig
from training.records import study_hash

PRESETS = Path(__file__).parent / "presets"
_Value = TypeVar("_Value")
_Schema = TypeVar("_Schema", bound=BaseModel)
Pair = Annotated[tuple[_Value, _Value], Strict(False)]  # TOML and JSON know lists only
Several = Annotated[tuple[_Value, ...], Strict(False)]
Alpha = Annotated[float, Field(ge=0, le=1000)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Often = Annotated[int, Field(gt=0, le=10**9)]
Samples = Annotated[int, Field(gt=0, le=10_000_000)]
Epoch = Annotated[int, Field(ge=0, le=1_000_000)]
DepthField = Literal["pseudo", "real", "raw", "exact", "online"]


class ConfigError(UserError):
    """A configuration that cannot be; one line that names the key and the fix."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class DataConfig(Section):
    """`online` is what the paper did: the teacher sees every augmented and mixed batch, inside the training loop."""

    depth: DepthField = "pseudo"  # which depth of the shards the model sees; "online" reads none
    teacher: str = "depth-anything/Depth-Anything-V2-Small-hf"  # for online: a hub id, a folder, or toy
    teacher_stats: Annotated[
        tuple[Annotated[float, Field(ge=-1e6, le=1e6)], Annotated[float, Field(ge=1e-6, le=1e6)]], Strict(False)
    ] = (2.5785, 1.6296)  # for online: mean, std (the paper's)


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


class OptimConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    epochs: int = Field(300, gt=0, le=1_000_000)
    batch_size: Samples = 192  # global
    lr: float = Field(1e-3, gt=0, le=100)
    min_lr: float = Field(1e-6, ge=0, le=100)
    betas: Pair[Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.05, ge=0, le=100)
    decay_1d: bool = False  # the thesis decays biases, norms and scalars as well
    warmup_epochs: float = Field(10, ge=0)
    warmup_factor: float = Field(0.01, gt=0, le=1)
    schedule: Literal["step", "epoch"] = "step"  # how often the learning rate changes
    grad_clip: float = Field(1.0, gt=0, le=1e9)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)  # > 0: an average of the weights, which is then what is evaluated


class RuntimeConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    workers: int = Field(2, ge=0, le=1024)  # of each rank
    micro_batch: Samples | None = None  # samples a forward pass; gradients of a global batch are accumulated
    augment: Literal["auto", "device", "worker"] = "auto"  # where RandAugment runs; auto: on a GPU, else in the workers
    attention: Literal["auto", "explicit", "sdpa", "triton"] = "auto"
    compile: bool = False
    loggers: Several[Literal["tensorboard", "wandb", "trackio"]] = ("tensorboard",)
    log_every: Often = 50  # steps
    checkpoint_every: Often = 1000  # steps
    keep_checkpoints: Often = 2
    eval_every: Often = 1  # epochs
    snapshot_epochs: Several[Epoch] = ()  # weights kept for the figures, never pruned


class Study(Section):
    """What both schemas have."""

    preset: str
    init: str | None = None  # weights to start from: timm:NAME, a checkpoint file, a run or an exported model
    seed: int = Field(0, ge=0, le=2**62)
    runtime: RuntimeConfig = RuntimeConfig()

    def study(self) -> dict[str, Any]:
        """What the result depends on."""
        return self.model_dump(mode="json", exclude={"runtime"})

    def study_hash(self) -> str:
        return study_hash(self.study())


class Config(Study):
    model: ModelConfig
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()

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
    def _warm_up_ends(self) -> "Config":
        if self.optim.warmup_epochs > self.optim.epochs:
            raise ValueError(
                f"optim.warmup_epochs must be at most optim.epochs {self.optim.epochs}, got {self.optim.warmup_epochs}"
            )
        return self

    @property
    def mix_group(self) -> int:
        """Consecutive samples that must stay together."""
        return self.augment.mix_group if self.augment.mixes else 1


def preset(name: str, folder: Path = PRESETS) -> dict[str, Any]:
    """What a preset file of `folder` says; ConfigError lists what there is."""
    names = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"--preset must be one of {', '.join(names)}, got {name!r}")
    return tomllib.loads((folder / f"{name}.toml").read_text("utf-8"))


def check_moniker(model: str, monikers: Sequence[str] = MONIKERS) -> None:
    if model not in monikers:
        raise ConfigError(f"--model must be one of {', '.join(monikers)}, got {model!r}")


def resolve(
    name: str,
    model: str,
    settings: Sequence[str] = (),
    num_classes: int | None = None,
    init: str | None = None,
) -> Config:
    """The preset, then what it says of this model (`[models.<moniker>]`), then `--set section.key=value`."""
    values = preset(name)
    check_moniker(model)
    own = values.pop("models", {}).get(model, {})
    values["preset"], values["init"] = name, init
    values["model"] = {**values.get("model", {}), **own, "name": model}
    if num_classes is not None:
        values["model"]["num_classes"] = num_classes
    for setting in settings:
        apply(values, setting, Config)
    return validate(values)


def validate(values: dict[str, Any]) -> Config:
    """A Config of plain values; ConfigError names the first key at fault."""
    return validated(values, Config)


def validated(values: dict[str, Any], schema: type[_Schema]) -> _Schema:
    """The same of any schema."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors()  # a misspelt key before what is missing for it
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        moniker = values.get("model", {}).get("name") if isinstance(values.get("model"), dict) else None
        path = [str(part) for place, part in enumerate(first["loc"]) if (place, part) != (1, moniker)]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown key '{key}'{_nearest(key, values, schema)}") from None
        if first["type"] == "value_error":
            raise ConfigError(str(first["ctx"]["error"])) from None
        raise ConfigError(f"{key} {_constraint(first['msg'])}, got {_short(first['input'])}") from None


def _constraint(message: str) -> str:
    """Pydantic's message as what the key must be."""
    if message == "Field required":
        return "must be given"
    return message.replace("Input should", "must").replace("Tuple should", "must")


def apply(values: dict[str, Any], setting: str, schema: type[BaseModel]) -> None:
    """One `--set section.key=value`."""
    key, separator, text = setting.partition("=")
    path = key.strip().split(".")
    if key.strip() in ("preset", "init", "model.name"):
        raise ConfigError(f"--set {key.strip()}: use --{key.strip().split('.')[0]} instead")
    if not separator or len(path) > 2 or not all(path):
        raise ConfigError(f"--set takes section.key=value such as optim.lr=5e-4, got {setting!r}")
    value = _parsed(text)
    if len(path) == 1:
        keys = _keys(values, schema).get(path[0])
        if keys:
            one = next((name for name in value if name in keys), keys[0]) if isinstance(value, dict) else keys[0]
            raise ConfigError(
                f"--set {path[0]} would replace the whole section, got {_short(value)}: set its keys one by one, as "
                f"--set {path[0]}.{one}=VALUE"
            )
        values[path[0]] = value
        return
    section = values.setdefault(path[0], {})
    if not isinstance(section, dict):
        raise ConfigError(f"unknown key '{key}'{_nearest(key, values, schema)}")
    section[path[1]] = value


def _parsed(text: str) -> Any:
    """TOML where it is the one value of its line, else the text as it is."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # a TOMLDecodeError, a number of thousands of digits, nests without end
        return text
    return found["value"] if len(found) == 1 else text


def _short(value: Any) -> str:
    """On one line that can be read."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"{type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _keys(values: dict[str, Any], schema: type[BaseModel]) -> dict[str, list[str]]:
    """The keys of each section; none where the name is a key of its own."""
    found = {}
    for name, field in schema.model_fields.items():
        kind = field.annotation
        kinds = [k for k in get_args(kind) or (kind,) if isinstance(k, type) and issubclass(k, BaseModel)]
        if name == "model":
            moniker = values.get("model", {}).get("name")
            kinds = [k for k in kinds if k.model_fields["name"].default == moniker]
        found[name] = [key for section in kinds for key in section.model_fields if key != "name"]
    return found


def _nearest(key: str, values: dict[str, Any], schema: type[BaseModel]) -> str:
    valid = [f"{name}.{k}" if k else name for name, keys in _keys(values, schema).items() for k in keys or [""]]
    close = difflib.get_close_matches(key, valid, 1, 0.4)
    return f": did you mean '{close[0]}'?" if close else f": valid keys are {', '.join(valid)}"
