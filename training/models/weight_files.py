"""Files of weights, read without running their code."""

import argparse
import hashlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from training.models.vit import ModelError


def content_of(path: Path) -> Any:
    """What a weights file holds, read without running its code; ModelError says in one line why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of pickles it then refuses and of tensors that we refuse
            if path.suffix == ".safetensors":
                return load_file(path)
            # timm's training checkpoints keep their command line; a Namespace holds values and runs nothing.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if re.search("unsupported global|TorchScript archive", str(error), re.IGNORECASE):
            raise ModelError(
                f"{path} holds Python objects besides weights, and loading those can run code: "
                "save its state dict alone, or as .safetensors"
            ) from None
        # torch's own first line recommends to load without its safeguard
        pickled = isinstance(error, pickle.UnpicklingError)
        reason = "nothing that torch reads safely" if pickled else first_line(error)
        raise ModelError(
            f"{path} is damaged or no weights file ({reason}): fetch it again, or save its state dict as .safetensors"
        ) from None


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160].rstrip(" .:")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
