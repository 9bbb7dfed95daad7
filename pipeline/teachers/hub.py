"""Teachers of `transformers`: any `AutoModelForDepthEstimation` of a type in `data_manifests/teachers.toml`.

All load the same way, from a hub id or from a local folder; `toy` names the embedded one in `toy/`. The pixels are
prepared and the estimates brought to the photograph's size by the checkpoint's own `transformers` processor.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from safetensors import SafetensorError

import data_manifests
from pipeline.ranks import usable_cpus
from pipeline.teachers import DEFAULT_TEACHER, TeacherError, UnfitImage
from pipeline.teachers.device import (
    check_threads,
    device_name,
    one_line_when_memory_is_short,
    resolve_device,
    resolve_dtype,
    using_threads,
)
from pipeline.teachers.view import IMAGENET_MEAN, IMAGENET_STD, check_view, processor_settings, view_of
from pipeline.teachers.weights import digest, one_line

TOY_FOLDER = Path(__file__).parent / "toy"

# The first fusion layer has nothing to fuse with. Published checkpoints (Intel/dpt-large) omit its weights, and
# transformers then draws them at random: neither absence nor value means anything.
_IDLE = "fusion_stage.layers.0.residual_layer1"


class HubTeacher:
    """A frozen depth estimator: `prepare` one image at a time, `estimate` a batch of equal shapes.

    `size` is a side in pixels that the model sees, by default the checkpoint's own; a multiple of the model's patch.
    With `aspect` "keep" the photograph is scaled to it as little as possible: its short side becomes `size`, or its
    long side where the photograph is smaller than `size`; both sides are then rounded to the multiple. With "square"
    it is squeezed to size × size. What a class does not allow is refused:

    | class | size | aspect |
    |---|---|---|
    | DepthAnything V1, V2, metric; PromptDepthAnything | multiple of 14, own 518 | keep, square |
    | ZoeDepth | multiple of 32, own 384 × 512 | keep; square with a size |
    | DPT with a BEiT or DINOv2 backbone | multiple of the patch | keep, square |
    | DPT with a plain ViT; Tipsv2Dpt | multiple of the patch | square |
    | DepthPro; DPT hybrid or with a SwinV2 backbone | none: the architecture's, 1536 or 384 | square |
    | GLPN | none: the photograph's, floored to multiples of 32 | keep |

    `dtype` "auto" is float16 on a GPU, float32 on a CPU. `threads` (CPU only; default: all that the process may use)
    is set by us, because estimates depend on it in their last bits and OMP_NUM_THREADS differs between launchers.
    """

    def __init__(
        self,
        name: str,
        device: str = "auto",
        *,
        size: int | None = None,
        aspect: str = "keep",
        dtype: str = "auto",
        compile: bool = False,
        revision: str | None = None,
        threads: int | None = None,
        given_as: str = "--teacher",
    ) -> None:
        check_view(size, aspect)
        check_threads(threads)
        self.name, self.size, self.aspect, self.compile = name, size, aspect, compile
        self.device = resolve_device(device)
        on_gpu = self.device.type == "cuda"
        if compile:
            _require_compiler(on_gpu)
        self.dtype = resolve_dtype(dtype, self.device)
        self.threads = None if on_gpu else threads or usable_cpus()
        self.model, processor, self.revision, idle = _load(name, revision, given_as)
        self._weights_sha256 = digest(self.model, idle)  # of what the checkpoint holds, before `dtype` rounds it
        facts = _manifest_facts(name, self.model.config)
        self.polarity: str = facts["polarity"]
        self.unit: str = facts["unit"]
        self._view = view_of(self.model.config, processor)
        who = f"{name!r} ({self.model.config.model_type})"
        settings = processor_settings(who, processor, self._view, size, aspect)
        self.processor = type(processor).from_dict(processor.to_dict() | settings)
        self.model.to(self.device, self.dtype).eval().requires_grad_(False)
        self._forward = torch.compile(self.model) if compile else self.model
        # ZoeDepth with two metric heads (NYU and KITTI) lets the images of a batch vote on one head for all.
        self._one_by_one = len(getattr(self.model.config, "bin_configurations", None) or ()) > 1

    def identity(self) -> dict[str, Any]:
        """Everything the estimates depend on besides the pixels and the batch size."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self._weights_sha256,
            "model_type": self.model.config.model_type,
            "config_sha256": _config_digest(self.model.config),
            "processor": {k: v for k, v in self.processor.to_dict().items() if k not in ("processor_class",)},
            "size": self.size,
            "aspect": self.aspect,
            "polarity": self.polarity,
            "unit": self.unit,
            "device": device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "compile": self.compile,
            "num_threads": self.threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def prepare(self, rgb: NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (height, width, 3) to the (3, h, w) float32 tensor the model wants, by its own processor."""
        self._refuse_thin(*rgb.shape[:2])
        pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
        with using_threads(1):  # many of us run at once: one team of threads each would fight over the cores
            return self.processor(pixels, return_tensors="pt", input_data_format="channels_first")["pixel_values"][0]

    def _refuse_thin(self, height: int, width: int) -> None:
        multiple, short = self._view.multiple, min(height, width)
        if self.aspect == "square":
            return
        if self._view.as_is:
            patches = short // multiple
        else:
            own = dict(self.processor.size)
            scale = min(own["height"] / height, own["width"] / width, key=lambda factor: abs(1 - factor))
            patches = round(scale * short / multiple)
        if patches < 1:
            raise UnfitImage(f"{width}x{height} pixels: too thin for the teacher, whose patch is {multiple} px")

    @torch.inference_mode()
    def estimate(self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
        """Depth of equally shaped prepared images, each at its (height, width), in the teacher's unit and polarity."""
        with using_threads(self.threads), one_line_when_memory_is_short(f"a batch of {len(pixels)} images"):
            batch = torch.stack(list(pixels)).to(self.device, self.dtype)
            step = 1 if self._one_by_one else len(batch)
            maps: list[torch.Tensor] = []
            for start in range(0, len(batch), step):
                maps += self._maps(batch[start : start + step], list(sizes[start : start + step]))
            # One copy for the batch, because each waits for the GPU. Bicubic upsampling can undershoot; no unit listed
            # in the manifest goes below zero.
            flat = torch.cat([one.reshape(-1) for one in maps]).clamp_min(0).cpu()
        parts = flat.split([height * width for height, width in sizes])
        return [part.reshape(size).numpy() for part, size in zip(parts, sizes, strict=True)]

    def online(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """As the protocol says, of a DepthAnything; at the size that the RGB has, rounded to the patch."""
        if self.model.config.model_type != "depth_anything":
            raise TeacherError(
                "data.teacher must be a DepthAnything model, Depth Anything 3 or MoGe for online depth, got "
                f"{self.name!r}"
            )
        model, patch_px = self.model.to(device), self.model.config.patch_size
        own_mean, own_std = _row(self.processor.image_mean, device), _row(self.processor.image_std, device)
        mean, std = _row(IMAGENET_MEAN, device), _row(IMAGENET_STD, device)
        scale, shift = std / own_std, (mean - own_mean) / own_std

        def depth(rgb: torch.Tensor) -> torch.Tensor:
            height, width = rgb.shape[2:]
            pixels = rgb * scale + shift
            size = [max(1, round(side / patch_px)) * patch_px for side in (height, width)]
            if size != [height, width]:
                pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False)
            found = model(pixel_values=pixels.to(self.dtype)).predicted_depth.float()[:, None]
            if found.shape[2:] != rgb.shape[2:]:
                found = F.interpolate(found, size=(height, width), mode="bicubic", align_corners=False)
            return found[:, 0]

        return depth

    def _maps(self, batch: torch.Tensor, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        outputs = self._forward(pixel_values=batch)
        outputs.predicted_depth = outputs.predicted_depth.float()
        if getattr(outputs, "field_of_view", None) is not None:
            outputs.field_of_view = outputs.field_of_view.float()
        # ZoeDepth alone needs the source's size, to strip what it padded. To the others target sizes are no mere
        # convenience: without them DepthPro does not apply its field of view, and gives no metres.
        which = "source_sizes" if self.model.config.model_type == "zoedepth" else "target_sizes"
        results = self.processor.post_process_depth_estimation(outputs, **{which: sizes})
        return [result["predicted_depth"] for result in results]


def _row(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device, dtype=torch.float32).view(1, 3, 1, 1)


def _require_compiler(on_gpu: bool) -> None:
    names = ("cc", "gcc", "clang") if on_gpu else (os.environ.get("CXX", "c++"), "c++", "g++", "clang++", "cl")
    if not any(map(shutil.which, names)):
        language = "C" if on_gpu else "C++"
        raise TeacherError(f"--compile needs a {language} compiler, and none is on the PATH: install one")


def _config_digest(config: Any) -> str:
    """Of everything in config.json that is no name or place: two networks may share their weights."""
    names = ("_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "torch_dtype")

    def plain(value: Any) -> Any:
        return {k: plain(v) for k, v in value.items() if k not in names} if isinstance(value, dict) else value

    return hashlib.sha256(json.dumps(plain(config.to_dict()), sort_keys=True, default=str).encode()).hexdigest()


def _load(name: str, revision: str | None, given_as: str) -> tuple[Any, Any, str | None, list[str]]:
    """Model, processor, commit on the hub, and the weights that are absent because nothing uses them."""
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    huggingface_hub.utils.logging.set_verbosity_error()  # without a network: eleven lines of retries
    location = str(TOY_FOLDER) if name == "toy" else name
    if not name:
        raise TeacherError(f"{given_as} must name a folder or a hub id such as {DEFAULT_TEACHER}, got nothing")
    if name != "toy" and (Path(name).exists() or name.startswith((".", os.sep))) and not Path(name).is_dir():
        what = "is a file" if Path(name).exists() else "does not exist"
        raise TeacherError(f"teacher folder {name} {what}: give a folder or a hub id such as {DEFAULT_TEACHER}")
    if revision is not None and Path(location).is_dir():
        raise TeacherError(f"teacher {name} is a local folder, which has no revisions: leave out --teacher-revision")
    try:
        commit = None if Path(location).is_dir() else _commit(location, revision)
        model, loading = transformers.AutoModelForDepthEstimation.from_pretrained(
            location, revision=commit, dtype=torch.float32, output_loading_info=True
        )
        processor = transformers.AutoImageProcessor.from_pretrained(location, revision=commit)
    except OSError as error:
        if Path(location).is_dir():
            raise TeacherError(f"teacher {name}: {one_line(error)}") from None
        at = f" at revision {revision}" if revision else ""
        raise TeacherError(
            f"teacher {name!r}{at} is neither a local folder nor reachable on the hub ({one_line(error)}): "
            f"check the name and the network, download it first and give the folder, or use {given_as} toy"
        ) from None
    except SafetensorError as error:
        raise TeacherError(f"teacher {name!r}: its weights are damaged ({one_line(error)})") from None
    except RuntimeError as error:
        if "mismatch" not in str(error):  # its text for weights of other shapes refers to a table that is not printed
            raise
        raise TeacherError(f"teacher {name!r}: its weights do not fit its config.json") from None
    except (ValueError, KeyError, StrictDataclassError) as error:
        raise TeacherError(
            f"teacher {name!r} is not a depth model that AutoModelForDepthEstimation loads ({one_line(error)})"
        ) from None
    missing = sorted(loading["missing_keys"])
    absent = [key for key in missing if _IDLE not in key]
    if absent:
        raise TeacherError(
            f"teacher {name!r} lacks {len(absent)} weights of a {model.config.model_type} depth model "
            f"(first: {absent[0]}): it is another model's checkpoint"
        )
    if not hasattr(processor, "post_process_depth_estimation"):
        raise TeacherError(f"teacher {name!r}: its processor, {type(processor).__name__}, is not one of a depth model")
    return model, processor, commit, missing


def _commit(hub_id: str, revision: str | None) -> str:
    """The commit that a revision (default: the main branch) is now; the hub's cache names its folders by it."""
    return Path(transformers.utils.cached_file(hub_id, "config.json", revision=revision)).parent.name


def _manifest_facts(name: str, config: Any) -> dict[str, Any]:
    types = data_manifests.load("teachers")["types"]
    if config.model_type not in types:
        raise TeacherError(
            f"teacher {name!r} is of type {config.model_type!r}; polarity and unit are known for "
            f"{', '.join(types)} (data_manifests/teachers.toml)"
        )
    if config.model_type == "depth_pro" and not config.use_fov_model:
        raise TeacherError(f"teacher {name!r} has no field-of-view head, without which DepthPro gives no metres")
    facts = types[config.model_type]
    backbone = getattr(config, "backbone_config", None)
    for variant in (getattr(config, "depth_estimation_type", None), getattr(backbone, "model_type", None)):
        facts = facts.get(variant, facts)
    return facts
