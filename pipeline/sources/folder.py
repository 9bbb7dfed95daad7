"""Any folder of photographs.

`SRC/<class>/*.jpg` gives classes, a flat folder gives none; a share of either becomes val. `SRC/train/<class>/*.jpg`
beside `SRC/val/<class>/*.jpg` (ImageNet as many people keep it) is taken as it is split.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.images import read_file, stored_jpeg
from pipeline.sources import Photograph, SourceError, printable

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class Folder:
    """Images below a folder, each an item by its path below it; sorted class names give the indices."""

    name = "folder"
    seg_names: Sequence[str] = ()
    depth_fields: Sequence[str] = ()

    def __init__(self, root: Path, short_side: int, val_fraction: float) -> None:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise SourceError(f"source folder {root} {what}: give a folder of images")
        if not 0 <= val_fraction < 1:
            raise SourceError(f"--val-fraction must be at least 0 and below 1, got {val_fraction}")
        self.root, self.short_side, self.val_fraction = root, short_side, val_fraction
        items = sorted(_walk(root))
        if not items:
            raise SourceError(f"source folder {root} holds no image ({', '.join(sorted(EXTENSIONS))})")
        self.presplit = {item.split("/")[0] for item in items} == {"train", "val"}
        self._items: dict[str, list[str]] = {"train": [], "val": []}
        for item in items:
            if self.presplit:
                split = item.split("/")[0]
            else:
                split = "val" if _unit_hash(item) < val_fraction else "train"
            self._items[split].append(item)
        if not self._items["train"]:
            raise SourceError(
                f"--val-fraction {val_fraction} puts all {len(items)} images of {root} into val: lower it"
            )
        self.class_names = _class_names(root, [self._below_split(item) for item in items])
        self._class_index = {name: index for index, name in enumerate(self.class_names)}
        self.splits: Sequence[str] = [split for split in ("train", "val") if self._items[split]]

    def _below_split(self, item: str) -> str:
        return item.split("/", 1)[1] if self.presplit else item

    def listing(self, split: str) -> Sequence[str]:
        return self._items[split]

    def key(self, split: str, item: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(item).stem)[:60]
        return f"{stem}-{_digest(item)[:12]}"

    def load(self, split: str, item: str) -> Photograph:
        data = read_file(self.root / item)
        stored, rgb, (width, height) = stored_jpeg(data, self.short_side)
        return Photograph(
            rgb=rgb,
            rgb_bytes=stored,
            rgb_extension="rgb.jpg",
            facts={"source": printable(item), "original_width": width, "original_height": height},
            cls=self._class_index[self._below_split(item).split("/")[0]] if self.class_names else None,
        )

    def config(self) -> dict[str, Any]:
        """Names and sizes of all files stand for their content: reading everything twice would cost a second pass."""
        listing = hashlib.sha256()
        for split in self.splits:
            for item in self._items[split]:
                listing.update(os.fsencode(f"{split}\0{item}\0{_size(self.root / item)}\n"))
        return {
            "name": self.name,
            "short_side": self.short_side,
            "val_fraction": None if self.presplit else self.val_fraction,
            "listing_sha256": listing.hexdigest(),
        }


def _walk(root: Path) -> list[str]:
    """Image paths below root; a folder that links lead to twice is walked once, under its first name."""
    found = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in files if Path(name).suffix.lower() in EXTENSIONS]
    return found


def _class_names(root: Path, items: Sequence[str]) -> Sequence[str]:
    nested = [item for item in items if "/" in item]
    if nested and len(nested) < len(items):
        flat = next(item for item in items if "/" not in item)
        raise SourceError(
            f"source folder {root} mixes images in class folders with images outside them ({flat}): "
            "move these into a class folder or away"
        )
    names = sorted({item.split("/")[0] for item in nested})
    if odd := next((name for name in names if printable(name) != name), None):
        raise SourceError(f"class folder {printable(odd)} of {root} is not valid UTF-8: rename it")
    return names


def _size(path: Path) -> int:
    """Bytes of a file, -1 where it cannot be looked at (it will be a reject)."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(item: str) -> str:
    return hashlib.sha256(os.fsencode(item)).hexdigest()


def _unit_hash(item: str) -> float:
    return int(_digest(item)[:13], 16) / 16**13
