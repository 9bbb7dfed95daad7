"""An exported model: a folder with `model.safetensors` and `config.json`, enough to build it without its run.

    config.json   {"format": "pseudodepth", "schema_version": 1, "model": {name, width, ...}, ...whatever was added}

What is added (the run and its checkpoint, the study, the shards it saw) is for people and later stages.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.checkpoint import replace_folder
from training.models import ModelConfig
from training.models.vit import ModelError, VisionTransformer, VitConfig, load_checked

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT, SCHEMA_VERSION = "pseudodepth", 1


def export(model: VisionTransformer, config: VitConfig, folder: Path, extra: dict[str, Any]) -> None:
    """Write the folder whole or not at all; an earlier export there is replaced, anything else refused."""
    if folder.exists() and not is_export(folder):
        raise ModelError(f"{folder} exists and is no exported model: choose another folder")
    reserved = sorted({"format", "schema_version", "model"} & extra.keys())
    assert not reserved, f"config.json has its own {reserved}"
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(state, partial / WEIGHTS, metadata={"format": "pt"})
        head = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "model": config.model_dump(mode="json")}
        (partial / CONFIG).write_text(json.dumps(head | extra, indent=2) + "\n", "utf-8")
        for path in partial.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        replace_folder(folder, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / CONFIG).read_text("utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_export(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """What the model is, and its weights on the CPU."""
    if not is_export(folder):
        raise ModelError(f"{folder} must be a folder that `train export` wrote ({WEIGHTS} and {CONFIG})")
    values = json.loads((folder / CONFIG).read_text("utf-8"))
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
    model = config.build()
    load_checked(model, state, str(folder))
    return model.eval()


def model_config(values: Any, where: str) -> ModelConfig:
    """A model's config of plain values; ModelError names the first fault."""
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(("model", *map(str, first["loc"][1:])))
        raise ModelError(f"{where} describes no model of ours: {key}: {first['msg']}") from None
