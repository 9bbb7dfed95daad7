"""Reading every byte of every shard again, comparing it with what the index says, and mending what differs."""

import contextlib
import hashlib
import os
import tarfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipeline import calibrate, index, plan, shards
from pipeline.claim import JobError, check_config, differences, read_config
from pipeline.depth_field import fields_of
from pipeline.index import Finished
from pipeline.output import SIDECARS, Output, Sidecar
from pipeline.progress import Meter
from pipeline.shards import ShardError, Split, Store
from pipeline.split_job import DAMAGED


@dataclass
class Findings:
    """Problems, each naming file and key; the shards they lie in, as (folder below the data set, shard name).

    `outputs` are those that have a problem: the data set itself, "", and depth fields that were added to it, by name.
    """

    problems: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    outputs: set[str] = field(default_factory=set)
    num_samples: int = 0
    num_shards: int = 0

    def add(self, output: str, *problems: str) -> None:
        self.problems += problems
        self.outputs |= {output} if problems else set()


@dataclass(frozen=True)
class _Part:
    """Shards of one folder, what their index says, and the job that made them."""

    name: str  # of the depth field that was added, "" for the data set's own
    output: Output
    store: Store
    index: shards.ShardIndex
    below: str  # the folder's place in the data set


def check_shards(data: str, console: Console) -> Findings:
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
                found.add("", str(error))
        elif shards.is_empty(store, name):
            continue
        elif folder.sizes() or shards.exists(store / "plan", f"{name}.json"):
            found.add("", f"{folder} has no index.json: the job is not finished, or rejected every image: run it again")
    if not splits and not found.problems:
        splits = shards.splits_of(store)
    for split in splits:
        name = split.index.split
        own = _verify_part(_Part("", Output(store), split.store, split.own, name), found, console)
        for added in _added(store, split, found):
            output = Sidecar(store, added, {name: split})
            part = _Part(added, output, split.store / added, split.sidecars[added], f"{name}/{added}")
            beside = _verify_part(part, found, console)
            for number, keys in own.items():
                if number in beside and not np.array_equal(beside[number], keys):
                    tar = f"{part.store}/{part.index.shards[number].name}.tar"
                    found.add(added, f"{tar}: its keys are not those of the tar beside it")
                    found.damaged.append((part.below, part.index.shards[number].name))
    return found


def _added(store: Store, split: Split, found: Findings) -> list[str]:
    """Depth fields that were added to the split and can be looked at; others are problems, where a job began them."""
    name = split.index.split
    begun = {
        added
        for added in (store / SIDECARS).folders()
        if shards.is_depth_name(added) and shards.exists(store / SIDECARS / added / "plan", f"{name}.json")
    }
    for added in sorted((begun | split.unusable.keys()) - split.sidecars.keys()):
        found.add(added, split.unusable.get(added) or shards.unfinished(split.store / added))
    return [*split.sidecars]


def _verify_part(part: _Part, found: Findings, console: Console) -> dict[int, NDArray[np.uint64]]:
    """Look at every shard of a folder; hashes of the keys of those whose JSON can be read, by number."""
    keys: dict[int, NDArray[np.uint64]] = {}
    finished: list[Finished] = []
    damaged_before = len(found.damaged)
    with Meter(console, f"verify {part.below}", part.index.num_samples) as meter:
        for number, summary in enumerate(part.index.shards):
            problems, record, hashes = _verify_shard(part, summary, meter)
            found.num_shards += 1
            found.num_samples += 0 if part.name else len(hashes)
            if record:
                keys[number] = hashes
                finished.append(Finished.of(record, summary.json_sha256))
            if problems:
                found.add(part.name, *problems)
                found.damaged.append((part.below, summary.name))
    together = np.concatenate([*keys.values(), np.empty(0, np.uint64)])
    if twice := len(together) - len(np.unique(together)):
        found.add(part.name, f"{part.store}: {twice} sample(s) have the key of another")
    if finished and len(finished) == len(part.index.shards) and len(found.damaged) == damaged_before:
        found.add(part.name, *_index_differs(part, finished))
    return keys


