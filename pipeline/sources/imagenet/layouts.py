"""The layouts people keep ImageNet in: what each looks for, lists and reads. The labels' rule is in `__init__.py`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pipeline.images import UnreadableImage, read_file
from pipeline.sources import SourceError, printable
from pipeline.sources.folder import hashed_key, is_folder, is_image, scan, walk_images
from pipeline.sources.imagenet.labels import SOLUTION, all_wnids, classes, val_wnids
from pipeline.sources.imagenet.parquet_rows import ParquetRows
from pipeline.sources.imagenet.tar_members import Member, members, read_range

WNID = re.compile(r"n\d{8}")
_WNIDS_IN_NAME = re.compile(r"^n\d{8}(?=_)|(?<=_)n\d{8}(?=\.JPEG\Z)")  # n01440764_7.JPEG, ..._n01440764.JPEG
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class Layout:
    """One split in one layout. Here: what those share whose units are single images, "<where>=<label>".

    The label in the unit makes a changed label a changed source. `where` is a path below root, or for tars
    "<tar>!<names inside>@<offset>+<length>".
    """

    looks_for: str  # {split} stands for train or val
    class_names: Sequence[str]
    containers: Sequence[str] = ()  # tars or parquet files below root; none where images are files
    val_wnids: Mapping[str, str] = {}  # stem of a flat val's image -> wnid
    samples_per_unit = 1

    @classmethod
    def found(cls, root: Path, split: str) -> bool:
        raise NotImplementedError

    def __init__(self, root: Path, split: str, rows_per_unit: int) -> None:
        self.root, self.split = root, split

    def units(self) -> Iterator[tuple[str, int]]:
        """(unit, bytes), streamed."""
        raise NotImplementedError

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def key(self, item: str) -> str:
        """The published name; train images are numbered within their wnid, val images throughout."""
        where = item.rpartition("=")[0]
        path = PurePosixPath(re.sub(r"@\d+\+\d+$", "", where).replace("!", "/"))
        wnid = path.parent.name.removesuffix(".tar")
        published = WNID.fullmatch(wnid) and re.fullmatch(rf"{wnid}_\d{{1,20}}\.JPEG", path.name)
        if published or re.fullmatch(r"ILSVRC2012_val_\d{8}\.JPEG", path.name):
            return path.stem
        return hashed_key(path.stem, where)

    def read(self, item: str) -> tuple[bytes, int, str]:
        """(image, label, where it lies)."""
        where, _, label = item.rpartition("=")
        if not self.containers:
            return read_file(self.root / where), int(label), where
        name, _, byte_range = where.rpartition("@")
        tar = next(name[: bang.start()] for bang in re.finditer("!", name) if name[: bang.start()] in self.containers)
        offset, _, length = byte_range.partition("+")
        return read_range(self.root / tar, int(offset), int(length)), int(label), where

    def _in_tar(self, where: str, member: Member, label: int) -> tuple[str, int]:
        return f"{where}!{member.name}@{member.offset}+{member.length}={label}", member.length

    def _unique(self, units: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        """Refuse a key that comes twice: within a class, which train keys name, or anywhere in a val of 50,000."""
        keys: set[str] = set()
        last_label = ""
        for unit, size in units:
            key, label = self.key(unit), unit.rpartition("=")[2]
            if self.split == "train" and label != last_label:
                keys.clear()
            if key in keys:
                raise SourceError(f"{self.root} must hold {key} once, got it again as {printable(unit)}: remove one")
            last_label = label
            keys.add(key)
            yield unit, size

    def _labelled(self, images: Iterable[tuple[str, str, int]]) -> Iterator[tuple[str, int]]:
        """Units of a flat val from (name, where, bytes)."""
        label_of = {wnid: label for label, wnid in enumerate(self.class_names)}
        for name, where, size in images:
            wnid = self.val_wnids.get(PurePosixPath(name).stem)
            if wnid is None:
                raise SourceError(
                    f"{self.root / printable(where)} is none of the {len(self.val_wnids):,} images of val that have a "
                    f"label: download the devkit or {SOLUTION} again, or remove the image"
                )
            if wnid in label_of:
                yield f"{where}={label_of[wnid]}", size


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

    def units(self) -> Iterator[tuple[str, int]]:
        return self._unique(self._by_wnid() if self.wnids else self._flat())

    def _by_wnid(self) -> Iterator[tuple[str, int]]:
        below = self.part.relative_to(self.root).as_posix()
        for wnid in self.wnids:
            label = self.class_names.index(wnid)
            for path, size in walk_images(self.part / wnid):
                yield f"{below}/{wnid}/{path}={label}", size

    def _flat(self) -> Iterator[tuple[str, int]]:
        below = self.part.relative_to(self.root).as_posix()
        return self._labelled((path, f"{below}/{path}", size) for path, size in walk_images(self.part))


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

    def units(self) -> Iterator[tuple[str, int]]:
        return self._unique(self._nested() if self.split == "train" else self._flat())

    def _nested(self) -> Iterator[tuple[str, int]]:
        for wnid, (where, offset, length) in self.inner.items():
            label = self.class_names.index(wnid)
            for member in members(self.root / where.partition("!")[0], offset, length):
                if is_image(member.name):
                    yield self._in_tar(where, member, label)

    def _flat(self) -> Iterator[tuple[str, int]]:
        images = (member for member in members(self.root / VAL_TAR) if is_image(member.name))
        return self._labelled((m.name, f"{VAL_TAR}!{m.name}@{m.offset}+{m.length}", m.length) for m in images)


class WebDataset(Layout):
    looks_for = "*{split}*.tar or {split}*/*.tar with members jpg (jpeg, png) and cls"

    @staticmethod
    def tars(root: Path, split: str) -> list[str]:
        found = {*root.glob(f"*{split}*.tar"), *root.glob(f"{split}*/*.tar")}
        official = re.compile(rf"ILSVRC2012_.*|{WNID.pattern}\.tar")
        return sorted(tar.relative_to(root).as_posix() for tar in found if not official.fullmatch(tar.name))

    @classmethod
    def found(cls, root: Path, split: str) -> bool:
        return bool(cls.tars(root, split))

    def __init__(self, root: Path, split: str, rows_per_unit: int) -> None:
        super().__init__(root, split, rows_per_unit)
        self.containers, self.class_names = self.tars(root, split), all_wnids()

    def key(self, item: str) -> str:
        """Always with a hash: the names are the maker's own, and may come again in another tar."""
        where = item.rpartition("=")[0]
        name = PurePosixPath(where.rpartition("@")[0].rpartition("!")[2]).name
        return hashed_key(name.partition(".")[0], where)

    def units(self) -> Iterator[tuple[str, int]]:
        """A sample is a run of members that agree up to the first dot of their file names."""
        for tar in self.containers:
            sample = ""
            fields: dict[str, Member] = {}
            for member in members(self.root / tar):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if f"{folder}/{stem}" != sample:
                    yield from self._unit(tar, fields)
                    sample, fields = f"{folder}/{stem}", {}
                fields[extension.lower()] = member
            yield from self._unit(tar, fields)

    def _unit(self, tar: str, fields: Mapping[str, Member]) -> Iterator[tuple[str, int]]:
        image = next((fields[name] for name in ("jpg", "jpeg", "png") if name in fields), None)
        cls = fields.get("cls")
        if image and cls:
            text = read_range(self.root / tar, cls.offset, min(cls.length, 20)).strip()
            if not text.isdigit() or int(text) >= len(self.class_names):
                raise SourceError(f"{self.root / tar}: {cls.name} must hold a number from 0 to 999, got {text!r}")
            yield self._in_tar(tar, image, int(text))
        elif lonely := image or cls:
            lacks = "cls" if image else "jpg, jpeg or png"
            raise SourceError(f"{self.root / tar}: {lonely.name} must have a {lacks} beside it: is this ImageNet?")


