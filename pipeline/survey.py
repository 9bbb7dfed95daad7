"""A look at the depth of a few samples, where a wrong scale, unit or polarity shows before anything is written."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from pipeline import depth_codec
from pipeline.depth_field import DepthField
from pipeline.errors import UserError
from pipeline.standardize import SIGN, Moments

IMAGES = 16
_LEAST_M, _MOST_M = 0.05, 100.0  # a median depth beyond them is no room and no street
_CONTRADICTS = -0.5  # rank correlation
_FEW_STEPS = 32
_PIXELS = 4096  # of each image, for the rank correlation


class ContradictoryDepth(UserError):
    """Two depth fields of the same photographs say the opposite of each other."""


@dataclass
class Survey:
    """Numbers of each depth field over some samples, in its own unit."""

    fields: Mapping[str, DepthField]
    num_images: int = 0
    _low: dict[str, float] = field(default_factory=dict)
    _high: dict[str, float] = field(default_factory=dict)
    _valid: dict[str, list[float]] = field(default_factory=dict)
    _medians: dict[str, list[float]] = field(default_factory=dict)
    _middles: dict[str, list[float]] = field(default_factory=dict)  # 5th to 95th percentile, an image each
    _moments: dict[str, Moments] = field(default_factory=dict)
    _ranks: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, depths: Mapping[str, NDArray[np.floating]]) -> None:
        """One sample: field -> depth (height, width) as it is before it is standardised, NaN invalid."""
        self.num_images += 1
        for name, depth in depths.items():
            valid = depth[np.isfinite(depth)]
            self._valid.setdefault(name, []).append(valid.size / depth.size)
            if valid.size:
                self._low[name] = min(self._low.get(name, math.inf), float(valid.min()))
                self._high[name] = max(self._high.get(name, -math.inf), float(valid.max()))
                self._medians.setdefault(name, []).append(float(np.median(valid)))
                low, high = np.percentile(valid, (5, 95))
                self._middles.setdefault(name, []).append(float(high - low))
                self._moments[name] = self._moments.get(name, Moments()).merge(Moments.of(valid))
        names = sorted(depths)
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                if self.fields[one].is_metric or self.fields[other].is_metric:
                    rank = _rank_correlation(depths[one], depths[other])
                    if rank is not None:
                        sign = SIGN[self.fields[one].polarity] * SIGN[self.fields[other].polarity]
                        self._ranks.setdefault((one, other), []).append(sign * rank)

    def median(self, name: str) -> float | None:
        """Of the images' medians; None where nothing is valid."""
        return float(np.median(self._medians[name])) if self._medians.get(name) else None

    def table(self, told: Mapping[str, str] | None = None) -> Table:
        """A row a field; `told`: what each is, where more is known than the field itself says."""
        table = Table("depth", "is", "unit", "range", "valid", "median")
        for name, described in self.fields.items():
            if name not in self._valid:
                continue
            median = self.median(name)
            by = f" by {described.by}" if described.by else ""
            table.add_row(
                name, (told or {}).get(name, f"{described.kind}{by}"), described.unit,
                f"{self._low[name]:.4g} to {self._high[name]:.4g}" if median is not None else "-",
                f"{np.mean(self._valid[name]):.1%}", f"{median:.4g}" if median is not None else "-",
            )  # fmt: skip
        return table

    def notes(self) -> list[str]:
        """What looks wrong and may be right."""
        lines = []
        for name, described in self.fields.items():
            median = self.median(name) if described.unit == "m" else None
            if median is not None and median > 0 and not _LEAST_M <= median <= _MOST_M:
                factor = 10.0 ** -round(math.log10(median / 2))
                lines.append(
                    f"note: {name} depth has a median of {median:.4g} m over {self.num_images} images, and scenes have "
                    f"{_LEAST_M:g} to {_MOST_M:g} m: is its scale {factor:g} times what the description says?"
                )
            if described.step is None and self._middles.get(name):
                step = depth_codec.PSEUDO_STEP * self._moments[name].std
                steps = float(np.median(self._middles[name])) / step if step else 0.0
                if steps < _FEW_STEPS:
                    lines.append(
                        f"note: {name} depth is stored in steps of a 256th of its standard deviation, "
                        f"{self._moments[name].std:.4g}, and 90 % of an image's pixels lie within {steps:.0f} of them: "
                        "are the largest values holes?"
                    )
        return lines

    def contradiction(self) -> str | None:
        """Two fields, one of them in metres, that rise where the other falls."""
        for (one, other), found in self._ranks.items():
            rank = float(np.median(found))
            if rank < _CONTRADICTS:
                return (
                    f"{one} and {other} depth contradict each other: rank correlation {rank:.2f} over "
                    f"{len(found)} images, where both should grow with distance: one of them has the wrong polarity, "
                    "or disparity is called metres"
                )
        return None

    def check(self, accept: bool) -> list[str]:
        """The notes; ContradictoryDepth where two fields contradict each other, unless that is accepted."""
        found = self.contradiction()
        if found and not accept:
            raise ContradictoryDepth(f"{found}: mend the description, or add --accept-polarity to label it as it is")
        return [*self.notes(), *([f"note: {found}"] if found else [])]


def of(samples: Iterable[Mapping[str, NDArray[np.floating]]], fields: Mapping[str, DepthField]) -> Survey:
    survey = Survey(fields)
    for depths in samples:
        survey.add(depths)
    return survey


def _rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float | None:
    """Spearman's, over pixels where both are valid; None where these are few or one of the maps is constant."""
    import scipy.stats

    if one.shape != other.shape:
        return None
    both = np.flatnonzero(np.isfinite(one) & np.isfinite(other))
    both = both[:: max(1, both.size // _PIXELS)]
    a, b = one.ravel()[both], other.ravel()[both]
    if both.size < 16 or a.min() == a.max() or b.min() == b.max():
        return None
    return float(scipy.stats.spearmanr(a, b).statistic)
