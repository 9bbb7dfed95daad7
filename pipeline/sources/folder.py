"""Any folder of photographs.

`SRC/<class>/*.jpg` gives classes, a flat folder gives none; a share of either becomes val. `SRC/train/<class>/*.jpg`
beside `SRC/val/<class>/*.jpg` (ImageNet as many people keep it) is taken as it is split. Names that begin with a dot
(.thumbnails, .git, macOS's ._photo.jpg) are left out.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.images import read_file, stored_jpeg
from pipeline.sources import Photograph, SourceError, printable

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_SPLITS = {"train", "val", "validation", "test"}


class Folder:
    """Images below a folder, each a unit by its path below it; sorted class names give the indices.

    A folder is a class if it holds an image at any depth. Only that much is looked at before the listing.
    """

    name = "folder"
    seg_names: Sequence[str] = ()
    depth_fields: Sequence[str] = ()
    samples_per_unit = 1
    listing_in_config = False
    expected: Mapping[str, int] = {}

    def __init__(self, root: Path, short_side: int, val_fraction: float) -> None:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise SourceError(f"source folder {root} {what}: give a folder of images")
        if not 0 <= val_fraction < 1:
            raise SourceError(f"--val-fraction must be at least 0 and below 1, got {val_fraction}")
        self.root, self.short_side, self.val_fraction = root, short_side, val_fraction
        folders, flat = _top_level(root)
        if not folders and not flat:
            raise SourceError(f"source folder {root} holds no image ({', '.join(sorted(EXTENSIONS))})")
        others = {*folders} - {"train", "val"}
        if others and ({"train", "val"} < {*folders} or (len(folders) > 1 and {*folders} <= _SPLITS)):
            named = ", ".join(map(printable, sorted(others)[:3]))
            raise SourceError(
                f"source folder {root} must hold class folders, or train/ and val/ alone, got {named} beside them: "
                "rename validation to val, move others away"
            )
        self.presplit = folders == ["train", "val"] and not flat
        if self.presplit:
            below = {split: _top_level(root / split) for split in ("train", "val")}
            folders = sorted({name for names, _ in below.values() for name in names})
            flat = next((f"{split}/{image}" for split, (_, image) in below.items() if image), None)
        if folders and flat:
            raise SourceError(
                f"source folder {root} mixes images in class folders with images outside them ({printable(flat)}): "
                "move these into a class folder or away"
            )
        if odd := next((name for name in folders if printable(name) != name), None):
            raise SourceError(
                f"class folder {printable(odd)} of {root} is not valid UTF-8 or holds control characters: rename it"
            )
        self.class_names: Sequence[str] = folders
        self._class_index = {name: index for index, name in enumerate(folders)}
        self.splits: Sequence[str] = ["train", "val"] if self.presplit or val_fraction else ["train"]

    def listing(self) -> Iterator[tuple[str, str, int]]:
        for path, size in walk_images(self.root):
            if self.presplit:
                split = path.split("/")[0]
            else:
                split = "val" if _unit_hash(path) < self.val_fraction else "train"
            if split not in self.splits or (self.class_names and self._class_of(path) not in self._class_index):
                name = printable(path)
                raise SourceError(f"source folder {self.root} changed while it was listed ({name}): run again")
            yield split, path, size

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def _class_of(self, path: str) -> str:
        below_split = path.partition("/")[2] if self.presplit else path
        return below_split.split("/")[0]

    def key(self, split: str, item: str) -> str:
        return hashed_key(Path(item).stem, item)

    def load(self, split: str, item: str) -> Photograph:
        data = read_file(self.root / item)
        stored, rgb, (width, height) = stored_jpeg(data, self.short_side)
        return Photograph(
            rgb=rgb,
            rgb_bytes=stored,
            rgb_extension="rgb.jpg",
            facts={"source": printable(item), "original_width": width, "original_height": height},
            cls=self._class_index[self._class_of(item)] if self.class_names else None,
        )

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "short_side": self.short_side,
            "val_fraction": None if self.presplit else self.val_fraction,
        }


def walk_images(root: Path) -> Iterator[tuple[str, int]]:
    """(path below root, bytes) of every image at any depth; -1 bytes where it cannot be looked at: it will be a reject.

    A folder that links lead to twice is walked once, under its first name. Memory grows with folders, not with files.
    """
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        below = pending.pop()
        if (identity := _identity(root / below)) in seen:
            continue
        seen.add(identity)
        folders = []
        for entry in scan(root / below):
            if is_folder(entry):
                folders.append(entry.name)
            elif is_image(entry.name):
                yield f"{below}{entry.name}", _size(entry)
        pending += [f"{below}{name}/" for name in sorted(folders, reverse=True)]


def scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, streamed, without what is hidden (.git).

    A folder that cannot be listed ends the job: its images would be lost silently.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise _unlistable(folder, error) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def hashed_key(stem: str, unique: str) -> str:
    """A key that shows what it can of `stem` and differs where `unique` does."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60]
    return f"{readable}-{_digest(unique)[:16]}"


def _top_level(root: Path) -> tuple[list[str], str | None]:
    """Sorted folders of root that hold an image, and one image that lies in root itself."""
    folders, flat = [], None
    for entry in scan(root):
        if is_folder(entry):
            folders.append(entry.name)
        elif flat is None and is_image(entry.name):
            flat = entry.name
    holding, seen = [], set()
    for name in sorted(folders):
        if (identity := _identity(root / name)) not in seen and next(walk_images(root / name), None):
            holding.append(name)
        seen.add(identity)
    return holding, flat


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all links that lead to a folder."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unlistable(folder, error) from error
    return status.st_dev, status.st_ino


def _unlistable(folder: Path, error: OSError) -> SourceError:
    name = printable(str(folder))
    return SourceError(f"folder {name} cannot be listed ({error.strerror}): make it readable, or move it away")


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1


def _digest(item: str) -> str:
    return hashlib.sha256(os.fsencode(item)).hexdigest()


def _unit_hash(item: str) -> float:
    return int(_digest(item)[:13], 16) / 16**13