class Parquet(Layout):
    looks_for = "data/{split}-*-of-*.parquet (val: validation-*) of the hub's ILSVRC/imagenet-1k"

    @staticmethod
    def files(root: Path, split: str) -> list[str]:
        name = "validation" if split == "val" else split
        found = [*root.glob(f"{name}-*-of-*.parquet"), *root.glob(f"data/{name}-*-of-*.parquet")]
        return sorted(file.relative_to(root).as_posix() for file in found)

    @classmethod
    def found(cls, root: Path, split: str) -> bool:
        return bool(cls.files(root, split))

    def __init__(self, root: Path, split: str, rows_per_unit: int) -> None:
        super().__init__(root, split, rows_per_unit)
        self.containers, self.class_names = self.files(root, split), all_wnids()
        announced = re.search(r"-of-(\d+)", self.containers[0])
        if announced and int(announced[1]) != len(self.containers):
            raise SourceError(
                f"{root / self.containers[0]} is one of {int(announced[1])}, got {len(self.containers)}: download the "
                "rest, or rename these to -of- their own number to take them for all"
            )
        self._rows = ParquetRows(root, self.containers, rows_per_unit, len(self.class_names))
        self.samples_per_unit = self._rows.samples_per_unit

    def units(self) -> Iterator[tuple[str, int]]:
        return ((unit, -1) for unit in self._rows.units())

    def samples(self, unit: str) -> Sequence[str]:
        return self._rows.samples(unit)

    def key(self, item: str) -> str:
        """File, group and row: the published name lies in the file."""
        file, _, rows = item.rpartition("#")
        stem, group, row = PurePosixPath(file).stem, rows.partition("@")[0], rows.rpartition(":")[2]
        key = f"{stem}-g{int(group):03d}-r{int(row):04d}"
        return key if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) else hashed_key(key, item)

    def read(self, item: str) -> tuple[bytes, int, str]:
        image, path, label = self._rows.row(item)
        if not 0 <= label < len(self.class_names):
            raise SourceError(f"{self.root / item}: label must be 0 to 999, got {label}: is this a labelled split?")
        if image is None:
            raise UnreadableImage("row without image bytes")
        try:
            name = (path or b"").decode()
        except UnicodeDecodeError as error:
            raise UnreadableImage("the row's path is not valid UTF-8") from error
        wnid = self.class_names[label]
        if other := next((w for w in _WNIDS_IN_NAME.findall(PurePosixPath(name).name) if w != wnid), None):
            raise UnreadableImage(f"label {label} is wnid {wnid}, its name says {other}")
        return image, label, f"{item} {name}" if name else item


