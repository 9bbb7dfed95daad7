"""A sample's members as bytes and as values, every one checked."""

import io
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import depth_codec, files
from pipeline.images import MAX_PIXELS
from pipeline.shards.records import VOID, ShardError, ShardIndex

Sample = dict[str, Any]  # "key" and the fields of the module's table, decoded

VERIFY = "run precompute-depth verify"  # the fix of whatever is damaged


def field_of(extension: str) -> str:
    """The field that a member holds: its first word; `da3.json`, what is known of the map `da3.pdz`, is its own."""
    return extension if extension.endswith(".json") else extension.split(".")[0]


def decode_depth(
    data: bytes,
    window: tuple[slice, slice] = (slice(None), slice(None)),
    size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """z of a depth member, NaN invalid; `window` (rows, columns) gives a part of it for less than the whole.

    `size` (height, width) is its RGB's, where that is known: another one is an error.
    """
    return depth_codec.decode(data, window, size)


def decode_member(extension: str, data: bytes) -> Any:
    """One member's bytes as the module's table says."""
    match extension:
        case "rgb.jpg" | "rgb.png":
            return np.asarray(_picture(extension, data).convert("RGB"))
        case "seg.png":
            return np.asarray(_picture(extension, data))
        case "cls":
            return int(data)
        case _ if extension.endswith("." + depth_codec.EXTENSION):
            return depth_codec.decode(data)
        case _ if extension == "json" or extension.endswith(".json"):
            return files.parsed_json(data)
    raise ShardError(f"member '.{extension}' is none of the shard contract's fields; see pipeline/shards/__init__.py")


def _picture(extension: str, data: bytes) -> Image.Image:
    """What the writer writes and nothing else: Pillow would run Ghostscript over a member that is PostScript."""
    try:
        picture = Image.open(io.BytesIO(data), formats=["JPEG" if extension.endswith("jpg") else "PNG"])
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
        picture.load()
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever damage leads them to
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return picture


def check_value(extension: str, value: Any, index: ShardIndex | None) -> None:
    """ValueError where a decoded member is not what the module's table says, of as many names as the index has."""
    names = {"cls": index.class_names, "seg.png": index.seg_names}.get(extension, []) if index else []
    match extension:
        case "cls" if value < 0 or (names and value >= len(names)):
            raise ValueError(f"must be {f'0 to {len(names) - 1}' if names else 'at least 0'}, got {value}")
        case _ if field_of(extension).endswith("json") and not isinstance(value, dict):
            raise ValueError(f"must be a dict, got {type(value).__name__}")
        case "seg.png":
            if value.dtype != np.uint8 or value.ndim != 2:
                raise ValueError(f"must be 8-bit of shape (height, width), got {value.dtype} {value.shape}")
            if names and (wrong := value[(value >= len(names)) & (value != VOID)]).size:
                raise ValueError(
                    f"must be 0 to {len(names) - 1} or {VOID} (void), got {wrong.max()} in {wrong.size:,} pixels"
                )


@dataclass(frozen=True)
class Members:
    """A sample's members as bytes: field -> (extension, bytes), those that were asked for."""

    key: str
    tar: str  # where the tar lies, for messages
    data: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    index: ShardIndex | None = None  # whose names the values must fit
    elsewhere: dict[str, str] = field(default_factory=dict)  # field -> its tar, where that is one beside

    def add(self, extension: str, data: bytes, length: int, crc: int, tar: str = "") -> str:
        """Take a member of the sample's tar, or of another `tar`; the field that it holds.

        Raises ShardError where the bytes are not those that the shard's JSON describes.
        """
        name = field_of(extension)
        if tar not in ("", self.tar):
            self.elsewhere[name] = tar
        if len(data) != length or zlib.crc32(data) != crc:
            raise ShardError(f"{self._where(extension)} is damaged (checksum differs): {VERIFY}")
        self.data[name] = (extension, data)
        return name

    def check_has(self, fields: Collection[str]) -> None:
        for wanted in fields:
            if wanted != "key" and wanted not in self.data:
                raise ShardError(
                    f"{self.tar}: sample {self.key} has no '{wanted}', it has {', '.join(sorted(self.data))}"
                )

    def decode(self, field: str, decoder: Callable[[str, bytes], Any] = decode_member) -> Any:
        """What `decoder` makes of the field's extension and bytes; without one, what the table says, checked."""
        extension, data = self.data[field]
        try:
            value = decoder(extension, data)
        except (OSError, RuntimeError, ValueError) as error:
            raise ShardError(f"{self._where(extension)} does not decode: {error}") from error
        if decoder is decode_member:
            try:
                check_value(extension, value, self.index)
            except ValueError as error:
                raise ShardError(f"{self._where(extension)} {error}: make the shards again") from None
        return value

    def check_sizes(self, sample: Sample) -> None:
        """Of what was decoded."""
        sizes = {name: value.shape[:2] for name, value in sample.items() if isinstance(value, np.ndarray)}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
            raise ShardError(
                f"{self.tar}, key {self.key}: RGB, depth and labels differ in size ({told}): make the shards again"
            )

    def _where(self, extension: str) -> str:
        return f"{self.elsewhere.get(field_of(extension), self.tar)}, key {self.key}, member {extension}"
