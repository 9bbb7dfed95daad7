"""Numbers of findings as people read them, and cells put side by side."""

from collections.abc import Sequence

import numpy as np

from analysis.contrast import Measured

POINTS = 100.0  # of a share


def joined(parts: Sequence[Measured]) -> Measured:
    """Cells of several as those of one."""
    sizes = [each.value.size for each in parts]

    def spread(values: "Sequence[np.ndarray | float]") -> np.ndarray:
        return np.concatenate([np.broadcast_to(value, size) for value, size in zip(values, sizes, strict=True)])

    seeds = []  # of each source a variance that is 0 in the cells of others
    for place, each in enumerate(parts):
        for variance, df in each.seeds:
            seeds.append((spread([variance if k == place else 0.0 for k in range(len(parts))]), df))
    return Measured(
        spread([each.value for each in parts]),
        spread([each.images for each in parts]),
        min(each.images_df for each in parts),
        tuple(seeds),
        spread([each.shared for each in parts]),
        max(each.factor for each in parts),
        min(each.seeds_df for each in parts),
    )


def bounded(found: Measured, unit: float = 1.0) -> str:
    """`+5.2 [+3.1, +7.4]` of a single cell."""
    within = found.estimate()
    value, *bounds = (unit * float(np.ravel(each)[0]) for each in (within.value, within.low, within.high))
    if np.isnan(value):
        return "undefined"
    interval = "" if np.isnan(bounds).any() else f" [{signed(bounds[0], unit)}, {signed(bounds[1], unit)}]"
    return signed(value, unit) + interval


def span(found: Measured) -> str:
    """Of cells: the least and the greatest, and the bound nearest to 0 if all are on one side."""
    if found.value.size == 1:
        return bounded(found)
    within = found.estimate()
    if np.isnan(found.value).all():
        return "undefined"
    text = f"{signed(np.nanmin(found.value))} to {signed(np.nanmax(found.value))}"
    if np.isnan(within.low).all():
        return text
    return f"{text}; bounds {signed(np.nanmin(within.low))} to {signed(np.nanmax(within.high))}"


def signed(value: float | np.ndarray, unit: float = 1.0) -> str:
    """Three decimals below 1, two above, one of points; a true minus sign."""
    number = float(value)
    digits = 1 if unit != 1.0 else 3 if abs(number) < 1 else 2
    return f"{number:+.{digits}f}".replace("-", "−")
