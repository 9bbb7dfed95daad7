"""A small .mat in the HDF5 structure of nyu_depth_v2_labeled.mat, with contents a test can predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import data_manifests

MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(512)


@dataclass(frozen=True)
class NyuArrays:
    """What the file holds, axes in reading order."""

    images: NDArray[np.uint8]  # (count, height, width, 3)
    depths: NDArray[np.float32]  # (count, height, width), metres
    raw_depths: NDArray[np.float32]  # the same, 0 = not measured
    labels: NDArray[np.uint16]  # 0..894
    scenes: Sequence[str]


def small_arrays(count: int = 6, height: int = 24, width: int = 32, seed: int = 0) -> NyuArrays:
    """Noise with a different level an image; a tenth of the raw depth is missing, every label occurs somewhere."""
    rng = np.random.default_rng(seed)
    depths = (
        rng.uniform(0.8, 3, (count, height, width)).astype(np.float32)
        + np.arange(count, dtype=np.float32)[:, None, None]
    )
    raw_depths = depths + rng.normal(0, 0.01, depths.shape).astype(np.float32)
    raw_depths[rng.random(depths.shape) < 0.1] = 0
    labels = (np.arange(count * height * width) % 895).reshape(count, height, width).astype(np.uint16)
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return NyuArrays(images, depths, raw_depths, labels, [f"kitchen_{number // 2:04d}" for number in range(count)])


def facts_for(arrays: NyuArrays, train: Sequence[int], test: Sequence[int]) -> dict[str, Any]:
    """The manifest as it would be for `arrays`; `train` and `test` hold image numbers from 1."""
    count, height, width = arrays.labels.shape
    return data_manifests.load("nyudepthv2") | {
        "num_images": count, "height": height, "width": width, "train": list(train), "test": list(test),
    }  # fmt: skip


def write_nyu(path: Path, arrays: NyuArrays) -> Path:
    """Write `arrays` as MATLAB does: a 512-byte text header, axes reversed, chunks of gzip, names as references."""
    with h5py.File(path, "w", userblock_size=512) as file:

        def put(name: str, values: NDArray[Any]) -> None:
            file.create_dataset(name, data=values, compression="gzip", chunks=(1, *values.shape[1:]))

        put("images", arrays.images.transpose(0, 3, 2, 1))
        put("depths", arrays.depths.transpose(0, 2, 1))
        put("rawDepths", arrays.raw_depths.transpose(0, 2, 1))
        put("labels", arrays.labels.transpose(0, 2, 1))
        file.create_dataset("scenes", (1, len(arrays.scenes)), h5py.ref_dtype)
        for number, scene in enumerate(arrays.scenes):
            codes = np.array([[ord(letter)] for letter in scene], np.uint16)
            file["scenes"][0, number] = file.create_dataset(f"#refs#/{number}", data=codes).ref
    with open(path, "r+b") as opened:
        opened.write(MATLAB_HEADER)
    return path
