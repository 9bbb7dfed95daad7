"""A job's hold on its output folder: one job at a time, and always the configuration it began with."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import shards


class JobError(ValueError):
    """The job cannot start or did not end well; one line that names the cause and the fix."""


@contextmanager
def only_job(out: Path) -> Iterator[None]:
    """Hold `out`/.lock; the kernel releases it even after kill -9."""
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"another precompute-depth is writing to {out}: wait for it or choose another folder"
            ) from None
        yield


def claim(out: Path, config: dict[str, Any]) -> None:
    path = out / "job.json"
    if not path.exists():
        shards.write_atomically(path, json.dumps(config, indent=1).encode())
        return
    try:
        earlier = json.loads(path.read_bytes())
    except ValueError:
        raise JobError(f"{path} is damaged: move {out} away and start again") from None
    changed = _differences(earlier, json.loads(json.dumps(config)))
    if changed and not (out / "stats.json").exists():  # that job ended before it wrote anything: begin anew
        shards.write_atomically(path, json.dumps(config, indent=1).encode())
    elif changed:
        raise JobError(
            f"{out} was begun with another configuration: {'; '.join(changed[:4])}"
            f"{f' and {len(changed) - 4} more' if len(changed) > 4 else ''}. Use the same or choose another folder"
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if path == "source.listing_sha256" and old != new:
        return ["the source's files (names or sizes) have changed"]
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path} was {old!r}, now {new!r}"]
