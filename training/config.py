"""One schema for configuration: frozen pydantic models, TOML presets, `--set section.key=value`.

What all tasks have in common; a task's own schema (training/tasks/*/config.py) adds model, data and the rest.
Everything but `runtime` is the *study*: what the result depends on. It is hashed and must match on resume; `runtime`
(device, workers, logging) may change.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from pipeline.errors import UserError
from training.records import study_hash

ONLINE = "online"  # the depth that no shards hold: a teacher sees every batch
PRESETS = Path(__file__).parent / "presets"
_TAGS = {"name", "kind"}  # that tell the forms of a section apart
_Value = TypeVar("_Value")
_Schema = TypeVar("_Schema", bound=BaseModel)
Pair = Annotated[tuple[_Value, _Value], Strict(False)]  # TOML and JSON know lists only
Several = Annotated[tuple[_Value, ...], Strict(False)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Often = Annotated[int, Field(gt=0, le=10**9)]
Samples = Annotated[int, Field(gt=0, le=10_000_000)]
Epoch = Annotated[int, Field(ge=0, le=1_000_000)]


class ConfigError(UserError):
    """A configuration that cannot be; one line that names the key and the fix."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class CosineSchedule(Section):
    """From warmup_factor * lr linearly to lr over optim.warmup_epochs, then on a half cosine to min_lr."""

    kind: Literal["cosine"] = "cosine"
    min_lr: float = Field(1e-6, ge=0, le=100)
    warmup_factor: float = Field(0.01, gt=0, le=1)
    every: Literal["step", "epoch"] = "step"  # how often the learning rate changes

    def rate(self, optim: "OptimConfig", epoch: float) -> float:
        """At the fractional `epoch`, of which the whole part counts where the rate changes every epoch."""
        if self.every == "epoch":
            epoch = math.floor(epoch)
        if epoch < optim.warmup_epochs:
            return optim.lr * (self.warmup_factor + (1 - self.warmup_factor) * epoch / optim.warmup_epochs)
        progress = (epoch - optim.warmup_epochs) / max(optim.epochs - optim.warmup_epochs, 1e-9)
        return self.min_lr + (optim.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class PolySchedule(Section):
    """From 0 linearly to lr over optim.warmup_epochs, then lr * (1 - epoch / epochs)^power, every step its own rate.

    The warm-up does not delay the fall.
    """

    kind: Literal["poly"] = "poly"
    power: float = Field(0.9, gt=0, le=10)

    def rate(self, optim: "OptimConfig", epoch: float) -> float:
        if epoch < optim.warmup_epochs:
            return optim.lr * epoch / optim.warmup_epochs
        return optim.lr * (1 - min(epoch / optim.epochs, 1.0)) ** self.power


Schedule = Annotated[CosineSchedule | PolySchedule, Field(discriminator="kind")]


class OptimConfig(Section):
    """AdamW. The learning rate follows the section `schedule`."""

    epochs: int = Field(300, gt=0, le=1_000_000)
    steps_per_epoch: Often | None = None  # an epoch is a pass over the data, or so many steps
    batch_size: Samples = 192  # global
    lr: float = Field(1e-3, gt=0, le=100)
    betas: Pair[Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.05, ge=0, le=100)
    decay_1d: bool = False  # whether biases, norms and scalars are decayed too
    warmup_epochs: float = Field(10, ge=0)
    grad_clip: float | None = Field(1.0, gt=0, le=1e9)
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


class StudyConfig(Section):
    """What every task's schema has; it adds `model`, which has a name, and `data`, which names a depth field."""

    preset: str
    init: str | None = None  # weights to start from: timm:NAME, a checkpoint file, a run or an exported model
    seed: int = Field(0, ge=0, le=2**62)
    model: Any
    data: Any
    optim: OptimConfig = OptimConfig()
    schedule: Schedule = CosineSchedule()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "StudyConfig":
        if self.optim.warmup_epochs > self.optim.epochs:
            raise ValueError(
                f"optim.warmup_epochs must be at most optim.epochs {self.optim.epochs}, got {self.optim.warmup_epochs}"
            )
        return self

    @property
    def mix_group(self) -> int:
        """Consecutive samples that must stay together."""
        return 1

    def study(self) -> dict[str, Any]:
        """What the result depends on."""
        return self.model_dump(mode="json", exclude={"runtime"})

    def study_hash(self) -> str:
        return study_hash(self.study())


def preset(name: str, task: str) -> dict[str, Any]:
    """What a preset of a task says, `preset` being its name: ours by name, or anybody's TOML file by its path."""
    folder = PRESETS / task
    names = sorted(path.stem for path in folder.glob("*.toml"))
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not name.endswith(".toml") and name not in names:
        others = sorted(other.parent.name for other in PRESETS.glob("*/*.toml") if other.stem == name)
        whose = f", which is of {' and '.join(others)}" if others else ""
        raise ConfigError(f"--preset must be one of {', '.join(names)}, or a TOML file, got {name!r}{whose}")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's, and of bytes that are no text
        raise ConfigError(f"--preset {path} must be TOML, got {(str(error) or 'too deep').splitlines()[0]}") from None
    except OSError as error:
        raise ConfigError(f"--preset {path} cannot be read ({error.strerror}): give a TOML file") from None
    return values | {"preset": path.stem}


def as_toml(config: BaseModel) -> str:
    """A configuration as a TOML file: what has a section, and above it what has none; what is None is left out."""
    values = {k: v for k, v in config.model_dump(mode="json").items() if v is not None}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for name, section in values.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in section.items() if value is not None]
    return "\n".join(lines) + "\n"


