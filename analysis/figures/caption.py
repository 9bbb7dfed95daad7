"""How captions say what was measured: images, seeds, checkpoints."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.load import seed_of

if TYPE_CHECKING:
    from training.dumps.store import Dump


def of_dumps(dumps: "list[Dump]") -> str:
    """`500 images, patch depth mean of pseudo, 1 seed, epoch 300`."""
    first = dumps[0].info
    modes = " and ".join(dict.fromkeys(dump.info.patch_depth for dump in dumps))
    seeds = seeds_a_model((dump.info.model, seed_of(dump)) for dump in dumps)
    epochs = among((dump.info.epoch for dump in dumps), "epoch")
    images = among((dump.info.num_images for dump in dumps), "image", behind=True)
    return f"{images}, patch depth {modes} of {first.depth_field}, {seeds}, {epochs}"


def seeds_a_model(models_and_seeds: Iterable[tuple[str, int]]) -> str:
    """`1 seed`, `3 seeds`, or `1 to 3 seeds a model`."""
    known: dict[str, set[int]] = {}
    for model, seed in models_and_seeds:
        known.setdefault(model, set()).add(seed)
    counts = sorted({len(seeds) for seeds in known.values()})
    return among(counts, "seed", behind=True) + (" a model" if len(counts) > 1 else "")


def among(numbers: Iterable[int], name: str, behind: bool = False) -> str:
    """`epoch 5`, `epochs 0 to 5`; behind the number: `1 seed`, `2 seeds`, `1 to 3 seeds`."""
    found = sorted(set(numbers))
    text = f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"
    if behind:
        return f"{text} {name}{'s' * (found[-1] != 1)}"
    return f"{name}{'s' * (len(found) > 1)} {text}"
