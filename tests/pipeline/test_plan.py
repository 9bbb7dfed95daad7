"""The plan: sorted on disk, shuffled by arithmetic, the same whatever order the source lists in."""

import json
import os
import random
import tracemalloc
from functools import partial

import numpy as np
import pytest
from running import command, jpeg, spawn

from pipeline import plan
from pipeline.calibrate import spread
from pipeline.claim import JobError
from pipeline.plan import ListingSum, Plan
from pipeline.shards import ORDER_ROUNDS, permuted
from pipeline.shards.storage import LocalStore
from pipeline.sources.ledger import Listed

SEED = 3


class Source:
    """A source that is nothing but its listing."""

    name = "listed"
    splits = ("train", "val")
    samples_per_unit = 1

    def __init__(self, train, val=()):
        self.units = {"train": train, "val": val}

    def listing(self, ledger):
        for split in self.splits:
            for unit in self.units[split]:
                ledger.seen += 1
                yield Listed(split, unit, 7)

    def config(self):
        return {"name": self.name}


def planned(source, tmp_path, samples_per_shard=10, seed=SEED, split="train") -> Plan:
    store = LocalStore(tmp_path)
    plan.make(source, store, [], lambda count: None)
    return Plan(store, split, plan.facts(store, split), seed, samples_per_shard)


def test_every_unit_lands_in_one_shard(tmp_path):
    names = [f"n{number:04d}/é {number}.jpg" for number in range(95)] + ["new\nline.jpg", "caf\udce9.jpg"]
    result = planned(Source(names), tmp_path)
    shards = [result[number] for number in range(len(result))]
    assert [len(shard) for shard in shards] == [10] * 9 + [7]
    assert sorted(unit for shard in shards for unit in shard) == sorted(names)
    assert shards[0] != sorted(shards[0])


def test_the_order_of_the_listing_does_not_matter(tmp_path, monkeypatch):
    names = [f"{number}.jpg" for number in range(1000)]
    one = planned(Source(names), tmp_path / "a")
    random.Random(0).shuffle(names)
    monkeypatch.setattr(plan, "_SORTED_IN_MEMORY", 64)  # sorted in sixteen runs on disk
    monkeypatch.setattr(plan, "_BLOCK", 100)
    other = planned(Source(names), tmp_path / "b")
    assert [one[k] for k in range(len(one))] == [other[k] for k in range(len(other))]
    for name in ("train.units", "train.ends"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_seed_and_split_choose_the_order(tmp_path):
    source = Source([f"{k:03d}" for k in range(50)], [f"{k:03d}" for k in range(50)])
    orders = [
        planned(source, tmp_path / "a", 50)[0],
        planned(source, tmp_path / "b", 50, seed=4)[0],
        planned(source, tmp_path / "c", 50, split="val")[0],
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_units_of_many_samples_fill_a_shard_with_several(tmp_path):
    source = Source([f"rows {k:02d}" for k in range(25)])
    source.samples_per_unit = 100
    result = planned(source, tmp_path, samples_per_shard=1000)
    assert [len(result[k]) for k in range(len(result))] == [10, 10, 5]


def test_a_unit_listed_twice_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"lists a\.jpg twice"):
        planned(Source(["a.jpg", "b.jpg", "a.jpg"]), tmp_path)


@pytest.mark.parametrize("name", ["train.units", "train.ends"])
def test_a_cut_plan_is_refused(tmp_path, name):
    planned(Source([f"{k}.jpg" for k in range(50)]), tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-3])
    store = LocalStore(tmp_path)
    with pytest.raises(JobError, match="is damaged: delete"):
        Plan(store, "train", plan.facts(store, "train"), SEED, 10)


def test_a_sum_of_a_listing_tells_names_sizes_and_counts_apart():
    def total(*listing):
        result = ListingSum()
        for unit, size in listing:
            result.add(unit, size)
        return result.hex

    first = total(("a", 1), ("b", 2))
    assert first == total(("b", 2), ("a", 1))
    others = [
        total(("a", 1)),
        total(("a", 2), ("b", 1)),
        total(("a", 1), ("b", 2), ("b", 2)),
        total(("a", 1), ("c", 2)),
    ]
    assert first not in others


