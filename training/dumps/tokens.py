"""CONTRACT: statistics of block outputs h: moments for ridge probes, Gram matrices for CKA; imports no torch.

A stream is what blocks put out: `tokens` (plain blocks, class token first), `rgb` and `depth` (blocks of two branches).
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from training.dumps.arrays import Array, Sums, alike, double, empty_like, namespace, packed, to_numpy

NUM_FOLDS = 5  # an image's fold is its place in the dump modulo this
_BLOCKS = 4  # of rows of a symmetric matrix, computed from the diagonal on: 5/8 of the work
GRAM_BATCH = 250  # images whose Gram matrix is kept together


def gram_batch(num_images: int) -> int:
    """Images in a block of Gram matrices: 250, or as many as leave four blocks; 0 where that is below four images."""
    block = min(GRAM_BATCH, num_images // 4)
    return block if block >= 4 else 0


class ProbeMoments:
    """[h, z, z', 1]'[h, z, z', 1] per layer and fold over tokens of patches with a depth; z' is another image's depth.

    `image_moments` are the same of each image's sum over the root of its number of tokens: moments minus these are
    those within images. Products are taken in the precision of h after the first batch's mean is subtracted, so that
    fp32 keeps its digits where a mean is far from 0; `finalize` puts it back, in float64.
    """

    def __init__(self, stream: str, num_layers: int, num_patches: int, width: int, like: Array) -> None:
        self.prefix = f"statistics/probe/{stream}"
        self.reference: list[Array | None] = [None] * num_layers  # of each layer: (width,)
        bounds = np.linspace(0, width + 3, _BLOCKS + 1).round().astype(int).tolist()
        self.blocks = [slice(first, last) for first, last in pairwise(bounds)]
        self.sums = Sums(
            {
                f"{self.prefix}/moments": (NUM_FOLDS, num_layers, width + 3, width + 3),
                f"{self.prefix}/image_moments": (NUM_FOLDS, num_layers, width + 3, width + 3),
                f"{self.prefix}/position_sum": (NUM_FOLDS, num_layers, num_patches, width),
                f"{self.prefix}/position_count": (NUM_FOLDS, num_layers, num_patches, 1),
            },
            like,
        )

    def update(self, layer: int, patches: Array, z: Array, other: Array, numbers: np.ndarray) -> None:
        """Add (batch, P, width) tokens with depths (batch, P), NaN where a patch has none, of these images."""
        xp = namespace(patches)
        reference = self.reference[layer]
        if reference is None:
            reference = self.reference[layer] = patches.mean((0, 1))
        seen = ~xp.isnan(z)
        width = patches.shape[-1]
        design = empty_like(patches, (*patches.shape[:2], width + 3))
        design[..., :width] = patches - reference
        for place, each in enumerate((z, other)):
            design[..., width + place] = xp.where(seen, each, 0.0)
        design[..., width + 2] = 1.0
        if not bool(seen.all()):
            design *= seen[..., None]
        count = double(seen.sum(1))
        image = double(design.sum(1)) / (count + (count == 0))[:, None] ** 0.5
        for fold in range(NUM_FOLDS):
            chosen = np.flatnonzero(numbers % NUM_FOLDS == fold)
            if len(chosen) == 0:
                continue
            part = design[chosen]
            tokens = part.reshape(-1, width + 3)
            for rows in self.blocks:
                product = tokens[:, rows].T @ tokens[:, rows.start :]
                self.sums.add(f"{self.prefix}/moments", (fold, layer, rows, slice(rows.start, None)), product)
            self._add("image_moments", fold, layer, image[chosen].T @ image[chosen])
            self._add("position_sum", fold, layer, part[..., :width].sum(0))
            self._add("position_count", fold, layer, seen[chosen].sum(0)[:, None])

    def _add(self, name: str, fold: int, layer: int, values: Array) -> None:
        self.sums.add(f"{self.prefix}/{name}", (fold, layer), values)

    def _named(self, name: str) -> Array:
        return self.sums.arrays[f"{self.prefix}/{name}"]

    def merge(self, other: "ProbeMoments") -> None:
        """Add another's; its sums are brought to this one's references."""
        for layer, theirs in enumerate(other.reference):
            if theirs is None:
                continue
            ours = self.reference[layer]
            if ours is None:
                ours = self.reference[layer] = theirs
            other._shift(layer, double(theirs) - double(ours))
            other.reference[layer] = ours
        self.sums.merge(other.sums)

    def _shift(self, layer: int, reference: Array) -> None:
        """Of h + reference instead of h: [h, z, z', 1] times T, which is 1 with the reference in its last row."""
        width = reference.shape[0]
        for name in ("moments", "image_moments"):
            square = self._named(name)[:, layer]
            if name == "moments":
                _mirror(square)
            last = square[:, :, -1:] * reference  # what the rows' sums add to columns of h
            square[:, :, :width] += last
            square[:, :width] += reference[:, None] * square[:, -1:]
        self._named("position_sum")[:, layer] += self._named("position_count")[:, layer] * reference

    def finalize(self) -> dict[str, np.ndarray]:
        """Ends it: nothing can be added after."""
        for layer, reference in enumerate(self.reference):
            if reference is not None:
                self._shift(layer, double(reference))
        found = self.sums.finalize()
        del found[f"{self.prefix}/position_count"]
        triangles = (f"{self.prefix}/moments", f"{self.prefix}/image_moments")
        return {name: packed(values) if name in triangles else values for name, values in found.items()}


def _mirror(squares: Array) -> None:
    """Fill the lower triangles of (n, m, m) from the upper ones."""
    below = alike(np.tri(squares.shape[-1], k=-1, dtype=bool), squares)
    squares[:, below] = squares.swapaxes(1, 2)[:, below]


class PositionSums:
    """Per fold and position: patches with a depth, Σz, Σz² (the position-only baseline of probes)."""

    NAME = "statistics/probe/position"

    def __init__(self, num_patches: int, like: Array) -> None:
        self.sums = Sums({self.NAME: (NUM_FOLDS, num_patches, 3)}, like)

    def update(self, z: Array, numbers: np.ndarray) -> None:
        xp = namespace(z)
        seen = ~xp.isnan(z)
        known = xp.where(seen, double(z), 0.0)
        terms = xp.stack([double(seen), known, known**2], -1)
        self.sums.scatter(self.NAME, numbers % NUM_FOLDS, terms)


class Grams:
    """Gram matrices over blocks of images, in the order they come; what remains of the last block is left out.

    Features of an image are its flattened patch tokens, or its pixels, minus the block's mean: CKA does not see a
    translation, and fp32 keeps its digits. Holds one block of features a layer: layers * block * P * width numbers of
    4 bytes.
    """

    def __init__(self, num_layers: int, block: int) -> None:
        self.block = block
        self._held: list[list[Array]] = [[] for _ in range(num_layers)]
        self._done = [0] * num_layers

    def update(self, layer: int, images: Array) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Add (batch, ...); yields (block number, Gram with a zero diagonal (b, b), its diagonal (b,))."""
        if self.block == 0:
            return
        xp = namespace(images)
        features = images.reshape(images.shape[0], -1)
        held = self._held[layer]
        while len(features):
            room = self.block - sum(len(part) for part in held)
            held.append(features[:room])
            features = features[room:]
            if sum(len(part) for part in held) == self.block:
                x = xp.concatenate(held)
                held.clear()
                x = x - x.mean(0)
                gram = to_numpy(x @ x.T).astype(np.float32, copy=True)
                diagonal = gram.diagonal().copy()
                np.fill_diagonal(gram, 0.0)
                yield self._done[layer], gram, diagonal
                self._done[layer] += 1
