"""Arrays and colours as the report's page holds them: 8 bits, deflated, in base64. `analysis/canvas.js` reads them."""

import base64
import zlib

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

LEVELS = 254  # bytes 1..255; 0 is undefined


def quantised(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """uint8: 1 at `low`, 255 at `high`, clipped between, 0 where not finite; off by at most half a level."""
    share = np.clip((values - low) / np.maximum(np.subtract(high, low), 1e-30), 0, 1)
    return np.where(np.isfinite(values), np.rint(1 + LEVELS * np.nan_to_num(share)), 0).astype(np.uint8)


def deflated(values: np.ndarray) -> str:
    """The array's bytes as zlib in base64: DecompressionStream("deflate") undoes it."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()


def palettes(steps: int = 33) -> dict[str, list[str]]:
    """Hex colours in even steps: `magnitude` from small to large, `signed` from below zero to above."""
    places = np.linspace(0, 1, steps)
    return {
        "magnitude": [to_hex(matplotlib.colormaps["cividis"](place)) for place in places],
        "signed": [to_hex(matplotlib.colormaps["RdBu_r"](place)) for place in places],
    }


def signed_colour(value: float) -> str:
    """The `signed` palette at `value` from -1 to 1."""
    return to_hex(matplotlib.colormaps["RdBu_r"]((value + 1) / 2))