def _index_differs(part: _Part, finished: list[Finished]) -> list[str]:
    """The index must be what follows from the shards, and agree with the job's own files where they are here."""
    stated, where, job = part.index, f"{part.store}/index.json", part.output.job
    if shards.config_hash(stated.config) != stated.config_hash:
        return [f"{where}: its configuration does not have the hash it states"]
    try:
        config, origin, left_out = _job_says(part)
    except (JobError, calibrate.CalibrationError) as error:
        return [str(error)]
    if changed := differences(stated.config, config):
        return [f"{where} differs from {job}/job.json and plan: {'; '.join(changed[:3])}"]
    constants = {name: depth.standardisation for name, depth in stated.depth.items()}
    if origin.keys() != constants.keys() or any(shard.constants != constants for shard in finished):
        return [f"{where}: depth constants differ from those the shards were written with"]
    if unknown := constants.keys() - fields_of(config).keys():
        return [f"{where}: its configuration does not tell what {min(unknown)} depth is"]
    if config["data_set"]["labels_sha256"] != index.labels_sha256(stated.class_names, stated.seg_names):
        return [f"{where}: class names differ from those of the job"]
    expected = index.build(
        stated.split, finished, config, origin, stated.class_names, stated.seg_names, left_out,
        part.output.beside(stated.split),
    )  # fmt: skip
    changed = differences(stated.model_dump(mode="json"), expected.model_dump(mode="json"))
    return [f"{where} differs from its shards: {'; '.join(changed[:3])}"] if changed else []


def _job_says(part: _Part) -> tuple[dict[str, Any], dict[str, str], Sequence[shards.LeftOut] | None]:
    """Configuration, the constants' origin and what was left out, from the job's files; the index's own where shards
    lie alone.
    """
    stated, store = part.index, part.output.job
    origin = {name: depth.constants_from for name, depth in stated.depth.items()}
    if not shards.exists(store, "job.json"):
        check_config(stated.config, f"{part.store}/index.json")
        return stated.config, origin, stated.left_out
    if shards.exists(store, "stats.json"):
        constants, origin = calibrate.read(store)
        if constants != {name: depth.standardisation for name, depth in stated.depth.items()}:
            raise JobError(f"{part.store}/index.json: depth constants differ from {store}/stats.json")
    facts = plan.facts(store / "plan", stated.split)
    plan.check(store / "plan", stated.split, facts)
    return read_config(store) | plan.described(facts), origin, plan.left_out(facts)


def _verify_shard(
    part: _Part, summary: shards.ShardSummary, meter: Meter
) -> tuple[list[str], shards.ShardRecord | None, NDArray[np.uint64]]:
    """Problems of one shard, its JSON, and a 64-bit hash of each of its keys."""
    nothing = np.empty(0, np.uint64)
    try:
        record = shards.load_record(part.store, summary.name)
    except ShardError as error:
        return [str(error)], None, nothing
    digests = [hashlib.blake2b(key.encode(), digest_size=8).digest() for key in record.keys]
    hashes = np.frombuffer(b"".join(digests), np.uint64)
    tar = f"{part.store}/{summary.name}.tar"
    problems = []
    if hashlib.sha256(part.store.read(f"{summary.name}.json")).hexdigest() != summary.json_sha256:
        problems.append(f"{part.store}/{summary.name}.json is not as index.json says (sha256 differs)")
    if len(record.keys) != part.output.num_samples(record.num_listed, len(record.rejects)):
        problems.append(f"{part.store}/{record.name}.json: kept + rejected differs from listed")
    try:
        file = part.store.local_copy(f"{summary.name}.tar")
    except FileNotFoundError:
        return [*problems, f"{tar} is missing"], record, nothing
    except OSError as error:
        return [*problems, f"{tar} cannot be read ({error.strerror or error})"], record, nothing
    with file:
        size = file.seek(0, os.SEEK_END)
        if shards.sha256_of(file) != record.sha256:
            problems.append(f"{tar}: sha256 differs from {record.name}.json")
        for place, key in enumerate(record.keys):
            meter.advance()
            members, sample = shards.Members(key, tar, index=part.index), {}
            for extension, (offset, length, crc) in record.extents(place).items():
                file.seek(offset)
                data = file.read(min(length, max(0, size - offset)))  # memory for no more than there is
                if len(data) != length or zlib.crc32(data) != crc:
                    problems.append(f"{tar}, key {key}, member {extension}: damaged (checksum differs)")
                    continue
                try:
                    name = members.add(extension, data, length, crc)
                    sample[name] = members.decode(name)
                except ShardError as error:
                    problems.append(str(error))
            try:
                members.check_has(part.index.fields)
                members.check_sizes(sample)
            except ShardError as error:
                if not problems:  # else it lacks what is damaged
                    problems.append(str(error))
        if not problems:
            expected = [f"{k}.{e}" for place, k in enumerate(record.keys) for e in sorted(record.extents(place))]
            try:
                names = _names(file)
            except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, MemoryError) as error:
                problems.append(f"{tar} is no tar ({' '.join(str(error).split()) or type(error).__name__})")
            else:
                if names != expected:
                    problems.append(f"{tar}: tar members differ from {record.name}.json")
    return problems, record, hashes


