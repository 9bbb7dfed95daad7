"""Shards with depth in metres, which is what a network is told that learns to estimate it."""

from pipeline import shards
from training.engine.share import DataError


def open_metric(data: str, split: str, field: str) -> shards.Split:
    """A split with this depth, in metres; DataError where it has none."""
    opened = shards.open_split(data, split)
    opened.check_depth(field)
    have = opened.index.depth
    if field not in have:
        raise DataError(
            f"{opened.store} must hold {field!r} depth, it has {', '.join(have) or 'none'}: choose another with "
            "--depth, or make shards that have it"
        )
    if have[field].unit != "m":
        raise DataError(f"{opened.store}: {field!r} depth must be in m, got {have[field].unit!r}: choose another field")
    return opened
