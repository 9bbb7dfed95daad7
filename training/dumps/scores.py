"""CONTRACT: statistics of attention scores and patterns, for numpy and torch arrays alike; imports no torch.

Per image and head a row of ROWS; per layer and head sums in cells of (|Δ|, r); per pair of patches sums over images,
for fixed effects. Images are in groups (place modulo the number of groups), for jackknives. Everything is additive:
what was added up in parts and merged equals what was added up at once.
"""

import numpy as np

from training.dumps.arrays import Array, Sums, alike, empty_like, namespace, packed, to_numpy, unpacked
from training.dumps.pairs import NUM_BINS, REGRESSORS, Pairs, distances, num_distances

# Of a score S over pairs: with 1 and the regressors; with itself; with itself, i = j too; centred, with the regressors
# (centred or not: the same) and with itself.
ROWS = (
    "s", *(f"s_{name}" for name in REGRESSORS), "ss", "ss_all", *(f"c_{name}" for name in REGRESSORS), "cc",
)  # fmt: skip
COSINES = ("literal_delta", "literal_r", "gauge_fixed_delta", "gauge_fixed_r")
PATTERN_ROWS = ("prefix", "self", "pairs", "delta")
# Over pairs at one distance, of the head mean: what a line through them needs, literal and centred.
DISTANCE_PAIRS = ("n", "delta", "delta_sq", "delta_c_sq")
DISTANCE_ROWS = ("s", "s_delta", "c", "c_delta")

_ROUNDING = 1e-12  # of Σ S²: what centring a constant in fp32 leaves


def score_rows(scores: Array, pairs: Pairs) -> tuple[Array, Array, Array]:
    """(batch, heads, P, P) scores of patches -> rows (batch, heads, len(ROWS)) in float64, the centred scores (zero
    where there is no pair) and the means (batch, heads, P) that were taken off.
    """
    xp = namespace(scores)
    batch, heads = scores.shape[:2]
    weight = _as(pairs.weight, scores)[:, None]
    count = weight.sum(-1)
    taken = mean = (scores * weight).sum(-1) / (count + (count == 0))
    centred = (scores - mean[..., None]) * weight
    flat = centred.reshape(batch, heads, -1)
    own = _double(flat @ pairs.columns)  # (batch, heads, K)
    squares = _double((flat**2).sum(-1))
    mean = _double(mean)
    literal = mean @ pairs.row_sums
    literal[..., 1:] += own
    ss = squares + (mean**2 * pairs.row_sums[:, None, :, 0]).sum(-1)
    diagonal = _double(scores.diagonal(0, 2, 3)) ** 2
    ss_all = ss + (diagonal * pairs.valid[:, None]).sum(-1)
    rows = xp.concatenate([literal, ss[..., None], ss_all[..., None], own, squares[..., None]], -1)
    return rows, centred, taken


def head_mean_rows(rows: Array, scores: Array, pairs: Pairs) -> Array:
    """`score_rows` of the head mean, (batch, len(ROWS)): linear entries are means, squares are not."""
    mean = rows.mean(1)
    squares, _, _ = score_rows(scores.mean(1)[:, None], pairs)
    for name in ("ss", "ss_all", "cc"):
        mean[:, ROWS.index(name)] = squares[:, 0, ROWS.index(name)]
    return mean


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


def at_distance(grid: tuple[int, int], like: Array) -> Array:
    """Float64 (P * P, R): 1 where a pair has this distance; the diagonal has none."""
    radii, number = distances(grid)
    return alike(np.eye(len(radii) + 1)[number.reshape(-1)][:, : len(radii)], like)


