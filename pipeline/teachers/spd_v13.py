"""SPD v13.1: depth in metres where it is asked, by a ConvNeXt V2 read once an image and a decoder read once a query.

In the published widths, with w = `width` and R = `routed`:

| part | what it does | parameters |
|---|---|---|
| `encoder` | ConvNeXt V2-T of timm: strides 4, 8, 16, 32, widths 96, 192, 384, 768 | 27,864,960 |
| `attention3` | two self-attention layers over the third stage's cells | 3,548,928 |
| `neck` | each level by Conv1x1 and LayerNorm to 64, 128, 192, 384: L1 .. L4 | 401,664 |
| `attention4` | two self-attention layers over L4's cells | 3,548,928 |
| `once` | keys and values of L3 and L4 for B3; for B5, L2, L3, L4 at w, and g = W_g L4 | 653,568 |
| `tokens`, B1 | seed h of L1 at the query; 91 tokens around it, of 92 look-ups | 139,472 |
| `local`, B2 | two layers: h reads its 91 tokens | 890,112 |
| `image3`, B3a | two layers: h reads all of L3 | 741,504 |
| `image4`, B3b | two layers: h reads all of L4; the last one's weights route R of its cells | 741,504 |
| `final`, B5 | three layers: h reads L2, L3, L4 at the query and the routed rows of g; then exp | 1,410,241 |
| without `encoder` | | 12,075,921 |
| all | | 39,940,881 |

At 480 x 640 a query costs 24.93 MMAC as the document writes it, and 6.00 here: keys and values of its own tokens need
not be made, and L2 and L4 become tokens once an image. The answer is the same to rounding.

Both the neck's L3 and the fourth stage read what `attention3` gives. Self-attention is blind to places: what it knows
of them comes from the convolutions before it.

Where this differs from its author's document:

- Beyond the outermost centres a look-up sees the border; the document pads with zeros.
- The code φ of an offset δ, in cells, takes δ / 12. The document's takes δ, for which all 24 cells around a query, at
  whole numbers, have one code: sin 2π·2^l·δ = 0 and cos = 1.
- The last weight begins as N(0, 1e-3), not as large as others: an untrained network says 2.5 m everywhere.
- The document counts 24 + 8 + 1 = 32 local tokens. Here they are 24 + 8: the centre is h's seed, not a token.

Its author's lesson: routing collapses early, so that all queries are shown the same few cells. `routed` says which, and
training logs how many distinct ones there are. Another: photographs are cropped at validation, not resized, because
depth is metric. The step from one routed cell to the next is a step of the answer, too: two cells of equal weight may
change places where rounding does.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, Strict, model_validator
from torch import Tensor, nn

from pipeline.teachers.sparse import (
    ChannelNorm,
    Encoded,
    NetworkConfig,
    Size,
    SparseNetwork,
    Width,
    Widths,
    cell,
    centres,
    check_size,
    coordinates_type,
    in_full,
    look_up,
    neighbours,
    normalised,
    widths_divide,
)

Count = Annotated[int, Field(gt=0, le=64)]
Counts = Annotated[tuple[Count, Count, Count, Count], Strict(False)]
_PLACE_OCTAVES, _OFFSET_OCTAVES = 8, 4
_REACH = 6  # of a learned offset, in cells of L1
_PERIOD = 12  # of an offset's code, in cells: all that is within reach, to both sides
_FFN = 4  # times the width
_FIRST_GUESS_M = 2.5
_CHUNK = 1024  # queries that `dense` answers at once, all images together: they bound its memory


class SpdV13Config(NetworkConfig):
    """Widths are L1's to L4's; the published network is the default."""

    name: Literal["spd-v13"] = "spd-v13"
    dims: Widths = (96, 192, 384, 768)  # of the encoder's stages
    depths: Counts = (3, 3, 9, 3)  # of the same, in blocks
    neck: Widths = (64, 128, 192, 384)
    width: Width = 192  # of the decoder
    heads: Count = 6
    encoder_heads: Count = 6
    encoder_layers: Count = 2  # of self-attention, after the third stage and on L4
    local_layers: Count = 2  # B2
    image_layers: Count = 2  # B3a, B3b
    final_layers: Count = 3  # B5
    num_offsets: Count = 8  # learned ones, a query
    routed: Annotated[int, Field(gt=0)] = 20  # cells of L4, a query; all of them where L4 has fewer
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _fits(self) -> "SpdV13Config":
        widths_divide(self.width, self.heads, "width")
        widths_divide(self.dims[2], self.encoder_heads, "dims[2]")
        widths_divide(self.neck[3], self.encoder_heads, "neck[3]")
        if self.neck[2] != self.width:
            raise ValueError(
                f"neck[2] must be width, {self.width}: L3's cells are tokens as they are; got {self.neck[2]}"
            )
        return self


def waves(positions: Tensor, octaves: int) -> Tensor:
    """sin and cos of 2π·2^l·x, l = 0 .. octaves - 1, of both coordinates: (..., 2) to (..., 4 * octaves)."""
    octave = torch.arange(octaves, dtype=positions.dtype, device=positions.device)
    angles = positions[..., None] * (2 * math.pi * 2**octave)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def offset_code(offsets: Tensor) -> Tensor:
    """φ: 16 numbers (..., 16) that tell offsets (..., 2), in cells, from each other, within 6 cells."""
    return waves(offsets / _PERIOD, _OFFSET_OCTAVES)


def around(feature_map: Tensor, points: Tensor, radius: int) -> Tensor:
    """The map's own cells' spacing around points: (batch, queries, (2 * radius + 1)^2, channels), row by row."""
    return look_up(feature_map, points[:, :, None] + neighbours(_size(feature_map), radius, points))


def _size(feature_map: Tensor) -> Size:
    return feature_map.shape[2], feature_map.shape[3]


def _cells(feature_map: Tensor) -> Tensor:
    """(batch, channels, h, w) to (batch, h * w, channels)."""
    return feature_map.flatten(2).transpose(1, 2)


def _as_map(cells: Tensor, size: Size) -> Tensor:
    """The inverse of `_cells`; channels lie last in memory, as `look_up` likes it."""
    return cells.transpose(1, 2).unflatten(2, size)


class MapAttention(nn.Sequential):
    """Self-attention layers over all cells of a map (batch, channels, h, w): torch's, pre-norm.

    Dropout is where torch has it: on attention weights, inside the FFN and on what both add.
    """

    def __init__(self, width: int, config: SpdV13Config) -> None:
        super().__init__(
            *(
                nn.TransformerEncoderLayer(
                    width, config.encoder_heads, _FFN * width, config.dropout, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(config.encoder_layers)
            )
        )

    def forward(self, input: Tensor) -> Tensor:
        return _as_map(super().forward(_cells(input)), _size(input))


class Layer(nn.Module):
    """h reads keys and values, then itself: pre-norm on h alone, explicit weights, dropout on them.

    Keys have biases, as in the document: they move all scores of a query alike, so nothing ever teaches them.
    """

    def __init__(self, config: SpdV13Config) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm, self.query, self.out = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, _FFN * width), nn.GELU(), nn.Linear(_FFN * width, width)
        )

    def forward(self, h: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """h (batch, queries, width) and the weights before dropout (batch, heads, queries, tokens).

        `pairs` (batch, tokens, 2 * width) holds the tokens' keys, then their values.
        """
        key, value = (half.unflatten(-1, (self.heads, -1)).transpose(1, 2) for half in pairs.chunk(2, -1))
        weights = (self._query(h).transpose(1, 2) @ key.transpose(2, 3)).softmax(-1, dtype=h.dtype)
        return self._end(h, (self.dropout(weights) @ value).transpose(1, 2)), weights

    def _query(self, h: Tensor) -> Tensor:
        """(batch, queries, heads, width of a head)."""
        query = self.query(self.norm(h)).unflatten(-1, (self.heads, -1))
        return query * query.shape[-1] ** -0.5

    def _end(self, h: Tensor, read: Tensor) -> Tensor:
        h = h + self.out(read.flatten(2))
        return h + self.ffn(h)


class OwnLayer(Layer):
    """Each query reads tokens of its own.

    `pairs` would make their keys and values, three quarters of what a query costs. They need not be made: q . (W t) is
    (W^T q) . t, and weights sum W t to W (what they sum of t).
    """

    def __init__(self, config: SpdV13Config) -> None:
        super().__init__(config)
        self.pairs = nn.Linear(config.width, 2 * config.width)

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:  # type: ignore[override]
        """h (batch, queries, width), each of which reads `tokens` (batch, queries, tokens, width)."""
        keys, values = (half.unflatten(0, (self.heads, -1)) for half in self.pairs.weight.chunk(2))
        query = torch.einsum("bqhd,hdc->bqhc", self._query(h), keys)
        weights = self.dropout((query @ tokens.transpose(2, 3).to(query.dtype)).softmax(-1, dtype=h.dtype))
        read = torch.einsum("bqhc,hdc->bqhd", weights @ tokens, values)
        bias = self.pairs.bias.chunk(2)[1].unflatten(0, (self.heads, -1))  # dropped weights do not sum to 1
        return self._end(h, read + bias * weights.sum(-1, keepdim=True))


class OwnTokens(nn.Module):
    """Layers by which each query reads tokens of its own, after one LayerNorm that they share (B2, B5)."""

    def __init__(self, config: SpdV13Config, num_layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(OwnLayer(config) for _ in range(num_layers))

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        """h (batch, queries, width) of itself and of tokens (batch, queries, tokens, width)."""
        tokens = self.norm(tokens)
        for layer in self.layers:
            h = layer(h, tokens)
        return h


class ImageTokens(nn.Module):
    """Layers by which all queries read the same cells of a map, whose keys and values `Once` made (B3a, B3b)."""

    def __init__(self, config: SpdV13Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.image_layers))

    def forward(self, h: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """h (batch, queries, width), and the last layer's weights (batch, queries, cells), a mean over its heads.

        `pairs` is (batch, layers, cells, 2 * width). The weights are those before dropout.
        """
        for number, layer in enumerate(self.layers):
            h, weights = layer(h, pairs[:, number])
        return h, weights.mean(1)


class Once(nn.Module):
    """What the decoder needs once an image; a Conv1x1 is a Linear over a map's cells."""

    def __init__(self, config: SpdV13Config) -> None:
        super().__init__()
        width, (_, *neck) = config.width, config.neck
        self.pairs3, self.pairs4 = (
            nn.ModuleList(nn.Linear(channels, 2 * width) for _ in range(config.image_layers)) for channels in neck[1:]
        )
        self.centres = nn.ModuleList(nn.Linear(channels, width) for channels in neck)
        self.rows = nn.Linear(neck[2], width)  # W_g

    def forward(self, l2: Tensor, l3: Tensor, l4: Tensor) -> dict[str, Tensor]:
        """`centre2` .. `centre4` maps, `rows` g (batch, cells of L4, width), and ImageTokens' `pairs3`, `pairs4`."""
        levels = {"centre2": l2, "centre3": l3, "centre4": l4}
        made = {
            name: _as_map(linear(_cells(level)), _size(level))
            for (name, level), linear in zip(levels.items(), self.centres, strict=True)
        }
        for name, level, linears in (("pairs3", l3, self.pairs3), ("pairs4", l4, self.pairs4)):
            made[name] = torch.stack([linear(_cells(level)) for linear in linears], 1)
        return made | {"rows": self.rows(_cells(l4))}


