"""What a split's index.json says, computed from its finished shards and the job's own files."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import depth_codec, shards
from pipeline.depth_field import DepthField, estimated, fields_of
from pipeline.shards import HashSum, LeftOut, Reject, ShardIndex, ShardRecord, SidecarIndex, Store
from pipeline.standardize import Moments, Standardisation


@dataclass(frozen=True)
class Finished:
    """What the index needs to know of a finished shard."""

    name: str
    listing: str
    listed: int
    samples: int  # in the tar
    rejected: int
    bytes: int
    sha256: str
    json_sha256: str
    rejects: list[Reject]
    moments: dict[str, Moments]
    constants: dict[str, Standardisation]
    files: dict[str, str]

    @property
    def kept(self) -> int:
        """Of what was listed: samples with something in them. A sidecar has samples in place of its rejects too."""
        return self.listed - self.rejected

    @classmethod
    def load(cls, store: Store, name: str) -> "Finished":
        """Read a shard's JSON; raises ShardError where it is missing, damaged or another shard's."""
        record = shards.load_record(store, name)
        if record.name != name:
            raise shards.ShardError(f"{store}/{name}.json is that of {record.name}: it is out of place")
        return cls.of(record, hashlib.sha256(store.read(f"{name}.json")).hexdigest())

    @classmethod
    def of(cls, record: ShardRecord, json_sha256: str) -> "Finished":
        return cls(
            record.name, record.listing, record.num_listed, len(record.keys), len(record.rejects), record.bytes,
            record.sha256, json_sha256, record.rejects[: shards.INDEX_REJECTS], shards.moments_of(record),
            record.constants, record.files,
        )  # fmt: skip


def build(
    split: str,
    finished: Sequence[Finished],
    config: Mapping[str, Any],
    origin: Mapping[str, str],
    class_names: Sequence[str],
    seg_names: Sequence[str],
    left_out: Sequence[LeftOut] | None,
    beside: str | None = None,
) -> ShardIndex:
    """The index of `finished` shards, in their order. `origin`: where each depth field's constants are from.

    `left_out` is the plan's; one of version 2 knows none. The index of a job of an earlier version stays one of it.
    `beside`: the fingerprint of the shards whose sidecar it is, if it is one.
    """
    moments: dict[str, Moments] = defaultdict(Moments)
    files: dict[str, HashSum] = defaultdict(HashSum)
    rejects: list[Reject] = []
    for shard in finished:
        rejects += shard.rejects[: shards.INDEX_REJECTS - len(rejects)]
        for name, values in shard.moments.items():
            moments[name] = moments[name].merge(values)
        for name, sha256 in shard.files.items():
            files[name].add(sha256)
    fields, teacher = fields_of(config), config["teacher"]
    version = shards.SCHEMA_VERSION if "depth" in config.get("data_set", {}) else 3 if left_out is not None else 2
    depth = {
        name: shards.describe_depth(
            constants,
            unit=fields[name].unit,
            constants_from=origin[name],
            step_z=fields[name].step_z(constants),
            max_error_z=depth_codec.error_bound(fields[name].step_z(constants)),
            realised_mean=moments[name].mean,
            realised_std=moments[name].std,
            num_pixels=moments[name].count,
            provenance=_provenance(fields[name], teacher if name == estimated(config) else None, files[name])
            if version >= 4
            else None,
        )
        for name, constants in finished[0].constants.items()
    }
    facts: dict[str, Any] = {} if beside is None else {"beside": beside}
    num_listed, num_samples = sum(s.listed for s in finished), sum(s.samples for s in finished)
    return (ShardIndex if beside is None else SidecarIndex)(
        schema_version=version,
        source=config["source"]["name"],
        split=split,
        class_names=list(class_names),
        seg_names=list(seg_names),
        num_listed=num_listed,
        num_samples=num_samples,
        num_rejects=sum(s.rejected for s in finished),
        rejects=rejects,
        left_out=None if left_out is None else list(left_out),
        shards=[
            shards.ShardSummary(
                name=s.name, num_samples=s.samples, bytes=s.bytes, sha256=s.sha256, json_sha256=s.json_sha256
            )
            for s in finished
        ],
        depth=depth,
        teacher=teacher,
        config=dict(config),
        config_hash=shards.config_hash(config),
        **facts,
    )


def _provenance(field: DepthField, teacher: Mapping[str, Any] | None, files: HashSum) -> shards.Provenance:
    """`teacher`: by whom it was estimated here."""
    return shards.Provenance(
        kind=field.kind,
        by=field.by,
        weights_sha256=teacher["weights_sha256"] if teacher else "",
        files_sha256=files.hex if files.count else "",
        scale_lost=field.scale_lost,
    )


def labels_sha256(class_names: Sequence[str], seg_names: Sequence[str]) -> str:
    """Equal where labels mean the same."""
    return shards.config_hash({"class_names": list(class_names), "seg_names": list(seg_names)})
