"""A labelled photograph as the members of a sample, and a shard of them."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    if photo.cls is not None:
        members["cls"] = str(photo.cls).encode()
    if photo.seg is not None:
        members["seg.png"] = shards.png_bytes(photo.seg)
    sample = Encoded(key, members, {}, {})
    facts = _add_depths(sample, depths, photo, constants, fields)
    if isinstance(facts, Reject):
        return facts
    members["json"] = json.dumps({**photo.facts, **facts}, sort_keys=True).encode()
    return sample


def encode_beside(
    key: str,
    depths: Depths,
    photo: Photograph,
    constants: Mapping[str, Standardisation],
    fields: Mapping[str, DepthField],
) -> Encoded | Reject:
    """Its depth alone, for a tar beside that of its RGB: each map, and what is known of it."""
    sample = Encoded(key, {}, {}, {})
    facts = _add_depths(sample, depths, photo, constants, fields)
    if isinstance(facts, Reject):
        return facts
    for name, known in facts.items():
        sample.members[f"{name}.json"] = json.dumps(known, sort_keys=True).encode()
    return sample


def encode_nothing(key: str, size: tuple[int, int], field: str, reason: str) -> Encoded:
    """In place of a reject in a tar that must hold every key: a map of `size` (height, width) without a valid pixel."""
    nothing = np.full(size, np.nan, np.float32)
    known = {"valid_fraction": 0.0, "reject": reason}
    members = {
        f"{field}.{depth_codec.EXTENSION}": depth_codec.encode(nothing, depth_codec.PSEUDO_STEP),
        f"{field}.json": json.dumps(known, sort_keys=True).encode(),
    }
    return Encoded(key, members, {field: Moments()}, {})


def _add_depths(
    sample: Encoded,
    depths: Depths,
    photo: Photograph,
    constants: Mapping[str, Standardisation],
    fields: Mapping[str, DepthField],
) -> dict[str, dict[str, Any]] | Reject:
    """Give the sample its maps; what is known of each, by field."""
    known: dict[str, dict[str, Any]] = {}
    for name, depth in depths.items():
        try:
            data = depth_codec.encode(constants[name].apply(depth), fields[name].step_z(constants[name]))
        except depth_codec.CodecError as error:
            fix = (
                "; is its scale right, or is one value a hole? Else a larger step_m reaches farther"
                if name in photo.files and fields[name].step
                else ""
            )
            return Reject(source=photo.facts["source"], reason=f"{name} depth cannot be stored: {error}{fix}")
        sample.members[f"{name}.{depth_codec.EXTENSION}"] = data
        sample.moments[name] = Moments.of(depth)
        known[name] = dict(shards.depth_statistics(depth, sample.moments[name]))
        if file := photo.files.get(name):
            sample.files[name] = file.sha256
            known[name] |= {"file": printable(file.name), "file_sha256": file.sha256}
    return known


def write_encoded(
    store: Store,
    name: str,
    listing: str,
    encoded: list[Encoded],
    rejects: list[Reject],
    constants: dict[str, Standardisation],
    num_listed: int,
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
        num_listed=num_listed,
        rejects=rejects,
        moments=moments,
        constants=constants,
        files={depth_field: total.hex for depth_field, total in files.items()},
    )
