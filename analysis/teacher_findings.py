"""What was found of networks that are asked, a sentence each."""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.teacher_scores import Difference, apart, level, times, within
from analysis.teachers import DENSE, PIXELS, Answer, Design, asked_in_words, asked_of, num_asked, number


def findings(found: Sequence[Design]) -> list[str]:
    """A sentence each: whose AbsRel is lower, whether it matters how a network is asked, what is saved."""
    told = []
    fields = list(dict.fromkeys(design.field for design in found))
    for field in fields:
        told.append(_compared([design for design in found if design.field == field]))
    told.append(_sparse_or_dense(found))
    return told + _break_evens(times(found))


def _compared(found: Sequence[Design]) -> str:
    answer = next((a for a in (PIXELS, DENSE) if all(d.errors(a) is not None for d in found)), None)
    if answer is None:
        return (
            f"{_listed([d.name for d in found])} cannot be compared: they were not asked alike, or an evaluation holds "
            "no errors of single images."
        )
    how = asked_in_words(answer.asked)
    known = {design.name: level(design, answer) for design in found}
    ordered = sorted(found, key=lambda d: _value(known[d.name]))
    best = known[ordered[0].name]
    if best is None:
        return "No image has a pixel that counts."
    if len(ordered) == 1:
        value = f"{number(best.value)}{_bounds(best)}"
        return f"{ordered[0].name}, {how}, has AbsRel {value} on {_images(best)}. There is no other design to compare."
    second = known[ordered[1].name]
    pairs = len(ordered) * (len(ordered) - 1) // 2
    found_apart = apart(ordered[0], ordered[1], answer, pairs)
    if second is None or found_apart is None:
        return f"{ordered[0].name} and {ordered[1].name} were evaluated on different images, and are not compared."
    values = f"{number(best.value)} against {number(second.value)}"
    picked = f", widened for the choice among {pairs} pairs" if pairs > 1 else ""
    what = f"{found_apart.told()}; 95 % over {_images(found_apart)}{' and seeds' * found_apart.seeded}{picked}; {how}"
    ours, theirs = ordered[0].name, ordered[1].name
    if not found_apart.settled:
        told = f"AbsRel does not tell {ours} from {theirs}: {values}, a difference of {what}."
    elif found_apart.seeded:
        told = f"{ours} has the lower AbsRel: {values} of {theirs}, a difference of {what}."
    else:
        told = f"The network of {ours} has a lower AbsRel than that of {theirs}: {values}, a difference of {what}."
    if not found_apart.seeded:
        told += " One network of each was trained: nothing is said of another training of these designs."
    return told + _other_pixels(ordered[:2], answer)


def _other_pixels(two: Sequence[Design], answer: Answer) -> str:
    counts = [design.scores(answer)[0].num_pixels for design in two]
    if counts[0] == counts[1]:
        return ""
    return (
        f" They see different pixels ({counts[0]:,} and {counts[1]:,}): each takes the largest centre of an image that "
        "its patches divide."
    )


def _sparse_or_dense(found: Sequence[Design]) -> str:
    """Which designs' answers differ by how they are asked; each by as many pixels as its evaluation has."""
    by: dict[str, list[str]] = {
        each: [] for each in ("is lower for", "is higher for", "is not shown to differ for", "is not known for")
    }
    for design in found:
        first = next((a for a in (PIXELS, *_numbers(design)) if design.errors(a) is not None), None)
        difference = within(design, first, DENSE) if first else None
        if first is None or difference is None:
            by["is not known for"].append(design.name)
            continue
        over = f"95 % over {_images(difference)}{' and seeds' if difference.seeded else ', one network'}"
        word = "is lower for" if difference.value < 0 else "is higher for"
        by[word if difference.settled else "is not shown to differ for"].append(
            f"{design.name} ({asked_in_words(first.asked)}: {difference.told()}; {over})"
        )
    told = "; ".join(f"{words} {_listed(names)}" for words, names in by.items() if names)
    return f"AbsRel asked pixel by pixel, against the dense map, {told}."


def _numbers(design: Design) -> list[Answer]:
    """The most pixels first."""
    asked = {answer.asked for answer in design.networks[0].answers("whole") if num_asked(answer.asked)}
    return [Answer("model", each) for each in sorted(asked, key=lambda each: -(num_asked(each) or 0))]


def _break_evens(timed: pd.DataFrame) -> list[str]:
    """One sentence, or none."""
    parts = []
    for (name, device), own in timed.groupby(["name", "device"], sort=False, dropna=False):
        even, numbers = own["break_even"].iloc[0], own["num_asked"]
        if even != even:
            continue
        if even == 0:
            told = f"not even at {numbers.min():,.0f}, the fewest that were timed"
        elif even == math.inf:
            told = f"beyond {numbers.max():,.0f}, the most that were timed"
        else:
            told = f"up to {even:,.0f}"
        parts.append(f"{told}, by {name} on {device or 'a machine that is not named'}")
    return [f"Pixels of an image that are asked in less time than the dense map takes: {'; '.join(parts)}."] * bool(
        parts
    )


def not_learned(found: Sequence[Design]) -> str:
    """Which designs are not shown to be better than what is said without looking; nothing of none."""
    told = []
    for design in found:
        answer = asked_of(design)
        against = within(design, answer, Answer("position", "dense")) if answer else None
        if against and not against.high < 0:
            told.append(f"{design.name} ({against.told()})")
    if not told:
        return ""
    return (
        f"{_listed(told)} {'are' if len(told) > 1 else 'is'} not shown to be better than the median depth of each "
        "position, which says the same of every image: take nothing here for what a design can do."
    )


def _value(known: Difference | None) -> float:
    return math.inf if known is None else known.value


def _bounds(known: Difference) -> str:
    if known.low != known.low:
        return " (no interval)"
    bounds = f"[{number(known.low)}, {number(known.high)}]".replace("-", "−")
    return f" {bounds} (95 % over images{' and seeds' * known.seeded})"


def _images(known: Difference) -> str:
    return f"{known.num_images:,} image{'s' * (known.num_images > 1)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
