"""ImageNet-1k in any of the five layouts people keep it in, recognised by looking; `--layout` chooses where two fit.

Labels are positions in the sorted list of classes (wnids such as n01440764), never ILSVRC's own numbers:

- Layouts with wnids (official tars, folders, Kaggle): the classes are those of the train part of SRC, so that a subset
  such as ImageNet-100 counts its own 0 to 99 in train and val alike. Where SRC holds no train part they are the 1000 of
  data_manifests/imagenet1k.toml. The classes of val/<wnid>/ must be among them; of a flat val, which always shows all
  1000, the images of other classes are left out.
- Layouts with numbers (parquet, WebDataset): the numbers are taken as they are, the classes are the 1000. A parquet
  row whose path names another class is rejected.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import data_manifests
from pipeline.depth_field import DepthField
from pipeline.images import stored_jpeg
from pipeline.sources import Photograph, SourceError, name_bytes, printable
from pipeline.sources.imagenet.labels import found_below
from pipeline.sources.imagenet.layout import Layout
from pipeline.sources.imagenet.parquet import Parquet
from pipeline.sources.imagenet.tar_members import PACKED_ENDING
from pipeline.sources.imagenet.webdataset import WebDataset
from pipeline.sources.imagenet.wnid_layouts import Folders, Kaggle, Official
from pipeline.sources.ledger import Ledger, Listed

LAYOUTS: Mapping[str, type[Layout]] = {
    "official": Official, "folders": Folders, "kaggle": Kaggle, "parquet": Parquet, "webdataset": WebDataset,
}  # fmt: skip


class ImageNet:
    """One split of ImageNet below `root`; `rows_per_unit` is the most parquet rows read together."""

    name = "imagenet"
    seg_names: Sequence[str] = ()
    depth_fields: Mapping[str, DepthField] = {}
    notes: Sequence[str] = ()

    def __init__(self, root: Path, split: str, short_side: int, rows_per_unit: int, layout: str = "auto") -> None:
        if split not in ("train", "val"):
            raise SourceError(f"--split must be train or val, got {split!r}")
        if layout not in ("auto", *LAYOUTS):
            raise SourceError(f"--layout must be auto, {', '.join(LAYOUTS)}, got {layout!r}")
        if rows_per_unit < 1:
            raise SourceError(f"rows per unit must be at least 1, got {rows_per_unit}")
        if not root.is_dir():
            what = "is a file: give the folder that holds it" if root.exists() else "does not exist: give a folder"
            raise SourceError(f"source {root} {what}")
        self.root, self.short_side = root, short_side
        self.splits: Sequence[str] = [split]
        self.expected: Mapping[str, int] = {split: data_manifests.load("imagenet1k")[f"num_{split}"]}
        self.layout = _recognise(root, split, list(LAYOUTS) if layout == "auto" else [layout])
        self._layout = LAYOUTS[self.layout](root, split, rows_per_unit)
        self.class_names = self._layout.class_names
        self.samples_per_unit = self._layout.samples_per_unit
        self.listing_in_config = bool(self._layout.containers)

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        split, listed = self.splits[0], False
        for unit in self._layout.units(ledger):
            listed = True
            yield Listed(split, *unit)
        if not listed:
            raise SourceError(f"split {split} of {self.root} (layout {self.layout}) holds no image: is it complete?")

    def samples(self, unit: str) -> Sequence[str]:
        return self._layout.samples(unit)

    def key(self, split: str, item: str) -> str:
        return self._layout.key(item)

    def load(self, split: str, item: str) -> Photograph:
        data, label, where = self._layout.read(item)
        stored, image, (width, height) = stored_jpeg(data, self.short_side)
        return Photograph(
            image=image,
            rgb_bytes=stored,
            rgb_extension="rgb.jpg",
            facts={"source": printable(where), "original_width": width, "original_height": height},
            cls=label,
        )

    def config(self) -> dict[str, Any]:
        """Tars and parquet files stand by name and size; classes and the labels of a flat val by content."""
        layout = self._layout
        labels = sorted(f"{image} {wnid}" for image, wnid in layout.val_wnids.items())
        return {
            "name": self.name,
            "layout": self.layout,
            "split": self.splits[0],
            "short_side": self.short_side,
            "samples_per_unit": self.samples_per_unit,
            "num_classes": len(self.class_names),
            "labels_sha256": _sha256([*self.class_names, *labels]),
            "num_containers": len(layout.containers),
            "containers_sha256": _sha256(f"{name}\0{_size(self.root / name)}" for name in layout.containers),
        }


def _recognise(root: Path, split: str, layouts: Sequence[str]) -> str:
    found = [name for name in layouts if LAYOUTS[name].found(root, split)]
    if len(found) > 1:
        raise SourceError(f"source {root} holds {split} as {' and as '.join(found)}: choose one with --layout")
    if not found or found[0] in ("official", "webdataset"):
        _refuse_packed(root, split)
    if not found:
        wanted = "; ".join(f"{name} has {LAYOUTS[name].looks_for.format(split=split)}" for name in layouts)
        raise SourceError(f"source {root} must hold the {split} split of ImageNet, got nothing like it: {wanted}")
    return found[0]


def _refuse_packed(root: Path, split: str) -> None:
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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SourceError(f"{path} cannot be looked at ({error.strerror}): run the job again when it can") from error


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(name_bytes(f"{line}\n"))
    return digest.hexdigest()
