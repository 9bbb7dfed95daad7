"""Layouts that name a class by its wnid: ImageNet's own tars, folders, Kaggle's."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.images import is_image
from pipeline.sources import SourceError, printable
from pipeline.sources.imagenet.labels import SOLUTION, classes, found_below, val_wnids
from pipeline.sources.imagenet.layout import WNID, Layout, Unit
from pipeline.sources.imagenet.tar_members import PACKED_ENDING, members
from pipeline.sources.ledger import Ledger
from pipeline.sources.trees import entries, is_folder, walk_images, why_no_image

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class Folders(Layout):
    looks_for = f"{{split}}/<wnid>/*.JPEG (or a flat val/ with {SOLUTION} or the devkit beside it)"

    @staticmethod
    def base(root: Path) -> Path | None:
        """The folder that holds train/ and val/."""
        return root

    @classmethod
    def found(cls, root: Path, split: str) -> bool:
        base = cls.base(root)
        if base is None or not (base / split).is_dir():
            return False
        return bool(_wnid_folders(base / split)) or (split == "val" and _first_image(base / split) is not None)

    def __init__(self, root: Path, split: str, rows_per_unit: int) -> None:
        super().__init__(root, split, rows_per_unit)
        base = self.base(root) or root
        self.part = base / split
        self.wnids = _wnid_folders(self.part)
        if not self.wnids:
            above = base.absolute().parents[:3] if base.absolute().name == "CLS-LOC" else []
            self.val_wnids = val_wnids([root, *above])
        elif stray := _first_image(self.part):
            raise SourceError(f"{self.part} mixes <wnid>/ folders with images outside them ({stray}): move these")
        self.class_names = classes(root, _wnid_folders(base / "train") or list(_inner_tars(root)), self.wnids)

    def units(self, ledger: Ledger) -> Iterator[Unit]:
        below = f"{self.part.relative_to(self.root).as_posix()}/"
        return self._unique(self._by_wnid(below, ledger) if self.wnids else self._flat(below, ledger))

    def _by_wnid(self, below: str, ledger: Ledger) -> Iterator[Unit]:
        for entry in entries(self.root, below, ledger):
            if entry.name not in self.wnids:
                ledger.seen += 1
                reason = "a folder that is no wnid" if is_folder(entry) else why_no_image(entry.name)
                ledger.leave_out(reason, f"{below}{entry.name}{'/' if is_folder(entry) else ''}")
        for wnid in self.wnids:
            label = self.class_names.index(wnid)
            for path, size in walk_images(self.root, f"{below}{wnid}/", ledger):
                yield Unit(f"{path}={label}", size)

    def _flat(self, below: str, ledger: Ledger) -> Iterator[Unit]:
        found = walk_images(self.root, below, ledger)
        return self._labelled(((path, path, size) for path, size in found), ledger)


class Kaggle(Folders):
    looks_for = f"ILSVRC/Data/CLS-LOC/{{split}}/ (val: flat, with {SOLUTION} beside ILSVRC/)"

    @staticmethod
    def base(root: Path) -> Path | None:
        candidates = (root / "ILSVRC/Data/CLS-LOC", root / "Data/CLS-LOC")
        return next((folder for folder in candidates if folder.is_dir()), None)


class Official(Layout):
    looks_for = f"ILSVRC2012_img_{{split}}.tar (train: or <wnid>.tar, train/<wnid>.tar; val: with devkit or {SOLUTION})"

    @classmethod
    def found(cls, root: Path, split: str) -> bool:
        if split == "val":
            return (root / VAL_TAR).is_file()
        return (root / TRAIN_TAR).is_file() or bool(_wnid_tars(root))

    def __init__(self, root: Path, split: str, rows_per_unit: int) -> None:
        super().__init__(root, split, rows_per_unit)
        self.inner = _inner_tars(root)
        if split == "val":
            self.containers, self.val_wnids = [VAL_TAR], val_wnids([root])
        else:
            self.containers = sorted({where.partition("!")[0] for where, _, _ in self.inner.values()})
        self.class_names = classes(root, list(self.inner) or _wnid_folders(root / "train"), ())

    def units(self, ledger: Ledger) -> Iterator[Unit]:
        return self._unique(self._nested(ledger) if self.split == "train" else self._flat(ledger))

    def _nested(self, ledger: Ledger) -> Iterator[Unit]:
        """Images of class tars. What lies beside these in the official tar is left out."""
        if self.containers == [TRAIN_TAR]:
            for member in members(self.root / TRAIN_TAR):
                if member.left_out or not _is_class_tar(member.name):
                    ledger.seen += 1
                    ledger.leave_out(member.left_out or "no <wnid>.tar", f"{TRAIN_TAR}!{member.name}")
        for wnid, (where, offset, length) in self.inner.items():
            label = self.class_names.index(wnid)
            for member in self._images(where, ledger, offset, length):
                yield self._in_tar(where, member, label)

    def _flat(self, ledger: Ledger) -> Iterator[Unit]:
        found = self._images(VAL_TAR, ledger)
        images = ((m.name, f"{VAL_TAR}!{m.name}@{m.offset}+{m.length}", m.length) for m in found)
        return self._labelled(images, ledger)


# --- looking -------------------------------------------------------------------------------------------------------


def _wnid_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    found = entries(folder, "", Ledger())
    return sorted(entry.name for entry in found if WNID.fullmatch(entry.name) and is_folder(entry))


def _first_image(folder: Path) -> str | None:
    """An image that lies in the folder itself."""
    found = entries(folder, "", Ledger())
    return next((printable(entry.name) for entry in found if not is_folder(entry) and is_image(entry.name)), None)


def _wnid_tars(root: Path) -> list[str]:
    """train/<wnid>.tar, else <wnid>.tar, below root."""
    for pattern in ("train/n*.tar", "n*.tar"):
        if tars := [tar for tar in found_below(root, pattern) if WNID.fullmatch(tar.stem)]:
            return [tar.relative_to(root).as_posix() for tar in tars]
    return []


def _inner_tars(root: Path) -> dict[str, tuple[str, int, int | None]]:
    """wnid -> (where, offset, length) of train's tars, one a class, inside the official tar or as files."""
    if not (root / TRAIN_TAR).is_file():
        return {PurePosixPath(tar).stem: (tar, 0, None) for tar in _wnid_tars(root)}
    found: dict[str, tuple[str, int, int | None]] = {}
    for member in members(root / TRAIN_TAR):
        if not member.left_out and _is_class_tar(member.name):
            wnid = PurePosixPath(member.name).stem
            if wnid in found:
                raise SourceError(f"{root / TRAIN_TAR} must hold {wnid}.tar once, got it twice: remove one")
            found[wnid] = (f"{TRAIN_TAR}!{member.name}", member.offset, member.length)
        elif WNID.match(name := PurePosixPath(member.name).name) and PACKED_ENDING.search(name):
            raise SourceError(f"{root / TRAIN_TAR}: {name} inside is compressed, not tar: unpack it there")
    return found


def _is_class_tar(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".tar" and WNID.fullmatch(path.stem) is not None
