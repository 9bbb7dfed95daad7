"""Reading a description: a ready one of data_manifests/rgbd/, or one's own, and telling what is wrong in it."""

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.files import ReadError, read_bytes
from pipeline.sources import SourceError, printable
from pipeline.sources.rgbd.description import Description, nearest

_MOST_BYTES = 1 << 22
_READY = resources.files("data_manifests") / "rgbd"


def ready() -> list[str]:
    """The names of those that come with the project."""
    return sorted(entry.name.removesuffix(".toml") for entry in _READY.iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> Description:
    """A ready description by its name, or one's own by its path; SourceError with what is wrong in it."""
    if re.fullmatch(r"[a-z0-9_-]+", name) and (name in ready() or not Path(name).is_file()):
        if name not in ready():
            raise SourceError(
                f"description {printable(name)!r} is no file and none that comes with the project"
                f"{nearest(name, ready())}: give a path, or see precompute-depth rgbd --list"
            )
        text = (_READY / f"{name}.toml").read_text()
    else:
        try:
            text = read_bytes(Path(name), _MOST_BYTES).decode("utf-8-sig")
        except FileNotFoundError:
            raise SourceError(
                f"description {printable(name)} does not exist: give a path, or see precompute-depth rgbd --list"
            ) from None
        except (OSError, ReadError, UnicodeDecodeError) as error:
            raise SourceError(f"description {printable(name)} cannot be read as text ({error}): mend it") from None
    try:
        return Description.model_validate(tomllib.loads(text))
    except RecursionError:
        raise SourceError(f"description {printable(name)} is nested too deeply: mend it") from None
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"description {printable(name)} is no TOML ({error}): mend it") from None
    except ValidationError as error:
        raise SourceError(f"description {printable(name)}: {_told(error)}") from None


def _told(error: ValidationError) -> str:
    errors = error.errors()
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])  # a typo leaves a gap too
    where = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            key = str(first["loc"][-1])
            return f"unknown key {where}{nearest(key, _siblings(first['loc']))}"
        case "missing":
            return f"{where} is missing: add it"
        case "value_error":
            text = str(first["ctx"]["error"])
            return f"{where}: {text}" if where else text
    message = first["msg"]
    return f"{where} {message[:1].lower()}{message[1:]}, got {first['input']!r:.60}"


def _siblings(place: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand where the last of `place` does."""
    model: Any = Description
    for part in place[:-1]:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        if part not in model.model_fields:
            continue
        model = _model_of(model.model_fields[part].annotation)
    return [*model.model_fields] if isinstance(model, type) and issubclass(model, BaseModel) else []


def _model_of(annotation: Any) -> Any:
    """The model within `dict[..., Model]`, `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if (found := _model_of(inner)) is not None:
            return found
    return None
