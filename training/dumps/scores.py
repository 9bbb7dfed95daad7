"""CONTRACT: statistics of attention scores and patterns, for numpy and torch arrays alike; imports no torch.

Per image and head a row of ROWS; per layer and head sums in cells of (|Δ|, r); per pair of patches sums over images,
for fixed effects. Images are in groups (place modulo the number of groups), for jackknives. Everything is additive:
what was added up in parts and merged equals what was added up at once.
"""

from dataclasses import dataclass

import numpy as np

from training.dumps.arrays import Array, Sums, alike, namespace, to_numpy, unpacked
from training.dumps.pairs import NUM_BINS, REGRESSORS, Pairs, num_distances

# Of a score S over pairs: with 1 and the regressors; with itself; with itself, i = j too; centred, with the regressors
# (centred or not: the same) and with itself.
ROWS = (
    "s", *(f"s_{name}" for name in REGRESSORS), "ss", "ss_all", *(f"c_{name}" for name in REGRESSORS), "cc",
)  # fmt: skip
COSINES = ("literal_delta", "literal_r", "gauge_fixed_delta", "gauge_fixed_r")
PATTERN_ROWS = ("pairs", "delta")
# Over pairs at one distance, of the head mean: with `pairs.DISTANCE_PAIRS` a line through them, on an image's own |Δ|
# and on another's; and centred. Of attention after softmax the first three.
DISTANCE_ROWS = ("s", "s_delta", "s_other", "c")

_ROUNDING = 1e-12  # of Σ S²: what centring a constant in fp32 leaves


@dataclass(frozen=True)
class Bias:
    """What is added to a layer's scores: head_scale_h T_ij, one table for all heads."""

    head_scale: Array  # (heads,)
    table: Array  # (batch, T, T), T = prefix tokens and patches


@dataclass(frozen=True)
class Reduced:
    """What a layer's scores of a batch leave behind; linear in the scores but for `squares`. Float64 but `plane`."""

    mean: Array  # (batch, heads, P): of a query's pairs
    products: Array  # (batch, heads, K): Σ centred scores times regressors
    diagonal: Array  # (batch, heads, P)
    cells: Array  # (2, heads, cells): Σ scores and Σ centred scores in a cell, over images
    image_cells: Array  # (batch, cells): Σ scores in a cell, of the head mean
    distance: Array  # (batch, R, len(DISTANCE_ROWS)), of the head mean
    pair_sum: Array  # (heads, P, P): Σ centred scores over images without gaps
    squares: Array  # (batch, heads): Σ centred scores squared
    plane: Array  # (batch, P, P): centred scores' mean over heads, in the precision of scores

    @classmethod
    def of(cls, scores: Array, pairs: Pairs, room: Array) -> tuple["Reduced", Array]:
        """From (batch, heads, P, P); also the centred scores, flat: (batch, heads, P * P), 0 where there is no pair.

        These lie in `room` (batch, 2 heads + 2, P, P) or more, to be used again: fresh memory would cost more than the
        sums.
        """
        xp = namespace(scores)
        batch, heads = scores.shape[:2]
        valid, count = _as(pairs.valid, scores)[:, None], _as(pairs.row_sums[..., 0], scores)[:, None]
        diagonal = scores.diagonal(0, 2, 3)
        mean = ((scores @ valid[..., None])[..., 0] - diagonal * valid) * valid / (count + (count == 0))
        planes = room[:batch, : 2 * heads + 2]
        literal, centred = planes[:, :heads], planes[:, heads : 2 * heads]
        xp.subtract(scores, mean[..., None], out=centred)
        centred *= _as(pairs.weight, scores)[:, None]
        xp.add(centred, mean[..., None], out=literal)
        plane = centred.mean(1)
        whole_plane = plane + mean.mean(1)[..., None]
        planes[:, -2] = whole_plane * _as(pairs.delta, scores)
        planes[:, -1] = whole_plane * _as(pairs.other, scores)
        cells = _double(pairs.cells.sum(planes.reshape(batch, 2 * heads + 2, -1)))
        rings = cells.reshape(*cells.shape[:2], NUM_BINS, -1).sum(2)
        literal_mean, centred_mean = rings[:, :heads].mean(1), rings[:, heads : 2 * heads].mean(1)
        rings = (literal_mean, rings[:, -2], rings[:, -1], centred_mean)
        whole = centred if bool(pairs.complete.all()) else centred[pairs.complete]
        flat = centred.reshape(batch, heads, -1)
        reduced = cls(
            mean=_double(mean),
            products=_double(flat @ pairs.columns),
            diagonal=_double(diagonal),
            cells=cells[:, : 2 * heads].sum(0).reshape(2, heads, -1),
            image_cells=cells[:, :heads].mean(1),
            distance=xp.stack(rings, -1),
            pair_sum=_double(whole.sum(0)),
            squares=_double(_dot(flat, flat)),
            plane=plane,
        )
        return reduced, flat

    def plus(self, bias: "Reduced", head_scale: Array, shared: Array) -> "Reduced":
        """Of scores with a bias added, whose table left `bias`; `shared` (batch, heads) is Σ centred scores times it.

        Exact, as a bias has rank one over heads: no second pass over the scores.
        """
        scale = _double(head_scale)
        row = scale[None, :, None]
        return Reduced(
            mean=self.mean + row * bias.mean,
            products=self.products + row * bias.products,
            diagonal=self.diagonal + row * bias.diagonal,
            cells=self.cells + row * bias.cells,
            image_cells=self.image_cells + scale.mean() * bias.image_cells,
            distance=self.distance + scale.mean() * bias.distance,
            pair_sum=self.pair_sum + scale[:, None, None] * bias.pair_sum,
            squares=self.squares + 2 * scale * shared + scale**2 * bias.squares,
            plane=self.plane + _as(scale.mean(), self.plane) * bias.plane,
        )

    def rows(self, pairs: Pairs) -> Array:
        """(batch, heads, len(ROWS))"""
        return _rows(self.mean, self.products, self.diagonal, self.squares, pairs)

    def head_mean_rows(self, pairs: Pairs) -> Array:
        """(batch, len(ROWS)) of the scores' mean over heads."""
        flat = self.plane.reshape(len(self.plane), 1, -1)
        mean, products, diagonal = (each.mean(1)[:, None] for each in (self.mean, self.products, self.diagonal))
        return _rows(mean, products, diagonal, _double(_dot(flat, flat)), pairs)[:, 0]


