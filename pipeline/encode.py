"""A labelled photograph as the members of a sample, and a shard of them."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import depth_codec, shards
from pipeline.label import Depths
from pipeline.shards import Reject
from pipeline.sources import Photograph
from pipeline.standardize import Moments, Standardisation


@dataclass
class Encoded:
    key: str
    members: dict[str, bytes]
    moments: dict[str, Moments]
    max_error_z: dict[str, float]


def encode(key: str, depths: Depths, photo: Photograph, constants: dict[str, Standardisation]) -> Encoded:
    members = {photo.rgb_extension: photo.rgb_bytes}
    facts: dict[str, Any] = dict(photo.facts)
    moments, max_error_z = {}, {}
    for name, depth in depths.items():
        z = constants[name].apply(depth)
        bits = depth_codec.PSEUDO_BITS if name == "pseudo" else depth_codec.METRIC_BITS
        members[f"{name}.{depth_codec.EXTENSION}"] = depth_codec.encode(z, bits)
        moments[name] = Moments.of(depth)
        lo, hi = (float(np.nanmin(z)), float(np.nanmax(z))) if np.isfinite(z).any() else (0.0, 0.0)
        max_error_z[name] = depth_codec.error_bound(lo, hi, bits)
        facts[name] = shards.depth_statistics(depth)
    if photo.cls is not None:
        members["cls"] = str(photo.cls).encode()
    if photo.seg is not None:
        members["seg.png"] = shards.png_bytes(photo.seg)
    members["json"] = json.dumps(facts, sort_keys=True).encode()
    return Encoded(key, members, moments, max_error_z)


def write(folder: Path, name: str, encoded: list[Encoded], rejects: list[Reject]) -> None:
    moments: dict[str, Moments] = defaultdict(Moments)
    max_error_z: dict[str, float] = defaultdict(float)
    for sample in encoded:
        for depth_field, values in sample.moments.items():
            moments[depth_field] = moments[depth_field].merge(values)
            max_error_z[depth_field] = max(max_error_z[depth_field], sample.max_error_z[depth_field])
    shards.write_shard(
        folder,
        name,
        ((sample.key, sample.members) for sample in encoded),
        num_listed=len(encoded) + len(rejects),
        rejects=rejects,
        moments=moments,
        max_error_z=max_error_z,
    )
