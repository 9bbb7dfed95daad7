"""NYUDepthV2, the labelled part: `nyu_depth_v2_labeled.mat` with RGB, filled and raw sensor depth and 40 classes.

Split val is the official test split. The file counts its images from 1 as MATLAB does, published lists count from 0 or
from 1. Here unit and key hold the position in the file's arrays, from 0: `nyu-0002` is `images[2]`, the third image and
number 3 of splits.mat. A sample's json says both, with the name of its scene.

The file is HDF5 written by MATLAB: h5py sees all axes reversed, so image k is `images[k].transpose(2, 1, 0)`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import data_manifests
from pipeline.depth_field import FILLED, MEASURED, DepthField
from pipeline.shards import VOID, png_bytes
from pipeline.sources import Photograph, SourceError
from pipeline.sources.ledger import Ledger, Listed

_PROBE = 1 << 16  # bytes of each of the 64 pieces that stand for the content in `config`


class Nyu:
    """The .mat at `path`; `facts` (default: data_manifests/nyudepthv2.toml) tell its size, split and classes.

    With `scene_classes` an image's class is its kind of scene, of ten.
    """

    name = "nyu"
    splits: Sequence[str] = ("train", "val")
    class_names: Sequence[str] = ()
    depth_fields: Mapping[str, DepthField] = {"real": FILLED, "raw": MEASURED}
    samples_per_unit = 1
    notes: Sequence[str] = ()
    listing_in_config = True  # the listing follows from `config`: nothing but one file is read

    def __init__(self, path: Path, facts: Mapping[str, Any] | None = None, scene_classes: bool = False) -> None:
        self.path, self.facts = path, facts or data_manifests.load("nyudepthv2")
        if scene_classes:
            self.class_names = tuple(self.facts["scene_classes"])
        self.expected: Mapping[str, int] = {"train": self.facts["num_train"], "val": self.facts["num_test"]}
        self.seg_names: Sequence[str] = tuple(self.facts["classes"])
        self._numbers = {"train": self.facts["train"], "val": self.facts["test"]}
        self._class_of_label = np.full(len(self.facts["class_of_label"]) + 1, VOID, np.uint8)
        self._class_of_label[1:] = np.asarray(self.facts["class_of_label"]) - 1
        self._file = self._open()
        count, height, width = (self.facts[name] for name in ("num_images", "height", "width"))
        self._check("images", (count, 3, width, height), "uint8")
        self._check("depths", (count, width, height), "float32")
        self._check("rawDepths", (count, width, height), "float32")
        self._check("labels", (count, width, height), "uint16")

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        count = len(self._file["images"])
        ledger.seen += count
        for number in sorted({*range(1, count + 1)}.difference(*self._numbers.values())):
            ledger.leave_out("in neither split", f"images[{number - 1}]")
        for split, numbers in self._numbers.items():
            for number in numbers:
                yield Listed(split, f"{number - 1:04d}", -1)

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def key(self, split: str, item: str) -> str:
        return f"nyu-{item}"

    def load(self, split: str, item: str) -> Photograph:
        k = int(item)
        rgb = np.ascontiguousarray(self._read("images", k).transpose(2, 1, 0))
        labels = self._read("labels", k).T
        if labels.max() >= len(self._class_of_label):
            raise SourceError(
                f"{self.path}: labels[{k}] must lie in 0 to {len(self._class_of_label) - 1}, got {labels.max()}: "
                f"{self._download}"
            )
        return Photograph(
            image=Image.fromarray(rgb),
            rgb_bytes=png_bytes(rgb),
            rgb_extension="rgb.png",
            facts={
                "source": f"{self.path.name} images[{k}]",
                "original_width": rgb.shape[1],
                "original_height": rgb.shape[0],
                "nyu_index": k,  # from 0
                "nyu_number": k + 1,  # from 1, as in splits.mat
                "scene": self._scenes[k],
            },
            depth={"real": _metres(self._read("depths", k)), "raw": _metres(self._read("rawDepths", k))},
            cls=self._scene_class(self._scenes[k]) if self.class_names else None,
            seg=np.ascontiguousarray(self._class_of_label[labels]),
        )

    def _scene_class(self, scene: str) -> int:
        """Of a scene such as home_office_0004; the last class is all other kinds."""
        kind = scene.rpartition("_")[0]
        return self.class_names.index(kind) if kind in self.class_names[:-1] else len(self.class_names) - 1

    def config(self) -> dict[str, Any]:
        """Name, size and 64 evenly spaced pieces of the file; hashing all of it would take as long as the job."""
        size = self.path.stat().st_size
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            for start in np.linspace(0, max(size - _PROBE, 0), 64).astype(int):
                file.seek(start)
                digest.update(file.read(_PROBE))
        config = {"name": self.name, "file": self.path.name, "bytes": size, "pieces_sha256": digest.hexdigest()}
        return config | ({"scene_classes": True} if self.class_names else {})

    @property
    def _download(self) -> str:
        return f"give nyu_depth_v2_labeled.mat as published, {self.facts['file_bytes']:,} bytes"

    def _open(self) -> Any:
        import h5py

        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise SourceError(f"source file {self.path} {what}: {self._download}")
        try:
            return h5py.File(self.path, "r")  # h5py has one lock for all threads
        except OSError as error:
            reason = str(error).split("(", 1)[-1].removesuffix(")")  # HDF5 wraps it: "Unable to ... open file (reason)"
            raise SourceError(
                f"source file {self.path} of {self.path.stat().st_size:,} bytes must be a complete HDF5 file, got "
                f"'{reason}': {self._download}"
            ) from error

    def _check(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        import h5py

        stored = self._file.get(name)
        if not isinstance(stored, h5py.Dataset):
            raise SourceError(f"{self.path} must hold the array '{name}', got none of that name: {self._download}")
        if (stored.shape, stored.dtype) != (shape, np.dtype(dtype)):
            raise SourceError(
                f"{self.path}: '{name}' must be {dtype} of shape {shape}, got {stored.dtype} of shape {stored.shape}: "
                f"{self._download}"
            )

    def _read(self, name: str, k: int) -> NDArray[Any]:
        try:
            return self._file[name][k]
        except OSError as error:
            raise SourceError(f"{self.path}: {name}[{k}] is damaged ({error}): {self._download}") from error

    @cached_property
    def _scenes(self) -> Sequence[str]:
        """Names such as kitchen_0004: references to arrays of character codes."""
        try:
            references = self._file["scenes"][()].ravel()
            names = ["".join(map(chr, self._file[reference][()].ravel())) for reference in references]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise SourceError(f"{self.path} must hold 'scenes', one name an image: {self._download}") from error
        if len(names) != self.facts["num_images"]:
            raise SourceError(
                f"{self.path}: 'scenes' must hold {self.facts['num_images']} names, got {len(names)}: {self._download}"
            )
        return names


def _metres(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """(width, height) as stored to (height, width); NaN where nothing was measured, stored as 0."""
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan)).T.copy()
