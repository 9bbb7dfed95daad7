"""Mean attention and mean score by distance r and depth difference |Δ|, and how they change with |Δ| at one distance.

Cells are bins of |Δ| (0.1 z) by column: whole distances, r rounded down, to be looked at. Slopes within a column
compare pairs of exactly the same distance: deviations from the exact distance's means, pooled over the column, each
pair with its own |Δ|. Intervals leave out one group of images at a time.
Quantities: `attention` after softmax, bias included; `literal` scores; `gauge_fixed`, scores minus their mean over the
keys of a query row, in slopes held against |Δ| minus its own, and against another image's |Δ|: the null, which has
what images share by position.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from analysis.attention import bin_rule
from analysis.statistics import Estimate, grouped_jackknife, ratio
from training.dumps.pairs import BIN_WIDTH, DISTANCE_PAIRS, NUM_BINS, distances
from training.dumps.scores import DISTANCE_ROWS

if TYPE_CHECKING:
    from training.dumps.store import Dump

Quantity = Literal["attention", "literal", "gauge_fixed"]
ALL = "all"  # layers pooled
LEAST_BINS = 3  # of a column that is shown: fewer make no line
_NULL = 1e-12


def cells(dump: "Dump", quantity: Quantity) -> pd.DataFrame:
    """One row a layer ("all": pooled), column and bin with any pair: the head mean, and whether data suffice to show.

    A cell's images are those of its fullest exact distance, a lower bound. The last bin, |Δ| >= 4, is never shown.
    """
    columns, of_column = _columns(dump)
    count = dump["statistics/bins/count"] @ of_column
    images = np.stack(
        [dump["statistics/bins/images"][:, of_column[:, place] > 0].max(1) for place in range(len(columns))], 1
    )
    sums = _sums(dump, quantity) @ of_column
    sums = np.concatenate([sums.mean(0, keepdims=True), sums])
    min_pairs, min_images = bin_rule(dump.info.num_images)
    layers, bins, places = np.nonzero(np.broadcast_to(count > 0, sums.shape))
    pairs, seen = count[bins, places], images[bins, places]
    last = bins == NUM_BINS - 1
    names = np.array([ALL, *dump.info.attention_layers], object)
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "quantity": quantity,
            "layer": names[layers],
            "distance": columns[places],
            "delta_low": bins * BIN_WIDTH,
            "delta_high": np.where(last, np.inf, (bins + 1) * BIN_WIDTH),
            "mean": sums[layers, bins, places] / pairs,
            "pairs": pairs.astype(int),
            "images": seen.astype(int),
            "shown": (pairs >= min_pairs) & (seen >= min_images) & ~last,
        }
    )


def column_slopes(dump: "Dump", quantity: Quantity) -> pd.DataFrame:
    """One row a layer ("all": pooled) and column: slope on |Δ| at a distance, and r² of the column's line.

    `relative`, of attention: the slope over the column's mean. `other`, of `gauge_fixed`: the slope on another image's
    |Δ|, and `beyond`: `slope` minus it; both intervals are up to √2 too narrow where images and their partners are in
    different groups (half the images is no multiple of the groups). `linearity`: of the count-weighted line through the
    column's shown cells. NaN, all of them, where fewer than LEAST_BINS are shown.
    """
    columns, of_column = _columns(dump)
    sums = _line_sums(dump, quantity)
    estimates = {"slope": grouped_jackknife(sums, lambda each: _slope(each, of_column))}
    if quantity == "attention":
        estimates["relative"] = grouped_jackknife(sums, lambda each: _relative(each, of_column))
    if quantity == "gauge_fixed":
        null = _null_sums(dump, sums)
        estimates["other"] = grouped_jackknife(null, lambda each: _slope(each, of_column))
        both = np.stack([null, sums], -4)  # a group is left out of both at once
        estimates["beyond"] = grouped_jackknife(
            both, lambda each: np.diff(_slope(each, of_column), axis=-3)[..., 0, :, :]
        )
    frame = cells(dump, quantity)
    rows = []
    for place, layer in enumerate([ALL, *dump.info.attention_layers]):
        of_layer = frame[(frame["layer"] == layer) & frame["shown"]]
        for number, column in enumerate(columns):
            shown = of_layer[of_layer["distance"] == column]
            enough = len(shown) >= LEAST_BINS
            row = {"layer": layer, "distance": column, "num_bins": len(shown)}
            for name, estimate in estimates.items():
                for suffix, values in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
                    row[name + suffix] = values[place, number] if enough else np.nan
            rows.append(row | {"linearity": _linearity(shown) if enough else np.nan})
    own = {"model": dump.info.model, "depth_field": dump.info.depth_field, "epoch": dump.info.epoch}
    return pd.DataFrame(rows).assign(quantity=quantity, num_images=dump.info.num_images, **own)


def swapped_slopes(dump: "Dump") -> pd.DataFrame:
    """One row a layer ("all": pooled) and column: slope of a swap, Σ(S' - S)(Δ' - Δ) / Σ(Δ' - Δ)² at its distances.

    Of row-centred head-mean scores, bias included, where depth is another image's and the photograph is not; intervals
    leave out a group of pairs of images at a time.
    """
    columns, of_column = _columns(dump)
    across, squares = dump["causal/swap/distance"] @ of_column, dump["causal/swap/distance_pairs"] @ of_column
    across = np.concatenate([across.mean(1, keepdims=True), across], 1)
    sums = np.stack([across, np.broadcast_to(squares[:, None], across.shape)], -1)
    sums = sums[squares.sum(1) > 0]  # fewer pairs of images than groups leave some empty
    found = grouped_jackknife(sums, lambda each: ratio(each[..., 0], each[..., 1]))
    layers, places = np.indices(found.value.shape).reshape(2, -1)
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "layer": np.array([ALL, *dump.info.attention_layers], object)[layers],
            "distance": columns[places],
            **{
                f"slope{end}": getattr(found, at).ravel()
                for end, at in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
            "num_images": dump.info.num_causal,
        }
    )


def relative_slopes(first: "Dump", second: "Dump") -> tuple[Estimate, Estimate, Estimate]:
    """Pooled slope of attention on |Δ| at a distance over mean attention (1 per z) of either, and first minus second.

    Over all distances and layers. The dumps hold the same images, so groups are paired.
    """
    both = np.stack([_line_sums(dump, "attention")[:, 0] for dump in (first, second)], 1)
    whole = np.ones((both.shape[-2], 1))

    def of_both(sums: np.ndarray) -> np.ndarray:
        found = _relative(sums, whole)[..., 0]
        return np.stack([found[..., 0], found[..., 1], found[..., 0] - found[..., 1]], -1)

    found = grouped_jackknife(both, of_both)
    one, other, difference = (Estimate(found.value[k], found.low[k], found.high[k]) for k in range(3))
    return one, other, difference


def _columns(dump: "Dump") -> tuple[np.ndarray, np.ndarray]:
    """Whole distances that occur, and which exact distance is in which: (distances, columns) of 0 and 1."""
    whole = np.floor(distances(dump.info.grid)[0] + 1e-9).astype(int)
    columns = np.unique(whole)
    return columns, (whole[:, None] == columns).astype(np.float64)


def _sums(dump: "Dump", quantity: Quantity) -> np.ndarray:
    """(layers, bins, distances) of the head mean."""
    folder = "pattern" if quantity == "attention" else dump.info.parts[-1]
    name = "sum_centred" if quantity == "gauge_fixed" else "sum"
    layers = range(dump.info.num_attention_layers)
    return np.stack([dump.read(f"statistics/{folder}/bins/{name}", layer).mean(0) for layer in layers])


def _line_sums(dump: "Dump", quantity: Quantity) -> np.ndarray:
    """(groups, 1 + layers, distances, 5): of all layers pooled and of each, over pairs: n, Σx, Σx², Σy, Σxy.

    x is |Δ|, y the head mean; both centred for `gauge_fixed`.
    """
    pairs = {name: dump["statistics/distance/pairs"][..., k] for k, name in enumerate(DISTANCE_PAIRS)}
    own = [pairs["n"], pairs["delta"], pairs["delta_sq"]]
    if quantity == "gauge_fixed":
        own = [pairs["n"], dump["statistics/distance/delta"], pairs["delta_c_sq"]]
    folder = "statistics/pattern" if quantity == "attention" else f"statistics/{dump.info.parts[-1]}"
    first = DISTANCE_ROWS.index("c") if quantity == "gauge_fixed" else 0
    y = dump[f"{folder}/distance"][..., first : first + 2]
    y = np.concatenate([y.mean(1, keepdims=True), y], 1)
    mine = [np.broadcast_to(each[:, None], y.shape[:-1]) for each in own]
    return np.stack([*mine, y[..., 0], y[..., 1]], -1)


def _null_sums(dump: "Dump", sums: np.ndarray) -> np.ndarray:
    """The gauge-fixed `sums` of lines, with another image's centred |Δ| for x."""
    pairs = dump["statistics/distance/pairs"]
    x, xx = (pairs[..., DISTANCE_PAIRS.index(name)] for name in ("other_c", "other_c_sq"))
    xy = dump[f"statistics/{dump.info.parts[-1]}/distance"][..., DISTANCE_ROWS.index("c_other")]
    xy = np.concatenate([xy.mean(1, keepdims=True), xy], 1)
    x, xx = (np.broadcast_to(each[:, None], xy.shape) for each in (x, xx))
    return np.stack([sums[..., 0], x, xx, sums[..., 3], xy], -1)


def _slope(sums: np.ndarray, of_column: np.ndarray) -> np.ndarray:
    """(..., distances, 5) -> (..., columns): least squares with a mean for every exact distance."""
    n, x, xx, y, xy = np.moveaxis(sums, -1, 0)
    known = np.where(n > 0, n, 1.0)
    spread = (xx - x**2 / known) @ of_column
    return ratio((xy - x * y / known) @ of_column, np.where(spread > _NULL * (xx @ of_column), spread, 0.0))


def _relative(sums: np.ndarray, of_column: np.ndarray) -> np.ndarray:
    mean = ratio(sums[..., 3] @ of_column, sums[..., 0] @ of_column)
    return ratio(_slope(sums, of_column), mean)


def _linearity(shown: pd.DataFrame) -> float:
    weight = shown["pairs"].to_numpy(float) / shown["pairs"].sum()
    x, y = shown["delta_low"].to_numpy(), shown["mean"].to_numpy()
    size = weight @ y**2
    x, y = x - weight @ x, y - weight @ y
    spread = weight @ y**2
    return float(ratio((weight @ (x * y)) ** 2, (weight @ x**2) * np.where(spread > _NULL * size, spread, 0.0)))
