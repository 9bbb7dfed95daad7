"""Dumps of planted tokens, in memory: what probes and CKA read, computed from the tokens by definition."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from training.dumps.arrays import packed
from training.dumps.tokens import NUM_FOLDS


class MemoryDump:
    """Arrays behind the reader's interface; `reads` lists what was asked for."""

    def __init__(self, arrays: dict[str, np.ndarray], info: SimpleNamespace, keys: list[str]) -> None:
        self.arrays, self.info, self._keys = arrays, info, keys
        self.path = Path(f"{info.run}-epoch-{info.epoch}.zarr")
        self.reads: list[tuple[str, slice | tuple]] = []

    def keys(self) -> list[str]:
        return self._keys

    def read(self, name: str, rows: slice | tuple = slice(None)) -> np.ndarray:
        self.reads.append((name, rows))
        return self.arrays[name][rows]

    __getitem__ = read


def probe_moments(h: np.ndarray, z: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    """Of one layer, (folds, ...): h (images, patches, width), z and the control's (images, patches), NaN: unknown."""
    size = h.shape[-1] + 3
    found = {
        "moments": np.zeros((NUM_FOLDS, size, size)),
        "image_moments": np.zeros((NUM_FOLDS, size, size)),
        "position_sum": np.zeros((NUM_FOLDS, *h.shape[1:])),
    }
    for image in range(len(z)):
        seen, fold = ~np.isnan(z[image]), image % NUM_FOLDS
        design = np.column_stack([h[image, seen], z[image, seen], other[image, seen], np.ones(seen.sum())])
        found["moments"][fold] += design.T @ design
        found["image_moments"][fold] += np.outer(design.sum(0), design.sum(0)) / len(design)
        found["position_sum"][fold, seen] += h[image, seen]
    return found


def position_sums(z: np.ndarray) -> np.ndarray:
    """(folds, patches, 3)"""
    known = np.nan_to_num(z)
    terms = np.stack([~np.isnan(z), known, known**2], -1)
    return np.stack([terms[fold::NUM_FOLDS].sum(0) for fold in range(NUM_FOLDS)])


def similarity(h: np.ndarray, block: int, prefix: bool) -> dict[str, np.ndarray]:
    """Of a stream (layers, images, patches, width); the class token is the negative mean patch."""
    layers, images = h.shape[:2]
    flat = h[:, : images - images % block].reshape(layers, -1, block, h.shape[2] * h.shape[3]).swapaxes(0, 1)
    flat = flat - flat.mean(2, keepdims=True)
    grams = (flat @ flat.swapaxes(2, 3)).astype(np.float32)
    mean = h.mean(2).swapaxes(0, 1)
    return {
        "diagonals": np.einsum("clii->cli", grams).copy(),
        "grams": grams * (1 - np.eye(block, dtype=np.float32)),
        "summary": np.stack([-mean, mean] if prefix else [mean], 2),
    }


def memory_dump(
    streams: dict[str, np.ndarray],
    z: np.ndarray | None = None,
    model: str = "m4ch",
    *,
    seed: int = 0,
    epoch: int = 5,
    block: int = 10,
    depth: str = "pseudo",
    num_raw: int = 20,
    inputs: np.ndarray | None = None,
) -> Any:
    """`streams`: (layers, images, patches, width) each, `tokens` with a class token; z (images, patches).

    `inputs` (images, width): the photographs, of all models the same.
    """
    arrays: dict[str, np.ndarray] = {}
    first = len(streams["rgb"]) if "rgb" in streams else 0
    images, patches = streams["tokens"].shape[1:3]
    if inputs is None:
        inputs = np.random.default_rng(4).uniform(size=(images, 8))
    for key in ("grams", "diagonals"):
        arrays[f"statistics/similarity/input/{key}"] = similarity(inputs[None, :, None], block, False)[key]
    described = []
    for name, h in streams.items():
        prefix = int(name == "tokens")
        for key, value in similarity(h, block, bool(prefix)).items():
            arrays[f"statistics/similarity/{name}/{key}"] = value
        mean = h.mean(2, keepdims=True)
        raw = np.concatenate([-mean, h] if prefix else [h], 2)[:, :num_raw]
        arrays[f"raw/resid_post/{name}"] = raw.swapaxes(0, 1)
        if z is not None:
            other = np.nan_to_num(np.roll(z, len(z) // 2, 0))
            layers = [probe_moments(each, z, other) for each in h]
            for key in layers[0]:
                value = np.stack([each[key] for each in layers], 1)
                arrays[f"statistics/probe/{name}/{key}"] = value if key == "position_sum" else packed(value)
            arrays["statistics/probe/position"] = position_sums(z)
        described.append(
            SimpleNamespace(name=name, first_layer=first * prefix, num_layers=len(h), prefix=prefix, width=h.shape[-1])
        )
    info = SimpleNamespace(
        model=model, run=f"{model}-{seed}", config={"seed": seed}, study_hash=f"{model}-{depth}-{seed}", epoch=epoch,
        own_data=True,
        fingerprint="val", split="val", depth_field=depth, standardisation={}, patch_depth="mean", classes_sha256="c",
        num_layers=first + len(streams["tokens"]), first_attention_layer=first, num_patches=patches,
        grid=(1, patches), num_images=images, num_raw=num_raw, gram_batch=block, streams=described,
        stream=lambda name: next(each for each in described if each.name == name),
    )  # fmt: skip
    return MemoryDump(arrays, info, [f"image-{index}" for index in range(images)])
