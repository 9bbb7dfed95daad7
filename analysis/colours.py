"""Colours of what is measured, in figures and on the page: one rule, that of the sheets of the other stages.

Depth is near bright, far dark, and not measured red (`pipeline.colours`). What else has no value is grey.
"""

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, to_hex

from pipeline.colours import DEPTH_MAP, NOT_MEASURED

_UNDEFINED = "#f1f1f1"
_PALETTES = {"magnitude": "cividis", "depth": DEPTH_MAP, "signed": "RdBu_r"}  # the page's -> matplotlib's


def depth_map() -> Colormap:
    """Of z or metres; NaN is not measured."""
    return matplotlib.colormaps[DEPTH_MAP].with_extremes(bad=_not_measured())


def palettes(steps: int = 33) -> dict[str, list[str]]:
    """Hex colours in even steps: `magnitude` from small to large, `depth` from near to far, `signed` from below zero to
    above; and the ones of what is `undefined` and of depth that is `unmeasured`.
    """
    places = np.linspace(0, 1, steps)
    known = {name: [to_hex(matplotlib.colormaps[of](place)) for place in places] for name, of in _PALETTES.items()}
    return known | {"undefined": [_UNDEFINED], "unmeasured": [_not_measured()]}


def _not_measured() -> str:
    return "#{:02x}{:02x}{:02x}".format(*NOT_MEASURED)


def signed_colour(value: float) -> str:
    """The `signed` palette at `value` from -1 to 1."""
    return to_hex(matplotlib.colormaps[_PALETTES["signed"]]((value + 1) / 2))
