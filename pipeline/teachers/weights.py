"""A network's weights: finding them, loading all of them or refusing, and what they are as one number."""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import Tensor

from pipeline.teachers import TeacherError


def digest(model: torch.nn.Module, without: Sequence[str] = ()) -> str:
    """SHA-256 of all names and values of the state dict but those `without`; the model is on the CPU."""
    state = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        if key not in without:
            state.update(key.encode())
            state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def one_line(error: BaseException) -> str:
    """At most 200 signs of what it says, or its kind where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199].rsplit(" ", 1)[0] + " ..."


def package(family: str) -> tuple[Any, Any]:
    """Modules of the package: the family's networks, and its configurations."""
    module = f"depth_estimation.models.{family}"
    try:
        return (
            importlib.import_module(f"{module}.modeling_{family}"),
            importlib.import_module(f"{module}.configuration_{family}"),
        )
    except ImportError as error:
        raise TeacherError(
            f"Depth Anything 3 and MoGe need the package depth-estimation ({one_line(error)}): "
            "pip install 'pseudodepth[depth-estimation]'"
        ) from None


def located(name: str, where: str, file: str, revision: str | None) -> tuple[Path, str | None]:
    """The file of the weights, and the commit on the hub."""
    place = Path(where).expanduser()
    if place.exists() or where.startswith((".", "/", "~")):
        if revision is not None:
            raise TeacherError(f"teacher {name} lies on this machine, without revisions: leave out --teacher-revision")
        path = place / file if place.is_dir() else place
        if not path.is_file():
            raise TeacherError(f"teacher {name}: {path} does not exist: give a folder that holds it, or the file")
        return path, None
    try:
        path = Path(huggingface_hub.hf_hub_download(where, file, revision=revision))
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"teacher {name}: {file} of {where} cannot be had from the hub ({one_line(error)}): download it, and give "
            f"--teacher {name.partition('=')[0]}=FOLDER"
        ) from None
    return path, path.parent.name


def refuse_another(name: str, model_name: str, path: Path) -> None:
    """da3mono-large and da3metric-large have the same shapes: the config.json beside the weights tells them apart."""
    try:
        said = json.loads((path.parent / "config.json").read_text("utf-8"))["model_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if said != model_name:
        raise TeacherError(f"teacher {name}: {path.parent} holds {said}: give the name of what it holds")


def fill(name: str, net: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all that `net` has. A file may hold more: heads for poses, which we do not build.

    Of names that share a tensor, as safetensors saves them, it holds one.
    """
    own = net.state_dict()
    shared: dict[int, set[str]] = {}
    for key, tensor in own.items():
        shared.setdefault(tensor.data_ptr(), set()).add(key)
    constants = {key for key, _ in net.named_buffers()}
    absent = [k for k, v in own.items() if k not in constants and not shared[v.data_ptr()] & weights.keys()]
    if absent:
        raise TeacherError(
            f"teacher {name}: its file lacks {len(absent)} of {len(own)} weights (first: {absent[0]}): it is another "
            "model's, or was saved in another way"
        )
    for key, tensor in own.items():
        if key in weights and weights[key].shape != tensor.shape:
            raise TeacherError(
                f"teacher {name}: its file's {key} must have shape {tuple(tensor.shape)}, got "
                f"{tuple(weights[key].shape)}: it is another model's"
            )
    net.load_state_dict({key: weights[key] for key in own if key in weights}, strict=False)
