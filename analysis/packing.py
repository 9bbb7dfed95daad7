"""Arrays as the report's page holds them: 8 bits, deflated, in base64. `analysis/canvas.js` reads them."""

import base64
import zlib

import numpy as np

LEVELS = 254  # bytes 1..255; 0 is undefined


def quantised(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """uint8: 1 at `low`, 255 at `high`, clipped between, 0 where not finite; off by at most half a level."""
    share = np.clip((values - low) / np.maximum(np.subtract(high, low), 1e-30), 0, 1)
    return np.where(np.isfinite(values), np.rint(1 + LEVELS * np.nan_to_num(share)), 0).astype(np.uint8)


def deflated(values: np.ndarray) -> str:
    """The array's bytes as zlib in base64: DecompressionStream("deflate") undoes it."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()
