"""SPD v15.2: a DINOv2 encoder, and metric depth where it is asked for by attention to a few tokens around the query.

| part        | what it does                                                                            | parameters |
|-------------|-----------------------------------------------------------------------------------------|------------|
| encoder     | timm's ViT-S/14 of DINOv2; blocks 2, 5, 8, 11, each through the last LayerNorm: L1 ... L4 | 22,056,192 |
| neck        | to 64 channels at 4, 2, 1 and 1/2 times the grid of patches                              |    218,048 |
| global path | L4 into L3 by residual convolutions: s8, at twice the grid                               |    229,888 |
| local path  | a query's token of s8 attends to 5 x 5 of s8 and of L2, then to 5 x 5 of L1; two layers   |    110,209 |

As the document writes it a query costs 733,440 multiply-accumulates whatever the image's size, and the dense map of
L1's grid 1,699.7 M at 350 x 476: as much as 2,317 queries. 84 % of a query are the keys and values of its 75 tokens;
they need not be made, and a query costs 164,224. Both modes give the same answers.

The document's author never trained it (his v15.1.1 had AbsRel .1150 sparse, .1075 dense on NYU, by his own protocol).
Where we differ from it:

- its dense mode unfolds s8 and L2, upsampled to L1's grid, with neighbours a cell apart, 7 px where the sparse mode
  takes 14; ours takes every second cell, which equals the sparse mode everywhere;
- the position embedding is resampled by timm, with antialias; DINOv2 does without.

softplus ends the head: a ReLU there can die, and then answers 0 for good. Validate on crops, not on resized images:
depth in metres belongs to a focal length in pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

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
    check_size,
    coordinates_type,
    in_full,
    look_up,
    look_up_each,
    neighbours,
    normalised,
    widths_divide,
)

PATCH_PX = 14
_RADIUS = 2
_NEAR = (2 * _RADIUS + 1) ** 2  # tokens that a query sees of a map
_AT_ONCE = 4096  # cells that the wide layer of a stage sees together, for its memory
_COARSE, _FINE = ("s8", "l2"), ("l1",)  # what stage 1 and stage 2 attend to

Tap = Annotated[int, Field(ge=0, lt=1000)]
Taps = Annotated[tuple[Tap, Tap, Tap, Tap], Strict(False)]


class SpdV15Config(NetworkConfig):
    """Of any width; the defaults are the document's.

    `decoder` leaves parts out, to tell what they are for: stage 2 with L1, or all attention. "look-up" takes s8 and L1
    at the query, bilinearly, to the two-layer head.
    """

    name: Literal["spd-v15"] = "spd-v15"
    encoder_width: Width = 384
    encoder_heads: Width = 6
    encoder_depth: Width = 12
    layer_scale: float = Field(1e-5, gt=0, le=1)  # DINOv2's first value; trained from nothing, 1e-5 takes too long
    taps: Taps = (2, 5, 8, 11)
    position_px: Width = 518  # the image whose patches have a position embedding each; others are resampled from it
    width: Width = 64
    heads: Width = 4
    decoder: Literal["full", "no-stage-2", "look-up"] = "full"

    @model_validator(mode="after")
    def _fits(self) -> "SpdV15Config":
        widths_divide(self.encoder_width, self.encoder_heads, "model.encoder_width")
        widths_divide(self.width, self.heads, "model.width")
        if list(self.taps) != sorted(set(self.taps)) or self.taps[-1] >= self.encoder_depth:
            raise ValueError(
                f"model.taps must be four rising numbers of the encoder's {self.encoder_depth} blocks, counted from 0, "
                f"got {', '.join(map(str, self.taps))}"
            )
        if self.position_px % PATCH_PX:
            raise ValueError(f"model.position_px must be a multiple of {PATCH_PX}, got {self.position_px}")
        return self


class SpdV15(SparseNetwork):
    """Maps of `encode`: l1, l2 and s8, each (batch, width, h, w) with channels last in memory."""

    multiple = PATCH_PX

    def __init__(self, config: SpdV15Config = SpdV15Config()) -> None:
        import timm  # takes seconds, and few runs need it

        super().__init__()
        self.config = config
        self.encoder: Any = timm.create_model(
            "vit_small_patch14_dinov2",
            num_classes=0,
            dynamic_img_size=True,  # else another size than position_px is refused
            img_size=config.position_px,
            embed_dim=config.encoder_width,
            depth=config.encoder_depth,
            num_heads=config.encoder_heads,
            init_values=config.layer_scale,
        )
        width = config.width
        self.has_stage_2, attends = config.decoder == "full", config.decoder != "look-up"
        self.neck = nn.ModuleDict()
        if config.decoder != "no-stage-2":
            self.neck["l1"] = _level(config, nn.ConvTranspose2d(width, width, 4, stride=4))
        if attends:
            self.neck["l2"] = _level(config, nn.ConvTranspose2d(width, width, 2, stride=2))
        self.neck["l3"] = _level(config, nn.Identity())
        self.neck["l4"] = _level(config, nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.rcu_l4, self.rcu_l3, self.rcu_sum = (_ResidualConvolutions(width) for _ in range(3))
        self.to_l3, self.to_s8 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        if attends:
            self.sources = (*_COARSE, *_FINE) if self.has_stage_2 else _COARSE
            self.scale_embedding = nn.Parameter(torch.empty(len(self.sources), width))
            self.position_embedding = nn.Parameter(torch.empty(_NEAR, width))  # of all sources
            for embedding in (self.scale_embedding, self.position_embedding):
                nn.init.trunc_normal_(embedding, std=0.02)
            self.stage_1 = _Stage(width, config.heads)
            if self.has_stage_2:
                self.stage_2 = _Stage(width, config.heads)
        self.head = nn.Sequential(
            nn.Linear(width if attends else 2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1)
        )

    def encode(self, images: Tensor) -> Encoded:
        check_size(images, self.multiple)
        return Encoded(self.fused(self.tapped(images)), (images.shape[2], images.shape[3]))

    def tapped(self, images: Tensor) -> list[Tensor]:
        """What the encoder's four blocks give, through its last norm: (batch, width, h, w) each."""
        return self.encoder.forward_intermediates(
            images, indices=list(self.config.taps), norm=True, intermediates_only=True
        )

    def fused(self, taps: list[Tensor]) -> dict[str, Tensor]:
        """The maps that are asked: neck and global path."""
        level = {name: self.neck[name](tap) for name, tap in zip(("l1", "l2", "l3", "l4"), taps, strict=True)
                 if name in self.neck}  # fmt: skip
        grid = level["l3"].shape[2:]
        # L4 is half of an odd grid rounded up, so not all of it is doubled: it is resized to L3's.
        r4 = self.to_l3(_resized(self.rcu_l4(level.pop("l4")), (grid[0], grid[1])))
        fused = self.rcu_sum(self.rcu_l3(level.pop("l3")) + r4)
        level["s8"] = self.to_s8(_resized(fused, (2 * grid[0], 2 * grid[1])))
        return {name: each.contiguous(memory_format=torch.channels_last) for name, each in level.items()}

    def at(self, encoded: Encoded, queries: Tensor, size: Size | None = None) -> Tensor:
        maps = encoded.maps
        points = normalised(queries, size or encoded.size, coordinates_type(maps["s8"]))[:, :, None]
        found = look_up(maps["s8"], points)[:, :, 0]
        if self.config.decoder == "look-up":
            return self._metres(torch.cat([found, look_up(maps["l1"], points)[:, :, 0]], -1))
        for stage, names in self._stages():
            spacing = maps[names[0]].shape[2:]
            near = points + neighbours((spacing[0], spacing[1]), _RADIUS, points)
            tokens = look_up_each([maps[name] for name in names], near)
            found = stage(found, tokens.add_(self._embedding(names)))
        return self._metres(found)

    def dense(self, encoded: Encoded) -> Tensor:
        """The same network at all cells of L1's grid, four times the patches a side, by shifted maps."""
        maps, (height, width) = encoded.maps, encoded.size
        grid = (4 * (height // PATCH_PX), 4 * (width // PATCH_PX))
        found = _tokens(_resized(_in_coordinates(maps["s8"]), grid))
        if self.config.decoder == "look-up":
            found = torch.cat([found, _tokens(_in_coordinates(maps["l1"]))], -1)
        for stage, names in self._stages():
            full = [_resized(_in_coordinates(maps[name]), grid) for name in names]
            step = grid[0] // maps[names[0]].shape[2]
            found = stage.dense(found, full, grid, step, self._embedding(names))
        return self._metres(found).unflatten(1, grid)

    def _stages(self) -> list[tuple["_Stage", tuple[str, ...]]]:
        if self.config.decoder == "look-up":
            return []
        return [(self.stage_1, _COARSE), *([(self.stage_2, _FINE)] if self.has_stage_2 else [])]

    def _embedding(self, names: tuple[str, ...]) -> Tensor:
        """Of the tokens that a stage sees, (tokens, width): of their map and of their place around the query."""
        scales = self.scale_embedding[[self.sources.index(name) for name in names]]
        return (scales[:, None] + self.position_embedding).flatten(0, 1)

    def _metres(self, found: Tensor) -> Tensor:
        with in_full(found):
            return F.softplus(self.head(found.to(coordinates_type(found))))[..., 0]

    # --- what it costs ---------------------------------------------------------------------------------------------

    def macs_of_query(self, as_written: bool = True) -> int:
        """Multiply-accumulates of a query: attention, head, and four a channel of each token that is looked up.

        `as_written`: with a key and a value of every token, as the document counts; else what `at` does, a quarter.
        """
        width, heads = self.config.width, self.config.heads
        if self.config.decoder == "look-up":
            return self._macs_of_head() + 2 * 4 * width
        tokens = _NEAR * len(self.sources)
        look_ups = tokens * 4 * width
        if not as_written:
            absorbed = len(self._stages()) * 2 * width**2 + tokens * 2 * (heads - 1) * width
            return self._macs_of_stages() + absorbed + self._macs_of_head() + look_ups
        return self._macs_of_stages() + tokens * 2 * width**2 + self._macs_of_head() + look_ups

    def macs_of_dense(self, size: Size) -> int:
        """Of the local path of the whole map of an image of `size`, resized to it at the end."""
        width, (height, columns) = self.config.width, size
        cells = 16 * (height // PATCH_PX) * (columns // PATCH_PX)
        each = self._macs_of_head() + 4 * width  # s8 is brought to the grid
        if self.config.decoder != "look-up":
            each += self._macs_of_stages() + len(self.sources) * 2 * width**2 + 4 * width  # and L2
        return cells * each + 4 * height * columns

    def _macs_of_stages(self) -> int:
        """Of a query, without keys and values."""
        width = self.config.width
        tokens = [_NEAR * len(names) for _, names in self._stages()]
        return sum(10 * width**2 + 2 * count * width for count in tokens)

    def _macs_of_head(self) -> int:
        wide = 2 * self.config.width
        return (wide if self.config.decoder == "look-up" else self.config.width) * wide + wide


class _ResidualConvolutions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(F.gelu(x))))


class _Stage(nn.Module):
    """A query attends to its tokens, then a layer of two. The norm is on the query alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_layer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.layer = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, found: Tensor, tokens: Tensor) -> Tensor:
        """`found` (batch, queries, width), `tokens` (batch, queries, tokens, width).

        Keys and values are never made: q . (W t) is (W^T q) . t, and weights sum W t to W (what they sum of t). A key's
        bias adds the same to all scores of a query, which softmax does not see; it is there because training by several
        ranks waits for the gradient of every weight.
        """
        keys, values = (linear.weight.unflatten(0, (self.heads, -1)) for linear in (self.key, self.value))
        query = self._query(found).unflatten(-1, (self.heads, -1))
        of_bias = (query * self.key.bias.unflatten(0, (self.heads, -1))).sum(-1, keepdim=True)
        query = torch.einsum("bkhd,hdc->bkhc", query, keys)
        weights = (query @ tokens.transpose(-1, -2).to(query.dtype) + of_bias).softmax(-1)
        attended = torch.einsum("bkhc,hdc->bkhd", weights.to(tokens.dtype) @ tokens, values).flatten(-2)
        return self._end(found, attended + self.value.bias)

    def dense(self, found: Tensor, maps: list[Tensor], grid: Size, step: int, embedding: Tensor) -> Tensor:
        """The same for a query in every cell: `found` (batch, cells, width), `maps` (batch, width, *grid).

        Neighbours are `step` cells apart.
        """
        query = self._query(found).transpose(1, 2).unflatten(1, (self.heads, -1)).unflatten(-1, grid).contiguous()

        def around(linear: nn.Linear) -> tuple[list[Tensor], Tensor]:
            """Keys or values of all maps, with their borders beyond them, and what the embedding adds to each token."""
            made = []
            for one in maps:  # not channels last: shifted views of those are slow
                projected = F.conv2d(one, linear.weight[:, :, None, None], linear.bias).to(query.dtype).contiguous()
                made.append(F.pad(projected, (_RADIUS * step,) * 4, mode="replicate").unflatten(1, (self.heads, -1)))
            return made, F.linear(embedding, linear.weight).to(query.dtype).unflatten(-1, (self.heads, -1))

        (keys, of_keys), (values, of_values) = around(self.key), around(self.value)
        bias = torch.einsum("bndhw,tnd->bnthw", query, of_keys)
        value, weights = _ShiftedAttention.apply(query, bias, step, *keys, *values)
        value = value + torch.einsum("bnthw,tnd->bndhw", weights, of_values)
        return self._end(found, value.flatten(3).flatten(1, 2).transpose(1, 2))

    def _query(self, found: Tensor) -> Tensor:
        return self.query(self.norm(found)) * (found.shape[-1] // self.heads) ** -0.5

    def _end(self, found: Tensor, attended: Tensor) -> Tensor:
        parts = (found + self.out(attended)).split(_AT_ONCE, 1)
        return torch.cat([part + self.layer(self.norm_layer(part)) for part in parts], 1)


class _ShiftedAttention(torch.autograd.Function):
    """Attention of every cell to its 5 x 5 neighbours in some maps, by sums over shifted views: no copy of all tokens.

    query (batch, heads, d, h, w); bias (batch, heads, tokens, h, w), tokens map by map and row by row; then the keys of
    each map with their borders (batch, heads, d, h + 4 step, w + 4 step), and the values alike. Gives the weighted
    values (batch, heads, d, h, w), and the weights like bias. Autograd would fill a map with zeros for each view on the
    way back; here views are added to in place, image by image on a CPU, whose cache holds one.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, bias: Tensor, step: int, *maps: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = maps[: len(maps) // 2], maps[len(maps) // 2 :]
        weights = bias.clone() if any(ctx.needs_input_grad) else bias  # nobody else's, and large
        out, images = torch.zeros_like(query), _images(query)
        product = torch.empty_like(query[images[0]])  # a CPU takes longer to make it anew than to fill it
        for one in images:
            for token, view in enumerate(_views(keys, one, query, step)):
                weights[one, :, token] += torch.mul(query[one], view, out=product).sum(2)
            scores = weights[one]  # softmax in place
            scores.sub_(scores.amax(2, keepdim=True)).exp_()
            scores.div_(scores.sum(2, keepdim=True))
            for token, view in enumerate(_views(values, one, query, step)):
                out[one].addcmul_(weights[one, :, token, None], view)
        ctx.save_for_backward(query, weights, *maps)
        ctx.step = step
        return out, weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, weights, *maps = ctx.saved_tensors
        of_out, of_weights = (each.contiguous() for each in gradients)
        of_query, of_maps, of_scores = torch.zeros_like(query), [torch.zeros_like(m) for m in maps], of_weights.clone()
        (keys, values), (of_keys, of_values) = (
            (each[: len(maps) // 2], each[len(maps) // 2 :]) for each in (maps, of_maps)
        )
        images = _images(query)
        product = torch.empty_like(query[images[0]])
        for one in images:
            both = zip(_views(values, one, query, ctx.step), _views(of_values, one, query, ctx.step), strict=True)
            for token, (view, of_view) in enumerate(both):
                of_scores[one, :, token] += torch.mul(of_out[one], view, out=product).sum(2)
                of_view.addcmul_(of_out[one], weights[one, :, token, None])
            shares = weights[one]
            of_scores[one] = shares * (of_scores[one] - (shares * of_scores[one]).sum(2, keepdim=True))
            both = zip(_views(keys, one, query, ctx.step), _views(of_keys, one, query, ctx.step), strict=True)
            for token, (view, of_view) in enumerate(both):
                of_score = of_scores[one, :, token, None]
                of_query[one].addcmul_(of_score, view)
                of_view.addcmul_(of_score, query[one])
        return of_query, of_scores, None, *of_maps


def _images(batch: Tensor) -> list[slice]:
    """One by one on a CPU, else all together."""
    return [slice(place, place + 1) for place in range(len(batch))] if batch.device.type == "cpu" else [slice(None)]


def _views(maps: Sequence[Tensor], one: slice, query: Tensor, step: int) -> Iterator[Tensor]:
    """What lies at each of the 5 x 5 places around every cell of some images, map by map: (images, heads, d, h, w)."""
    h, w = query.shape[3:]
    for each in maps:
        for y in range(0, (2 * _RADIUS + 1) * step, step):
            for x in range(0, (2 * _RADIUS + 1) * step, step):
                yield each[one, ..., y : y + h, x : x + w]


def _level(config: SpdV15Config, resize: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(config.encoder_width, config.width, 1), ChannelNorm(config.width), resize)


def _resized(feature_map: Tensor, size: Size) -> Tensor:
    if feature_map.shape[2:] == size:
        return feature_map
    return F.interpolate(feature_map, size, mode="bilinear", align_corners=False)


def _in_coordinates(feature_map: Tensor) -> Tensor:
    """In the floats that `look_up` gives: what dense mode interpolates is what sparse mode does."""
    return feature_map.to(coordinates_type(feature_map))


def _tokens(feature_map: Tensor) -> Tensor:
    """(batch, channels, h, w) to (batch, h * w, channels)."""
    return feature_map.flatten(2).transpose(1, 2)
