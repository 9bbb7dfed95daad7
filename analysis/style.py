"""How figures look: two column widths, small type, one colour, marker and dash per model on every page."""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.9  # inches: one and two columns
GREY = "#8a8a8a"  # nulls and references


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    dash: Any


# Okabe and Ito's palette, readable with colour-vision deficiencies; marker and dash carry it in greyscale.
LOOKS = {
    "m3ch": Look("#000000", "o", "-"),
    "mlin": Look("#0072B2", "s", (0, (5, 1.5))),
    "mmlp": Look("#56B4E9", "D", (0, (1, 1))),
    "m4ch": Look("#D55E00", "^", (0, (7, 1.5, 1.5, 1.5))),
    "mdf1": Look("#009E73", "v", (0, (3, 1, 1, 1, 1, 1))),
    "mgem": Look("#CC79A7", "P", (0, (3, 2.5))),
}

_OTHER = Look("#7F3C8D", "X", (0, (2, 1)))  # a fusion technique that is not the paper's


def look_of(model: str) -> Look:
    return LOOKS.get(model, _OTHER)


_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "pseudodepth",
    "savefig.dpi": 200,
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a $ in a name is a $
}


def settings() -> Any:
    """A context in which figures are made."""
    return matplotlib.rc_context(_SETTINGS)


class _Shown(Figure):
    """A figure that a notebook shows by itself, once: pyplot neither knows nor keeps it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with settings():
            self.savefig(buffer, format="png", dpi=_SETTINGS["savefig.dpi"] / 2)
        return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    return _Shown(figsize=(width, height), layout="constrained")


def zero_line(axes: Axes, vertical: bool = False) -> None:
    (axes.axvline if vertical else axes.axhline)(0, color=GREY, linewidth=0.6, zorder=0)


def rendered(figure: Figure, caption: str = "") -> dict[str, bytes]:
    """The bytes of `pdf`, `svg` and `png` files, equal for equal figures: no dates inside.

    Laid out once, where `Figure.savefig` would do it for each. The caption is in their metadata.
    """
    made = {kind: io.BytesIO() for kind in ("pdf", "svg", "png")}
    with settings():
        figure.dpi = _SETTINGS["savefig.dpi"]
        canvas = FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:  # the layout's last bits go by the order of sets, and ids in the SVG by them
            axes.set_position(np.round(axes.get_position(original=True).bounds, 9).tolist())
        canvas.print_png(made["png"], metadata={"Description": caption})
        FigureCanvasSVG(figure).print_svg(made["svg"], metadata={"Date": None, "Description": caption})
        FigureCanvasPdf(figure).print_pdf(made["pdf"], metadata={"CreationDate": None, "Subject": caption})
    return {kind: buffer.getvalue() for kind, buffer in made.items()}


def layer_ramp(count: int) -> list[Any]:
    """A colour a layer, dark to light: viridis without its pale end, which white paper swallows."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count)))
