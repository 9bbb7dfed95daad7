"""What of an image a network sees, and which of its pixels count: all of them, or as on NYUDepthV2.

Never resized: depth in metres belongs to a focal length in pixels. A network sees the largest centre whose sides are
multiples of its patch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import data_manifests
from pipeline.teachers.sparse import Size

_NYU = data_manifests.load("nyudepthv2")["evaluation"]


@dataclass(frozen=True)
class Protocol:
    """`window`: top, left, height and width of what is seen; `counts`: the same of the pixels that count, in it."""

    name: str
    window: tuple[int, int, int, int]
    counts: tuple[int, int, int, int]
    range_m: tuple[float, float] = (0.0, np.inf)

    def mask(self, depth_m: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Of the window's true depth (height, width): where it is known, within range and counts."""
        low, high = self.range_m
        top, left, height, width = self.counts
        inside = np.zeros(depth_m.shape, bool)
        inside[top : top + height, left : left + width] = True
        return inside & (depth_m > low) & (depth_m <= high)


def protocols(source: str, size: Size, multiple: int) -> list[Protocol]:
    """Those of an image of `size` from shards of `source`.

    `whole`: every valid pixel of what the network sees. Of NYU's images also `eigen`, the field's crop and range
    (estimates are cut to that range too), and, where a network can see it, `author`: the centre 350 x 476 without a
    crop, by which alone the figures of v15.2's author compare.
    """
    whole = _centre(size, (size[0] // multiple * multiple, size[1] // multiple * multiple))
    found = [Protocol("whole", whole, (0, 0, whole[2], whole[3]))]
    if source not in _NYU["sources"] or list(size) != _NYU["size"]:
        return found
    rows, columns, range_m = _NYU["eigen_rows"], _NYU["eigen_columns"], (_NYU["min_depth_m"], _NYU["max_depth_m"])
    top, left, height, width = rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]
    if whole[0] <= top and whole[1] <= left and top + height <= whole[0] + whole[2]:
        found.append(Protocol("eigen", whole, (top - whole[0], left - whole[1], height, width), range_m))
    author: Size = (_NYU["author_size"][0], _NYU["author_size"][1])
    if author[0] % multiple == 0 and author[1] % multiple == 0:
        found.append(Protocol("author", _centre(size, author), (0, 0, *author), range_m))
    return found


def _centre(size: Size, inner: Size) -> tuple[int, int, int, int]:
    return (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2, *inner
