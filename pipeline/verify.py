"""Reading every byte of every shard again, comparing it with what the index says, and mending what differs."""

import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console

from pipeline import calibrate, shards
from pipeline.job import DAMAGED
from pipeline.progress import Meter
from pipeline.shards import ShardError, Split, Store
from pipeline.standardize import Standardisation


@dataclass
class Findings:
    """Problems, each naming file and key; the shards they lie in, as (split, shard name)."""

    problems: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    num_samples: int = 0
    num_shards: int = 0


def verify(data: str, console: Console) -> Findings:
    store = shards.open_store(data)
    found = Findings()
    splits = []
    for name in shards.SPLITS:
        folder = store / name
        if shards.exists(folder, "index.json"):
            try:
                splits.append(Split(folder))
            except shards.NewerSchemaError:
                raise
            except ShardError as error:
                found.problems.append(str(error))
        elif folder.sizes() or shards.exists(store / "plan", f"{name}.json"):
            found.problems.append(f"{folder} has no index.json: the job is not finished, run it again")
    if not splits and not found.problems:
        splits = shards.splits_of(store)
    for split in splits:
        keys: list[np.ndarray] = []
        found.problems += _constants_changed(store, split)
        before = found.num_samples
        with Meter(console, f"verify {split.index.split}", len(split)) as meter:
            for summary in split.index.shards:
                problems, hashes = _verify_shard(split, summary, meter)
                found.num_shards += 1
                found.num_samples += len(hashes)
                keys.append(hashes)
                if problems:
                    found.problems += problems
                    found.damaged.append((split.index.split, summary.name))
        index = split.index
        if not found.damaged and found.num_samples - before != len(split):
            counted = found.num_samples - before
            found.problems.append(f"{split.store}/index.json counts {len(split)} samples, the shards hold {counted}")
        if index.num_listed != index.num_samples + index.num_rejects:
            found.problems.append(f"{split.store}/index.json: kept + rejected differs from listed")
        together = np.concatenate(keys) if keys else np.empty(0, np.uint64)
        if twice := len(together) - len(np.unique(together)):
            found.problems.append(f"{split.store}: {twice} sample(s) have the key of another")
    return found


def _constants_changed(store: Store, split: Split) -> list[str]:
    """The index must standardise as the job's stats.json says."""
    if not shards.exists(store, "stats.json"):
        return []
    try:
        expected, _ = calibrate.read(store)
    except calibrate.CalibrationError:
        return [f"{store}/stats.json is damaged"]
    found = {name: depth.standardisation for name, depth in split.index.depth.items()}
    return [] if found == expected else [f"{split.store}/index.json: depth constants differ from stats.json"]


def _verify_shard(split: Split, summary: shards.ShardSummary, meter: Meter) -> tuple[list[str], np.ndarray]:
    """Problems of one shard, and a 64-bit hash of each of its keys."""
    nothing = np.empty(0, np.uint64)
    try:
        record = shards.load_record(split.store, summary.name)
    except ShardError as error:
        return [str(error)], nothing
    hashes = np.array([int.from_bytes(hashlib.blake2b(k.encode(), digest_size=8).digest()) for k in record.keys])
    tar = f"{split.store}/{summary.name}.tar"
    problems = []
    if record.sha256 != summary.sha256:
        problems.append(f"{split.store}/{record.name}.json does not belong to index.json (sha256 differs)")
    if record.num_listed != len(record.keys) + len(record.rejects):
        problems.append(f"{split.store}/{record.name}.json: kept + rejected differs from listed")
    try:
        file = split.store.local_copy(f"{summary.name}.tar")
    except FileNotFoundError:
        return [*problems, f"{tar} is missing"], nothing
    with file:
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        if digest.hexdigest() != record.sha256:
            problems.append(f"{tar}: sha256 differs from {record.name}.json")
        for place, key in enumerate(record.keys):
            meter.advance()
            shapes = set()
            for extension, (offset, length, crc) in record.extents(place).items():
                file.seek(offset)
                data = file.read(length)
                where = f"{tar}, key {key}, member {extension}"
                if len(data) != length or zlib.crc32(data) != crc:
                    problems.append(f"{where}: damaged (checksum differs)")
                    continue
                try:
                    value = shards.decode_member(extension, data)
                except (OSError, ValueError) as error:
                    problems.append(f"{where}: does not decode ({error})")
                    continue
                if isinstance(value, np.ndarray):
                    shapes.add(value.shape[:2])
            if len(shapes) > 1:
                problems.append(f"{tar}, key {key}: RGB, depth and labels differ in size ({shapes})")
        if not problems:
            file.seek(0)
            expected = [f"{k}.{e}" for place, k in enumerate(record.keys) for e in sorted(record.extents(place))]
            with tarfile.open(fileobj=file) as plain:  # what a plain tar reader sees
                if plain.getnames() != expected:
                    problems.append(f"{tar}: tar members differ from {record.name}.json")
    return problems, hashes.astype(np.uint64)


def mark(data: str, found: Findings) -> None:
    """Ask the next run to make the damaged shards again: a small file beside each. Nothing is deleted."""
    store = shards.open_store(data)
    for split, name in found.damaged:
        shards.publish(store / split, f"{name}{DAMAGED}", b"")


def restore_constants(data: str) -> None:
    """Write a lost or damaged stats.json again from an index, which holds the same numbers."""
    store = shards.open_store(data)
    try:
        calibrate.read(store)
    except (calibrate.CalibrationError, FileNotFoundError):
        depth = shards.splits_of(store)[0].index.depth
        constants: dict[str, Standardisation] = {name: field.standardisation for name, field in depth.items()}
        calibrate.publish(store, constants, {name: field.constants_from for name, field in depth.items()})


def commands(data: str) -> list[list[str]]:
    """The command lines that made the data set, one a source."""
    plan = shards.open_store(data) / "plan"
    lines = []
    for split in shards.SPLITS:
        if shards.exists(plan, f"{split}.json"):
            line = json.loads(plan.read(f"{split}.json")).get("command")
            if line and line not in lines:
                lines.append(line)
    return lines
