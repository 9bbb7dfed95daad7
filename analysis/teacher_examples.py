"""Example images of an evaluation of depth: read as a stranger's file, shown beside the dense map and its error.

Of networks that route queries to some of the coarsest grid's cells, also which ones: how often each is read by any of
8 x 8 queries, and the cells of four of these.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from analysis import html
from analysis.html import Html
from analysis.teachers import Design, Network, number, to_evaluate
from pipeline import files
from pipeline.colours import DEPTH_MAP, depth_colours

_MOST_IMAGES, _MOST_SIDE, _MOST_CELLS = 4, 4096, 1 << 16
_MOST_FILE, _MOST_ARRAY = 128 << 20, 64 << 20  # bytes
_SIDE = 8  # queries a side
_SHOWN = (18, 21, 42, 45)  # of them: the middles of the image's quarters, row by row
_WIDTH = 320  # px, of a picture
_WORST = 0.25  # of relative error: the end of the colours
_BUDGET = 5_000_000  # characters of the page
_MARKED, _QUERY = (230, 159, 0), (255, 255, 255)  # sRGB of routed cells, and of the query


@dataclass(frozen=True)
class Example:
    """An image: RGB uint8 (height, width, 3), metres (height, width) with NaN unknown; the cells of `grid` that each of
    8 x 8 queries is routed to (64, cells), if any.
    """

    rgb: NDArray[np.uint8]
    true: NDArray[np.float32]
    dense: NDArray[np.float32]
    routed: NDArray[np.int64] | None = None
    grid: tuple[int, int] | None = None


class _Odd(ValueError):
    """What is wrong with the file."""


def read_examples(path: Path) -> list[Example]:
    """Of an npz that `train evaluate` wrote; ValueError or OSError says what is wrong with it.

    Nothing in it is unpickled, and no array is read whose shape, type or size is not as it must be.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(files.read_bytes(path, _MOST_FILE))) as stored:
            there = {name.removesuffix(".npy") for name in stored.namelist()}
            found = [_example(stored, place, there) for place in range(_MOST_IMAGES) if f"rgb-{place}" in there]
    except _Odd:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, SyntaxError, KeyError) as error:
        raise _Odd(f"no npz of arrays, {type(error).__name__}") from None
    if not found:
        raise _Odd("holds no image")
    return found


def _example(stored: zipfile.ZipFile, place: int, there: set[str]) -> Example:
    rgb = _array(stored, f"rgb-{place}", "u", (None, None, 3))
    if rgb.dtype != np.uint8 or not 8 <= min(rgb.shape[:2]) <= max(rgb.shape[:2]) <= _MOST_SIDE:
        raise _Odd(f"rgb-{place} must be bytes, of 8 to {_MOST_SIDE} px a side, got {rgb.dtype} {rgb.shape}")
    maps = [_array(stored, f"{name}-{place}", "f", rgb.shape[:2]).astype(np.float32) for name in ("true", "dense")]
    true, dense = (np.where(np.isfinite(each) & (each > 0), each, np.float32(np.nan)) for each in maps)
    if not {f"routed-{place}", f"grid-{place}"} <= there:
        return Example(rgb, true, dense)
    sides = _array(stored, f"grid-{place}", "iu", (2,))
    grid = int(sides[0]), int(sides[1])
    routed = _array(stored, f"routed-{place}", "iu", (_SIDE**2, None))
    cells = grid[0] * grid[1]
    if min(grid) < 1 or max(grid) > _MOST_CELLS or cells > _MOST_CELLS:
        raise _Odd(f"grid-{place} must be of 1 to {_MOST_CELLS:,} cells, got {grid}")
    if not 0 < routed.shape[1] <= cells or routed.min() < 0 or routed.max() >= cells:
        raise _Odd(f"routed-{place} must be cells of a grid {grid[0]} x {grid[1]}")
    return Example(rgb, true, dense, routed.astype(np.int64), grid)


