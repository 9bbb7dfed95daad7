"""Shards that are finished, as a source: their photographs once more, for a depth field that lies beside them.

A unit is a whole shard, so that shard k of what is made holds the samples of shard k, in their order. What a teacher
sees is what a reader decodes: the stored photograph, shrunk where that was.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from pipeline import shards
from pipeline.depth_field import DepthField
from pipeline.shards import Split, Store
from pipeline.sources import Photograph, SourceError
from pipeline.sources.ledger import Ledger, Listed


class FinishedShards:
    """The finished splits of a data set; `splits_by_name` has them."""

    depth_fields: Mapping[str, DepthField] = {}
    listing_in_config = False
    expected: Mapping[str, int] = {}
    samples_per_unit = 10**9  # whatever a shard holds: two never share one

    def __init__(self, data: Store) -> None:
        self.splits_by_name = finished(data)
        first = next(iter(self.splits_by_name.values())).own
        self.name = first.source
        self.class_names: Sequence[str] = first.class_names
        self.seg_names: Sequence[str] = first.seg_names
        self.splits: Sequence[str] = [*self.splits_by_name]
        self.notes: Sequence[str] = [
            f"{split} is not finished: run this line again when it is"
            for split in shards.SPLITS
            if split not in self.splits
            and shards.exists(data / "plan", f"{split}.json")
            and not shards.is_empty(data, split)
        ]

    def listing(self, ledger: Ledger) -> Iterator[Listed]:
        for split, opened in self.splits_by_name.items():
            for number, shard in enumerate(opened.own.shards):
                ledger.seen += 1
                yield Listed(split, f"{split}/{number:012d}/{shard.sha256}", shard.bytes)

    def samples(self, unit: str) -> Sequence[str]:
        split, number, _ = unit.split("/")
        return [
            f"{split}/{number}/{place}"
            for place in range(self.splits_by_name[split].own.shards[int(number)].num_samples)
        ]

    def key(self, split: str, item: str) -> str:
        return self.splits_by_name[split].key(self.position(item))

    def load(self, split: str, item: str) -> Photograph:
        members = self.splits_by_name[split].members(self.position(item), ("rgb",))
        extension, data = members.data["rgb"]
        return Photograph(Image.fromarray(members.decode("rgb")), data, extension, {"source": members.key})

    def position(self, item: str) -> int:
        """Of a sample in its split's own order."""
        split, number, place = item.split("/")
        shard = int(number)
        return (int(self.splits_by_name[split].ends[shard - 1]) if shard else 0) + int(place)

    def config(self) -> dict[str, Any]:
        return {"name": self.name}


def finished(data: Store) -> dict[str, Split]:
    """The finished splits of a data set, by name; ShardError or SourceError where there is none."""
    found = {split: Split(data / split) for split in shards.SPLITS if shards.exists(data / split, "index.json")}
    if not found:
        [split] = shards.splits_of(data)  # raises ShardError where there is none here either
        raise SourceError(f"{data} is the {split.index.split} split of a data set: give the folder that it lies in")
    for split in found.values():
        if [shard.name for shard in split.own.shards] != [f"shard-{k:06d}" for k in range(len(split.own.shards))]:
            raise SourceError(
                f"{split.store} must hold shards numbered from 0 without a gap, as precompute-depth makes them: its "
                "index names others"
            )
    return found
