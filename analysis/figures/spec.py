"""What a figure is: its name, what it shows, its variants, and what comes out when it is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from analysis.load import AnalysisError, Given

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A figure and what is in it. Frames go by the suffix of their CSV; the first is that of the figure itself, ""."""

    figure: "Figure"
    frames: "dict[str, pd.DataFrame]"
    caption: str  # definition, numbers of images and seeds, checkpoint


Draw = Callable[[Given, str, str | None], Drawn]  # study, variant, depth field or None


@dataclass(frozen=True)
class FigureSpec:
    """What a figure shows. `analysis/figures/<file>.py` draws it: its DRAWS holds a `Draw` by the figure's name."""

    name: str  # of the command, words with hyphens between
    title: str
    about: str  # help: what it shows, what the variants mean
    variants: tuple[str, ...] = ("literal",)  # the first is the default
    per_depth: bool = True  # drawn once a depth field of the dumps
    number: int | None = None  # the paper's
    file: str = ""  # of the name, if not told

    @property
    def stem(self) -> str:
        """What names of its files and its section of the page begin with."""
        return self.name if self.number is None else f"figure{self.number}"

    @property
    def label(self) -> str:
        """`Figure 11`, or its name in words."""
        return self.name.replace("-", " ").capitalize() if self.number is None else f"Figure {self.number}"

    @property
    def heading(self) -> str:
        return f"{self.label}: {self.title}"

    def chosen(self, variant: str | None) -> str:
        """`variant`, or the default; refuses one that the figure has not."""
        if variant is not None and variant not in self.variants:
            raise AnalysisError(f"variant of {self.name} must be one of {', '.join(self.variants)}, got {variant!r}")
        return variant or self.variants[0]

    def drawn(self, study: Given, variant: str | None = None, depth: str | None = None) -> Drawn:
        """AnalysisError names the command that makes what is lacking."""
        file = import_module(f"analysis.figures.{self.file or self.name.replace('-', '_')}")
        draw: Draw = file.DRAWS[self.name]
        return draw(study, self.chosen(variant), depth)
