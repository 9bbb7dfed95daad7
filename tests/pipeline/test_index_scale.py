"""The index of a billion samples opens quickly and a reader holds a bounded part of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import ROOT

from pipeline import shards
from pipeline.shards import read

OPEN = r"""
import re, sys, time
from pathlib import Path
from pipeline import shards
start = time.perf_counter()
split = shards.open_split(sys.argv[1], "train")
seconds = time.perf_counter() - start
assert len(split) == 10**9
peak_kb = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
print(seconds, int(peak_kb) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from Linux's /proc")
def test_100_000_shards_of_10_000_samples_open_in_two_seconds(tmp_path):
    index = shards.ShardIndex(
        source="folder", split="train", class_names=[], seg_names=[], num_listed=10**9, num_samples=10**9,
        num_rejects=0, rejects=[], depth={}, teacher=None, config={}, config_hash="",
        shards=[
            shards.ShardSummary(
                name=f"shard-{k:06d}", num_samples=10_000, bytes=1 << 30, sha256=f"{k:064x}", json_sha256=f"{k:064x}"
            )
            for k in range(100_000)
        ],
    )  # fmt: skip
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "index.json").write_text(index.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 2
    assert megabytes < 500


def test_a_reader_keeps_a_bounded_number_of_tables_and_tars(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "TABLES", 4)
    monkeypatch.setattr(read, "_TARS", 2)
    store = shards.open_store(tmp_path / "train")
    records = [
        shards.write_shard(
            store, f"shard-{number:06d}", [(f"key-{number}-{k}", {"cls": str(k).encode()}) for k in range(3)],
            listing="", num_listed=3, rejects=[], moments={}, constants={},
        )
        for number in range(20)
    ]  # fmt: skip
    index = shards.ShardIndex(
        source="folder", split="train", class_names=[], seg_names=[], num_listed=60, num_samples=60, num_rejects=0,
        rejects=[], depth={}, teacher=None, config={}, config_hash="",
        shards=[
            shards.ShardSummary(name=r.name, num_samples=3, bytes=r.bytes, sha256=r.sha256, json_sha256="")
            for r in records
        ],
    )  # fmt: skip
    shards.publish(store, "index.json", index.model_dump_json().encode())
    split = shards.open_split(tmp_path, "train")
    order = np.random.default_rng(0).permutation(60)
    descriptors = []
    for position in order:
        assert split.read(int(position), ("cls",))["cls"] == position % 3
        descriptors.append(len(list(resource_descriptors())))
    assert len(split.rgb.tables._values) == 4
    assert max(descriptors) - min(descriptors) <= 2


def resource_descriptors():
    return Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else iter(())


def test_a_shards_json_is_columns(rooms):
    record = json.loads((rooms / "train" / "shard-000000.json").read_text())
    assert record["schema_version"] == shards.SCHEMA_VERSION
    assert len(record["keys"]) == 100
    assert all(len(column) == 100 for extents in record["members"].values() for column in extents.values())
