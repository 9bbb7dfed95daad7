"""The report's sections of figures: every figure of `analysis.figures`, in tabs of its depth fields and variants."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from PIL import Image

from analysis import html, output
from analysis.figures import FIGURES
from analysis.figures.spec import Drawn, FigureSpec
from analysis.html import Html
from analysis.load import AnalysisError, Given, axes_of
from analysis.style import COLUMN, PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG_BYTES = (300_000, 100_000, 40_000, 0)  # a larger drawing is shown as a picture; the next where the page is too big
_PNG_SCALE = 0.75  # of the PNG file: 150 dpi
_TABLE_ROWS = 60  # a frame of more rows is in its CSV alone
TITLES = {"gauge_fixed": "gauge-fixed", "equal_width": "equal width", "input_adjusted": "input-adjusted"}


@dataclass(frozen=True)
class _Drawing:
    """Its files are written; a mark holds its place in the page until it is known how large drawings may be."""

    name: str
    title: str
    svg: Html
    png: Path


class Drawings:
    """Figures written to `out/figures` and, by `place`, into the page."""

    def __init__(self, out: Path, revision: str) -> None:
        self._folder = out / "figures"
        self._revision = revision
        self._drawings: list[_Drawing] = []
        self.styles: set[str] = set()  # what stands in the drawings' style elements

    def figure(self, name: str, title: str, drawn: "Figure", frames: dict[str, pd.DataFrame], text: str) -> Html:
        """Write the figure's files; returns it as HTML with a mark in place of the drawing."""
        wide = bool(drawn.get_figwidth() > (COLUMN + PAGE) / 2)
        paths = output.write_figure(self._folder, name, drawn, frames, text)
        svg = (self._folder / f"{name}.svg").read_text("utf-8")
        self.styles.update(html.styles_of(svg))
        self._drawings.append(_Drawing(name, title, html.inline_svg(name, svg, title), self._folder / f"{name}.png"))
        note = f"Code {self._revision}. Files:"
        return html.figure(name, _mark(name), text, note, [path.name for path in paths], wide)

    def place(self, body: Html, max_bytes: int) -> Html:
        """The body with its drawings, as SVG where that is small, else as pictures; the more, the smaller "small"."""
        free = max_bytes - len(body.encode())
        for limit in _SVG_BYTES:
            shown = {each.name: _shown(each, limit) for each in self._drawings}
            if sum(len(picture.encode()) for picture in shown.values()) <= free:
                break
        return html.filled(body, {_mark(name): picture for name, picture in shown.items()})


def _shown(drawing: _Drawing, limit: int) -> Html:
    """SVG up to `limit`, or where a picture is no smaller."""
    if len(drawing.svg) <= limit:
        return drawing.svg
    small = io.BytesIO()
    with Image.open(drawing.png) as full:
        width, height = (round(side * _PNG_SCALE) for side in full.size)
        smaller = full.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    smaller.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)  # a third of the size
    return min(drawing.svg, html.inline_png(small.getvalue(), drawing.title), key=len)


def _mark(name: str) -> Html:
    return html.of("<!--drawing {}-->", name)


def figure_sections(study: Given, drawings: Drawings) -> dict[str, Callable[[], Html]]:
    """Anchor -> what makes its section, for every figure there is."""
    return {spec.stem: partial(_section, spec, study, drawings) for spec in FIGURES.values()}


def _section(spec: FigureSpec, study: Given, drawings: Drawings) -> Html:
    anchor = spec.stem
    fields: list[str | None] = list(study.depth_fields()) if spec.per_depth else []
    outer, missing = [], []
    for field in fields or [None]:
        inner = []
        name = f"{anchor}-{field}" if field else anchor
        for variant in spec.variants:
            title = TITLES.get(variant, variant)
            try:
                content = _panel(spec, study, variant, field, f"{name}-{variant}", drawings)
            except AnalysisError as error:
                missing.append(str(error))
                content = html.lacking(f"Not drawn: {error}.")
                title += " (not drawn)"
            inner.append((f"{name}-{variant}-panel", title, content))
        outer.append((f"{name}-panel", f"{field} depth" if field else "", html.tabs(inner)))
    num_panels = len(outer) * len(spec.variants)
    if len(missing) == num_panels and len(set(missing)) == 1:
        content = html.lacking(f"Not drawn: {missing[0]}.")
    else:
        content = html.tabs(outer)
    return html.section(anchor, spec.heading, html.markdown(spec.about), content)


def _panel(spec: FigureSpec, study: Given, variant: str, field: str | None, name: str, drawings: Drawings) -> Html:
    """One variant; where what it draws does not share axes, once for every set of dumps that do."""
    title = f"{spec.heading}, {TITLES.get(variant, variant)}"
    pieces = []
    for suffix, drawn in _drawn_sets(spec, study, variant, field).items():
        pieces.append(drawings.figure(name + suffix, title, drawn.figure, drawn.frames, drawn.caption))
        pieces.append(_numbers(drawn))
    return html.join(pieces)


def _drawn_sets(spec: FigureSpec, study: Given, variant: str, field: str | None) -> dict[str, Drawn]:
    """What is drawn, by the suffix of its name: all at once, or else `-1` and so on."""
    try:
        return {"": spec.drawn(study, variant, field)}
    except AnalysisError as error:
        refused = error
    parts = _of_one_axis(study, field) if field else []
    if len(parts) < 2:
        raise refused
    drawn = {}
    for number, part in enumerate(parts, 1):
        try:
            drawn[f"-{number}"] = spec.drawn(part, variant, field)
        except AnalysisError as error:
            refused = error
    if not drawn:
        raise refused
    return drawn


def _of_one_axis(study: Given, field: str) -> list[Given]:
    """The study once for each set of dumps of `field` that share axes."""
    axes = [axes_of(dumps[0]) for dumps in study.panel_sets(field)]
    return [replace(study, dumps=[dump for dump in study.dumps if axes_of(dump) == each]) for each in axes]


def _numbers(drawn: Drawn) -> Html:
    """The figure's small frames as tables to open."""
    tables = []
    for suffix, frame in drawn.frames.items():
        if 0 < len(frame) <= _TABLE_ROWS:
            title = suffix.lstrip("-").replace("-", " ") or "what is drawn"
            tables.append(html.details(f"Numbers: {title}", html.table(_readable(frame))))
    return html.join(tables)


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns that vary, numbers with three significant digits."""
    varying = [name for name in frame if frame[name].nunique(dropna=False) > 1 or len(frame) == 1]
    shown = {str(name).replace("_", " "): [_cell(value) for value in frame[name]] for name in varying}
    return pd.DataFrame(shown)


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", "−")
    return str(value)
