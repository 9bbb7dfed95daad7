"""Any folder of photographs.

`SRC/<class>/*.jpg` gives classes, a flat folder gives none; a share of either becomes val. Where SRC holds train/ and
val/ (in any spelling: Training/, valid/, val2017/) it is taken as it is split. Beside train/ alone a test/ becomes val,
as it does for NYUDepthV2: it is what was set aside. tiny-imagenet-200 is read as it comes: the labels of its flat
val/images/ are in val/val_annotations.txt, its unlabelled test/ is left out.

What looks like a split, a modality or a cache is never a class: it is refused with the fix, or left out and counted.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.depth_field import DepthField
from pipeline.files import ReadError, read_bytes
from pipeline.images import EXTENSIONS, read_file, stored_jpeg
from pipeline.sources import Photograph, SourceError, name_bytes, printable
from pipeline.sources.class_folders import Looked, look, unread
from pipeline.sources.ledger import Ledger, Listed
from pipeline.sources.trees import (
    is_other_modality,
    is_photographs,
    refuse_ambiguous,
    refuse_modalities,
    refuse_worded_splits,
    split_of,
    walk_images,
)

_ANNOTATIONS, _WNIDS = "val_annotations.txt", "wnids.txt"  # tiny-imagenet's
_MOST_TEXT = 1 << 28  # bytes of either


class Folder:
    """Images below a folder, each a unit by its path below it; sorted class names give the indices.

    A folder is a class if it holds an image at any depth. Only that much is looked at before the listing.
    """

    name = "folder"
    seg_names: Sequence[str] = ()
    depth_fields: Mapping[str, DepthField] = {}
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
        self.notes: Sequence[str] = ()
        top = look(root)
        if not top.holding and not top.flat:
            refuse_ambiguous(root)
            raise SourceError(f"source folder {root} holds no image ({', '.join(sorted(EXTENSIONS))}){_instead(root)}")
        self._splits, self._unlabelled = self._find_splits(top)
        self.presplit = bool(self._splits)
        self._label_of: dict[str, str] = {}  # of images of a flat val, by name
        if self.presplit:
            folders, flat = self._classes_of_splits()
        else:
            folders, flat = self._classes(root, top), top.flat
        if folders and flat:
            raise SourceError(
                f"source folder {root} mixes images in class folders with images outside them ({printable(flat)}): "
                "move these into a class folder or away"
            )
        self.class_names: Sequence[str] = [*map(printable, folders)]
        if odd := next((name for name in folders if printable(name).encode() != name_bytes(name)), None):
            raise SourceError(
                f"class folder {printable(odd)} of {root} is not valid UTF-8 or holds control characters: rename it"
            )
        self._class_index = {name: index for index, name in enumerate(folders)}
        self.splits: Sequence[str] = ["train", "val"] if self.presplit or val_fraction else ["train"]

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        for path, size in walk_images(self.root, "", ledger):
            first = path.partition("/")[0]
            if first == self._unlabelled:
                ledger.leave_out("an unlabelled test image", path)
                continue
            if self.presplit:
                split = self._splits.get(first, "")
            else:
                split = "val" if _unit_hash(path) < self.val_fraction else "train"
            name, below = self._class_of(path) if split else ("", "")
            if split not in self.splits or (self.class_names and name not in self._class_index):
                raise SourceError(
                    f"source folder {self.root} changed while it was listed ({printable(path)}): run again"
                )
            yield Listed(split, path, size, class_name=printable(name) if self.class_names else "", below=below)

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def key(self, split: str, item: str) -> str:
        return hashed_key(Path(item).stem, item)

    def load(self, split: str, item: str) -> Photograph:
        data = read_file(self.root / item)
        stored, image, (width, height) = stored_jpeg(data, self.short_side)
        return Photograph(
            image=image,
            rgb_bytes=stored,
            rgb_extension="rgb.jpg",
            facts={"source": printable(item), "original_width": width, "original_height": height},
            cls=self._class_index[self._class_of(item)[0]] if self.class_names else None,
        )

    def config(self) -> dict[str, Any]:
        config = {
            "name": self.name,
            "short_side": self.short_side,
            "val_fraction": None if self.presplit else self.val_fraction,
        }
        labels = sorted(f"{image} {label}" for image, label in self._label_of.items())
        return config | ({"labels_sha256": _digest("\n".join(labels))} if labels else {})

    # --- looking ---------------------------------------------------------------------------------------------------

    def _note(self, line: str) -> None:
        self.notes = [*self.notes, line]

    def _find_splits(self, top: "Looked") -> tuple[dict[str, str], str | None]:
        """(folder -> train or val, the folder of an unlabelled test split); ({}, None) where SRC has no splits."""
        found = {name: split for name in top.holding if (split := split_of(name))}
        if len(found) == 1 < len(top.holding):
            (name,) = found
            if look(self.root / name).flat:  # images, not class folders: trains are a class of many data sets
                self._note(f"{name}/ is taken as a class, like the folders beside it")
                return {}, None
        if not found:
            return {}, None
        others = [name for name in top.holding if name not in found] + ([top.flat] if top.flat else [])
        folder_of = {split: name for name, split in found.items()}
        if not others and len(folder_of) == len(found):
            train, val, test = (folder_of.get(split) for split in ("train", "val", "test"))
            if train and val and test and (self.root / val / _ANNOTATIONS).is_file():
                return {train: "train", val: "val"}, test
            if train and val and not test:
                return {train: "train", val: "val"}, None
            if train and test and not val:
                self._note(f"{test}/ is taken as val: there is no other")
                return {train: "train", test: "val"}, None
            if len(found) == 1:
                (name,) = found
                raise SourceError(
                    f"source folder {self.root} holds {name}/ alone, which is a split and no class: give "
                    f"{self.root / name} to set a share of it aside, or put the other split beside it"
                )
            others = [test] if test else []
        named = ", ".join(map(printable, sorted(others or found)[:3]))
        raise SourceError(
            f"source folder {self.root} must hold class folders, or train/ and val/ alone (each once), got {named} "
            "beside them: move or rename these"
        )

    def _classes_of_splits(self) -> tuple[list[str], str | None]:
        """Class folders of both splits, and an image that lies outside class folders."""
        looked = {name: look(self.root / name) for name in self._splits}
        train, val = sorted(self._splits, key=lambda name: self._splits[name])
        if (self.root / val / _ANNOTATIONS).is_file() and {*looked[val].holding} <= {"images"}:
            self._note(f"the labels of {val}/images/ are those of {_ANNOTATIONS}")
            names = self._classes(self.root / train, looked[train])
            return self._annotated(train, val, names), looked[train].flat and f"{train}/{looked[train].flat}"
        classes = {name: self._classes(self.root / name, looked[name]) for name in self._splits}
        flat = next((f"{name}/{found.flat}" for name, found in looked.items() if found.flat), None)
        return sorted({name for names in classes.values() for name in names}), flat

    def _classes(self, folder: Path, looked: "Looked") -> list[str]:
        """The class folders of `folder`; SourceError where what it holds are no classes, or one would be lost."""
        if not looked.flat:
            refuse_ambiguous(folder)
        refuse_modalities(folder, "", looked.holding)
        refuse_worded_splits(folder, looked.holding)
        if looked.holding and all(is_photographs(name) or is_other_modality(name) for name in looked.holding):
            photographs = next((name for name in looked.holding if is_photographs(name)), looked.holding[0])
            raise SourceError(
                f"source folder {folder} holds {photographs}/, which is a modality and no class, and photographs "
                f"alone are wanted: give {folder / photographs} instead of it"
            )
        if looked.holding and not looked.flat:
            for name in looked.without:
                if lost := unread(folder / name):
                    raise SourceError(
                        f"class {printable(name)} of {folder} holds no readable image ({lost}): convert them, or move "
                        "the folder away"
                    )
        return looked.holding

    def _annotated(self, train: str, val: str, folders: list[str]) -> list[str]:
        """tiny-imagenet's classes; the labels of its val go to `_label_of`."""
        wnids = self.root / _WNIDS
        classes = sorted({*_lines(wnids)}) if wnids.is_file() else folders
        if strange := sorted({*folders} - {*classes}):
            raise SourceError(f"{wnids} must name every class of {train}/, {printable(strange[0])} is missing: add it")
        path = self.root / val / _ANNOTATIONS
        for number, line in enumerate(_lines(path), 1):
            image, _, rest = line.partition("\t")
            label = rest.partition("\t")[0]
            if label not in classes:
                raise SourceError(
                    f"{path}, line {number} must be an image, a tab and a class of {train}/, got {line[:60]!r}: mend it"
                )
            if self._label_of.setdefault(image, label) != label:
                raise SourceError(f"{path} gives {image!r} two labels: remove one")
        if not self._label_of:
            raise SourceError(f"{path} must label the images of {val}/, it is empty: download it again")
        return classes

    def _class_of(self, path: str) -> tuple[str, str]:
        """(class, path below its folder)."""
        if not self.presplit:
            name, _, below = path.partition("/")
            return name, below
        split, _, inside = path.partition("/")
        if self._label_of and self._splits[split] == "val":
            image = inside.rpartition("/")[2]
            if image not in self._label_of:
                raise SourceError(
                    f"{self.root / printable(path)} has no label in {_ANNOTATIONS}: add it there, or remove the image"
                )
            return self._label_of[image], inside
        name, _, below = inside.partition("/")
        return name, below


def hashed_key(stem: str, unique: str) -> str:
    """A key that shows what it can of `stem` and differs where `unique` does."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60]
    return f"{readable}-{_digest(unique)[:16]}"


def _instead(root: Path) -> str:
    found = unread(root)
    return f", got {found}" if found else ""


def _lines(path: Path) -> list[str]:
    """A text's lines that are not empty."""
    try:
        text = read_bytes(path, _MOST_TEXT).decode("utf-8-sig")
    except (OSError, ReadError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text ({error}): download it again") from error
    return [line.strip("\r") for line in text.split("\n") if line.strip()]


def _digest(item: str) -> str:
    return hashlib.sha256(name_bytes(item)).hexdigest()


def _unit_hash(item: str) -> float:
    return int(_digest(item)[:13], 16) / 16**13
