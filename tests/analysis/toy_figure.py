"""A figure that the paper does not number, in all that one costs: this file and `SPEC` as a line of FIGURES."""

import pandas as pd

from analysis.figures.spec import Draw, Drawn, FigureSpec
from analysis.load import Given
from analysis.style import new_figure

SPEC = FigureSpec("toy-scale", "how far is the scale of a dump's depth from 1?", about="A point a model.")


def draw(study: Given, variant: str, depth: str | None) -> Drawn:
    dumps = study.last_dumps(depth)
    frame = pd.DataFrame({"model": dump.info.model, "scale": dump.info.scale} for dump in dumps)
    figure = new_figure(3, 2)
    figure.subplots().plot(frame["scale"], "o")
    return Drawn(figure, {"": frame}, f"The scale, {variant}.")


DRAWS: dict[str, Draw] = {"toy-scale": draw}
