"""CONTRACT: pairs of patches and what a score is held against; imports no torch.

Notation: patches i, j of one image, i the query and j the key; z patch depth; Δ_ij = z_i - z_j; r_ij the distance of
their centres in patch units. Sums run over ordered pairs i != j whose patches both have a depth. "Centred" means: minus
the mean over the keys of the same query row, which removes the freedom of softmax(S + c_i) = softmax(S).
"""

from dataclasses import dataclass

import numpy as np

from training.dumps.arrays import Array, Cells, Sums, alike, double, namespace, packed, to_numpy

BIN_WIDTH = 0.1  # z
NUM_BINS = 41  # of |Δ|: [0, 4) in steps of 0.1 and one overflow bin

# What a pair's score is regressed on. The last three are nulls: |Δ| of another image's depth, which keeps
# autocorrelation and what positions have in common (the primary one); of the mirrored depth map; of shuffled patches,
# which keeps neither and is a weak null (Guillot and Rousset 2013).
REGRESSORS = ("delta", "r", "colour", "signed", "other", "flipped", "shuffled")
NULLS = REGRESSORS[4:]
# Over the pairs at one distance; _c is centred, and `other` another image's |Δ|.
DISTANCE_PAIRS = ("n", "delta", "delta_sq", "delta_c", "other", "other_sq", "other_c")


def patch_distance(grid: tuple[int, int]) -> np.ndarray:
    """Float64[patches, patches]: Euclidean distance of patch centres in patch units."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return np.hypot(rows[:, None] - rows[None], columns[:, None] - columns[None]).astype(np.float64)


def distances(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct distances above 0, rising (93 on 14x14), and for each pair of patches its number among them."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    squared = (rows[:, None] - rows[None]) ** 2 + (columns[:, None] - columns[None]) ** 2
    values, number = np.unique(squared, return_inverse=True)
    return np.sqrt(values[1:].astype(np.float64)), number.reshape(squared.shape) - 1  # -1: a patch and itself


def num_distances(grid: tuple[int, int]) -> int:
    """How many `distances` there are, without going through the pairs."""
    rows, columns = (np.arange(side) ** 2 for side in grid)
    return len(np.unique(rows[:, None] + columns)) - 1


def partner(image: int, num_images: int) -> int:
    """The image whose depth stands in for this one's in nulls and swaps: half the images away, never itself.

    Two images are each other's, so that intervals can draw them together; the last of an odd number has the first's.
    """
    half = num_images // 2
    return image + half if image < half else image - half if image < 2 * half else 0


def shuffled_order(image: int, num_patches: int) -> np.ndarray:
    """The order of patches in the weak null: fixed for an image's place in the dump."""
    return np.random.default_rng([7, image]).permutation(num_patches)


