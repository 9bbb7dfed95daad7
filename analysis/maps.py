"""Mean attention and mean score by distance r and depth difference |Δ|, and how they change with |Δ| at one distance.

Cells are bins of |Δ| (0.1 z) by column: whole distances, r rounded down, to be looked at. Slopes within a column
compare pairs of exactly the same distance: deviations from the exact distance's means, pooled over the column, each
pair with its own |Δ|. Intervals leave out one group of images at a time.
Quantities: `attention` after softmax, and `literal` scores, bias included. Slopes on another image's |Δ| are the null:
it has what images share by position. Centring scores over a query's keys, as elsewhere, would mix distances: planted
slopes of 0 within distances came out at −0.10 to −0.02.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from analysis.attention import bin_rule, line_r2
from analysis.nulls import partner_groups
from training.dumps.pairs import BIN_WIDTH, DISTANCE_PAIRS, NUM_BINS, distances
from training.dumps.scores import DISTANCE_ROWS
from training.intervals import Jackknife, over_units, ratio, without_each

if TYPE_CHECKING:
    from training.dumps.store import Dump

Quantity = Literal["attention", "literal"]
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

    `other`: the slope on another image's |Δ|. Of attention all are over the column's mean attention. `linearity`: of
    the count-weighted line through the column's shown cells. NaN, all of them, where fewer than LEAST_BINS are shown.
    """
    columns, of_column = _columns(dump)
    both = slopes_at_distances(dump, quantity, of_column)
    own, other = (Jackknife(both.value[k], both.without[:, k]).estimate() for k in range(2))
    frame = cells(dump, quantity)
    rows = []
    for place, layer in enumerate([ALL, *dump.info.attention_layers]):
        of_layer = frame[(frame["layer"] == layer) & frame["shown"]]
        for number, column in enumerate(columns):
            shown = of_layer[of_layer["distance"] == column]
            enough = len(shown) >= LEAST_BINS
            row = {"layer": layer, "distance": column, "num_bins": len(shown)}
            for name, estimate in (("slope", own), ("other", other)):
                for suffix, values in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
                    row[name + suffix] = values[place, number] if enough else np.nan
            rows.append(row | {"linearity": _linearity(shown) if enough else np.nan})
    model = {"model": dump.info.model, "depth_field": dump.info.depth_field, "epoch": dump.info.epoch}
    return pd.DataFrame(rows).assign(quantity=quantity, num_images=dump.info.num_images, **model)


def slopes_at_distances(dump: "Dump", quantity: Quantity, of_column: np.ndarray) -> Jackknife:
    """(2, 1 + layers, columns): on an image's own |Δ| and on another's, of all layers pooled and of each.

    Of attention over the column's mean. `of_column` (distances, columns) of 0 and 1 says which distances a column has.
    Units hold an image and its partner, whose depth it is held against.
    """
    sums = partner_groups(dump, np.stack([_line_sums(dump, quantity, name) for name in ("delta", "other")], 1))
    of = _relative if quantity == "attention" else _slope
    return without_each(sums, lambda each: of(each, of_column))


def long_columns(dump: "Dump") -> tuple[np.ndarray, np.ndarray]:
    """Distances (columns,) at which enough bins are shown, all layers pooled, and `of_column` of them."""
    columns, of_column = _columns(dump)
    count, shown = _shown_cells(dump, of_column)
    enough = (shown & (count > 0)).sum(0) >= LEAST_BINS
    return columns[enough], of_column[:, enough]


def columns_linearity(dump: "Dump", of_column: np.ndarray) -> Jackknife:
    """(columns,) r² of the count-weighted line through a column's shown cells, literal scores, all layers pooled."""
    _, shown = _shown_cells(dump, of_column)
    sums = np.stack([dump["statistics/bins/group_count"], _group_sums(dump)], -1)
    sums = np.einsum("gbdk,dc->gcbk", sums, of_column)
    return without_each(sums, lambda each: line_r2(each[..., 0], each[..., 1], shown.T))


def _group_sums(dump: "Dump") -> np.ndarray:
    return np.asarray(dump[f"statistics/{dump.info.parts[-1]}/bins/group_sum"]) / dump.info.num_attention_layers


def _shown_cells(dump: "Dump", of_column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bins, columns): pairs, and whether a cell has enough of them, as `cells` says."""
    count = dump["statistics/bins/count"] @ of_column
    seen = dump["statistics/bins/images"]
    images = np.stack([seen[:, column > 0].max(1) for column in of_column.T], 1)
    min_pairs, min_images = bin_rule(dump.info.num_images)
    shown = (count >= min_pairs) & (images >= min_images)
    shown[-1] = False
    return count, shown


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
    found = over_units(sums, lambda each: ratio(each[..., 0], each[..., 1]))
    layers, places = np.indices(found.value.shape).reshape(2, -1)
    return pd.DataFrame(
        {
            "model": dump.info.model,
            "depth_field": dump.info.depth_field,
            "epoch": dump.info.epoch,
            "layer": np.array([ALL, *dump.info.attention_layers], object)[layers],
            "distance": columns[places],
            **{column: values.ravel() for column, values in found.columns("slope").items()},
            "num_images": dump.info.num_causal,
        }
    )


def _columns(dump: "Dump") -> tuple[np.ndarray, np.ndarray]:
    """Whole distances that occur, and which exact distance is in which: (distances, columns) of 0 and 1."""
    whole = np.floor(distances(dump.info.grid)[0] + 1e-9).astype(int)
    columns = np.unique(whole)
    return columns, (whole[:, None] == columns).astype(np.float64)


def _sums(dump: "Dump", quantity: Quantity) -> np.ndarray:
    """(layers, bins, distances) of the head mean."""
    folder = "pattern" if quantity == "attention" else dump.info.parts[-1]
    layers = range(dump.info.num_attention_layers)
    return np.stack([dump.read(f"statistics/{folder}/bins/sum", layer).mean(0) for layer in layers])


def _line_sums(dump: "Dump", quantity: Quantity, name: str) -> np.ndarray:
    """(groups, 1 + layers, distances, 5): of all layers pooled and of each, over pairs: n, Σx, Σx², Σy, Σxy.

    y is the head mean, x |Δ| (`delta`) or another image's (`other`).
    """
    pairs = dump["statistics/distance/pairs"]
    own = [pairs[..., DISTANCE_PAIRS.index(each)] for each in ("n", name, f"{name}_sq")]
    folder = "statistics/pattern" if quantity == "attention" else f"statistics/{dump.info.parts[-1]}"
    y = dump[f"{folder}/distance"][..., [DISTANCE_ROWS.index("s"), DISTANCE_ROWS.index(f"s_{name}")]]
    y = np.concatenate([y.mean(1, keepdims=True), y], 1)
    mine = [np.broadcast_to(each[:, None], y.shape[:-1]) for each in own]
    return np.stack([*mine, y[..., 0], y[..., 1]], -1)


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
