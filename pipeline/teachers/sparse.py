"""What sparse-query depth networks share: coordinates, look-ups in maps, and what a network must answer.

An encoder runs once an image; a light decoder answers queries (u, v), in pixels of the image with the centre of the
first at (0, 0), in metres. A query is normalised by the image's own size, never by the stride of a map: a map has no
whole stride (v15.2's have 3.5 and 7 px). That holds only where maps cover the whole image, so networks take sides that
are multiples of their patch and refuse others. Queries beyond the outermost centres of a map see its border, in both
networks; v13.1's document pads with zeros there, which makes every map fade to nothing at the image's edge.

An answer depends on its query alone: order, number and company of the queries change it by rounding only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, Strict
from torch import Tensor, nn

from pipeline.teachers import TeacherError

Size = tuple[int, int]  # height, width
Width = Annotated[int, Field(gt=0, le=8192)]
Widths = Annotated[tuple[Width, Width, Width, Width], Strict(False)]  # of four levels, fine to coarse; JSON knows lists


class NetworkConfig(BaseModel):
    """What a network is built from, of any width; `name` tells the designs apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str


@dataclass(frozen=True)
class Encoded:
    """What the encoder made of images: maps by name, (batch, channels, height, width) or as a network says."""

    maps: dict[str, Tensor]
    size: Size  # of the images


class SparseNetwork(nn.Module, ABC):
    """Encode images once, then ask."""

    config: Any  # a NetworkConfig
    multiple: int  # of both sides of an image, in px
    encoder: Any  # a module; what published weights start

    def forward(self, images: Tensor, queries: Tensor | None = None) -> Tensor:
        """Metres (batch, queries) at `queries`; without them of every pixel, (batch, height, width).

        The latter is the dense map, resized bilinearly.
        """
        encoded = self.encode(images)
        return whole(self.dense(encoded), encoded.size) if queries is None else self.at(encoded, queries)

    @abstractmethod
    def encode(self, images: Tensor) -> Encoded:
        """Of images (batch, 3, height, width), normalised by ImageNet's mean and std.

        Raises TeacherError where a side is no multiple of `multiple`.
        """

    @abstractmethod
    def at(self, encoded: Encoded, queries: Tensor, size: Size | None = None) -> Tensor:
        """Metres (batch, queries) at `queries` (batch, queries, 2), (u, v) in pixels of an image of `size`.

        By default that is the size of the encoded images; where those were resized, it is the photograph's own.
        """

    def routed(self, encoded: Encoded, queries: Tensor, size: Size | None = None) -> Tensor | None:
        """Which cells of the coarsest grid `at` shows each query, by number: (batch, queries, cells).

        None of a network that routes nothing.
        """
        return None

    @abstractmethod
    def dense(self, encoded: Encoded) -> Tensor:
        """Metres (batch, h, w) at the centres of all cells of the finest map."""


def check_size(images: Tensor, multiple: int) -> None:
    height, width = images.shape[2:]
    if height % multiple or width % multiple or not min(height, width):
        raise TeacherError(
            f"an image's sides must be multiples of {multiple} px, got {width}x{height}: resize or crop it"
        )


def coordinates_type(tensor: Tensor) -> torch.dtype:
    """float32 at least: of bfloat16 a column near 400 is known to 2 px."""
    return torch.promote_types(tensor.dtype, torch.float32)


def normalised(queries: Tensor, size: Size, dtype: torch.dtype) -> Tensor:
    """(u, v) in pixels of an image of `size` to -1 .. 1 from edge to edge (grid_sample's, align_corners=False)."""
    return 2 * (queries.to(dtype) + 0.5) / queries.new_tensor((size[1], size[0]), dtype=dtype) - 1


def neighbours(map_size: Size, radius: int, like: Tensor) -> Tensor:
    """Offsets of the (2 * radius + 1)^2 cells around a point, row by row, of a map, normalised: (cells, 2)."""
    steps = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([right, down], -1).view(-1, 2) * cell(map_size, like)


def cell(map_size: Size, like: Tensor) -> Tensor:
    """Width and height of a cell of a map, normalised: (2,)."""
    return 2 / like.new_tensor((map_size[1], map_size[0]))


def look_up(feature_map: Tensor, points: Tensor) -> Tensor:
    """A map (batch, channels, h, w) at normalised points (batch, queries, tokens, 2).

    Gives (batch, queries, tokens, channels), bilinear; beyond the border it is the border: grid_sample's values, in
    less time on a CPU. float32 at least, whatever the map is. Quickest where the map lies with its channels last.
    """
    return look_up_each([feature_map], points)


def look_up_each(maps: Sequence[Tensor], points: Tensor) -> Tensor:
    """The same of maps of one size, one map's tokens after another's: (batch, queries, maps * tokens, channels)."""
    batch, channels, h, w = maps[0].shape
    x = (((points[..., 0] + 1) * w - 1) / 2).clamp(0, w - 1)
    y = (((points[..., 1] + 1) * h - 1) / 2).clamp(0, h - 1)
    left, top = x.floor().clamp(max=max(w - 2, 0)), y.floor().clamp(max=max(h - 2, 0))
    right_share, low_share = x - left, y - top
    image = torch.arange(batch, device=points.device).view(batch, 1, 1) * (h * w)
    first = image + top.long() * w + left.long()
    right, below = int(w > 1), w * (h > 1)
    corners = torch.stack([first, first + right, first + below, first + below + right], -1)
    left_share, top_share = 1 - right_share, 1 - low_share
    shares = torch.stack(
        [left_share * top_share, right_share * top_share, left_share * low_share, right_share * low_share], -1
    )
    rows = [each.to(points.dtype).permute(0, 2, 3, 1).reshape(-1, channels) for each in maps]
    if len(maps) > 1:
        corners = torch.cat([corners + number * len(rows[0]) for number in range(len(maps))], 2)
        shares = shares.repeat(1, 1, len(maps), 1)
    table = torch.cat(rows) if len(maps) > 1 else rows[0]
    found = F.embedding_bag(corners.view(-1, 4), table, mode="sum", per_sample_weights=shares.view(-1, 4))
    return found.view(*corners.shape[:3], channels)


def centres(map_size: Size, size: Size, like: Tensor) -> Tensor:
    """The centres of all cells of a map, row by row, as queries in pixels of an image of `size`: (cells, 2)."""
    (h, w), (height, width) = map_size, size
    v = (torch.arange(h, dtype=like.dtype, device=like.device) + 0.5) * (height / h) - 0.5
    u = (torch.arange(w, dtype=like.dtype, device=like.device) + 0.5) * (width / w) - 0.5
    down, right = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([right, down], -1).view(-1, 2)


def whole(depth: Tensor, size: Size) -> Tensor:
    """A map (batch, h, w) resized bilinearly to (batch, *size)."""
    return F.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def in_full(tensor: Tensor) -> AbstractContextManager[object]:
    """Where autocast is off: for coordinates, heads, exponents and logarithms. On the meta device there is none."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (batch, channels, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def widths_divide(width: int, heads: int, what: str) -> None:
    """Raise ValueError, which pydantic tells of, where a width does not divide into heads."""
    if width % heads:
        raise ValueError(f"{what} must be a multiple of its {heads} heads, got {width}")
