"""CONTRACT: all statistics of a dump in one pass, for numpy and torch arrays alike; imports no torch.

`train dump` hands it what a model computes, on the device; `statistics_of_raw` what a dump's raw tier holds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from training.dumps.arrays import Array, double, empty_like, namespace, to_numpy
from training.dumps.pairs import NUM_BINS, Pairs, PairSums, filled, num_distances, pair_moments
from training.dumps.scores import Bias, PatternSums, Reduced, ScoreSums
from training.dumps.tokens import Grams, PositionSums, ProbeMoments

if TYPE_CHECKING:
    from training.dumps.schema import DumpInfo

Write = Callable[[str, int | tuple[int, int], np.ndarray], None]  # array; first row and rows, or a place in it


_CACHE_BYTES = 16 << 20  # on a CPU as many images are gone through together as stay in its cache


class _Part(NamedTuple):
    """Images of a batch."""

    images: slice
    pairs: Pairs
    moments: tuple[np.ndarray, np.ndarray]  # packed, of pairs: literal and centred
    groups: np.ndarray


class Statistics:
    """`begin` a batch of images, hand over each layer's scores, pattern and tokens as they come, `end` it; `finish`.

    Rows of images go to `write` at once; sums when finished. `like` is an array of the kind, precision and device of
    the scores. Scores and patterns must come in the order of layers.
    """

    def __init__(self, info: "DumpInfo", write: Write, like: Array) -> None:
        self.info, self.write, self.like = info, write, like
        patches, cells = info.num_patches, NUM_BINS * num_distances(info.grid)
        layers, heads, groups = info.num_attention_layers, info.num_heads, info.num_groups
        self._pair_sums = PairSums(groups, cells, info.grid, like)
        self._scores = {part: ScoreSums(part, groups, layers, heads, info.grid, like) for part in info.parts}
        self._patterns = PatternSums(groups, layers, heads, info.grid, like)
        self._positions = PositionSums(patches, like)
        self._probes = {
            stream.name: ProbeMoments(stream.name, stream.num_layers, patches, stream.width, like)
            for stream in info.streams
        }
        self._grams = {stream.name: Grams(stream.num_layers, info.gram_batch) for stream in info.streams}
        self._inputs = Grams(1, info.gram_batch)
        self._rows: dict[str, dict[int, list[np.ndarray]]] = {}  # array -> layer -> rows of each part
        on_cpu = namespace(like) is np or like.device.type == "cpu"
        self._room = empty_like(like, (0, max(2 * heads + 2, heads + 3), patches, patches))
        of_image = 4 * int(np.prod(self._room.shape[1:]))
        self._at_once = max(1, _CACHE_BYTES // of_image) if on_cpu else info.num_images
        self.delta_squares = 0.0  # Σ centred |Δ|² over all pairs

    def begin(self, numbers: np.ndarray, depth: Array, other: Array, colour: Array) -> None:
        """Images at these places of the dump, consecutive: patch depths (batch, P) of theirs and of their partners'
        images in z, NaN where a patch has no valid pixel, and mean colours (batch, P, 3) in 0..1.
        """
        self.numbers, self._rows = numbers, {}
        self._z, self._other = depth, filled(double(other))
        self._parts = [self._part(slice(k, k + self._at_once), colour) for k in range(0, len(numbers), self._at_once)]
        largest = min(self._at_once, len(numbers))
        if len(self._room) < largest:
            self._room = empty_like(self.like, (largest, *self._room.shape[1:]))
        for part in self._parts:
            self.delta_squares += float((part.pairs.delta_centred**2).sum())
            self._pair_sums.update(part.pairs, part.groups)
        self._positions.update(depth, numbers)
        xp = namespace(depth)
        first = int(numbers[0])
        self.write("statistics/patch_depth", first, to_numpy(xp.where(xp.isnan(depth), float("inf"), depth)))
        for kind, name in enumerate(("literal", "centred")):
            self.write(f"statistics/pairs/{name}", first, np.concatenate([part.moments[kind] for part in self._parts]))

    def _part(self, images: slice, colour: Array) -> _Part:
        numbers = self.numbers[images]
        pairs = Pairs.of(self._z[images], self._other[images], colour[images], self.info.grid, numbers, self.like)
        return _Part(images, pairs, pair_moments(pairs), numbers % self.info.num_groups)

    def inputs(self, rgb: Array) -> None:
        """The batch's photographs (batch, ...) in 0..1: two models may be alike for no more than having seen them."""
        for block, gram, diagonal in self._inputs.update(0, rgb):
            self.write("statistics/similarity/input/grams", (block, 0), gram)
            self.write("statistics/similarity/input/diagonals", (block, 0), diagonal)

    def scores(self, layer: int, scores: Array, bias: Bias | None = None) -> None:
        """(batch, heads, T, T) before any bias, of the attention layer with this number among those with plain
        attention; `bias` where the model has one.
        """
        prefix = self.info.num_prefix
        for part in self._parts:
            content, centred = Reduced.of(scores[part.images, :, prefix:, prefix:], part.pairs, self._room)
            self._add("content", layer, content, part)
            if bias is not None:
                room = empty_like(self.like, (len(centred), 4, *self._room.shape[2:]))
                table, plane = Reduced.of(bias.table[part.images, None, prefix:, prefix:], part.pairs, room)
                shared = double((centred @ plane.swapaxes(1, 2))[..., 0])
                self._add("total", layer, content.plus(table, bias.head_scale, shared), part)

    def _add(self, name: str, layer: int, reduced: Reduced, part: _Part) -> None:
        rows = self._scores[name].update(layer, reduced, part.pairs, part.moments, part.groups)
        self._keep(f"statistics/{name}/rows", layer, rows)

    def _keep(self, name: str, layer: int, rows: Array) -> None:
        self._rows.setdefault(name, {}).setdefault(layer, []).append(to_numpy(rows))

    def pattern(self, layer: int, pattern: Array) -> None:
        """(batch, heads, T, T) after softmax."""
        prefix = self.info.num_prefix
        for part in self._parts:
            among = pattern[part.images, :, prefix:, prefix:]
            rows = self._patterns.update(layer, among, part.pairs, part.groups, self._room)
            self._keep("statistics/pattern/rows", layer, rows)

    def tokens(self, stream: str, layer: int, tokens: Array) -> None:
        """(batch, tokens of the stream, width) of the stream's own layer number, prefix tokens first."""
        prefix = self.info.stream(stream).prefix
        patches = tokens[:, prefix:]
        self._probes[stream].update(layer, patches, self._z, self._other, self.numbers)
        for block, gram, diagonal in self._grams[stream].update(layer, patches):
            self.write(f"statistics/similarity/{stream}/grams", (block, layer), gram)
            self.write(f"statistics/similarity/{stream}/diagonals", (block, layer), diagonal)
        xp = namespace(tokens)
        summary = xp.stack([tokens[:, 0], patches.mean(1)] if prefix else [patches.mean(1)], 1)
        self._keep(f"statistics/similarity/{stream}/summary", layer, summary)

    def end(self) -> None:
        """All layers of the batch have been handed over."""
        for name, layers in self._rows.items():
            self.write(name, int(self.numbers[0]), np.stack([np.concatenate(rows) for rows in layers.values()], 1))

    def finish(self) -> None:
        """Write the sums, which stay in `finished`; nothing can be added after."""
        self._grams, self._inputs = {}, Grams(0, 0)  # a block of features is the most that is held
        sums = [self._pair_sums.sums, self._patterns.sums, self._positions.sums]
        sums += [each.sums for each in self._scores.values()]
        distances = num_distances(self.info.grid)
        self.finished: dict[str, np.ndarray] = {}
        for each in sums:
            for name, values in each.finalize().items():
                cells = "/bins/" in name
                self.finished[name] = values.reshape(*values.shape[:-1], -1, distances) if cells else values
        while self._probes:
            self.finished |= self._probes.popitem()[1].finalize()
        for name, values in self.finished.items():
            self.write(name, 0, values)

    def merge(self, other: "Statistics") -> None:
        """Add the sums of other images of the same dump; blocks of Gram matrices that either has begun stay apart."""
        self.delta_squares += other.delta_squares
        for ours, theirs in (
            (self._pair_sums, other._pair_sums),
            (self._patterns, other._patterns),
            (self._positions, other._positions),
        ):
            ours.sums.merge(theirs.sums)
        for part, scores in self._scores.items():
            scores.sums.merge(other._scores[part].sums)
        for stream, probe in self._probes.items():
            probe.merge(other._probes[stream])