@dataclass(frozen=True)
class Pairs:
    """What a batch's pairs are, apart from any model. P patches, K = len(REGRESSORS); all float64 but `columns`."""

    weight: Array  # (batch, P, P): 1 for a pair, else 0
    valid: Array  # (batch, P): 1 where a patch has a depth
    regressors: Array  # (batch, K, P, P), 0 where there is no pair
    centred: Array  # the same, centred
    row_sums: Array  # (batch, P, 1 + K): over keys, of [1, regressors]
    columns: Array  # (batch, P * P, K): `regressors` in the precision of scores
    cells: Cells  # of (|Δ| bin, distance), NUM_BINS * distances
    complete: Array  # (batch,) bool: every patch has a depth

    @property
    def delta(self) -> Array:
        """|Δ| (batch, P, P), 0 where there is no pair."""
        return self.regressors[:, 0]

    @property
    def delta_centred(self) -> Array:
        """The same, centred."""
        return self.centred[:, 0]

    @property
    def other(self) -> Array:
        """Another image's |Δ|, 0 where there is no pair."""
        return self.regressors[:, REGRESSORS.index("other")]

    @property
    def other_centred(self) -> Array:
        return self.centred[:, REGRESSORS.index("other")]

    @classmethod
    def of(
        cls, depth: Array, other: Array, colour: Array, grid: tuple[int, int], numbers: np.ndarray, like: Array
    ) -> "Pairs":
        """From patch depths (batch, P) in z, NaN where a patch has no valid pixel, `other` images' (batch, P), without
        gaps, and mean colours (batch, P, 3) in 0..1. `numbers`: the images' places in the dump. `like` has the
        precision of scores.
        """
        xp = namespace(depth)
        seen = ~xp.isnan(depth)
        z = xp.where(seen, double(depth), 0.0)
        valid = double(seen)
        distance, place = (alike(a, depth) for a in (patch_distance(grid), distances(grid)[1]))
        weight = valid[:, :, None] * valid[:, None, :] * double(place >= 0)
        order = alike(np.stack([shuffled_order(int(n), z.shape[1]) for n in numbers]), depth)
        whole = filled(double(depth))  # nulls need no gaps
        mirrored = whole.reshape(-1, *grid)[:, :, alike(np.arange(grid[1])[::-1].copy(), depth)].reshape(z.shape)
        shuffled = np.take_along_axis(whole, order, 1) if xp is np else whole.gather(1, order)
        signed = z[:, :, None] - z[:, None, :]
        tint = double(colour)
        terms = (
            abs(signed),
            distance[None] + 0 * signed,
            ((tint[:, :, None] - tint[:, None, :]) ** 2).sum(-1) ** 0.5,
            signed,
            _differences(other),
            _differences(mirrored),
            _differences(shuffled),
        )
        x = xp.stack(terms, 1)
        x *= weight[:, None]
        count = weight.sum(2)
        centred = x - (x.sum(3) / (count + (count == 0))[:, None])[..., None]
        centred *= weight[:, None]
        row_sums = xp.concatenate([count[:, None], x.sum(3)], 1).swapaxes(1, 2)
        height = xp.floor(x[:, 0] / BIN_WIDTH + 1e-9).clip(0, NUM_BINS - 1)
        cell = xp.where(weight > 0, height * num_distances(grid) + place, -1.0).reshape(len(z), -1)
        cell = cell.astype(np.int64) if xp is np else cell.long()
        columns = (x.astype(like.dtype) if xp is np else x.to(like.dtype)).reshape(*x.shape[:2], -1).swapaxes(1, 2)
        cells = Cells(cell, NUM_BINS * num_distances(grid), columns.dtype)
        return cls(weight, valid, x, centred, row_sums, columns, cells, valid.sum(1) == z.shape[1])

    def moments(self) -> tuple[Array, Array]:
        """[1, X]'[1, X] and Xc'Xc of each image: (batch, 1 + K, 1 + K) and (batch, K, K)."""
        x = namespace(self.weight).concatenate([self.weight[:, None], self.regressors], 1)
        literal, centred = (each.reshape(*each.shape[:2], -1) for each in (x, self.centred))
        return literal @ literal.swapaxes(1, 2), centred @ centred.swapaxes(1, 2)


def _differences(z: Array) -> Array:
    return abs(z[:, :, None] - z[:, None, :])


def filled(depth: Array) -> Array:
    """Patches without a depth take their image's mean; an image without any is flat."""
    xp = namespace(depth)
    seen = ~xp.isnan(depth)
    count = seen.sum(1)[:, None]
    known = xp.where(seen, depth, 0.0)
    return xp.where(seen, known, known.sum(1)[:, None] / (count + (count == 0)))


def pair_moments(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Packed pair moments of each image: (batch, packed) literal and centred."""
    literal, centred = pairs.moments()
    return packed(to_numpy(literal)), packed(to_numpy(centred))


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
                "statistics/bins/group_count": (num_groups, num_cells),
                "statistics/two_way/images": (num_groups,),
                "statistics/two_way/delta_sum": (num_groups, num_patches, num_patches),
                "statistics/two_way/delta_sq": (num_groups,),
                "statistics/distance/gram": (num_groups, radii, radii),
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
        self.sums.scatter("statistics/bins/group_count", groups, count)
        delta, other = pairs.delta_centred, pairs.other
        grams = namespace(delta).stack(
            [
                self.whole_gram if whole else self._gram(w[None])[0]
                for w, whole in zip(pairs.weight, pairs.complete, strict=True)
            ]
        )
        self.sums.scatter("statistics/distance/gram", groups, grams)
        terms = (pairs.weight, pairs.delta, pairs.delta**2, delta, other, other**2, pairs.other_centred)
        found = namespace(delta).stack([each.reshape(len(groups), -1) @ self.indicator for each in terms], -1)
        self.sums.scatter("statistics/distance/pairs", groups, found)
        whole = groups[to_numpy(pairs.complete)]
        self.sums.scatter("statistics/two_way/images", whole, pairs.complete[pairs.complete])
        self.sums.scatter("statistics/two_way/delta_sum", whole, delta[pairs.complete])
        self.sums.scatter("statistics/two_way/delta_sq", whole, (delta[pairs.complete] ** 2).sum((1, 2)))