class Tokens(nn.Module):
    """B1: what a query begins with, and the 91 tokens around it."""

    def __init__(self, config: SpdV13Config) -> None:
        super().__init__()
        width, (fine, second, _, coarse) = config.width, config.neck
        self.seed = nn.Linear(fine + 4 * _PLACE_OCTAVES, width)  # W_q
        self.offsets = nn.Linear(fine, 2 * config.num_offsets)
        self.local = nn.Linear(fine + 4 * _OFFSET_OCTAVES, width)  # W_loc
        self.second, self.coarse = nn.Linear(second, width), nn.Linear(coarse, width)
        self.levels = nn.Parameter(nn.init.trunc_normal_(torch.empty(4, width), std=0.02))  # local, L2, L3, L4
        self.cells = nn.Parameter(nn.init.trunc_normal_(torch.empty(25, width), std=0.02))  # L4 has the inner nine

    def projected(self, l2: Tensor, l4: Tensor) -> dict[str, Tensor]:
        """L2 and L4 at the decoder's width: whole maps once, not 34 tokens a query. It commutes with look-ups."""
        return {
            name: _as_map(linear(_cells(level)), _size(level))
            for name, linear, level in (("l2", self.second, l2), ("l4", self.coarse, l4))
        }

    def forward(self, maps: dict[str, Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        """Seeds (batch, queries, width) and tokens (batch, queries, tokens, width) at normalised points.

        `maps` are of `projected`. Tokens are in the order of L1's 24 cells, learned offsets, L2's 25, L3's 25, L4's 9.
        """
        l1, l2, l3, l4 = (maps[name] for name in ("l1", "l2", "l3", "l4"))
        with in_full(points):
            grid = around(l1, points, 2)
            centre = grid[:, :, 12]
            one = cell(_size(l1), points)
            learned = _REACH * self.offsets(centre).tanh().unflatten(-1, (-1, 2))
            found = look_up(l1, points[:, :, None] + learned * one)
            steps = _without_centre((neighbours(_size(l1), 2, points) / one).expand(*points.shape[:2], -1, -1))
            codes = offset_code(torch.cat([steps, learned], 2))
            place = waves((points + 1) / 2, _PLACE_OCTAVES)
        seed = self.seed(torch.cat([centre, place], -1)).to(points.dtype)  # h stays in full, whatever is added to it
        local = F.gelu(self.local(torch.cat([torch.cat([_without_centre(grid), found], 2), codes], -1)))
        inner = self.cells.view(5, 5, -1)[1:4, 1:4].flatten(0, 1)
        tokens = [
            local + self.levels[0],
            around(l2, points, 2) + self.levels[1] + self.cells,
            around(l3, points, 2) + self.levels[2] + self.cells,
            around(l4, points, 1) + self.levels[3] + inner,
        ]
        return seed, torch.cat(tokens, 2)


def _without_centre(grid: Tensor) -> Tensor:
    """24 of 25 cells (batch, queries, 25, channels)."""
    return torch.cat([grid[:, :, :12], grid[:, :, 13:]], 2)


class Final(nn.Module):
    """B5: the three levels at the query and the routed cells; then metres."""

    def __init__(self, config: SpdV13Config) -> None:
        super().__init__()
        width = config.width
        self.types = nn.Parameter(torch.zeros(4, width))  # L2, L3, L4 at the query, routed
        self.attention = OwnTokens(config, config.final_layers)
        last = nn.Linear(2 * width, 1)
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.constant_(last.bias, math.log(_FIRST_GUESS_M))
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), last)

    def forward(self, h: Tensor, central: Tensor, routed: Tensor) -> Tensor:
        """Metres (batch, queries) of h, and of central and routed tokens (batch, queries, 3 or R, width)."""
        h = self.attention(h, torch.cat([central + self.types[:3], routed + self.types[3]], 2))
        with in_full(h):
            return self.head(h)[..., 0].exp()


