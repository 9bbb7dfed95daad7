"""A layout that people keep ImageNet in: what it looks for, lists and reads. The labels' rule is in `__init__.py`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.images import MAX_FILE_BYTES, UnreadableImage, is_image, read_file
from pipeline.sources import SourceError, printable
from pipeline.sources.folder import hashed_key
from pipeline.sources.imagenet.labels import SOLUTION
from pipeline.sources.imagenet.tar_members import Member, members, read_range
from pipeline.sources.ledger import Ledger
from pipeline.sources.trees import why_no_image

WNID = re.compile(r"n\d{8}")


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
