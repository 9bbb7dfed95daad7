"""A trained sparse-query depth network as a teacher: its folder, and metric depth of photographs, densely or at points.

`train depth` ends with OUT/teacher: config.json (which network, at what size it was trained, the constants of its
training data), model.safetensors, training.json. `precompute-depth --teacher OUT` labels with it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import files
from pipeline.ranks import usable_cpus
from pipeline.teachers import TeacherError, UnfitImage
from pipeline.teachers.device import (
    check_threads,
    device_name,
    one_line_when_memory_is_short,
    resolve_device,
    resolve_dtype,
    using_threads,
)
from pipeline.teachers.sparse import Encoded, SparseNetwork, whole
from pipeline.teachers.spd_v13 import SpdV13, SpdV13Config
from pipeline.teachers.spd_v15 import SpdV15, SpdV15Config
from pipeline.teachers.view import IMAGENET_MEAN, IMAGENET_STD, check_multiple, check_view
from pipeline.teachers.weights import digest, one_line

NetworkChoice = Annotated[SpdV15Config | SpdV13Config, Field(discriminator="name")]
NETWORKS: dict[str, Callable[[Any], SparseNetwork]] = {"spd-v15": SpdV15, "spd-v13": SpdV13}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_OF_NETWORK = "network_sha256"
QUERIES_AT_ONCE = 256  # always: with another number of rows matrix kernels give other last bits

_Finite = Annotated[float, Field(ge=-1e6, le=1e6)]


class _Constants(BaseModel):
    """Mean and standard deviation of the depth that the network was trained on, in metres."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: _Finite
    std: Annotated[float, Field(gt=0, le=1e6)]
    unit: Literal["m"] = "m"


class _Folder(BaseModel):
    """config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_type: str
    network: NetworkChoice
    short_side_px: Annotated[int, Field(gt=0, le=16384)]  # of the photographs it was trained on
    standardisation: _Constants


def build(config: Any) -> SparseNetwork:
    """The network of a configuration, with weights drawn anew."""
    return NETWORKS[config.name](config)


def save(
    network: SparseNetwork, out: Path, *, short_side_px: int, mean: float, std: float, facts: dict[str, Any]
) -> None:
    """Write the folder of a teacher, whole or not at all.

    `mean` and `std`, in metres, are those of the depth it was trained on; `facts` tell where it comes from.
    """
    settings = network.config.model_dump(mode="json")
    config = {
        "model_type": network.config.name,
        "network": settings,
        "short_side_px": short_side_px,
        "standardisation": {"mean": mean, "std": std, "unit": "m"},
    }
    weights = {name: each.detach().cpu().contiguous() for name, each in network.state_dict().items()}
    with files.making(out) as made:
        (made / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        save_file(weights, made / WEIGHTS, metadata={_OF_NETWORK: _sha256_of(network)})
        (made / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def load(folder: Path) -> tuple[SparseNetwork, _Folder]:
    """The network of a folder, on the CPU, in evaluation mode, and what its config.json says. TeacherError if unfit."""
    try:
        said = _Folder.model_validate_json((folder / CONFIG).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TeacherError(f"teacher {folder}: {CONFIG} cannot be read ({one_line(error)})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TeacherError(f"teacher {folder}: {CONFIG}, {where or 'the whole'}: {first['msg']}") from None
    if said.model_type != said.network.name:
        raise TeacherError(
            f"teacher {folder}: {CONFIG} says model_type {said.model_type!r} and a network {said.network.name!r}: "
            "restore the folder that train depth wrote"
        )
    with torch.random.fork_rng(devices=[]):  # what is drawn before the weights are there is nobody's concern
        network = build(said.network)
    fill(network, folder / WEIGHTS)
    if _stated(folder / WEIGHTS) not in (None, _sha256_of(network)):
        raise TeacherError(
            f"teacher {folder}: {CONFIG} is not of the network that {WEIGHTS} was trained as, though the shapes fit: "
            "restore the folder that train depth wrote"
        )
    return network.eval().requires_grad_(False), said


def _sha256_of(network: SparseNetwork) -> str:
    """Of the settings, which shapes of weights do not tell in full."""
    settings = network.config.model_dump(mode="json")
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _stated(path: Path) -> str | None:
    """The same, of the network that a file of weights was saved as; none of a file that somebody else made."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(_OF_NETWORK)