def _names(file: IO[bytes]) -> list[str]:
    """What a plain tar reader sees. Packed ones are none: members are read by their place in the file."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        return tar.getnames()


def mark(data: str, found: Findings) -> None:
    """Ask the next run to make the damaged shards again: a small file beside each. Nothing is deleted."""
    for below, name in found.damaged:
        store = shards.open_store(data)
        for folder in below.split("/"):
            store = store / folder
        shards.publish(store, f"{name}{DAMAGED}", b"")


def restore_constants(data: str, outputs: Collection[str]) -> None:
    """Write stats.json again, where it is lost, damaged or changed, from the shards: each holds what it was made with.

    Where no index says how they were got, where no shard can be read, or where two disagree, a damaged stats.json is
    removed and the job measures anew; it compares with the shards before it writes.
    """
    store = shards.open_store(data)
    for name in outputs:
        _restore_constants(Sidecar(store, name, {}) if name else Output(store))


def _restore_constants(output: Output) -> None:
    held: list[calibrate.Constants] = []
    origin: dict[str, str] = {}
    load = shards.load_sidecar if isinstance(output, Sidecar) else shards.load_index
    for folder in output.folders:
        for name in sorted(folder.sizes()):
            if name.startswith("shard-") and name.endswith(".json"):
                with contextlib.suppress(ShardError):
                    held.append(shards.load_record(folder, name.removesuffix(".json")).constants)
        with contextlib.suppress(ShardError):
            origin = origin or {name: d.constants_from for name, d in load(folder).depth.items()}
    try:
        stated, stated_origin = calibrate.read(output.job)
    except (calibrate.CalibrationError, FileNotFoundError):
        output.job.delete("stats.json")
    else:
        origin = origin or stated_origin
        if not held or (stated, stated_origin) == (held[0], origin):
            return
    if held and origin and all(constants == held[0] for constants in held):
        calibrate.publish(output.job, held[0], origin)


def commands(data: str, outputs: Collection[str] = ("",)) -> list[list[str]]:
    """The command lines that made the data set and depth that was added to it; JobError where they are lost."""
    store = shards.open_store(data)
    return [line for name in sorted(outputs) for line in _commands(Sidecar(store, name, {}) if name else Output(store))]


def _commands(output: Output) -> list[list[str]]:
    store = output.job / "plan"
    lines = []
    for split in shards.SPLITS:
        if shards.exists(store, f"{split}.json"):
            line = plan.facts(store, split).get("command")
            if not line:
                continue
            if line not in lines:
                lines.append(line)
    if not lines:
        raise JobError(
            f"{store} does not say which command made {output.data}: run that command again, it sees what is marked"
        )
    return lines