def _rows(mean: Array, products: Array, diagonal: Array, squares: Array, pairs: Pairs) -> Array:
    literal = mean @ pairs.row_sums
    literal[..., 1:] += products
    ss = squares + (mean**2 * pairs.row_sums[:, None, :, 0]).sum(-1)
    ss_all = ss + (diagonal**2 * pairs.valid[:, None]).sum(-1)
    parts = (literal, ss[..., None], ss_all[..., None], products, squares[..., None])
    return namespace(mean).concatenate(parts, -1)


def _dot(a: Array, b: Array) -> Array:
    """Products summed over the last axis, (..., n) and (..., n) -> (...), of one shape, without holding them."""
    return (a[..., None, :] @ b[..., None])[..., 0, 0]


def cosines(rows: np.ndarray, literal: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """(..., len(ROWS)) with the packed pair moments of the same images (..., packed) -> (..., len(COSINES)).

    `literal` over all entries as they are (Figure 5 as printed; the diagonal has |Δ| = r = 0), `gauge_fixed` over
    centred pairs. NaN where one side is zero everywhere.
    """
    column = {name: rows[..., index] for index, name in enumerate(ROWS)}
    found = []
    for quantity in ("delta", "r"):
        square = unpacked(literal)[..., 1 + REGRESSORS.index(quantity), 1 + REGRESSORS.index(quantity)]
        found.append(_cosine(column[f"s_{quantity}"], column["ss_all"], square, np.zeros_like(square)))
    for quantity in ("delta", "r"):
        square = unpacked(centred)[..., REGRESSORS.index(quantity), REGRESSORS.index(quantity)]
        found.append(_cosine(column[f"c_{quantity}"], column["cc"], square, _ROUNDING * column["ss_all"]))
    return np.stack(found, -1)


def _cosine(product: np.ndarray, own: np.ndarray, other: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    defined = (own > rounding) & (other > 1e-12)
    return np.where(defined, product / np.sqrt(np.where(defined, own * other, 1.0)), np.nan)


class ScoreSums:
    """Sums over images of one part of the scores (`content` or `total`), all layers with plain attention."""

    def __init__(
        self, part: str, num_groups: int, num_layers: int, num_heads: int, grid: tuple[int, int], like: Array
    ) -> None:
        self.prefix = f"statistics/{part}"
        num_patches, radii = grid[0] * grid[1], num_distances(grid)
        num_cells = NUM_BINS * radii
        layers, heads, square = num_layers, num_heads, (num_patches, num_patches)
        shapes: dict[str, tuple[int, ...]] = {
            "head_rows": (num_groups, layers, heads, len(ROWS)),
            "head_cosines": (num_groups, layers, heads, len(COSINES), 2),
            "bins/sum": (layers, heads, num_cells),
            "bins/sum_centred": (layers, heads, num_cells),
            "bins/group_sum": (num_groups, num_cells),
            "curve": (num_groups, layers, NUM_BINS),
            "two_way/sum": (layers, heads, *square),
            "two_way/head_sum_delta": (num_groups, layers, heads),
            "two_way/group_sum": (num_groups, layers, *square),
            "distance": (num_groups, layers, radii, len(DISTANCE_ROWS)),
        }
        named = {f"{self.prefix}/{name}": shape for name, shape in shapes.items()}
        self.sums = Sums(named, like, {f"{self.prefix}/two_way/group_sum": "f4"})

    def update(self, layer: int, reduced: Reduced, pairs: Pairs, moments: tuple, groups: np.ndarray) -> Array:
        """Add a batch of one layer; returns rows of the head mean (batch, len(ROWS)).

        `moments`: packed pair moments of the batch as numpy arrays, literal and centred.
        """
        rows = reduced.rows(pairs)
        self._add_rows(layer, to_numpy(rows), moments, groups)
        for kind, name in enumerate(("sum", "sum_centred")):
            self._add(f"bins/{name}", (layer,), reduced.cells[kind])
        self._add_pairs(layer, reduced, rows, pairs, groups)
        self._scatter("distance", layer, groups, reduced.distance)
        self.sums.scatter(f"{self.prefix}/bins/group_sum", groups, reduced.image_cells)
        self._scatter("curve", layer, groups, reduced.image_cells.reshape(len(groups), NUM_BINS, -1).sum(2))
        return reduced.head_mean_rows(pairs)

    def _add(self, name: str, place: tuple, values: Array) -> None:
        self.sums.add(f"{self.prefix}/{name}", place, values)

    def _scatter(self, name: str, layer: int, groups: np.ndarray, values: Array) -> None:
        self.sums.scatter(f"{self.prefix}/{name}", groups, values, layer)

    def _add_rows(self, layer: int, rows: np.ndarray, moments: tuple, groups: np.ndarray) -> None:
        literal, centred = (each[:, None] for each in moments)
        each = cosines(rows, literal, centred)
        defined = np.isfinite(each)
        both = np.stack([np.where(defined, each, 0.0), defined], -1)
        like = self.sums.arrays[f"{self.prefix}/head_rows"]
        self._scatter("head_rows", layer, groups, alike(rows, like))
        self._scatter("head_cosines", layer, groups, alike(both, like))

    def _add_pairs(self, layer: int, reduced: Reduced, rows: Array, pairs: Pairs, groups: np.ndarray) -> None:
        if not bool(pairs.complete.any()):
            return
        self._add("two_way/sum", (layer,), reduced.pair_sum)
        groups = groups[to_numpy(pairs.complete)]
        self._scatter("two_way/group_sum", layer, groups, reduced.plane[pairs.complete])
        self._scatter("two_way/head_sum_delta", layer, groups, rows[pairs.complete][..., ROWS.index("c_delta")])


class PatternSums:
    """Sums over images of attention after softmax, all layers with plain attention."""

    def __init__(self, num_groups: int, num_layers: int, num_heads: int, grid: tuple[int, int], like: Array) -> None:
        num_patches, radii = grid[0] * grid[1], num_distances(grid)
        self.sums = Sums(
            {
                "statistics/pattern/distance": (num_groups, num_layers, radii, 3),
                "statistics/pattern/bins/sum": (num_layers, num_heads, NUM_BINS * radii),
                "statistics/pattern/pair_sum": (num_layers, num_patches, num_patches),
            },
            like,
        )

    def update(self, layer: int, pattern: Array, pairs: Pairs, groups: np.ndarray, room: Array) -> Array:
        """Add a batch of one layer, (batch, heads, P, P) among patches; returns (batch, len(PATTERN_ROWS)).

        `room` (batch, heads + 3, P, P) or more is overwritten.
        """
        batch, heads = pattern.shape[:2]
        planes = room[:batch, : heads + 3]
        planes[:, :heads] = pattern
        planes[:, heads] = pattern.mean(1)
        planes[:, -2] = planes[:, heads] * _as(pairs.delta, pattern)
        planes[:, -1] = planes[:, heads] * _as(pairs.other, pattern)
        cells = _double(pairs.cells.sum(planes.reshape(batch, heads + 3, -1)))
        self.sums.add("statistics/pattern/bins/sum", (layer,), cells[:, :heads].sum(0))
        self.sums.add("statistics/pattern/pair_sum", (layer,), _double(planes[:, heads]).sum(0))
        by_distance = cells[:, heads:].reshape(batch, 3, NUM_BINS, -1).sum(2).swapaxes(1, 2)
        self.sums.scatter("statistics/pattern/distance", groups, by_distance, layer)
        return by_distance.sum(1)[:, : len(PATTERN_ROWS)]


def _as(values: Array, like: Array) -> Array:
    return values.astype(like.dtype) if namespace(like) is np else values.to(like.dtype)


def _double(values: Array) -> Array:
    return values.astype(np.float64) if namespace(values) is np else values.double()
