"""The constants of standardisation, settled once for a data set before its first shard: measured, given or borrowed."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console

from pipeline import files, shards
from pipeline.depth_field import PSEUDO, DepthField
from pipeline.errors import UserError
from pipeline.label import Depths, Labeller
from pipeline.output import Output
from pipeline.plan import Plan
from pipeline.progress import Meter
from pipeline.shards import Store
from pipeline.sources import Photograph, Source, printable
from pipeline.standardize import Moments, Standardisation
from pipeline.teachers import THESIS_STATS

Constants = dict[str, Standardisation]  # by depth field


class CalibrationError(UserError):
    """No constants can be had; one line that says why."""


def parse_stats(stats: str) -> tuple[float, float] | None:
    """None for `auto`, else (mean, std)."""
    if stats == "auto":
        return None
    try:
        mean, std = (float(part) for part in stats.split(","))
    except ValueError:
        example = ",".join(map(str, THESIS_STATS))
        raise CalibrationError(f"--stats must be 'auto' or 'MEAN,STD' such as {example}, got {stats!r}") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise CalibrationError(f"--stats needs a finite mean and a std above 0, got {stats!r}")
    return mean, std


def borrowed(
    location: str,
    teacher: Mapping[str, Any] | None,
    estimated: str = PSEUDO,
    own: Mapping[str, DepthField] = MappingProxyType({}),
) -> Constants:
    """Constants of another data set's index (a data set, a split's folder or its index.json), by depth field.

    Those of the field that `teacher` makes, `estimated`, can only be borrowed from one of a teacher with the same
    weights: other estimates, other constants. Those of the source's `own` fields, from ones of their unit and polarity.
    """
    if not location:
        return {}
    store = shards.open_store(location.removesuffix("index.json").rstrip("/") or ".")
    split = shards.splits_of(store)[0]
    split.check_depth(estimated)
    index = split.index
    if teacher and estimated in index.depth:
        theirs, provenance = index.depth[estimated], index.provenance(estimated)
        facts = {"weights_sha256": provenance.weights_sha256, "polarity": theirs.polarity, "unit": theirs.unit}
        for fact, value in facts.items():
            if value != teacher[fact]:
                raise CalibrationError(
                    f"--stats-from {location}: its {_told(estimated)} is by {provenance.by}, whose {fact} differs from "
                    f"that of {teacher['name']}: use the same teacher, --stats auto, or --stats MEAN,STD to insist"
                )
    elif estimated != PSEUDO:
        raise CalibrationError(
            f"--stats-from {location} has no {estimated} depth, it has {', '.join(index.depth)}: leave it out, or name "
            "shards to which it was added"
        )
    for name, field in own.items():
        if name in index.depth:
            _refuse_other_kind(location, name, field, index)
    return {name: depth.standardisation for name, depth in index.depth.items()}


def _refuse_other_kind(location: str, name: str, field: DepthField, index: shards.ShardIndex) -> None:
    """CalibrationError where a field's numbers mean something else there, so that its constants do not fit."""
    theirs, provenance = index.depth[name], index.provenance(name)
    facts = [("unit", field.unit, theirs.unit), ("polarity", field.polarity, theirs.polarity)]
    if "estimated" in (field.kind, provenance.kind):
        facts += [("kind", field.kind, provenance.kind), ("teacher", field.by, provenance.by)]
    for fact, ours, other in facts:
        if ours != other:
            raise CalibrationError(
                f"--stats-from {location}: the {fact} of its {name} depth is {other or 'not known'}, here it is "
                f"{ours or 'not known'}: leave it out, or name shards whose {name} depth means the same"
            )


def _told(field: str) -> str:
    return "pseudo-depth" if field == PSEUDO else f"{field} depth"


def refuse_others(
    output: Output,
    constants: Constants,
    location: str,
    teacher: Mapping[str, Any] | None,
    own: Mapping[str, DepthField],
) -> None:
    """Raise CalibrationError where --stats-from names other constants than a data set began with."""
    if not location:
        return
    try:
        known = borrowed(location, teacher, output.estimated, own)
    except (shards.ShardError, OSError):
        return  # gone since: its constants are settled
    if differing := [name for name in constants if name in known and known[name] != constants[name]]:
        raise CalibrationError(
            f"{output} was begun with other constants than those of {location} ({', '.join(differing)} depth differs): "
            f"leave --stats-from out or {output.elsewhere}"
        )


