"""What a depth field is before it is standardised: its unit, how it came to be, and how finely it is stored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline import depth_codec
from pipeline.standardize import Standardisation

Kind = Literal["measured", "filled", "rendered", "estimated"]


@dataclass(frozen=True)
class DepthField:
    """One depth field of a data set, the same in every sample."""

    kind: Kind  # by a sensor, the same with its holes filled, by a renderer, by a teacher
    by: str = ""  # which sensor, renderer or teacher, where that is known
    unit: str = "m"
    polarity: str = "farther_is_larger"  # of the values before they are standardised
    step: float | None = depth_codec.METRIC_STEP_M  # what is stored are multiples of it, in `unit`; None: of 2**-8 z
    scale_lost: bool = False  # each image was stretched for itself: its values tell order and shape, not size

    @property
    def is_metric(self) -> bool:
        """Depth of the scene in metres, so that fields can be compared by value: they share their constants."""
        return self.unit == "m" and self.kind != "estimated"

    def step_z(self, constants: Standardisation) -> float:
        """The step in z."""
        return depth_codec.PSEUDO_STEP if self.step is None else self.step / constants.std


PSEUDO = "pseudo"  # what a data set's own teacher estimates
FILLED, MEASURED, RENDERED = DepthField("filled"), DepthField("measured"), DepthField("rendered")
_BEFORE = {"real": FILLED, "raw": MEASURED, "exact": RENDERED}  # what jobs of schema 3 and earlier wrote


def of_teacher(teacher: Mapping[str, Any]) -> DepthField:
    """The field that a teacher of that identity makes."""
    return DepthField("estimated", teacher.get("name", ""), teacher["unit"], teacher.get("polarity", ""), step=None)


def described(fields: Mapping[str, DepthField]) -> dict[str, dict[str, Any]]:
    """As job.json keeps them."""
    return {name: asdict(field) for name, field in fields.items()}


def estimated(config: Mapping[str, Any]) -> str:
    """The name of what a job's teacher estimates: `pseudo`, or what a field added later is called."""
    return str(config.get("field", PSEUDO))


def fields_of(config: Mapping[str, Any]) -> dict[str, DepthField]:
    """The depth fields of a job by its configuration: its source's own, and the teacher's where one runs."""
    data_set, teacher = config.get("data_set", {}), config["teacher"]
    if "depth" in data_set:
        own = {name: DepthField(**facts) for name, facts in data_set["depth"].items()}
    else:
        own = dict(_BEFORE)
    return own | ({estimated(config): of_teacher(teacher)} if teacher else {})
