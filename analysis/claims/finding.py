"""What a rule comes to: a verdict with the numbers that it follows from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.load import AnalysisError, Study
from analysis.statistics import Estimate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from analysis.attention import Variant
    from training.dumps.store import Dump

Verdict = Literal["reproduced", "partly", "not", "not tested"]
DEPTH = "pseudo"  # all are claims about pseudo-depth
OTHER = "on another image's depth"


@dataclass(frozen=True)
class Finding:
    """`observed` and `interval` are for people."""

    verdict: Verdict
    observed: str
    interval: str = "–"


Claim = dict[str, Any]  # an entry of data_manifests/claims.toml
Rule = Callable[[Study, str, Claim], Finding]  # study, variant or "", claim


def of_records(rule: Callable[[Study, Claim], Finding]) -> Rule:
    """A rule on the whole study; what the study lacks for it is said in place of a verdict."""

    def judged(study: Study, variant: str, claim: Claim) -> Finding:
        try:
            return rule(study, claim)
        except AnalysisError as error:
            return Finding("not tested", str(error))

    return judged


def of_dump(rule: "Callable[[Dump, Variant, Claim], Finding]") -> Rule:
    """A rule on the last dump of the claim's model, of its lowest seed; what it lacks is said in place of a verdict."""

    def judged(study: Study, variant: Any, claim: Claim) -> Finding:
        model = claim["model"]
        try:
            dump = last_dump(study, model)
            if dump.info.num_images < 2:
                return Finding("not tested", "needs a dump of at least 2 images: intervals resample images")
            return rule(dump, variant, claim)
        except AnalysisError as error:
            return Finding("not tested", str(error))

    return judged


def last_dump(study: Study, model: str) -> "Dump":
    of_model = Study([], [d for d in study.dumps if d.info.model == model and d.info.depth_field == DEPTH])
    if not of_model.dumps:
        raise AnalysisError(f"needs a dump of {model} on {DEPTH} depth")
    return of_model.epoch_dumps(model)[-1]


def defined(values: "ArrayLike") -> np.ndarray:
    """Nothing follows from NaN, which is neither above nor below anything."""
    found = np.asarray(values)
    if np.isnan(found).any():
        raise AnalysisError("undefined in places: needs more images, or scores and depth that vary")
    return found


def side(value: float, bound: float, above: bool) -> Verdict:
    """`bound` is the interval's end nearest to 0 if the claim holds: low for a claim of > 0, high for < 0."""
    defined([value, bound])
    sign = 1 if above else -1
    return "reproduced" if sign * bound > 0 else "partly" if sign * value > 0 else "not"


def share(holds: np.ndarray, what: str) -> tuple[Verdict, str]:
    """All, at least half, or fewer."""
    verdict: Verdict = "reproduced" if holds.all() else "partly" if holds.mean() >= 0.5 else "not"
    return verdict, f"{int(holds.sum())} of {holds.size} {what}"


def beyond_null(verdict: Verdict, bounds: "ArrayLike", above: bool, what: str = "") -> tuple[Verdict, str]:
    """What is reproduced only where it goes beyond its null: the value on another image's depth, which has all that
    positions have in common.

    `bounds`: the intervals' ends nearest to 0 of value minus null if the claim holds. The text says where it does not.
    """
    near = np.atleast_1d(bounds)
    if np.isnan(near).any():
        return (
            "partly" if verdict == "reproduced" else verdict,
            "; too few images to hold it against another image's depth",
        )
    holds = near > 0 if above else near < 0
    if holds.all():
        return verdict, ""
    where = f" in {int((~holds).sum())} of {holds.size} {what}" if what else ""
    return "partly" if verdict == "reproduced" else verdict, f"; not beyond another image's depth{where}"


def span(values: np.ndarray) -> str:
    return f"{signed(np.nanmin(values))} to {signed(np.nanmax(values))}" if np.isfinite(values).any() else "undefined"


def bounded(estimate: Estimate) -> str:
    return f"{signed(estimate.value)} [{signed(estimate.low)}, {signed(estimate.high)}]"


def signed(value: float | np.ndarray) -> str:
    """Three decimals below 1, two above; a true minus sign."""
    number = float(value)
    return f"{number:+.3f}".replace("-", "−") if abs(number) < 1 else f"{number:+.2f}".replace("-", "−")
