"""How far the depth fields of one data set agree, image by image.

Two numbers for each pair of fields, over the pixels where both are valid:

- Spearman's rank correlation, which asks for the order of pixels alone;
- the affine-invariant error of Ranftl et al. (Towards robust monocular depth estimation, TPAMI 2022): one field is
  brought onto the other, the reference, by the scale and shift of least squares, and the mean absolute residual is
  divided by the reference's mean absolute distance from its median. 0 is the same up to scale and shift; about 1 is
  what a field without any relation leaves.

Both are of z as it is stored. Between inverse depth and depth an error is left where both are right, as no scale and
shift turns one into the other; their rank correlation is 1.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline import files
from pipeline.errors import UserError
from pipeline.inspect import shown_fields
from pipeline.progress import Meter
from pipeline.shards import Split

Pair = tuple[str, str]  # the reference, and what is brought onto it
_TRUSTED = ("rendered", "measured", "filled", "estimated")  # a reference stands before what is compared with it
_FEWEST_PIXELS = 16


class CompareError(UserError):
    """Nothing can be compared; one line that names the cause and the fix."""


@dataclass(frozen=True)
class Agreement:
    """Of one image and one pair of fields. NaN where a field is constant or both are valid in too few pixels."""

    key: str
    reference: str
    other: str
    spearman: float
    error: float
    scale: float  # reference ~ scale * other + shift, in z
    shift: float
    num_pixels: int
    position: int  # in the split

    @property
    def pair(self) -> Pair:
        return self.reference, self.other


def pairs_of(split: Split, chosen: Sequence[str] = ()) -> list[Pair]:
    """Every pair of the split's depth fields, or of those `chosen`. What was measured or rendered is the reference."""
    for name in chosen:
        split.check_depth(name)
        if name not in split.index.depth:
            have = ", ".join(split.index.depth)
            raise CompareError(f"--fields: {split.store} has no '{name}' depth, it has {have}")
    names = [name for name in shown_fields(split) if name in chosen or not chosen]
    if len(names) < 2:
        have = ", ".join(names) or "none"
        raise CompareError(
            f"{split.store} must have two depth fields to compare, it has {have}: add one with precompute-depth add"
        )
    names.sort(key=lambda name: _TRUSTED.index(split.index.provenance(name).kind))
    return list(combinations(names, 2))


def aligned(reference: NDArray[np.floating], other: NDArray[np.floating]) -> tuple[float, float, float, float] | None:
    """(scale, shift, error, spread) of values (pixels,) brought onto others; None where either is constant."""
    onto, brought = reference.astype(np.float64), other.astype(np.float64)
    spread = float(np.abs(onto - np.median(onto)).mean())
    away = brought - brought.mean()
    variance = float(away @ away)
    if not (spread > 0 and variance > 0):
        return None
    scale = float(away @ (onto - onto.mean())) / variance
    shift = float(onto.mean() - scale * brought.mean())
    return scale, shift, float(np.abs(scale * brought + shift - onto).mean()) / spread, spread


def agreement(
    key: str, position: int, pair: Pair, reference: NDArray[np.float32], other: NDArray[np.float32]
) -> Agreement:
    """Of two maps of z (height, width), NaN invalid."""
    from scipy.stats import rankdata

    both = np.isfinite(reference) & np.isfinite(other)
    one, two = reference[both], other[both]
    found = aligned(one, two) if one.size >= _FEWEST_PIXELS else None
    if found is None:
        nan = float("nan")
        return Agreement(key, *pair, nan, nan, nan, nan, int(one.size), position)
    scale, shift, error, _ = found
    ranks = np.stack([rankdata(one), rankdata(two)])
    ranks -= ranks.mean(1, keepdims=True)
    spearman = float(ranks[0] @ ranks[1] / np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return Agreement(key, *pair, spearman, error, scale, shift, int(one.size), position)


def compare(split: Split, pairs: Sequence[Pair], num_images: int, workers: int, console: Console) -> list[Agreement]:
    """Every pair in `num_images` images, evenly spaced over the split, 0 for all; image by image, pair by pair."""
    names = {name for pair in pairs for name in pair}
    count = min(num_images or len(split), len(split))
    places = np.unique(np.linspace(0, len(split) - 1, count).round().astype(np.int64)).tolist()

    def of_image(position: int) -> list[Agreement]:
        members = split.members(position, names)
        maps = {name: members.decode(name) for name in names}
        members.check_sizes(maps)
        return [agreement(members.key, position, pair, maps[pair[0]], maps[pair[1]]) for pair in pairs]

    def every() -> Iterator[list[Agreement]]:
        with ThreadPoolExecutor(workers) as pool:
            for first in range(0, len(places), 8 * workers):
                yield from pool.map(of_image, places[first : first + 8 * workers])

    with Meter(console, f"compare {split.index.split}", len(places)) as meter:
        return [one for some in meter.counting(every()) for one in some]


def most_different(found: Sequence[Agreement], pair: Pair, count: int) -> list[Agreement]:
    """The images in which a pair agrees least by rank, worst first."""
    own = [one for one in found if one.pair == pair and np.isfinite(one.spearman)]
    return sorted(own, key=lambda one: (one.spearman, one.key))[:count]


def table(found: Sequence[Agreement], pairs: Sequence[Pair]) -> Table:
    """A row a pair: the median over images, and 5th to 95th percentile."""
    made = Table("onto", "is brought", "images", "Spearman", "5 to 95 %", "affine-invariant error", "5 to 95 %")
    for pair in pairs:
        own = [one for one in found if one.pair == pair]
        cells = []
        for name in ("spearman", "error"):
            values = np.array([getattr(one, name) for one in own])
            values = values[np.isfinite(values)]
            low, middle, high = np.percentile(values, (5, 50, 95)) if values.size else (np.nan,) * 3
            cells += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        without = sum(not np.isfinite(one.spearman) for one in own)
        made.add_row(*pair, f"{len(own) - without:,}" + (f" ({without:,} without)" if without else ""), *cells)
    return made


def write_csv(found: Sequence[Agreement], path: Path) -> None:
    """A line an image and pair; what is undefined is empty."""
    names = [field.name for field in fields(Agreement) if field.name != "position"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in found:
        row = asdict(one)
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    files.write_whole(path, text.getvalue())
