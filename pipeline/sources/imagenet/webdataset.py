"""WebDataset tars: images with a cls beside them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pipeline.sources import SourceError, printable
from pipeline.sources.folder import hashed_key
from pipeline.sources.imagenet.labels import all_wnids, found_below
from pipeline.sources.imagenet.layout import WNID, Layout, Unit
from pipeline.sources.imagenet.tar_members import Member, read_range
from pipeline.sources.ledger import Ledger

_MOST_CLS = 20  # bytes of a number from 0 to 999, with room for line ends


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