def _array(stored: zipfile.ZipFile, name: str, kinds: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Of a type of `kinds` and a shape, None being any length: what its header says is checked before it is read."""
    size = stored.getinfo(f"{name}.npy").file_size
    if size > _MOST_ARRAY:
        raise _Odd(f"{name} has {size:,} bytes, more than {_MOST_ARRAY:,}")
    with stored.open(f"{name}.npy") as file:
        data = file.read(_MOST_ARRAY)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise _Odd(f"{name} is of a format that is not known")
    said, in_columns, dtype = readers[version](stream)
    fits = len(said) == len(shape) and all(wanted in (None, got) for got, wanted in zip(said, shape, strict=True))
    if dtype.kind not in kinds or not fits or 0 in said:
        raise _Odd(f"{name} must be {'x'.join('any' if s is None else str(s) for s in shape)}, got {dtype} {said}")
    if int(np.prod([dtype.itemsize, *said], dtype=object)) != len(data) - stream.tell():
        raise _Odd(f"{name} does not have as many bytes as it says")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(said, order="F" if in_columns else "C")


# --- the section -----------------------------------------------------------------------------------------------------


def examples_section(found: Sequence[Design]) -> Html:
    """Some images of each design's first network, fewer where they would make the page too large."""
    stored = [(design, _read(design.networks[0])) for design in found]
    for count in (_MOST_IMAGES, 2, 1):
        pieces = [_of_design(design, read, count) for design, read in stored]
        if sum(map(len, pieces)) <= _BUDGET:
            break
    else:
        pieces = [html.lacking("Left out: with them the page would be too large. Give fewer runs.")]
    return html.section(
        "examples",
        "Examples",
        html.paragraph(
            "Images of val, evenly over the split, as the lowest seed of each design answers them. Depth is bright "
            "where it is near and dark where it is far, in one range of colours a row, the 2nd to 98th percentile of "
            "the truth; red was not measured. Errors are relative to the truth; grey: not known."
        ),
        *pieces,
    )


def _read(network: Network) -> list[Example] | str:
    """Or why there are none."""
    name, made = network.found.examples, to_evaluate(network.run)
    if name is None:
        return f"its evaluation has no examples: make it again with `{made}`"
    path = network.run.folder / "evaluations" / name
    try:
        return read_examples(path)
    except FileNotFoundError:
        return f"{path} is not there: make it again with `{made}`"
    except (OSError, ValueError) as error:
        return f"{path} is damaged ({files.reason(error)}): make it again with `{made}`"


def _of_design(design: Design, read: list[Example] | str, count: int) -> Html:
    network = design.networks[0]
    title = html.heading(f"{design.name}, seed {network.run.record.seed}")
    if isinstance(read, str):
        return html.join([title, html.lacking(f"No examples: {read}.")])
    rows = [_row(example) for example in read[:count]]
    return html.join([title, *([_routing(network, read)] if read[0].routed is not None else []), *rows])


def _routing(network: Network, read: list[Example]) -> Html:
    """In words: which share of the cells is read by any query, between its least and its most."""
    first = read[0]
    assert first.routed is not None and first.grid is not None
    cells, each = first.grid[0] * first.grid[1], len(set(first.routed[0].tolist()))
    shares = [
        len(np.unique(example.routed)) / (example.grid[0] * example.grid[1])
        for example in read
        if example.routed is not None and example.grid is not None
    ]
    share = network.found.routed_share if network.found.routed_share is not None else float(np.mean(shares))
    least, most = each / cells, min(1.0, _SIDE**2 * each / cells)
    told = (
        f"Each of {_SIDE**2} queries, evenly over the image, is routed to {each} of {cells} cells of the coarsest "
        f"grid; together they read {share:.0%} of the cells, mean over examples. The least possible is {least:.0%}, "
        f"all queries reading the same cells; the most {most:.0%}."
    )
    if share <= least + 0.1 * (most - least):
        told += " That is near the least: routing has collapsed, every query reads much the same cells."
    return html.paragraph(told)


def _row(example: Example) -> Html:
    known = example.true[np.isfinite(example.true)]
    low, high = (float(each) for each in np.percentile(known, (2, 98))) if known.size else (0.0, 1.0)
    error = np.abs(example.dense - example.true) / example.true
    measured = error[np.isfinite(error)]
    bar = _legend(f"{low:.1f} m", f"{high:.1f} m", DEPTH_MAP)
    mean = f"AbsRel {number(float(measured.mean()))}" if measured.size else "no truth to compare with"
    panels = [
        _panel("photograph", _picture(example.rgb)),
        _panel("truth", _picture(depth_colours(example.true, low, high)), bar),
        _panel("dense map", _picture(depth_colours(example.dense, low, high)), bar),
        _panel(f"error: {mean}", _picture(_error_colours(error)), _legend("0", f"{_WORST:.0%} and more", "magma")),
    ]
    if example.routed is not None and example.grid is not None:
        panels.append(_panel("cells read by queries", _picture(_often(example)), _legend("none", "all", "cividis")))
        panels.append(_panel("four queries and their cells", _picture(_queries(example))))
    return html.of('<div class="examples">\n{}\n</div>', html.join(panels))


def _panel(title: str, picture: bytes, legend: Html = Html()) -> Html:
    return html.of(
        '<figure class="example">{}{}<figcaption>{}</figcaption></figure>',
        html.inline_jpeg(picture, title),
        legend,
        title,
    )


def _legend(low: str, high: str, colours: str) -> Html:
    ramp = (matplotlib.colormaps[colours](np.linspace(0, 1, 64))[None, :, :3] * 255).round().astype(np.uint8)
    strip = io.BytesIO()
    Image.fromarray(ramp).save(strip, "PNG")
    return html.of(
        '<div class="legend"><span>{}</span>{}<span>{}</span></div>', low, html.inline_png(strip.getvalue(), ""), high
    )


def _picture(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of the page's width."""
    height = max(1, round(pixels.shape[0] * _WIDTH / pixels.shape[1]))
    made = io.BytesIO()
    shown = Image.fromarray(pixels).resize((_WIDTH, min(height, 4 * _WIDTH)), Image.Resampling.LANCZOS)
    shown.save(made, "JPEG", quality=85, subsampling=0)
    return made.getvalue()


def _error_colours(error: NDArray[np.floating]) -> NDArray[np.uint8]:
    known = np.isfinite(error)
    shades = matplotlib.colormaps["magma"](np.clip(np.where(known, error, 0) / _WORST, 0, 1))[..., :3]
    pixels = (shades * 255).round().astype(np.uint8)
    pixels[~known] = 150
    return pixels


def _dimmed(example: Example, width: int) -> NDArray[np.float64]:
    """Its grey picture, half as strong, (height, width, 3)."""
    height = max(1, min(4 * width, round(example.rgb.shape[0] * width / example.rgb.shape[1])))
    grey = Image.fromarray(example.rgb).convert("L").resize((width, height), Image.Resampling.LANCZOS)
    return np.repeat(40 + 0.55 * np.asarray(grey, np.float64)[..., None], 3, axis=2)


def _over_cells(values: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """A value a cell (rows, columns), laid over an image of (height, width)."""
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(shape[:2], values.shape, strict=True))
    return np.asarray(values[rows[:, None], columns[None]])


def _often(example: Example) -> NDArray[np.uint8]:
    """Which share of the queries reads each cell, over the grey picture."""
    assert example.routed is not None and example.grid is not None
    counts = np.zeros(example.grid[0] * example.grid[1])
    for cells in example.routed:
        counts[np.unique(cells)] += 1
    under = _dimmed(example, _WIDTH)
    share = _over_cells((counts / len(example.routed)).reshape(example.grid), under.shape)
    colours = matplotlib.colormaps["cividis"](share)[..., :3] * 255
    return (0.25 * under + 0.75 * colours).round().astype(np.uint8)


def _queries(example: Example) -> NDArray[np.uint8]:
    """Four queries, each a cross, with the cells that it reads."""
    assert example.routed is not None and example.grid is not None
    tiles = []
    for query in _SHOWN:
        under = _dimmed(example, _WIDTH // 2 - 2)
        read = np.zeros(example.grid[0] * example.grid[1], bool)
        read[example.routed[query]] = True
        mask = _over_cells(read.reshape(example.grid), under.shape)[..., None]
        tile = np.where(mask, 0.35 * under + 0.65 * np.array(_MARKED), under)
        row, column = ((place + 0.5) / _SIDE for place in divmod(query, _SIDE))
        y, x = int(row * tile.shape[0]), int(column * tile.shape[1])
        for colour, wide, reach in (((0, 0, 0), 2, 8), (_QUERY, 1, 7)):
            tile[max(0, y - wide) : y + wide + 1, max(0, x - reach) : x + reach + 1] = colour
            tile[max(0, y - reach) : y + reach + 1, max(0, x - wide) : x + wide + 1] = colour
        tiles.append(np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255))
    upper, lower = np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)
    return np.concatenate([upper, lower]).round().astype(np.uint8)