class PairSums:
    """What depends on the images' depth alone: counts of cells, |Δ| per pair of patches and per distance."""

    def __init__(self, num_groups: int, num_cells: int, grid: tuple[int, int], like: Array) -> None:
        num_patches, radii = grid[0] * grid[1], num_distances(grid)
        self.indicator = at_distance(grid, like)
        whole = np.ones((1, num_patches, num_patches)) - np.eye(num_patches)
        self.whole_gram = self._gram(alike(whole, like))[0]
        self.sums = Sums(
            {
                "statistics/bins/count": (num_cells,),
                "statistics/bins/images": (num_cells,),
                "statistics/two_way/images": (num_groups,),
                "statistics/two_way/delta_sum": (num_groups, num_patches, num_patches),
                "statistics/two_way/delta_sq": (num_groups,),
                "statistics/distance/gram": (num_groups, radii, radii),
                "statistics/distance/delta": (num_groups, radii),
                "statistics/distance/pairs": (num_groups, radii, len(DISTANCE_PAIRS)),
            },
            like,
        )

    def _gram(self, weight: Array) -> Array:
        """Dc'Dc of the indicators D of distances, centred, over pairs (batch, P, P): (batch, R, R)."""
        patches = weight.shape[1]
        each = self.indicator.reshape(1, patches, patches, -1) * weight[..., None]
        count = weight.sum(2)
        mean = each.sum(2) / (count + (count == 0))[..., None]  # (batch, P, R)
        within = each.sum((1, 2))
        squares = namespace(weight).zeros_like(within)[..., None] + mean.swapaxes(1, 2) @ (mean * count[..., None])
        number = np.arange(within.shape[-1])
        gram = -squares
        gram[:, number, number] += within
        return gram

    def update(self, pairs: Pairs, groups: np.ndarray) -> None:
        count = pairs.cells.count
        self.sums.add("statistics/bins/count", ..., count.sum(0))
        self.sums.add("statistics/bins/images", ..., (count > 0).sum(0))
        delta = pairs.centred[..., 0].reshape(pairs.weight.shape)
        grams = namespace(delta).stack(
            [
                self.whole_gram if whole else self._gram(w[None])[0]
                for w, whole in zip(pairs.weight, pairs.complete, strict=True)
            ]
        )
        self.sums.scatter("statistics/distance/gram", groups, grams)
        self.sums.scatter("statistics/distance/delta", groups, delta.reshape(len(groups), -1) @ self.indicator)
        terms = (pairs.weight, pairs.delta, pairs.delta**2, delta**2)
        found = [each.reshape(len(groups), -1) @ self.indicator for each in terms]
        self.sums.scatter("statistics/distance/pairs", groups, namespace(delta).stack(found, -1))
        whole = groups[to_numpy(pairs.complete)]
        self.sums.scatter("statistics/two_way/images", whole, pairs.complete[pairs.complete])
        self.sums.scatter("statistics/two_way/delta_sum", whole, delta[pairs.complete])
        self.sums.scatter("statistics/two_way/delta_sq", whole, (delta[pairs.complete] ** 2).sum((1, 2)))


class ScoreSums:
    """Sums over images of one part of the scores (`content` or `total`), all layers with plain attention."""

    def __init__(
        self, part: str, num_groups: int, num_layers: int, num_heads: int, grid: tuple[int, int], like: Array
    ) -> None:
        self.prefix = f"statistics/{part}"
        self.indicator = _as(at_distance(grid, like), like)
        num_patches, num_cells = grid[0] * grid[1], NUM_BINS * num_distances(grid)
        layers, heads, square = num_layers, num_heads, (num_patches, num_patches)
        shapes: dict[str, tuple[int, ...]] = {
            "head_rows": (num_groups, layers, heads, len(ROWS)),
            "head_cosines": (num_groups, layers, heads, len(COSINES), 2),
            "bins/sum": (layers, heads, num_cells),
            "bins/sum_centred": (layers, heads, num_cells),
            "two_way/sum": (layers, heads, *square),
            "two_way/head_sum_delta": (num_groups, layers, heads),
            "two_way/group_sum": (num_groups, layers, *square),
            "distance": (num_groups, layers, self.indicator.shape[1], len(DISTANCE_ROWS)),
        }
        named = {f"{self.prefix}/{name}": shape for name, shape in shapes.items()}
        self.sums = Sums(named, like, {f"{self.prefix}/two_way/group_sum": "f4"})

    def update(self, layer: int, scores: Array, pairs: Pairs, moments: tuple, groups: np.ndarray) -> Array:
        """Add a batch of one layer, (batch, heads, P, P); returns rows of the head mean (batch, len(ROWS)).

        `moments`: packed pair moments of the batch as numpy arrays, literal and centred.
        """
        rows, centred, mean = score_rows(scores, pairs)
        self._add_rows(layer, to_numpy(rows), moments, groups)
        self._add_cells(layer, centred, mean, pairs)
        self._add_pairs(layer, centred, rows, pairs, groups)
        self._add_distances(layer, centred.mean(1), mean.mean(1), pairs, groups)
        return head_mean_rows(rows, scores, pairs)

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

    def _add_cells(self, layer: int, centred: Array, mean: Array, pairs: Pairs) -> None:
        batch, heads, patches, _ = centred.shape
        planes = empty_like(centred, (batch, 2, heads, patches, patches))
        planes[:, 0] = centred + mean[..., None]
        planes[:, 1] = centred
        found = _double(pairs.cells.sum(planes.reshape(batch, 2 * heads, -1))).reshape(batch, 2, heads, -1)
        total = found.sum(0)
        for kind, name in enumerate(("sum", "sum_centred")):
            self._add(f"bins/{name}", (layer,), total[kind])

    def _add_distances(self, layer: int, centred: Array, mean: Array, pairs: Pairs, groups: np.ndarray) -> None:
        """Of the head mean (batch, P, P), and its rows' means (batch, P)."""
        literal = (centred + mean[..., None]) * _as(pairs.weight, centred)
        delta, delta_c = (
            _as(each[..., 0], centred).reshape(centred.shape) for each in (pairs.regressors, pairs.centred)
        )
        terms = (literal, literal * delta, centred, centred * delta_c)
        found = [each.reshape(len(groups), -1) @ self.indicator for each in terms]
        self._scatter("distance", layer, groups, namespace(centred).stack(found, -1))

    def _add_pairs(self, layer: int, centred: Array, rows: Array, pairs: Pairs, groups: np.ndarray) -> None:
        if not bool(pairs.complete.any()):
            return
        kept, groups = centred[pairs.complete], groups[to_numpy(pairs.complete)]
        self._add("two_way/sum", (layer,), kept.sum(0))
        self._scatter("two_way/group_sum", layer, groups, kept.mean(1))
        self._scatter("two_way/head_sum_delta", layer, groups, rows[pairs.complete][..., ROWS.index("c_delta")])


