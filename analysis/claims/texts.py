"""Numbers of findings as people read them, and cells put side by side."""

from collections.abc import Sequence

import numpy as np

from analysis.contrast import Measured


def joined(parts: Sequence[Measured]) -> Measured:
    """Cells of several as those of one."""
    fields = (np.concatenate([np.atleast_1d(getattr(each, name)) for each in parts]) for name in _ARRAYS)
    upper = [each.error if each.error_above is None else each.error_above for each in parts]
    above = np.concatenate(upper) if any(each.error_above is not None for each in parts) else None
    return Measured(*fields, max(each.factor for each in parts), min(each.seeds_df for each in parts), above)


_ARRAYS = ("value", "error", "df", "images")


def bounded(found: Measured, unit: float = 1.0) -> str:
    """`+5.2 [+3.1, +7.4]` of a single cell."""
    within = found.estimate()
    each = [signed(unit * float(np.ravel(value)[0]), unit) for value in (within.value, within.low, within.high)]
    return f"{each[0]} [{each[1]}, {each[2]}]"


def span(found: Measured) -> str:
    """Of cells: the least and the greatest, and the bound nearest to 0 if all are on one side."""
    if found.value.size == 1:
        return bounded(found)
    within = found.estimate()
    text = f"{signed(found.value.min())} to {signed(found.value.max())}"
    return f"{text}; bounds {signed(within.low.min())} to {signed(within.high.max())}"


def signed(value: float | np.ndarray, unit: float = 1.0) -> str:
    """Three decimals below 1, two above, one of points; a true minus sign."""
    number = float(value)
    digits = 1 if unit != 1.0 else 3 if abs(number) < 1 else 2
    return f"{number:+.{digits}f}".replace("-", "−")
