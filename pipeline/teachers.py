"""Teachers: monocular depth estimators behind one interface that declares polarity and unit.

Any `AutoModelForDepthEstimation` of a type in `data_manifests/teachers.toml` loads the same way, from a hub id or from
a local folder; `toy` names the embedded one in `pipeline/toy_teacher/`.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

import data_manifests

TOY_FOLDER = Path(__file__).parent / "toy_teacher"


class TeacherError(ValueError):
    """The teacher cannot be used; one line that names it and the fix."""


class Teacher:
    """A frozen depth estimator: `prepare` one image at a time, `estimate` a batch of equal shapes."""

    def __init__(self, name: str, device: str = "auto") -> None:
        self.name = name
        self.device = resolve_device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.model, self.processor = _load(name)
        self.model.to(self.device, self.dtype).eval().requires_grad_(False)
        facts = _manifest_facts(name, self.model.config)
        self.polarity: str = facts["polarity"]
        self.unit: str = facts["unit"]

    def identity(self) -> dict[str, Any]:
        """Everything the estimates depend on besides the pixels and the batch size."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        revision = getattr(self.model.config, "_commit_hash", None)
        return {
            "name": self.name,
            "revision": revision,
            "weights_sha256": digest.hexdigest(),
            "model_type": self.model.config.model_type,
            "processor": {k: v for k, v in self.processor.to_dict().items() if k not in ("processor_class",)},
            "polarity": self.polarity,
            "unit": self.unit,
            "device": self.device.type if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "num_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def prepare(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (height, width, 3) to the (3, h, w) float tensor the model wants, by its own processor."""
        pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
        return self.processor(pixels, return_tensors="pt", input_data_format="channels_first")["pixel_values"][0]

    @torch.inference_mode()
    def estimate(self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
        """Depth of equally shaped prepared images, each at its (height, width), in the teacher's unit and polarity."""
        batch = torch.stack(list(pixels)).to(self.device, self.dtype)
        outputs = self.model(pixel_values=batch)
        outputs.predicted_depth = outputs.predicted_depth.float()
        maps = self.processor.post_process_depth_estimation(outputs, target_sizes=list(sizes))
        # Bicubic upsampling can undershoot; no unit listed in the manifest goes below zero.
        return [
            result["predicted_depth"].reshape(size).clamp_min(0).cpu().numpy()
            for result, size in zip(maps, sizes, strict=True)
        ]


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise TeacherError(f"--device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TeacherError("--device cuda: this machine has no usable GPU; use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _load(name: str) -> tuple[Any, Any]:
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    huggingface_hub.utils.logging.set_verbosity_error()  # without a network: eleven lines of retries
    location = str(TOY_FOLDER) if name == "toy" else name
    if not name:
        raise TeacherError(f"--teacher must name a folder or a hub id such as {_default()}, got nothing")
    if name != "toy" and (Path(name).exists() or name.startswith((".", os.sep))) and not Path(name).is_dir():
        what = "is a file" if Path(name).exists() else "does not exist"
        raise TeacherError(f"teacher folder {name} {what}: give a folder or a hub id such as {_default()}")
    try:
        model, loading = transformers.AutoModelForDepthEstimation.from_pretrained(location, output_loading_info=True)
        processor = transformers.AutoImageProcessor.from_pretrained(location)
    except OSError as error:
        if Path(location).is_dir():
            raise TeacherError(f"teacher {name}: {_one_line(error)}") from None
        raise TeacherError(
            f"teacher {name!r} is neither a local folder nor reachable on the hub ({_one_line(error)}): "
            "check the name and the network, download it first and give the folder, or use --teacher toy"
        ) from None
    except SafetensorError as error:
        raise TeacherError(f"teacher {name!r}: its weights are damaged ({_one_line(error)})") from None
    except (ValueError, KeyError) as error:
        raise TeacherError(
            f"teacher {name!r} is not a depth model that AutoModelForDepthEstimation loads ({_one_line(error)})"
        ) from None
    absent = sorted(loading["missing_keys"])
    if absent:
        raise TeacherError(
            f"teacher {name!r} lacks {len(absent)} weights of a {model.config.model_type} depth model "
            f"(first: {absent[0]}): it is another model's checkpoint"
        )
    return model, processor


def _manifest_facts(name: str, config: Any) -> dict[str, Any]:
    types = data_manifests.load("teachers")["types"]
    if config.model_type not in types:
        raise TeacherError(
            f"teacher {name!r} is of type {config.model_type!r}; polarity and unit are known for "
            f"{', '.join(types)} (data_manifests/teachers.toml)"
        )
    facts = types[config.model_type]
    return facts["metric"] if getattr(config, "depth_estimation_type", None) == "metric" else facts


def _default() -> str:
    return data_manifests.load("teachers")["default"]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199].rsplit(" ", 1)[0] + " ..."