# --- looking -------------------------------------------------------------------------------------------------------


def _wnid_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in scan(folder) if WNID.fullmatch(entry.name) and is_folder(entry))


def _first_image(folder: Path) -> str | None:
    """An image that lies in the folder itself."""
    return next(
        (printable(entry.name) for entry in scan(folder) if is_image(entry.name) and not is_folder(entry)), None
    )


def _wnid_tars(root: Path) -> list[str]:
    """train/<wnid>.tar, else <wnid>.tar, below root."""
    for pattern in ("train/n*.tar", "n*.tar"):
        if tars := sorted(tar for tar in root.glob(pattern) if WNID.fullmatch(tar.stem)):
            return [tar.relative_to(root).as_posix() for tar in tars]
    return []


def _inner_tars(root: Path) -> dict[str, tuple[str, int, int | None]]:
    """wnid -> (where, offset, length) of train's tars, one a class, inside the official tar or as files."""
    if not (root / TRAIN_TAR).is_file():
        return {PurePosixPath(tar).stem: (tar, 0, None) for tar in _wnid_tars(root)}
    found: dict[str, tuple[str, int, int | None]] = {}
    for member in members(root / TRAIN_TAR):
        path = PurePosixPath(member.name)
        if path.suffix == ".tar" and WNID.fullmatch(path.stem):
            found[path.stem] = (f"{TRAIN_TAR}!{member.name}", member.offset, member.length)
    return found