def check_moniker(model: str, monikers: Sequence[str]) -> None:
    if model not in monikers:
        raise ConfigError(f"--model must be one of {', '.join(monikers)}, got {model!r}")


_MOVED = {"min_lr": "min_lr", "warmup_factor": "warmup_factor", "schedule": "every", "power": "power"}


def brought_up(values: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration in today's form: until schema 4 of run.json, `optim` held what `schedule` holds.

    What came since has the value that such a run had without a word.
    """
    optim, model = values.get("optim"), values.get("model")
    if not isinstance(optim, dict) or not isinstance(model, dict):
        return values
    if "schedule" in values:
        return values | {"model": _with_what_came(model)}
    schedule = {"kind": "poly" if "power" in optim else "cosine"}
    schedule |= {now: optim[before] for before, now in _MOVED.items() if before in optim}
    optim = {"steps_per_epoch": None, "decay_1d": False} | {k: v for k, v in optim.items() if k not in _MOVED}
    return values | {"model": _with_what_came({"freeze": "none"} | model), "optim": optim, "schedule": schedule}


def _with_what_came(model: dict[str, Any]) -> dict[str, Any]:
    """A recorded model with the keys that came to plain ViTs in schema 6, as it was without them."""
    is_plain = {"freeze", "patch_size", "num_classes"} <= model.keys()
    return {"drop_path": 0.0, "head_init": "source"} | model if is_plain else model


def validated(values: dict[str, Any], schema: type[_Schema]) -> _Schema:
    """A configuration of plain values; ConfigError names the first key at fault."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors()  # a misspelt key before what is missing for it
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        chosen = _chosen(values.get(str(first["loc"][0])) if first["loc"] else None)
        path = [str(part) for place, part in enumerate(first["loc"]) if (place, part) != (1, chosen)]
        key = ".".join(path)
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown key '{key}'{_nearest(key, values, schema)}") from None
        if first["type"] == "value_error":
            raise ConfigError(str(first["ctx"]["error"])) from None
        raise ConfigError(f"{key} {_constraint(first['msg'])}, got {_short(first['input'])}") from None


def _chosen(section: Any) -> str | None:
    """Which of several forms of a section is meant: a model by its name, a schedule by its kind."""
    return (section.get("name") or section.get("kind")) if isinstance(section, dict) else None


def _constraint(message: str) -> str:
    """Pydantic's message as what the key must be."""
    if message == "Field required":
        return "must be given"
    return re.sub(r"^\w+ should", "must", message)


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
        tags: set[str] = set()
        if len(kinds) > 1:
            tags, chosen = _TAGS, _chosen(values.get(name))
            kinds = [
                k for k in kinds if chosen in (k.model_fields[tag].default for tag in tags & k.model_fields.keys())
            ]
        found[name] = [key for section in kinds for key in section.model_fields if key not in tags]
    return found


def _nearest(key: str, values: dict[str, Any], schema: type[BaseModel]) -> str:
    valid = [f"{name}.{k}" if k else name for name, keys in _keys(values, schema).items() for k in keys or [""]]
    section, _, own = key.partition(".")
    if section == "optim" and (moved := f"schedule.{_MOVED.get(own)}") in valid:
        return f": did you mean '{moved}'?"
    close = difflib.get_close_matches(key, valid, 1, 0.4)
    return f": did you mean '{close[0]}'?" if close else f": valid keys are {', '.join(valid)}"
