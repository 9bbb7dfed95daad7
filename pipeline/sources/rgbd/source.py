"""RGB-D data by a description, as a source of samples like any other."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.depth_field import DepthField
from pipeline.images import UnreadableImage, as_jpeg, open_rgb, read_file, shrink, stored_jpeg
from pipeline.shards import png_bytes
from pipeline.sources import DepthFile, Photograph, SourceError, name_bytes, printable
from pipeline.sources.folder import hashed_key
from pipeline.sources.ledger import Ledger, Listed
from pipeline.sources.rgbd import labels
from pipeline.sources.rgbd.depth_files import nearest_pixels, read_values, to_depth
from pipeline.sources.rgbd.description import Depth, Description
from pipeline.sources.rgbd.listing import ByLines, ByPath, ByTime, Finder, Rows, Variables, lines_of, whole_files
from pipeline.sources.rgbd.sunrgbd import SunRgbd
from pipeline.sources.rgbd.template import Template, of_text

_ASPECTS = 1.05  # two aspects that differ by less are one, rounded to pixels
_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")


class Rgbd:
    """The samples that `description` finds below `root`; short sides above `short_side` px are shrunk, 0 keeps all."""

    samples_per_unit = 1
    listing_in_config = False
    splits: Sequence[str] = ("train", "val")

    def __init__(self, root: Path, description: Description, short_side: int = 0) -> None:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise SourceError(f"source folder {root} {what}: give the folder that holds {description.name}")
        self.root, self.description, self.short_side = root, description, short_side
        self.name = description.name
        self.notes: Sequence[str] = ()
        self.expected: Mapping[str, int] = dict(description.expected.items())
        self.depth_fields: Mapping[str, DepthField] = {
            name: depth.described() for name, depth in description.depth.items()
        }
        seg, cls = description.labels.seg, description.labels.cls
        self.seg_names: Sequence[str] = labels.names_of(root, seg) if seg else ()
        self.class_names: Sequence[str] = tuple(cls.classes) if cls else ()
        self._finder = self._open_finder()
        self._tables = [Rows(root, table) for table in description.tables]
        self._split_of = self._open_split()
        if description.samples.lists and not description.samples.lists.val:
            self.splits = ("train",)

    # --- listing ---------------------------------------------------------------------------------------------------

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        scenes: dict[str, set[bytes]] = {split: set() for split in self.splits}
        photographs: set[bytes] = set()
        for found in self._finder.found(ledger):
            variables, rowless = self._looked_up(found.variables)
            if rowless:
                ledger.leave_out(f"no row of it in {rowless}", found.unit)
                continue
            rgb = self._rgb_of(variables)
            split = found.split or self._split(variables)
            lost, num_bytes = self._look(variables) if split else ("in neither split", 0)
            lost = lost or self._classless(variables)
            photograph = hashlib.blake2b(name_bytes(str(PurePosixPath(rgb))), digest_size=8).digest()
            if not lost and photograph in photographs:
                lost = "its photograph is that of another sample"
            if lost:
                ledger.leave_out(lost, rgb)
                continue
            photographs.add(photograph)
            if scene := self.description.samples.scene:
                scenes[split].add(hashlib.blake2b(Template(scene).fill(variables).encode(), digest_size=8).digest())
            yield Listed(split, found.unit, num_bytes)
        if both := scenes.get("train", set()) & scenes.get("val", set()):
            self.notes = [
                f"{len(both):,} scene{'s are' if len(both) > 1 else ' is'} in train and in val by the data set's own "
                "split: val is not independent of train"
            ]

    def _open_finder(self) -> Finder:
        samples = self.description.samples
        if samples.lists and samples.line:
            return ByLines(self.root, samples.lists, samples.line)
        if samples.nearest:
            return ByTime(self.root, samples.path or "{folder}", samples.nearest)
        if samples.reader:
            return SunRgbd(self.root)
        return ByPath(self.root, self.description)

    def _open_split(self) -> dict[str, str]:
        """The split of each value of `split.of`."""
        split = self.description.split
        if split is None or split.of is None:
            return {}
        if split.lists is None:
            return dict.fromkeys(split.train, "train") | dict.fromkeys(split.val, "val")
        of: dict[str, str] = {}
        for name, file in split.lists.files().items():
            values = lines_of(self.root / file)
            if twice := next((value for value in values if of.get(value, name) != name), None):
                raise SourceError(f"{self.root / file}: {twice!r} is in the other list as well: remove one")
            of |= dict.fromkeys(values, name)
        return of

    def _split(self, variables: Variables) -> str:
        """train, val, or nothing."""
        split = self.description.split
        assert split is not None
        if split.of is not None:
            return self._split_of.get(self._filled(split.of, variables), "")
        scene = self._filled(self.description.samples.scene or "", variables)
        share = int(hashlib.sha256(scene.encode("utf-8", "surrogateescape")).hexdigest()[:13], 16) / 16**13
        return "val" if share < (split.fraction or 0) else "train"

    def _look(self, variables: Variables) -> tuple[str, int]:
        """Which of a sample's files is not there, or leads out of the source, "" where all are; and their bytes."""
        wanted = {"the photograph": self.description.samples.photograph}
        for name, depth in self.description.depth.items():
            wanted[f"its {name} depth"] = depth.path
            if depth.valid:
                wanted[f"the valid mask of its {name} depth"] = depth.valid
        seg, cls = self.description.labels.seg, self.description.labels.cls
        if seg and seg.path:
            wanted["its labels"] = seg.path
        if cls and cls.file:
            wanted["the file of its class"] = cls.file
        num_bytes = 0
        for what, template in wanted.items():
            name = self._filled(template, variables)
            if ".." in name.split("/"):
                return f"{what} lies outside the source", 0
            try:
                status = os.stat(f"{self.root}/{name}")
            except (OSError, ValueError):  # also of a name too long, or with a NUL
                return f"{what} is not there", 0
            if not stat.S_ISREG(status.st_mode):
                return f"{what} is no file", 0
            num_bytes += status.st_size
        return "", num_bytes

    # --- a sample --------------------------------------------------------------------------------------------------

    def samples(self, unit: str) -> Sequence[str]:
        return [unit]

    def key(self, split: str, item: str) -> str:
        variables, _ = self._looked_up(self._finder.variables(item))
        return hashed_key(self._rgb_of(variables).rpartition(".")[0][-60:].strip("/"), item)

    def load(self, split: str, item: str) -> Photograph:
        variables, _ = self._looked_up(self._finder.variables(item))
        name = self._rgb_of(variables)
        stored, extension, image, (width, height) = self._stored(name, read_file(self.root / name))
        size = (image.height, image.width)
        depth, origin = {}, {}
        for field, says in self.description.depth.items():
            depth[field], origin[field] = self._depth(field, says, variables, (height, width), size)
        facts: dict[str, Any] = {"source": printable(name), "original_width": width, "original_height": height}
        if scene := self.description.samples.scene:
            facts["scene"] = printable(self._filled(scene, variables))
        return Photograph(
            image=image,
            rgb_bytes=stored,
            rgb_extension=extension,
            facts=facts,
            depth=depth,
            files=origin,
            cls=self._class(variables) if self.description.labels.cls else None,
            seg=self._seg(item, variables, (height, width), size),
        )

    def config(self) -> dict[str, Any]:
        """The description itself, whatever its file is called, and what it reads for all samples together."""
        lists = self.description.samples.lists
        names = [*whole_files(self.description), *(lists.files().values() if lists else ())]
        if isinstance(self._finder, SunRgbd):
            names += [str(path.relative_to(self.root)) for path in self._finder.files[:2]]
        content = {name: hashlib.sha256(read_file(self.root / name)).hexdigest() for name in names}
        return {
            "name": self.name,
            "short_side": self.short_side,
            "description": self.description.model_dump(mode="json", exclude_defaults=True),
            "lists_sha256": content,
        }

    def _looked_up(self, variables: Variables) -> tuple[Variables, str]:
        """A sample's variables with the columns of its rows, and the first table that has none of it."""
        for rows in self._tables:
            row = rows.of(variables)
            if row is None:
                return variables, rows.file
            variables = variables | row
        return variables, ""

    def _filled(self, template: str, variables: Variables) -> str:
        try:
            return of_text(template).fill(variables).lstrip("/")  # some lists begin their paths so
        except KeyError as error:
            raise SourceError(
                f"description {self.name}: {template!r} names {error}, which a sample has not; it has "
                f"{', '.join(sorted(variables))}"
            ) from None

    def _rgb_of(self, variables: Variables) -> str:
        return self._filled(self.description.samples.photograph, variables)

    def _stored(self, name: str, data: bytes) -> tuple[bytes, str, Image.Image, tuple[int, int]]:
        """Bytes to store, their extension, the image a reader decodes from them, the original (width, height).

        What came without loss and keeps its size is stored without loss.
        """
        if not name.lower().endswith(_LOSSLESS):
            stored, seen, size = stored_jpeg(data, self.short_side, beside_depth=True)
            return stored, "rgb.jpg", seen, size
        image, _ = open_rgb(data, beside_depth=True)
        small = shrink(image, self.short_side)
        if small is image:
            return png_bytes(np.asarray(image)), "rgb.png", image, image.size
        stored, seen = as_jpeg(small)
        return stored, "rgb.jpg", seen, image.size

    def _depth(
        self, field: str, says: Depth, variables: Variables, original: tuple[int, int], size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], DepthFile]:
        """One depth field at the stored photograph's `size`, and the file it is from."""
        name = self._filled(says.path, variables)
        try:
            data = read_file(self.root / name)
            values = read_values(data, says.format, says.byte_order)
            valid = None
            if says.valid:
                mask = read_values(read_file(self.root / self._filled(says.valid, variables)), says.valid_format)
                if mask.shape != values.shape:
                    raise UnreadableImage(f"its valid mask is {_told(mask.shape)}, itself {_told(values.shape)}")
                valid = mask != 0
        except UnreadableImage as error:
            raise UnreadableImage(f"{field} depth: {error}") from error
        if values.shape != original and says.size == "aligned":
            raise UnreadableImage(
                f"{field} depth is {_told(values.shape)}, the photograph {_told(original)}: where both show the same "
                'view, size = "same_view_resize" says so'
            )
        _refuse_other_aspect(f"{field} depth is", values.shape, original)
        depth = to_depth(values, says, valid, size)
        if not np.isfinite(depth).any():
            raise UnreadableImage(f"{field} depth has no valid pixel")
        return depth, DepthFile(name, hashlib.sha256(data).hexdigest())

    def _seg(
        self, item: str, variables: Variables, original: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8] | None:
        seg = self.description.labels.seg
        if seg is None:
            return None
        try:
            if seg.path is None:
                assert isinstance(self._finder, SunRgbd)
                found = labels.to_classes(self._finder.labels(item), seg, len(self.seg_names))
            else:
                found = labels.read_labels(self.root / self._filled(seg.path, variables), seg, len(self.seg_names))
        except UnreadableImage as error:
            raise UnreadableImage(f"labels: {error}") from error
        if found.shape != original and seg.size == "aligned":
            raise UnreadableImage(f"labels are {_told(found.shape)}, the photograph {_told(original)}")
        _refuse_other_aspect("labels are", found.shape, original)
        return found if found.shape == size else nearest_pixels(found, *size)

    def _classless(self, variables: Variables) -> str:
        """Why a sample has no class where the description gives classes; nothing where it has one."""
        if self.description.labels.cls is None:
            return ""
        try:
            return "" if self._class(variables) is not None else "its class is none of the description's"
        except UnreadableImage:
            return "the file of its class cannot be read"

    def _class(self, variables: Variables) -> int | None:
        cls = self.description.labels.cls
        assert cls is not None
        if cls.of is not None:
            return cls.index(self._filled(cls.of, variables))
        return cls.index(labels.text_of(self.root / self._filled(cls.file or "", variables)))


def _refuse_other_aspect(what: str, shape: tuple[int, ...], original: tuple[int, int]) -> None:
    """UnreadableImage where a map cannot show the photograph's view: 640x480 beside 1296x968 can."""
    ratio = shape[1] / shape[0] * original[0] / original[1]
    if not 1 / _ASPECTS <= ratio <= _ASPECTS:
        raise UnreadableImage(f"{what} {_told(shape)} and the photograph {_told(original)}: of another aspect")


def _told(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