def test_evenly_spaced_units_span_the_listing(tmp_path):
    result = planned(Source([f"{k:03d}" for k in range(101)]), tmp_path)
    assert result.evenly_spaced(5) == ["000", "025", "050", "075", "100"]
    assert len(result.evenly_spaced(1000)) == 101


def test_calibration_looks_at_both_ends_of_units_with_many_samples(tmp_path):
    source = Source(["a", "b", "c"])
    source.samples = lambda unit: [f"{unit}{number}" for number in range(10)]
    listed = planned(source, tmp_path)
    assert spread(source, listed, 9) == ["a0", "a4", "a9", "b0", "b4", "b9", "c0", "c4", "c9"]
    assert spread(source, listed, 2) == ["a0", "c0"]
    assert len(spread(source, listed, 1000)) == 30, "never one twice"


def test_planning_costs_no_memory_for_each_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_SORTED_IN_MEMORY", 5_000)
    monkeypatch.setattr(plan, "_BLOCK", 1_000)
    peaks = []
    for count in (20_000, 100_000):
        tracemalloc.start()
        result = planned(
            Source(f"train/n{k % 1000:08d}/image_{k:08d}.jpg" for k in range(count)), tmp_path / str(count)
        )
        assert len(result[0]) == 10
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_permutation_of_a_billion_is_computed_where_it_is_asked_for():
    keys = np.random.default_rng(0).integers(0, 2**63, ORDER_ROUNDS, dtype=np.uint64)
    places = permuted(np.arange(100_000), 10**9, keys)
    assert len(np.unique(places)) == 100_000
    assert places.min() >= 0 and places.max() < 10**9
    quarters = np.histogram(places, 4, (0, 10**9))[0]
    assert np.abs(quarters - 25_000).max() < 600  # 4.4 standard deviations of a fair draw


@pytest.mark.parametrize(("src", "out"), [(b"src-\xe9", b"o-\xff"), ("photos-é".encode(), "sorties-é".encode())])
@pytest.mark.parametrize("run", [command, partial(spawn, LC_ALL="C", PYTHONUTF8="0")])
def test_folders_whose_names_are_no_text_are_labelled_verified_and_repaired(tmp_path, run, src, out):
    src, out = (tmp_path / os.fsdecode(name) for name in (src, out))
    for name in ("été", "hiver"):
        (src / name).mkdir(parents=True)
        (src / name / "é.jpg").write_bytes(jpeg())
    line = ("precompute-depth", "folder", src, out, "--teacher", "toy", "--val-fraction", 0, "--device", "cpu")
    for _ in range(2):
        done = run(*line)
        assert done.returncode == 0, done.stderr
        assert "note: the toy teacher knows rendered rooms alone" in done.stdout
    assert json.loads((out / "train" / "index.json").read_text())["class_names"] == ["hiver", "été"]
    assert run("precompute-depth", "verify", out).returncode == 0
    shard = out / "train" / "shard-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:600] + b"?" + whole[601:])
    assert run("precompute-depth", "verify", out).returncode == 1
    done = run("precompute-depth", "verify", out, "--repair", "--yes")
    assert done.returncode == 0, done.stderr
    assert shard.read_bytes() == whole
    done = run(*line[:3], tmp_path / "as", *line[4:], "--stats-from", out)
    assert done.returncode == 0, done.stderr


def test_a_command_means_the_same_in_every_locale_and_a_damaged_one_is_refused(tmp_path):
    words = ["folder", "/photos-é", os.fsdecode(b"/src-\xe9"), "中"]
    plan.make(Source(["1"]), LocalStore(tmp_path), words, lambda n: None)
    assert plan.facts(LocalStore(tmp_path), "train")["command"] == words
    path = tmp_path / "train.json"
    for word in ("\ud800", 3, None):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"command": [word]}))
        with pytest.raises(JobError, match="is damaged: delete it"):
            plan.facts(LocalStore(tmp_path), "train")