class SpdV13(SparseNetwork):
    """See the module. `encoder` is timm's module, with its names."""

    multiple = 32

    def __init__(self, config: SpdV13Config = SpdV13Config()) -> None:
        import timm  # takes seconds, and few runs need it

        super().__init__()
        self.config: SpdV13Config = config
        self.encoder = timm.create_model("convnextv2_tiny", features_only=True, dims=config.dims, depths=config.depths)
        self.attention3 = MapAttention(config.dims[2], config)
        self.neck = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, channels, 1), ChannelNorm(channels))
            for dim, channels in zip(config.dims, config.neck, strict=True)
        )
        self.attention4 = MapAttention(config.neck[3], config)
        self.once = Once(config)
        self.tokens = Tokens(config)
        self.local = OwnTokens(config, config.local_layers)
        self.image3, self.image4 = ImageTokens(config), ImageTokens(config)
        self.final = Final(config)

    def levels(self, images: Tensor) -> list[Tensor]:
        """What the neck reads, fine to coarse: timm's own maps but for `attention3`. Their channels lie last."""
        stem, norm, first, second, third, fourth = self.encoder.children()
        l1 = first(norm(stem(images)))
        l2 = second(l1)
        l3 = self.attention3(third(l2))
        return [l1, l2, l3, fourth(l3)]

    def encode(self, images: Tensor) -> Encoded:
        """As SparseNetwork says: `l1`, `l3`, L2 and L4 as tokens, and what `Once` makes, all in float32 at least."""
        check_size(images, self.multiple)
        l1, l2, l3, l4 = (neck(level) for neck, level in zip(self.neck, self.levels(images), strict=True))
        l4 = self.attention4(l4)
        maps = {"l1": l1, "l3": l3} | self.tokens.projected(l2, l4) | self.once(l2, l3, l4)
        full = coordinates_type(images)
        return Encoded({name: made.to(full) for name, made in maps.items()}, _size(images))

    def at(self, encoded: Encoded, queries: Tensor, size: Size | None = None) -> Tensor:
        points, h, cells = self._route(encoded, queries, size)
        maps = encoded.maps
        central = torch.cat([look_up(maps[name], points[:, :, None]) for name in ("centre2", "centre3", "centre4")], 2)
        image = torch.arange(len(cells), device=cells.device).view(-1, 1, 1)
        return self.final(h, central, maps["rows"][image, cells])

    def routed(self, encoded: Encoded, queries: Tensor, size: Size | None = None) -> Tensor:
        """Which cells of L4 `at` shows each query, by number, row by row: (batch, queries, min(`routed`, cells)).

        Largest weight first; of equal weights, the cell of smaller number. Where the same few cells come for all
        queries, routing has collapsed.
        """
        return self._route(encoded, queries, size)[2]

    def dense(self, encoded: Encoded) -> Tensor:
        """As SparseNetwork says: `at`, asked in chunks."""
        l1 = encoded.maps["l1"]
        queries = centres(_size(l1), encoded.size, l1)
        chunks = queries.split(max(1, _CHUNK // len(l1)))
        depth = torch.cat([self.at(encoded, chunk.expand(len(l1), -1, -1)) for chunk in chunks], 1)
        return depth.unflatten(1, _size(l1))

    def _route(self, encoded: Encoded, queries: Tensor, size: Size | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised queries, h after B3, routed cells."""
        maps = encoded.maps
        points = normalised(queries, size or encoded.size, coordinates_type(maps["l1"]))
        h = self.local(*self.tokens(maps, points))
        h, _ = self.image3(h, maps["pairs3"])
        h, weights = self.image4(h, maps["pairs4"])
        order = weights.detach().argsort(dim=-1, descending=True, stable=True)
        return points, h, order[..., : self.config.routed]

    def macs_of_query(self, size: Size, as_written: bool = True) -> int:
        """Multiply-accumulates of matrix products that one query of an image (height, width) costs.

        `as_written`: with keys and values of all its tokens, as the document counts; else what `at` does, a quarter.
        """
        config, width = self.config, self.config.width
        fine, second, _, coarse = config.neck
        _, _, n3, n4 = _num_cells(size)
        num_local = 24 + config.num_offsets
        layer = (2 + 2 * _FFN) * width**2  # query, out, FFN
        num_tokens, num_final = num_local + 25 + 25 + 9, 3 + min(config.routed, n4)

        def own(tokens: int) -> int:
            if as_written:
                return layer + 2 * tokens * width + 2 * tokens * width**2
            return layer + 2 * tokens * config.heads * width + 2 * width**2

        b1 = (fine + 4 * _PLACE_OCTAVES) * width + fine * 2 * config.num_offsets
        b1 += num_local * (fine + 4 * _OFFSET_OCTAVES) * width + as_written * (25 * second + 9 * coarse) * width
        b2 = config.local_layers * own(num_tokens)
        b3 = config.image_layers * (2 * layer + 2 * (n3 + n4) * width)
        b5 = config.final_layers * own(num_final) + 2 * width**2 + 2 * width
        return b1 + b2 + b3 + b5

    def macs_of_image(self, size: Size, as_written: bool = True) -> int:
        """The same of `encode`, convolutions too; as it is done, L2 and L4 become tokens there, once an image."""
        config, width, (_, *neck) = self.config, self.config.width, self.config.neck
        n1, n2, n3, n4 = num_cells = _num_cells(size)
        before = (0, *config.dims[:3])  # the first stage has no downsampling, but the stem's
        macs = n1 * 4 * 4 * 3 * config.dims[0]
        for n, dim, last, depth, channels in zip(
            num_cells, config.dims, before, config.depths, config.neck, strict=True
        ):
            macs += n * (2 * 2 * last * dim + depth * (7 * 7 * dim + 2 * 4 * dim**2) + dim * channels)
        for n, dim in ((n3, config.dims[2]), (n4, neck[2])):
            macs += config.encoder_layers * (n * (4 + 2 * _FFN) * dim**2 + 2 * n**2 * dim)
        pairs, tokens = 2 * config.image_layers, 0 if as_written else 1
        each = n2 * neck[0] * (1 + tokens) + n3 * neck[1] * (1 + pairs) + n4 * neck[2] * (2 + pairs + tokens)
        return macs + width * each


def _num_cells(size: Size) -> tuple[int, int, int, int]:
    n4 = (size[0] // 32) * (size[1] // 32)
    return 64 * n4, 16 * n4, 4 * n4, n4
