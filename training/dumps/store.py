"""CONTRACT: the Zarr store a dump lives in: writer, reader, refusal of anything incomplete or damaged. No torch.

Axes: N images, M <= N images in the raw tier, L layers, H heads, P patches, T = P + 1 tokens (class token first),
B = sums.NUM_BINS. Layers count from 0 in the store (`layer_base`); figures show them from 1.

| array                             | shape           | dtype | holds                                                  |
|-----------------------------------|-----------------|-------|--------------------------------------------------------|
| image_keys                        | (N, 96)         | u1    | UTF-8, zero padded                                     |
| images_done                       | (N,)            | u1    | 1 once an image's rows are written                     |
| statistics/pair_rows              | (N, 9)          | f8    | sums.PAIR_ROWS                                         |
| statistics/<part>/rows            | (N, L, H, 7)    | f8    | sums.ROWS                                              |
| statistics/<part>/cosines         | (N, L, 4)       | f8    | sums.COSINES                                           |
| statistics/<part>/bins/sum,       | (L, H, B)       | f8    | sums.ScoreBins                                         |
|   sum_sq, sum_centred             |                 |       |                                                        |
| statistics/<part>/bins/count,     | (L, B)          | f8    | sums.ScoreBins                                         |
|   images                          |                 |       |                                                        |
| raw/scores_pre_bias               | (M, L, H, T, T) | f2    | QK^T/sqrt(head dim) minus its row mean                 |
| raw/row_mean                      | (M, L, H, T)    | f4    | that row mean                                          |
| raw/patch_depth/<mode>            | (M, P)          | f4    | z, for `mean` and `center4`; invalid patches are +inf  |
| raw/rgb                           | (M, h, w, 3)    | u1    | the evaluated crop                                     |

<part> is `content` (scores before any depth bias) and, where the model has a bias, also `total` (after it).
Chunks carry a CRC-32C. The store is written beside its final name and renamed when all images are done.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.codecs import Crc32cCodec, ZstdCodec

from training.dumps import sums

SCHEMA_VERSION = 1
_IMAGES_PER_CHUNK = 64
_KEY_BYTES = 96


class DumpError(ValueError):
    """A dump is missing, incomplete, damaged or newer than this version; the message names what and the fix."""


class DumpInfo(BaseModel):
    """The store's attributes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model: str
    run: str
    config: dict[str, Any]
    study_hash: str
    checkpoint: str
    checkpoint_sha256: str
    epoch: int
    data: str
    split: str
    fingerprint: str
    depth_field: str
    standardisation: dict[str, Any]
    patch_depth: str  # mode of the patch depth behind the statistics: mean | center4
    scale: float  # scores are scale * QK^T
    has_bias: bool
    cls_index: int | None
    layer_base: int = 0
    num_layers: int
    num_heads: int
    grid: tuple[int, int]
    image_size: int
    num_images: int
    num_raw: int
    dtype: str  # of the forward pass
    max_fused_difference: float  # largest |logit| difference between the taps' path and the fused one, first batch

    @property
    def parts(self) -> tuple[str, ...]:
        return ("content", "total") if self.has_bias else ("content",)

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


def _arrays(info: DumpInfo) -> dict[str, tuple[tuple[int, ...], str, bool]]:
    """name -> (shape, dtype, whether the first axis is images)."""
    n, m, layers, heads = info.num_images, info.num_raw, info.num_layers, info.num_heads
    patches, bins = info.num_patches, sums.NUM_BINS
    tokens = patches + (info.cls_index is not None)
    arrays: dict[str, tuple[tuple[int, ...], str, bool]] = {
        "image_keys": ((n, _KEY_BYTES), "u1", True),
        "images_done": ((n,), "u1", True),
        "statistics/pair_rows": ((n, len(sums.PAIR_ROWS)), "f8", True),
    }
    for part in info.parts:
        arrays[f"statistics/{part}/rows"] = ((n, layers, heads, len(sums.ROWS)), "f8", True)
        arrays[f"statistics/{part}/cosines"] = ((n, layers, len(sums.COSINES)), "f8", True)
        for name in ("sum", "sum_sq", "sum_centred"):
            arrays[f"statistics/{part}/bins/{name}"] = ((layers, heads, bins), "f8", False)
        for name in ("count", "images"):
            arrays[f"statistics/{part}/bins/{name}"] = ((layers, bins), "f8", False)
    if m:
        arrays["raw/scores_pre_bias"] = ((m, layers, heads, tokens, tokens), "f2", True)
        arrays["raw/row_mean"] = ((m, layers, heads, tokens), "f4", True)
        for mode in ("mean", "center4"):
            arrays[f"raw/patch_depth/{mode}"] = ((m, patches), "f4", True)
        arrays["raw/rgb"] = ((m, info.image_size, info.image_size, 3), "u1", True)
    return arrays


