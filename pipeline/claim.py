"""Who may write to an output folder: each rank once, always with the configuration the job began with.

Ranks own shards and write the same bytes whoever they are, so the locks are not what keeps data whole; they save work
(what all ranks need is made by whoever comes first) and mistakes (the same line started twice).
"""

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline import files, shards
from pipeline.depth_field import DepthField
from pipeline.errors import UserError
from pipeline.output import Output
from pipeline.shards import Store

_PLANNED = re.compile(r"(train|val)\.(units|ends|json)")
_EVERYONE = 1 << 62  # the length of a lock over all ranks


class JobError(UserError):
    """The job cannot start or did not end well; one line that names the cause and the fix."""


class Hold:
    """A rank's locks on the .lock of `output`'s job: POSIX byte locks, which the kernel releases even after kill -9.

    Byte 0 is held while something all ranks need is made, byte (world size << 20) + rank by that rank. Where there are
    no locks (object stores, some network file systems) ranks repeat each other's preparations, to the same bytes.
    """

    def __init__(self, output: Output, descriptor: int | None, rank: int, world_size: int) -> None:
        self.output, self.out, self._descriptor = output, output.job, descriptor
        self._byte = (world_size << 20) + rank

    def first(self, name: str, make: Callable[[], None], waiting: Callable[[], None]) -> None:
        """Have `make` publish the file `name` in `out`, unless it exists; other ranks wait until it does.

        Where the maker dies, the next one takes over. `waiting` is called before a wait and every minute of it.
        """
        next_word = 0.0
        folder, _, file = name.rpartition("/")
        where = self.out / folder if folder else self.out
        while not shards.exists(where, file):
            if self._lock(0, 1):
                try:
                    if not shards.exists(where, file):
                        make()
                finally:
                    self._unlock(0, 1)
            else:
                if time.monotonic() >= next_word:
                    waiting()
                    next_word = time.monotonic() + 60
                time.sleep(0.1)

    def begin_anew(self) -> bool:
        """Forget configuration and plan of a job that ended before it wrote anything; False where that is not sure.

        Another rank that holds its byte may have read them; one that starts meanwhile finds itself refused, and tries
        again for a while.
        """
        if self._descriptor is None or shards.exists(self.out, "stats.json") or not self._lock(1, _EVERYONE):
            return False
        try:
            if any(name.startswith("shard-") for folder in self.output.folders for name in folder.sizes()):
                return False
            for store in (self.out, self.out / "plan"):
                for name in store.sizes():
                    if name == "job.json" or _PLANNED.fullmatch(name):
                        store.delete(name)
            return True
        finally:
            self._unlock(1, self._byte - 1)
            self._unlock(self._byte + 1, _EVERYONE - self._byte)

    def take(self) -> bool:
        return self._lock(self._byte, 1)

    def _lock(self, start: int, length: int) -> bool:
        if self._descriptor is None:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            self._descriptor = None  # a file system without locks
        return True

    def _unlock(self, start: int, length: int) -> None:
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, length, start)


@contextmanager
def only_rank(output: Output, rank: int, world_size: int) -> Iterator[Hold]:
    """Hold `output` as this rank; JobError where the same rank of the same world size holds it already."""
    out = output.job
    if out.local is None:
        yield Hold(output, None, rank, world_size)
        return
    try:
        descriptor = files.lock_file(out.local / ".lock")
    except OSError as error:
        raise files.cannot_write(out.local / ".lock", error) from error
    try:
        hold = Hold(output, descriptor, rank, world_size)
        deadline = time.monotonic() + 1  # another rank may be looking whether it is alone
        while not (taken := hold.take()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not taken:
            who = f" as rank {rank} of {world_size}" if world_size > 1 else ""
            raise JobError(f"another precompute-depth is writing to {out}{who}: wait for it or {output.elsewhere}")
        yield hold
    finally:
        os.close(descriptor)


def claim(hold: Hold, config: dict[str, Any], waiting: Callable[[], None]) -> None:
    """Write the configuration on the first run, compare it on every other; raises JobError naming what changed."""
    out = hold.out
    content = json.dumps(config, indent=1).encode()

    def publish() -> None:
        shards.publish(out, "job.json", content)

    hold.first("job.json", publish, waiting)
    begun = read_config(out)
    ours = config | {"versions": _shared(config.get("versions"), begun.get("versions"))}
    described = "depth" in begun["data_set"]
    changed = differences(_comparable(begun, described), _comparable(json.loads(json.dumps(ours)), described))
    if changed and not hold.begin_anew():
        raise JobError(begun_differently(hold.output, changed))
    hold.first("job.json", publish, waiting)


def _shared(ours: Any, begun: Any) -> Any:
    """Without what the job began without: it lists no HEIC then, and whoever joins may well read it."""
    if not (isinstance(ours, dict) and isinstance(begun, dict)):
        return ours
    return {name: version for name, version in ours.items() if name != "pillow-heif" or name in begun}


def _comparable(config: dict[str, Any], described: bool) -> dict[str, Any]:
    """Without names of places: weights and constants are compared themselves, wherever they lie.

    `described`: the job that is compared with keeps what its depth fields are.

    A job begun by a version whose files are still read goes on.
    """
    teacher, options, schema = config.get("teacher"), config.get("options"), config.get("schema_version")
    data_set = dict(config.get("data_set") or {})
    if "depth" in data_set:  # before version 4 their names alone were kept
        data_set["depth_fields"] = list(data_set["depth"])
        if not described:
            del data_set["depth"]
    return config | {
        "data_set": data_set,
        "schema_version": shards.SCHEMA_VERSION if schema in shards.READABLE_VERSIONS else schema,
        "teacher": teacher and {k: v for k, v in teacher.items() if k != "name"},
        "options": options and {k: v for k, v in options.items() if k != "stats_from"},
    }


def begun_differently(output: Output, changed: list[str]) -> str:
    changed = list(dict.fromkeys(changed))
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return (
        f"{output} was begun with another configuration: {'; '.join(changed[:4])}{more}. "
        f"Use the same or {output.elsewhere}"
    )


def read_json(store: Store, name: str) -> dict[str, Any]:
    """A small JSON of the job's own; JobError where it is damaged."""
    try:
        content = files.parsed_json(store.read(name))
    except files.ReadError:
        content = None
    if not isinstance(content, dict):
        raise JobError(f"{store}/{name} is damaged: restore it, or move {store} away and start again")
    return content


class _DataSet(BaseModel):
    labels_sha256: str
    depth: dict[shards.DepthName, DepthField] = {}


class _Named(BaseModel):
    name: str


class _Teacher(BaseModel):
    unit: str


class _Config(BaseModel):
    """Of job.json, what is read by name."""

    data_set: _DataSet
    teacher: _Teacher | None
    options: dict[str, Any]
    versions: dict[str, Any]
    source: _Named | None = None  # of an index


def read_config(store: Store) -> dict[str, Any]:
    """job.json, as the run that began the job wrote it; JobError where it is damaged."""
    found = read_json(store, "job.json")
    check_config(found, f"{store}/job.json")
    return found


def check_config(config: dict[str, Any], where: str) -> None:
    """JobError where a configuration, which may be a stranger's, is none of a job."""
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        raise JobError(
            f"{where} must hold a job's configuration, got none ({files.reason(error)}): restore it, or start in a new "
            "folder"
        ) from None


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`a.b was 1, now 2` for every entry in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path} was {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
