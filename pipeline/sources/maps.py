"""Depth maps that some other program made of the photographs of finished shards, as a depth field beside them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.depth_field import DepthField
from pipeline.images import UnreadableImage, read_file
from pipeline.shards import Split, Store
from pipeline.sources import DepthFile, Photograph, SourceError
from pipeline.sources.finished import FinishedShards
from pipeline.sources.ledger import Ledger, Listed
from pipeline.sources.rgbd.depth_files import nearest_pixels, read_values, to_depth
from pipeline.sources.rgbd.description import Values
from pipeline.sources.rgbd.template import Template

_VARIABLES = ("key", "split", "source", "source_stem")


class Maps(FinishedShards):
    """Depth `field`, estimated by `by`: the file below `root` that `files` names, read as `says` tells.

    `files` is a template of {key}, {split}, and {source} (the path that a sample's json states) or {source_stem} (less
    its ending). A sample without a map, or with one of another size, is a reject.
    """

    def __init__(
        self, data: Store, field: str, root: Path, files: str, says: Values, by: str, scale_lost: bool = False
    ) -> None:
        super().__init__(data)
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise SourceError(f"--depth-from {root} {what}: give the folder that holds the maps")
        try:
            self.template = Template(files)
        except ValueError as error:
            raise SourceError(f"--files: {error}") from None
        if unknown := [name for name in self.template.names if name not in _VARIABLES]:
            raise SourceError(f"--files may name {', '.join(_VARIABLES)}, got {unknown[0]!r} in {files!r}")
        if not {"key", "source", "source_stem"} & {*self.template.names}:
            raise SourceError(
                f"--files must name {{key}}, {{source}} or {{source_stem}}, else all share a file: {files!r}"
            )
        self.field, self.root, self.says = field, root, says
        self.depth_fields: Mapping[str, DepthField] = {field: says.field("estimated", by, scale_lost)}

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        """As bytes of a shard those of its maps, so that a map that changes, comes or goes is noticed."""
        for unit in super().listing(ledger):
            sizes = 0
            for item in self.samples(unit.unit):
                path = self.root / self._name(unit.split, item)
                sizes += path.stat().st_size if path.is_file() else 0
            yield unit._replace(num_bytes=sizes)

    def load(self, split: str, item: str) -> Photograph:
        photo = super().load(split, item)
        name = self._name(split, item)
        path = self.root / name
        if not path.is_file():
            if not self.root.is_dir():
                raise SourceError(f"{self.root} is gone: run the job again when it is there")
            raise UnreadableImage(f"no map {name} in {self.root}")
        data = read_file(path)
        try:
            depth = to_depth(read_values(data, self.says.format, self.says.byte_order), self.says)
        except UnreadableImage as error:
            raise UnreadableImage(f"{name} {error}") from error
        height, width = photo.size
        if depth.shape != (height, width):
            if self.says.size == "aligned":
                raise UnreadableImage(
                    f"{name} is {depth.shape[1]}x{depth.shape[0]}, the stored photograph {width}x{height}: where both "
                    "show the same view, --resized says so"
                )
            depth = nearest_pixels(depth, height, width)
        if not np.isfinite(depth).any():
            raise UnreadableImage(f"{name} has no valid pixel")
        origin = DepthFile(name, hashlib.sha256(data).hexdigest())
        return replace(photo, depth={self.field: depth}, files={self.field: origin})

    def config(self) -> dict[str, Any]:
        says = self.says.model_dump(mode="json", exclude_defaults=True)
        return super().config() | {"maps": says | {"files": self.template.text}}

    def _name(self, split: str, item: str) -> str:
        """The path of a sample's map below `root`."""
        opened, position = self.splits_by_name[split], self.position(item)
        known = {"key": opened.key(position), "split": split}
        if {"source", "source_stem"} & {*self.template.names}:
            source = _source(opened, position)
            known |= {"source": source, "source_stem": str(PurePosixPath(source).with_suffix(""))}
        name = self.template.fill(known).lstrip("/")
        if ".." in PurePosixPath(name).parts or "\0" in name:
            raise SourceError(
                f"the map of {known['key']} would lie outside the folder, at {name!r}: name it by {{key}}"
            )
        return name


def _source(split: Split, position: int) -> str:
    members = split.members(position, ("json",))
    return str(members.decode("json").get("source", "")) or members.key
