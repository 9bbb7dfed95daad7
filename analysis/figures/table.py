"""A table as a picture, for slides: rules above, below and under the head, numbers to the right."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import new_figure, settings

_CHARACTER, _ROW, _GAP = 0.062, 0.17, 0.14  # inches, at 7 points


def table_figure(title: str, frame: pd.DataFrame) -> Figure:
    """A frame of texts as it would be printed."""
    widths = [max(len(str(text)) for text in (name, *frame[name])) * _CHARACTER + _GAP for name in frame]
    width, height = sum(widths) + _GAP, _ROW * (len(frame) + 3.2)
    with settings():
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.text(_GAP, _ROW, title, va="center", weight="bold")
        top = 2.2 * _ROW
        for y in (top - 0.65 * _ROW, top + 0.65 * _ROW, top + (len(frame) + 0.8) * _ROW):
            axes.plot([_GAP, width - _GAP], [y, y], color="black", linewidth=0.7)
        left = _GAP
        for name, column in zip(frame, widths, strict=True):
            numeric = all(str(text)[:1] in "+−-–<0123456789" for text in frame[name])
            x, side = (left + column - _GAP, "right") if numeric else (left, "left")
            for line, text in enumerate((name, *frame[name])):
                y = top + (line + 0.15 * (line > 0)) * _ROW
                axes.text(x, y, str(text), ha=side, va="center", weight="bold" if line == 0 else "normal")
            left += column
    return figure