class PatternSums:
    """Sums over images of attention after softmax, all layers with plain attention."""

    def __init__(self, num_groups: int, num_layers: int, num_heads: int, grid: tuple[int, int], like: Array) -> None:
        num_patches, num_cells = grid[0] * grid[1], NUM_BINS * num_distances(grid)
        self.indicator = at_distance(grid, like)
        self.sums = Sums(
            {
                "statistics/pattern/distance": (num_groups, num_layers, self.indicator.shape[1], 2),
                "statistics/pattern/bins/sum": (num_layers, num_heads, num_cells),
                "statistics/pattern/pair_sum": (num_layers, num_patches, num_patches),
            },
            like,
        )

    def update(self, layer: int, pattern: Array, pairs: Pairs, groups: np.ndarray) -> Array:
        """Add a batch of one layer, (batch, heads, T, T), prefix tokens first; returns (batch, len(PATTERN_ROWS))."""
        xp = namespace(pattern)
        batch, heads, tokens, _ = pattern.shape
        patches = pairs.weight.shape[1]
        prefix = tokens - patches
        rows = pattern[:, :, prefix:]
        among = rows[..., prefix:]
        cells = _double(pairs.cells.sum(among.reshape(batch, heads, -1)))
        self.sums.add("statistics/pattern/bins/sum", (layer,), cells.sum(0))
        mean = _double(rows.mean(1))
        patch_mean = mean[..., prefix:]
        self.sums.add("statistics/pattern/pair_sum", (layer,), patch_mean.sum(0))
        terms = (patch_mean * pairs.weight, patch_mean * pairs.delta)
        by_distance = [each.reshape(batch, -1) @ self.indicator for each in terms]
        self.sums.scatter("statistics/pattern/distance", groups, xp.stack(by_distance, -1), layer)
        found = (
            mean[..., :prefix].sum((1, 2)),
            patch_mean.diagonal(0, 1, 2).sum(-1),
            (patch_mean * pairs.weight).sum((1, 2)),
            (patch_mean * pairs.delta).sum((1, 2)),
        )
        return xp.stack(found, -1)


def pair_moments(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Packed pair moments of each image: (batch, packed) literal and centred."""
    literal, centred = pairs.moments()
    return packed(to_numpy(literal)), packed(to_numpy(centred))


def num_cells(distances: int) -> int:
    return NUM_BINS * distances


def _as(values: Array, like: Array) -> Array:
    return values.astype(like.dtype) if namespace(like) is np else values.to(like.dtype)


def _double(values: Array) -> Array:
    return values.astype(np.float64) if namespace(values) is np else values.double()