def calibrate(
    labeller: Labeller,
    split: str,
    plan: Plan,
    given: tuple[float, float] | None,
    known: Constants,
    known_from: str,
    num_images_wanted: int,
    console: Console,
) -> tuple[Constants, dict[str, str]]:
    """Constants of every depth field and where each is from.

    `given`: mean and std by hand, of the teacher's depth (of all depth where there is no teacher). `known`: borrowed
    from `known_from`. The rest is measured over `num_images_wanted` images evenly spaced over `split`.
    """
    teacher, own = labeller.teacher, labeller.source.depth_fields
    fields = [*own] if teacher is None else [labeller.estimated, *own]
    by_hand = {name: given for name in fields if name == labeller.estimated or teacher is None} if given else {}
    # What is in metres and not there takes the constants of what is.
    metric = [name for name, field in own.items() if field.is_metric]
    if lent := next((known[name] for name in metric if name in known), None):
        known = dict.fromkeys(metric, lent) | known
    # Fields in metres share the constants of the filled sensor depth, so that their z can be compared.
    leading = "real" if "real" in metric else (metric[0] if metric else "")
    moments: dict[str, Moments] = {}
    num_images = 0
    if any(name not in by_hand and name not in known for name in fields):
        moments, num_images = _measure(labeller, split, plan, fields, num_images_wanted, console)
    constants: Constants = {}
    origin: dict[str, str] = {}
    for name in fields:
        polarity = own[name].polarity if name in own else teacher.polarity if teacher else ""
        if name in by_hand:
            constants[name], origin[name] = Standardisation(*by_hand[name], polarity), "given"
        elif name in known:
            constants[name], origin[name] = known[name], f"the index of {printable(known_from)}"
        else:
            measured = moments[leading if name in metric else name]
            if not measured.std:
                raise CalibrationError(
                    f"{name} depth is {measured.mean:.6g} in every pixel of {num_images} {split} images, and constant "
                    "depth cannot be standardised: look at its files and the description's scale and clip_m"
                )
            constants[name] = Standardisation(measured.mean, measured.std, polarity)
            origin[name] = f"calibration over {num_images} {split} images"
    return constants, origin


def _measure(
    labeller: Labeller,
    split: str,
    plan: Plan,
    fields: list[str],
    num_images_wanted: int,
    console: Console,
) -> tuple[dict[str, Moments], int]:
    items = spread(labeller.source, plan, num_images_wanted)
    moments = {name: Moments() for name in fields}
    num_images = 0

    def add(slot: int, depths: Depths, photo: Photograph) -> None:
        nonlocal num_images
        num_images += 1
        for name, depth in depths.items():
            moments[name] = moments[name].merge(Moments.of(depth))

    with Meter(console, "calibrate", len(items)) as meter:
        rejects = labeller.label(meter.counting(labeller.loaded(split, items)), add)
    if num_images == 0:
        first = next(iter(rejects.values()))
        raise CalibrationError(
            f"none of the {len(items)} images tried can be used (first: {first.source}: {first.reason}): "
            "look at the source"
        )
    return moments, num_images


def spread(source: Source, plan: Plan, count: int) -> list[str]:
    """About `count` items, evenly spaced over the listing; several of a unit where there are fewer units."""
    units = plan.evenly_spaced(count)
    each = -(-count // len(units))
    items = []
    for unit in units:
        inside = source.samples(unit)
        places = np.unique(np.linspace(0, len(inside) - 1, min(each, len(inside))).round().astype(int))
        items += [inside[place] for place in places]
    return items


class _Settled(BaseModel):
    """stats.json."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    constants: dict[shards.DepthName, Standardisation]
    origin: dict[shards.DepthName, shards.Text] = Field(alias="from")

    @model_validator(mode="after")
    def _of_the_same_fields(self) -> "_Settled":
        if self.constants.keys() != self.origin.keys():
            raise ValueError("constants and from must name the same depth fields")
        return self


def damaged(store: Store) -> CalibrationError:
    return CalibrationError(
        f"{store}/stats.json is damaged: mend it with precompute-depth verify --repair, or start in a new folder"
    )


def publish(store: Store, constants: Constants, origin: Mapping[str, str]) -> None:
    content = {"constants": {field: asdict(c) for field, c in constants.items()}, "from": dict(origin)}
    shards.publish(store, "stats.json", json.dumps(content, indent=1).encode())


def read(store: Store) -> tuple[Constants, dict[str, str]]:
    """The constants of a data set's stats.json and where they are from."""
    try:
        stored = _Settled.model_validate(files.parsed_json(store.read("stats.json")))
        return stored.constants, stored.origin
    except (files.ReadError, ValidationError):
        raise damaged(store) from None
