"""The layouts people keep ImageNet in: what each looks for, lists and reads. The labels' rule is in `__init__.py`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.images import MAX_FILE_BYTES, UnreadableImage, is_image, read_file
from pipeline.sources import SourceError, printable
from pipeline.sources.folder import hashed_key
from pipeline.sources.imagenet.labels import SOLUTION, all_wnids, classes, found_below, val_wnids
from pipeline.sources.imagenet.parquet_rows import ParquetRows
from pipeline.sources.imagenet.tar_members import PACKED_ENDING, Member, members, read_range
from pipeline.sources.ledger import Ledger
from pipeline.sources.trees import entries, is_folder, walk_images, why_no_image

WNID = re.compile(r"n\d{8}")
_WNIDS_IN_NAME = re.compile(r"^n\d{8}(?=_)|(?<=_)n\d{8}(?=\.JPEG\Z)")  # n01440764_7.JPEG, ..._n01440764.JPEG
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


_MOST_CLS = 20  # bytes of a number from 0 to 999, with room for line ends


class Unit(NamedTuple):
    name: str
    num_bytes: int
    num_members: int = 1


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

    def units(self, ledger: Ledger) -> Iterator[Unit]:
        """Streamed; what is seen and left out goes to `ledger`."""
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
        if int(length) > MAX_FILE_BYTES:
            raise UnreadableImage(f"not read: {int(length):,} bytes, more than {MAX_FILE_BYTES:,}")
        return read_range(self.root / tar, int(offset), int(length)), int(label), where

    def _files(self, where: str, ledger: Ledger, offset: int = 0, length: int | None = None) -> Iterator[Member]:
        """The files of a tar, each once; what else is in it is left out."""
        names: set[str] = set()  # of one tar
        tar = where if where in self.containers else where.partition("!")[0]
        for member in members(self.root / tar, offset, length):
            ledger.seen += 1
            if member.left_out:
                ledger.leave_out(member.left_out, f"{where}!{member.name}")
                continue
            if member.name in names:
                raise SourceError(
                    f"{self.root / printable(where)} must hold {printable(member.name)} once, got it twice: remove one"
                )
            names.add(member.name)
            yield member

    def _images(self, where: str, ledger: Ledger, offset: int = 0, length: int | None = None) -> Iterator[Member]:
        for member in self._files(where, ledger, offset, length):
            if is_image(member.name):
                yield member
            else:
                ledger.leave_out(why_no_image(member.name), f"{where}!{member.name}")

    def _in_tar(self, where: str, member: Member, label: int, num_members: int = 1) -> Unit:
        unit = f"{where}!{member.name}@{member.offset}+{member.length}={label}"
        return Unit(unit, member.length, num_members)

    def _unique(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Refuse a key that comes twice: within a class, which train keys name, or anywhere in a val of 50,000."""
        keys: set[str] = set()
        last_label = ""
        for unit in units:
            key, label = self.key(unit.name), unit.name.rpartition("=")[2]
            if self.split == "train" and label != last_label:
                keys.clear()
            if key in keys:
                again = printable(unit.name)
                raise SourceError(f"{self.root} must hold {key} once, got it again as {again}: remove one")
            last_label = label
            keys.add(key)
            yield unit

    def _labelled(self, images: Iterable[tuple[str, str, int]], ledger: Ledger) -> Iterator[Unit]:
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
                yield Unit(f"{where}={label_of[wnid]}", size)
            else:
                ledger.leave_out("of a class that train lacks", where)


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