def estimated_bytes(info: DumpInfo) -> int:
    """Uncompressed size of the store."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype, _ in _arrays(info).values())


class DumpWriter:
    """`with DumpWriter(path, info) as dump: dump.write(name, first, rows)`; commits on a clean exit."""

    def __init__(self, path: Path, info: DumpInfo) -> None:
        if path.exists() and not (path / "zarr.json").is_file():
            raise DumpError(f"{path} exists and is no dump: choose another --out")
        self.path, self.info = path, info
        self.partial = path.with_name(f".{path.name}.partial")
        self._group: zarr.Group

    def __enter__(self) -> "DumpWriter":
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)
        self._group = zarr.open_group(self.partial, mode="w")
        self._group.attrs.update(self.info.model_dump(mode="json"))
        for name, (shape, dtype, by_image) in _arrays(self.info).items():
            small = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize < 1 << 16
            images = (min(shape[0], _IMAGES_PER_CHUNK) if small else 1) if by_image else shape[0]
            raw = name.startswith("raw/")
            self._group.create_array(
                name,
                shape=shape,
                dtype=dtype,
                chunks=(images, *shape[1:]),
                fill_value=float("nan") if dtype.startswith("f") else 0,
                compressors=[Crc32cCodec()] if raw else [ZstdCodec(level=3), Crc32cCodec()],
            )
        return self

    def write(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write rows of the first axis from `first`; anything past the array's end is left out."""
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        count = min(len(rows), array.shape[0] - first)
        if count > 0:
            array[first : first + count] = rows[:count]

    def write_keys(self, first: int, keys: list[str]) -> None:
        """Names of the images from `first`; also marks them done, so write their rows before."""
        padded = [key.encode()[:_KEY_BYTES].ljust(_KEY_BYTES, b"\0") for key in keys]
        self.write("image_keys", first, np.frombuffer(b"".join(padded), np.uint8).reshape(len(keys), _KEY_BYTES))
        self.write("images_done", first, np.ones(len(keys), np.uint8))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        if self.path.exists():
            replaced = self.path.with_name(f".{self.path.name}.replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(self.path, replaced)
            os.replace(self.partial, self.path)
            shutil.rmtree(replaced)
        else:
            os.replace(self.partial, self.path)


@dataclass(frozen=True)
class Dump:
    """An opened dump: `info` and arrays by name, read lazily; `dump["statistics/pair_rows"]` reads one whole."""

    path: Path
    info: DumpInfo
    group: zarr.Group

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def read(self, name: str, rows: slice | int = slice(None)) -> np.ndarray:
        """An array or rows of it; raises DumpError where a chunk is missing or its checksum differs."""
        try:
            values = np.asarray(self._array(name)[rows])
        except (ValueError, OSError, RuntimeError) as error:
            raise DumpError(f"{self.path}: array {name} is damaged ({error}): {_REDO}") from None
        if values.dtype.kind == "f" and not name.endswith("/cosines") and np.isnan(values).any():
            raise DumpError(f"{self.path}: array {name} has missing chunks or values: {_REDO}")
        return values

    def keys(self) -> list[str]:
        return [bytes(row).rstrip(b"\0").decode() for row in self["image_keys"]]

    def _array(self, name: str) -> zarr.Array:
        try:
            array = self.group[name]
        except KeyError:
            raise DumpError(f"{self.path}: array {name} is missing: {_REDO}") from None
        except ValueError as error:  # its zarr.json cannot be parsed
            raise DumpError(f"{self.path}: array {name} is damaged ({error}): {_REDO}") from None
        assert isinstance(array, zarr.Array)
        return array


_REDO = "make it again with train dump"


def open_dump(path: Path | str) -> Dump:
    """Open and check a dump: schema, every array present with its shape, every image done."""
    path = Path(path)
    if not path.is_dir():
        raise DumpError(f"dump {path} does not exist: make it with train dump")
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
    except (ValueError, OSError, FileNotFoundError) as error:
        raise DumpError(
            f"{path} is not a Zarr store that can be read ({str(error).splitlines()[0]}): {_REDO}"
        ) from None
    version = attributes.get("schema_version", 0)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise DumpError(f"{path} has schema version {version}, this version reads up to {SCHEMA_VERSION}")
    try:
        info = DumpInfo.model_validate(attributes)
    except ValidationError as error:
        raise DumpError(f"{path} is not a dump of train dump ({str(error).splitlines()[0]}): {_REDO}") from None
    dump = Dump(path, info, group)
    for name, (shape, _, _) in _arrays(info).items():
        if dump._array(name).shape != shape:
            raise DumpError(f"{path}: array {name} has shape {dump._array(name).shape}, expected {shape}: {_REDO}")
    done = int(dump["images_done"].sum())
    if done != info.num_images:
        raise DumpError(f"{path} is incomplete, {done} of {info.num_images} images: {_REDO}")
    return dump