def fill(network: SparseNetwork, path: Path) -> None:
    """Load a teacher's weights, all of them and no others; TeacherError if they are another network's."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TeacherError(f"teacher {path.parent}: {path.name} cannot be read ({one_line(error)})") from None
    own = network.state_dict()
    odd = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
    if odd:
        raise TeacherError(
            f"teacher {path.parent}: its weights are not those of a {network.config.name} of its {CONFIG} (first: "
            f"{odd[0]}): restore the folder that train depth wrote"
        )
    network.load_state_dict(weights)


class SparseTeacher:
    """A frozen network; metres, so farther is larger. It sees a photograph with as little resizing as its size allows.

    `size` is a side in pixels, by default that of the photographs it was trained on: the short side becomes `size`, or
    the long side where the photograph is smaller; both are then rounded to the network's multiple. With aspect "square"
    it is squeezed. Queries stay in the photograph's pixels.
    """

    polarity, unit = "farther_is_larger", "m"

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
    ) -> None:
        check_view(size, aspect)
        check_threads(threads)
        if compile:
            raise TeacherError(f"teacher {name} is not compiled: leave out --compile")
        if revision is not None:
            raise TeacherError(
                f"teacher {name} is a local folder, which has no revisions: leave out --teacher-revision"
            )
        self.name, self.aspect, self.device = name, aspect, resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.threads = None if self.device.type == "cuda" else threads or usable_cpus()
        self.network, self._said = load(Path(name))
        multiple = self.network.multiple
        check_multiple(name, size, multiple)
        self.size = size or max(multiple, self._said.short_side_px // multiple * multiple)
        self._weights_sha256 = digest(self.network)
        self.network.to(self.device)

    @property
    def stats(self) -> tuple[float, float]:
        """Mean and std, in metres, of the depth it was trained on."""
        return self._said.standardisation.mean, self._said.standardisation.std

    def identity(self) -> dict[str, Any]:
        """Everything the estimates depend on besides the pixels and the batch size."""
        return {
            "name": self.name, "model_type": self._said.model_type, "weights_sha256": self._weights_sha256,
            "network": self._said.network.model_dump(mode="json"), "size": self.size, "aspect": self.aspect,
            "polarity": self.polarity, "unit": self.unit, "device": device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."), "num_threads": self.threads, "torch": torch.__version__,
            "timm": version("timm"),
        }  # fmt: skip

    def prepare(self, rgb: NDArray[np.uint8]) -> Tensor:
        """uint8 (height, width, 3) to (3, h, w) float32, antialiased, ImageNet-normalised, h and w multiples."""
        height, width = rgb.shape[:2]
        multiple, seen = self.network.multiple, (self.size, self.size)
        if self.aspect == "keep":
            scale = min(self.size / height, self.size / width, key=lambda scale: abs(1 - scale))
            seen = (round(height * scale / multiple) * multiple, round(width * scale / multiple) * multiple)
        if min(seen) < multiple:
            raise UnfitImage(f"{width}x{height} pixels: too thin for the teacher, which sees {multiple} px at least")
        pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255
        with using_threads(1):  # many of us run at once
            if seen != (height, width):
                pixels = F.interpolate(pixels, seen, mode="bilinear", antialias=True, align_corners=False)
            return ((pixels - _row(IMAGENET_MEAN)) / _row(IMAGENET_STD))[0]

    @torch.inference_mode()
    def estimate(self, pixels: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
        """Metres of equally shaped prepared images, each at its (height, width): the dense map, resized."""
        with using_threads(self.threads), one_line_when_memory_is_short(f"a batch of {len(pixels)} images"):
            batch = torch.stack(list(pixels)).to(self.device)
            with self._autocast():
                dense = self.network.dense(self.network.encode(batch))
            return [whole(one[None], size)[0].cpu().numpy() for one, size in zip(dense, sizes, strict=True)]

    @torch.inference_mode()
    def at(self, rgb: NDArray[np.uint8], points: ArrayLike) -> NDArray[np.float32]:
        """Metres (points,) of a photograph (height, width, 3) at `points` (points, 2): u to the right, v down.

        In pixels, the centre of the first at (0, 0), from -0.5 to its size less 0.5. Raises TeacherError for no points
        and for points outside.
        """
        size = (rgb.shape[0], rgb.shape[1])
        queries = torch.from_numpy(checked(points, size)).to(self.device)
        with using_threads(self.threads), self._autocast():
            encoded = self.network.encode(self.prepare(rgb)[None].to(self.device))
            return answered(self.network, encoded, queries[None], size)[0].cpu().numpy()

    def online(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """As the protocol says: the dense map, resized to the RGB."""
        encode = self._online(device)

        def depth(rgb: Tensor) -> Tensor:
            with self._autocast():
                return whole(self.network.dense(encode(rgb)), (rgb.shape[2], rgb.shape[3]))

        return depth

    def online_at(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        """The same at queries (queries, 2) in the RGB's pixels alone: metres (batch, queries)."""
        encode = self._online(device)

        def depth(rgb: Tensor, queries: Tensor) -> Tensor:
            with self._autocast():
                return self.network.at(encode(rgb), queries.expand(len(rgb), -1, -1), (rgb.shape[2], rgb.shape[3]))

        return depth

    def _online(self, device: torch.device) -> Callable[[Tensor], Encoded]:
        """Encodes RGB of any size, resized to the nearest multiples."""
        self.device = device
        self.network.to(device)
        multiple = self.network.multiple

        def encode(rgb: Tensor) -> Encoded:
            seen = [max(1, round(side / multiple)) * multiple for side in rgb.shape[2:]]
            if seen != [*rgb.shape[2:]]:
                rgb = F.interpolate(rgb, seen, mode="bilinear", antialias=True, align_corners=False)
            return self.network.encode(rgb)

        return encode

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def checked(points: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """Points as (points, 2) float32; TeacherError where there are none, or one lies outside an image of `size`."""
    found = np.asarray(points, np.float32)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise TeacherError(f"points must be (number, 2) with at least one, u and v of each, got shape {found.shape}")
    limit = np.array([size[1], size[0]], np.float32) - 0.5
    outside = ~((found >= -0.5) & (found <= limit)).all(1)
    if outside.any():
        u, v = found[outside.argmax()]
        raise TeacherError(
            f"points must lie in the image of {size[1]}x{size[0]} px, {outside.sum()} do not (first: u {u:g}, v {v:g})"
        )
    return found


def answered(network: SparseNetwork, encoded: Encoded, queries: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """`network.at` of any number of queries, QUERIES_AT_ONCE by QUERIES_AT_ONCE, the last lot padded."""
    count, parts = queries.shape[1], []
    for part in queries.split(QUERIES_AT_ONCE, 1):
        lacking = QUERIES_AT_ONCE - part.shape[1]
        parts.append(network.at(encoded, torch.cat([part, part[:, -1:].expand(-1, lacking, -1)], 1), size))
    return torch.cat(parts, 1)[:, :count]


def _row(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
