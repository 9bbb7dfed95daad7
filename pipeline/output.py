"""What a labelling job writes and where: a data set, or one more depth field beside a finished one.

Both are made by the same job (`job`, `split_job`) and looked after by the same commands; what differs stands here.
"""

from collections.abc import Mapping
from typing import Any

from pipeline import files, shards
from pipeline.depth_field import PSEUDO
from pipeline.encode import Encoded, encode_beside, encode_nothing, encode_sample
from pipeline.shards import Reject, Split, Store

SIDECARS = "sidecars"  # OUT/sidecars/<field> holds the job of a field that was added


class Output:
    """A data set: a sample's RGB, labels and depth in one tar. `job` holds the job's own files."""

    estimated = PSEUDO  # what the teacher's estimates are called
    shuffled = True  # whether shards take the listing's units in an order drawn by the seed
    elsewhere = "choose another folder"
    encode = staticmethod(encode_sample)

    def __init__(self, data: Store) -> None:
        self.data = self.job = data

    def __str__(self) -> str:
        return str(self.job)

    def folder(self, split: str) -> Store:
        """Where the shards of a split lie."""
        return self.data / split

    @property
    def folders(self) -> list[Store]:
        return [self.folder(split) for split in shards.SPLITS]

    def make(self) -> None:
        """Make the folder of the job, where it is one of this machine."""
        if self.job.local is not None:
            files.folder_in(self.job.local)

    def config(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Of a job's configuration: which of its options decide bytes."""
        return {"options": {k: v for k, v in options.items() if k not in ("workers", "max_rejects", "accept_polarity")}}

    def in_place_of(self, reject: Reject, split: str, shard: int, slot: int) -> tuple[Reject, Encoded | None]:
        """How a reject is listed, and the sample that the shard holds in its place, if any."""
        return reject, None

    def num_samples(self, listed: int, rejected: int) -> int:
        """How many samples a shard holds that lists and rejects so many."""
        return listed - rejected

    def beside(self, split: str) -> str | None:
        """The fingerprint of the shards it lies beside, if it does."""
        return None


class Sidecar(Output):
    """A depth field in tars of its own, `<split>/<field>`, beside those of a finished split, sample for sample.

    What a job rejects has a map without a valid pixel there.
    """

    shuffled = False
    elsewhere = "give another name with --as"
    encode = staticmethod(encode_beside)

    def __init__(self, data: Store, field: str, splits: Mapping[str, Split]) -> None:
        self.data, self.estimated, self.splits = data, field, splits
        self.job = data / SIDECARS / field

    def folder(self, split: str) -> Store:
        return self.data / split / self.estimated

    def make(self) -> None:
        if self.data.local is not None:
            files.folder_in(self.data.local, SIDECARS, self.estimated)

    def config(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Which samples a shard has follows from the shards beside it."""
        decides = super().config(options)["options"]
        return {
            "field": self.estimated,
            "options": {k: v for k, v in decides.items() if k not in ("samples_per_shard", "seed")},
        }

    def in_place_of(self, reject: Reject, split: str, shard: int, slot: int) -> tuple[Reject, Encoded | None]:
        """By its key, with a map of its RGB's size in which nothing is valid."""
        opened = self.splits[split]
        members = opened.members(int(opened.ends[shard - 1]) + slot if shard else slot, ("rgb",))
        size = members.decode("rgb").shape[:2]
        listed = Reject(source=members.key, reason=reject.reason)
        return listed, encode_nothing(members.key, size, self.estimated, reject.reason)

    def num_samples(self, listed: int, rejected: int) -> int:
        return listed

    def beside(self, split: str) -> str | None:
        return self.splits[split].own.fingerprint
