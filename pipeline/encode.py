"""A labelled photograph as the members of a sample, and a shard of them."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import depth_codec, shards
from pipeline.depth_field import DepthField
from pipeline.label import Depths
from pipeline.shards import HashSum, Reject, Store
from pipeline.sources import Photograph, printable
from pipeline.standardize import Moments, Standardisation


@dataclass
class Encoded:
    key: str
    members: dict[str, bytes]
    moments: dict[str, Moments]
    files: dict[str, str]  # depth field -> sha256 of the file it was read from


def encode_sample(
    key: str,
    depths: Depths,
    photo: Photograph,
    constants: Mapping[str, Standardisation],
    fields: Mapping[str, DepthField],
) -> Encoded | Reject:
    """The sample's members; a Reject where a depth is too far from the data set's mean to be stored."""
    members = {photo.rgb_extension: photo.rgb_bytes}
    facts: dict[str, Any] = dict(photo.facts)
    moments = {}
    for name, depth in depths.items():
        try:
            data = depth_codec.encode(constants[name].apply(depth), fields[name].step_z(constants[name]))
        except depth_codec.CodecError as error:
            fix = "; a larger step_m reaches farther" if name in photo.files and fields[name].step else ""
            return Reject(source=facts["source"], reason=f"{name} depth cannot be stored: {error}{fix}")
        members[f"{name}.{depth_codec.EXTENSION}"] = data
        moments[name] = Moments.of(depth)
        facts[name] = shards.depth_statistics(depth, moments[name])
        if file := photo.files.get(name):
            facts[name] |= {"file": printable(file.name), "file_sha256": file.sha256}
    if photo.cls is not None:
        members["cls"] = str(photo.cls).encode()
    if photo.seg is not None:
        members["seg.png"] = shards.png_bytes(photo.seg)
    members["json"] = json.dumps(facts, sort_keys=True).encode()
    return Encoded(key, members, moments, {name: file.sha256 for name, file in photo.files.items()})


def write_encoded(
    store: Store,
    name: str,
    listing: str,
    encoded: list[Encoded],
    rejects: list[Reject],
    constants: dict[str, Standardisation],
) -> None:
    """Publish a shard: the tar, then its JSON."""
    moments: dict[str, Moments] = defaultdict(Moments)
    files: dict[str, HashSum] = defaultdict(HashSum)
    for sample in encoded:
        for depth_field, values in sample.moments.items():
            moments[depth_field] = moments[depth_field].merge(values)
        for depth_field, sha256 in sample.files.items():
            files[depth_field].add(sha256)
    shards.write_shard(
        store,
        name,
        ((sample.key, sample.members) for sample in encoded),
        listing=listing,
        num_listed=len(encoded) + len(rejects),
        rejects=rejects,
        moments=moments,
        constants=constants,
        files={depth_field: total.hex for depth_field, total in files.items()},
    )
