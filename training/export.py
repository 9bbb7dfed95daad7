"""An exported model: a folder with `model.safetensors` and `config.json`, enough to build it without its run.

    config.json   {"format": "pseudodepth", "schema_version": 1, "model": {name, width, ...}, ...whatever was added}

What is added (the run and its checkpoint, the study, the shards it saw) is for people and later stages.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import files
from training.config import ONLINE, StudyConfig
from training.models.registry import ModelConfig
from training.models.vit import ModelError, VisionTransformer, VitConfig, built_for

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT, SCHEMA_VERSION = "pseudodepth", 1
_MOST_BYTES = 16 << 20  # of config.json


def export(model: VisionTransformer, config: VitConfig, folder: Path, extra: dict[str, Any]) -> None:
    """Write the folder whole or not at all; an earlier export there is replaced, anything else refused."""
    if folder.exists() and not is_export(folder):
        raise ModelError(f"{folder} exists and is no exported model: choose another folder")
    reserved = sorted({"format", "schema_version", "model"} & extra.keys())
    assert not reserved, f"config.json has its own {reserved}"
    with files.making(folder) as made:
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        try:
            save_file(state, made / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk is one too
            raise ModelError(f"cannot write {folder} ({error}): make room, or choose another folder") from error
        head = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "model": config.model_dump(mode="json")}
        (made / CONFIG).write_text(json.dumps(head | extra, indent=2) + "\n", "utf-8")


def study_of(config: StudyConfig) -> dict[str, Any]:
    """What the model was trained by. A teacher is named where one was in the loop: the shards name theirs."""
    study = config.study()
    if config.data.depth != ONLINE:
        study["data"] = {"depth": config.data.depth}
    return study


def is_export(folder: Path) -> bool:
    return _config(folder).get("format") == FORMAT


def _config(folder: Path) -> dict[str, Any]:
    """config.json, or nothing where it is none."""
    try:
        found = files.parsed_json(files.read_bytes(folder / CONFIG, _MOST_BYTES))
    except (OSError, files.ReadError):
        return {}
    return found if isinstance(found, dict) else {}


def read_export(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What the model is, and its weights on the CPU."""
    if not is_export(folder):
        raise ModelError(f"{folder} must be a folder that `train export` wrote ({WEIGHTS} and {CONFIG})")
    values = _config(folder)
    if values.get("schema_version") != SCHEMA_VERSION:
        raise ModelError(
            f"{folder} has schema version {values.get('schema_version')}, this version reads {SCHEMA_VERSION}: "
            "upgrade pseudodepth"
        )
    config = model_config(values.get("model"), str(folder / CONFIG))
    try:
        return config, load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {WEIGHTS}: export again") from None
    except SafetensorError as error:
        raise ModelError(f"{folder / WEIGHTS} is damaged ({error}): export again") from None


def from_pretrained(folder: Path | str) -> VisionTransformer:
    """The model of an exported folder, on the CPU, in evaluation mode."""
    config, state = read_export(Path(folder))
    return built_for(config.build, state, str(folder)).eval()


def model_config(values: Any, where: str) -> ModelConfig:
    """A model's config of plain values; ModelError names the first fault."""
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(("model", *map(str, first["loc"][1:])))
        raise ModelError(f"{where} describes no model of ours: {key}: {first['msg']}") from None
