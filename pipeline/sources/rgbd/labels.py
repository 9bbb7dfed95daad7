"""Labels by their description: class indices of pixels and of photographs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images import UnreadableImage, read_file
from pipeline.shards import VOID
from pipeline.sources import SourceError
from pipeline.sources.rgbd.depth_files import read_values
from pipeline.sources.rgbd.description import Seg
from pipeline.sources.rgbd.listing import lines_of


def names_of(root: Path, seg: Seg) -> tuple[str, ...]:
    names = tuple(lines_of(root / seg.names_file)) if seg.names_file else tuple(seg.names)
    if not 1 <= len(names) <= VOID:
        raise SourceError(f"{root / (seg.names_file or '')} must hold 1 to {VOID} class names, got {len(names)}")
    return names


def to_classes(stored: NDArray[Any], seg: Seg, num_classes: int) -> NDArray[np.uint8]:
    """Stored labels as class indices, uint8 (height, width), 255 void; UnreadableImage where one is no class."""
    if stored.dtype.kind not in "ui":
        raise UnreadableImage(f"labels must be whole numbers, got {stored.dtype}")
    values = stored.astype(np.int64)
    void = np.isin(values, seg.void)
    if seg.mapping is not None:
        classes = np.full(values.shape, -1, np.int64)
        for value, index in seg.mapping.items():
            classes[values == int(value)] = index
        void |= classes < 0
    else:
        classes = values + seg.offset
    wrong = ~void & ((classes < 0) | (classes >= num_classes))
    if wrong.any():
        value = values[wrong].max()
        raise UnreadableImage(
            f"label {value} is class {value + seg.offset} of {num_classes} names (0 to {num_classes - 1}), in "
            f"{int(wrong.sum()):,} pixels: add its name, or call it void"
            if seg.mapping is None
            else f"label {value} is mapped beyond the {num_classes} names"
        )
    return np.where(void, VOID, classes).astype(np.uint8)


def read_labels(path: Path, seg: Seg, num_classes: int) -> NDArray[np.uint8]:
    """A file of labels; the same errors."""
    data = read_file(path)
    return to_classes(_palette_or_values(data, seg), seg, num_classes)


def _palette_or_values(data: bytes, seg: Seg) -> NDArray[Any]:
    """A PNG with a palette holds its labels as the palette's indices."""
    import io

    from PIL import Image

    if seg.format == "png8":
        try:
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            if image.mode == "P":
                return np.asarray(image)
        except Exception:
            pass  # told below
    return read_values(data, seg.format)


def text_of(path: Path) -> str:
    """A small file's text, such as SUN RGB-D's scene.txt."""
    try:
        return read_file(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UnreadableImage(f"{path.name} is no text") from error