class WebDataset(Layout):
    looks_for = "*{split}*.tar or {split}*/*.tar with members jpg (jpeg, png) and cls"

    @staticmethod
    def tars(root: Path, split: str) -> list[str]:
        found = {*found_below(root, f"*{split}*.tar"), *found_below(root, f"{split}*/*.tar")}
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

    def units(self, ledger: Ledger) -> Iterator[Unit]:
        """Samples by webdataset's rule: members that agree up to the first dot of their file names, in any order.

        Where several of one such group have an image and a cls that agree up to the *last* dot (img.v0.jpg, img.v0.cls,
        img.v1.jpg ...), which webdataset would melt into one, each of these is a sample.
        """
        for tar in self.containers:
            groups: dict[str, dict[str, Member]] = {}  # in memory for one tar
            for member in self._files(tar, ledger):
                folder, _, name = re.sub(r"^(\./+)+", "", member.name).rpartition("/")
                stem, _, field = name.partition(".")
                group = groups.setdefault(f"{folder}/{stem}", {})
                if field.lower() in group:
                    raise SourceError(
                        f"{self.root / tar}: {printable(member.name)} and {printable(group[field.lower()].name)} are "
                        "one field of one sample: remove one"
                    )
                group[field.lower()] = member
            for group in groups.values():
                yield from self._samples(tar, group, ledger)

    def _samples(self, tar: str, group: Mapping[str, Member], ledger: Ledger) -> Iterator[Unit]:
        named: dict[str, dict[str, Member]] = {}  # "" or "v0" -> ending -> member
        for field, member in group.items():
            name, _, ending = field.rpartition(".")
            named.setdefault(name, {})[ending] = member
        images = {name: image for name, fields in named.items() if (image := _image(fields))}
        labels = {name: fields["cls"] for name, fields in named.items() if "cls" in fields}
        whole = [name for name in images if name in labels]
        if not images and not labels:
            for member in group.values():
                ledger.leave_out("neither image nor cls, nor beside them", f"{tar}!{member.name}")
            return
        alone = whole == [""] or (len(whole) == 1 and len(images) == len(labels) == 1)
        if not alone:  # then each image and each cls must have its own
            for mine, others, lacks in ((labels, images, "jpg, jpeg or png"), (images, labels, "cls")):
                for name in mine:
                    if name not in others:
                        lonely = printable(mine[name].name)
                        raise SourceError(
                            f"{self.root / tar}: {lonely} must have a {lacks} beside it: is this ImageNet?"
                        )
        for name in whole:
            num_members = len(group) if alone else len(named[name])
            yield self._in_tar(tar, images[name], self._label(tar, labels[name]), num_members)
        if not alone:
            for name in named.keys() - {*whole}:
                for member in named[name].values():
                    ledger.leave_out("beside several samples, of none", f"{tar}!{member.name}")

    def _label(self, tar: str, cls: Member) -> int:
        text = read_range(self.root / tar, cls.offset, min(cls.length, _MOST_CLS + 1))
        if len(text) > _MOST_CLS or not (text := text.strip()).isdigit() or int(text) >= len(self.class_names):
            raise SourceError(
                f"{self.root / tar}: {printable(cls.name)} must hold a number from 0 to 999, got {text!r}"
            )
        return int(text)


def _image(fields: Mapping[str, Member]) -> Member | None:
    return next((fields[ending] for ending in ("jpg", "jpeg", "png") if ending in fields), None)


class Parquet(Layout):
    looks_for = "data/{split}-*-of-*.parquet (val: validation-*) of the hub's ILSVRC/imagenet-1k"

    @staticmethod
    def files(root: Path, split: str) -> list[str]:
        name = "validation" if split == "val" else split
        found = [file for where in ("", "data/") for file in found_below(root, f"{where}{name}-*-of-*.parquet")]
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

    def units(self, ledger: Ledger) -> Iterator[Unit]:
        ledger.seen += self._rows.num_rows
        for unit in self._rows.units():
            yield Unit(unit, -1, len(self.samples(unit)))

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


def refuse_packed(root: Path, split: str) -> None:
    """A compressed tar would be overlooked: name it, and what to do. The devkit may be compressed: it is read so."""
    patterns = (f"*{split}*", f"{split}*/*", *(("n*",) if split == "train" else ()))
    for path in sorted({path for pattern in patterns for path in found_below(root, pattern)}):
        packed = PACKED_ENDING.search(path.name)
        own = path.name.startswith("ILSVRC2012_img_") or not path.name.startswith("ILSVRC2012_")
        if packed and packed.end() == len(path.name) and own and path.is_file():
            plain = path.with_name(f"{path.name[: packed.start()]}.tar")
            if not plain.exists():
                raise SourceError(
                    f"{printable(str(path))} is compressed, not tar: unpack it to {plain.name}, or move it"
                )
