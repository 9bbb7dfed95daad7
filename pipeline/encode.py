"""A labelled photograph as the members of a sample, and a shard of them."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pipeline import depth_codec, shards
from pipeline.label import Depths
from pipeline.shards import Reject, Store
from pipeline.sources import Photograph
from pipeline.standardize import Moments, Standardisation


@dataclass
class Encoded:
    key: str
    members: dict[str, bytes]
    moments: dict[str, Moments]


def step_z(name: str, constants: Standardisation) -> float:
    """The step, in z, to which a depth field is stored: fixed for estimates, a fixed length for metres."""
    return depth_codec.PSEUDO_STEP if name == "pseudo" else depth_codec.METRIC_STEP_M / constants.std


def encode_sample(
    key: str, depths: Depths, photo: Photograph, constants: dict[str, Standardisation]
) -> Encoded | Reject:
    """The sample's members; a Reject where a depth is too far from the data set's mean to be stored."""
    members = {photo.rgb_extension: photo.rgb_bytes}
    facts: dict[str, Any] = dict(photo.facts)
    moments = {}
    for name, depth in depths.items():
        try:
            data = depth_codec.encode(constants[name].apply(depth), step_z(name, constants[name]))
        except depth_codec.CodecError as error:
            return Reject(source=facts["source"], reason=f"{name} depth cannot be stored: {error}")
        members[f"{name}.{depth_codec.EXTENSION}"] = data
        moments[name] = Moments.of(depth)
        facts[name] = shards.depth_statistics(depth, moments[name])
    if photo.cls is not None:
        members["cls"] = str(photo.cls).encode()
    if photo.seg is not None:
        members["seg.png"] = shards.png_bytes(photo.seg)
    members["json"] = json.dumps(facts, sort_keys=True).encode()
    return Encoded(key, members, moments)


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
    for sample in encoded:
        for depth_field, values in sample.moments.items():
            moments[depth_field] = moments[depth_field].merge(values)
    shards.write_shard(
        store,
        name,
        ((sample.key, sample.members) for sample in encoded),
        listing=listing,
        num_listed=len(encoded) + len(rejects),
        rejects=rejects,
        moments=moments,
        constants=constants,
    )
