"""Where shards come from: whether their depth means to a model what the depth it was trained with meant.

Checked by one function for every command, for the depth field that the run was trained with: z of another teacher,
another polarity or other constants are other numbers for the same scene.
"""

import math
import shlex
from collections.abc import Callable
from typing import Any, Literal

from pipeline import shards
from pipeline.errors import UserError
from training.records import ShardsSeen

AcceptOtherDepth = Literal["refuse", "accept", "note"]


class OtherDepth(UserError):
    """Shards whose depth is not as the run's was; one line that names the differences and the fix."""


def seen(index: shards.ShardIndex, field: str) -> dict[str, Any]:
    """What a record keeps of a depth field of the shards: its standardisation, and who estimated it."""
    depth, provenance = index.depth[field], index.provenance(field)
    estimated = provenance.kind == "estimated"
    return {
        "standardisation": {"polarity": depth.polarity, "unit": depth.unit, "mean": depth.mean, "std": depth.std},
        "teacher": provenance.by if estimated else (index.teacher or {}).get("name"),
        "teacher_sha256": provenance.weights_sha256 or None,
        "provenance": provenance,
    }


def check(
    trained: ShardsSeen,
    index: shards.ShardIndex,
    data: str,
    field: str,
    how: AcceptOtherDepth,
    say: Callable[[str], None],
) -> list[str]:
    """Compare shards at `data` with what a run was `trained` on, before `field` of them is given to it.

    Returns the differences, for the record. `refuse` raises OtherDepth where there are any and `field` is what the run
    was trained with; `accept` and `note` tell of them, and so does a field chosen by hand.
    """
    differences = differing(trained, index)
    if not differences:
        return []
    told = f"{trained.depth_field} depth of {data} is not as the run's was: {'; '.join(differences)}"
    if how == "refuse" and field == trained.depth_field:
        again = f"with the same teacher and --stats-from {shlex.quote(trained.path)}"
        raise OtherDepth(f"{told}. Label these images again {again}, or add --accept-other-depth")
    say(f"note: {told}: --stats-from of precompute-depth makes them alike")
    return differences


def differing(trained: ShardsSeen, index: shards.ShardIndex) -> list[str]:
    """In what the depth field that a run was trained with is another one in these shards, if they have it."""
    field = trained.depth_field
    if field not in index.depth:  # `online`, or none of that name: nothing to compare
        return []
    here = seen(index, field)
    found = []
    if here["provenance"].kind == "estimated":
        ours, theirs = ((known["teacher_sha256"], known["teacher"]) for known in (trained.model_dump(), here))
        same = ours[0] == theirs[0] if ours[0] and theirs[0] else ours[1] == theirs[1]
        if not same:
            found.append(f"the teacher is {_named(theirs)}, was {_named(ours)}")
    before, now = trained.standardisation, here["standardisation"]
    for name in ("polarity", "unit"):
        if name in before and before[name] != now[name]:
            found.append(f"the {name} is {now[name]}, was {before[name]}")
    if any(name in before and before[name] != now[name] for name in ("mean", "std")):
        words = [" and ".join(f"{n} {known.get(n, math.nan):.4f}" for n in ("mean", "std")) for known in (now, before)]
        found.append(f"standardised with {words[0]}, the run's with {words[1]}")
    return found


def _named(teacher: tuple[str | None, str | None]) -> str:
    sha256, name = teacher
    return f"{name} ({sha256[:8]})" if name and sha256 else name or "none"


def check_splits(train: shards.Split, val: shards.Split, field: str) -> None:
    """Refuse train and val whose depth was standardised or estimated differently: parts of two data sets."""
    here, there = (seen(split.index, field) for split in (train, val))
    if here["standardisation"] != there["standardisation"] or here["teacher_sha256"] != there["teacher_sha256"]:
        raise OtherDepth(
            f"{val.store}: its {field} depth must be made as that of {train.store}, got another teacher or other "
            "constants: make both by one precompute-depth, or with --stats-from"
        )
