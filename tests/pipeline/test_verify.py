"""Damage to shards is found, named, and mended."""

import json

import numpy as np
import pytest
from rich.console import Console
from running import command, contents, label

from pipeline import shards
from pipeline.shards import ShardError
from pipeline.verify import verify


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_cut_tar_is_named_by_verify_and_by_the_reader(labelled, share):
    tar = labelled / "train" / "shard-000001.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[: int(len(data) * share)])
    done = command("precompute-depth", "verify", labelled)
    assert done.returncode == 1
    assert str(tar) in done.stdout
    split = shards.open_split(labelled, "train")
    if share < 0.9:
        with pytest.raises(ShardError, match=r"shard-000001\.tar, key .*damaged"):
            [split[i] for i in range(len(split))]


def test_a_flipped_bit_anywhere_is_found_and_its_sample_named(labelled):
    tar = labelled / "train" / "shard-000000.tar"
    data = tar.read_bytes()
    record = shards.load_record(shards.open_store(labelled / "train"), "shard-000000")
    rng = np.random.default_rng(0)
    offsets = [int(rng.integers(o, o + n)) for k in range(4) for o, n, _ in record.extents(k).values()]  # payloads
    offsets += [*rng.integers(0, len(data), 40).tolist(), 0, 156, 257, len(data) - 1]  # headers, padding, the end
    payload = 0
    for offset in offsets:
        damaged = bytearray(data)
        damaged[offset] ^= 1 << int(rng.integers(8))
        tar.write_bytes(damaged)
        found = verify(str(labelled), Console(quiet=True))
        assert found.damaged == [("train", "shard-000000")]
        where = [(k, e) for k in range(4) for e, (o, n, _) in record.extents(k).items() if o <= offset < o + n]
        if where:
            (place, extension), payload = where[0], payload + 1
            message = f"key {record.keys[place]}, member {extension}"
            assert any(message in problem for problem in found.problems)
            with pytest.raises(ShardError, match=f"{message} is damaged"):
                [shards.open_split(labelled, "train")[i] for i in range(4)]
    assert payload >= 16


def test_missing_and_foreign_files_are_named(labelled):
    index = labelled / "train" / "index.json"
    saved = index.read_bytes()
    index.write_bytes(saved[:100])
    with pytest.raises(ShardError, match=r"index\.json is damaged"):
        shards.open_split(labelled, "train")
    newer = json.loads(saved) | {"schema_version": 99}
    index.write_text(json.dumps(newer))
    with pytest.raises(ShardError, match="schema version 99"):
        shards.open_split(labelled, "train")
    index.write_bytes(saved)
    (labelled / "train" / "shard-000000.tar").unlink()
    done = command("precompute-depth", "verify", labelled)
    assert done.returncode == 1
    assert "shard-000000.tar is missing" in done.stdout
    with pytest.raises(ShardError, match="does not exist"):
        shards.open_split(labelled / "nowhere", "train")


def test_verify_names_an_unfinished_split_and_edited_constants(labelled):
    index = labelled / "train" / "index.json"
    saved = index.read_text()
    index.unlink()
    done = command("precompute-depth", "verify", labelled)
    assert done.returncode == 1
    assert "train has no index.json" in done.stdout
    content = json.loads(saved)
    content["depth"]["pseudo"]["mean"] += 1
    index.write_text(json.dumps(content))
    done = command("precompute-depth", "verify", labelled)
    assert done.returncode == 1
    assert "depth constants differ from stats.json" in done.stdout


def test_verify_counts_what_the_shards_hold(labelled):
    index = labelled / "val" / "index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"num_rejects": 7}))
    assert "kept + rejected differs from listed" in command("precompute-depth", "verify", labelled).stdout


# --- repair --------------------------------------------------------------------------------------------------------


def cut_tar(folder):
    tar = folder / "train" / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:1000])


def lose_tar(folder):
    (folder / "train" / "shard-000001.tar").unlink()


def flip_bit(folder):
    tar = folder / "train" / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 4
    tar.write_bytes(data)


def spoil_json(folder):
    (folder / "train" / "shard-000001.json").write_text("{")


def lose_json(folder):
    (folder / "train" / "shard-000001.json").unlink()


def spoil_index(folder):
    (folder / "train" / "index.json").write_text("[]")


def lose_index(folder):
    (folder / "train" / "index.json").unlink()


def spoil_constants(folder):
    (folder / "stats.json").write_text("nothing")


DAMAGES = (cut_tar, lose_tar, flip_bit, spoil_json, lose_json, spoil_index, lose_index, spoil_constants)


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_redoes_what_is_damaged_and_nothing_else(labelled, damage):
    before = contents(labelled)
    whole = labelled / "train" / "shard-000000.tar"
    untouched = whole.stat().st_mtime_ns
    damage(labelled)
    assert command("precompute-depth", "verify", labelled).returncode == 1
    done = command("precompute-depth", "verify", labelled, "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as the index says" in done.stdout
    assert contents(labelled) == before
    assert whole.stat().st_mtime_ns == untouched
    assert not list(labelled.rglob("*.damaged"))


def test_a_repair_without_its_source_loses_nothing(labelled, photos, random_teacher, tmp_path):
    plan = labelled / "plan"
    for facts in plan.glob("*.json"):  # as if made from a folder that is gone
        content = json.loads(facts.read_text())
        content["command"][1] = str(tmp_path / "gone")
        facts.write_text(json.dumps(content))
    before = contents(labelled)
    flip_bit(labelled)
    damaged = (labelled / "train" / "shard-000001.tar").read_bytes()
    done = command("precompute-depth", "verify", labelled, "--repair")
    assert done.returncode == 1
    assert "gone does not exist" in done.stderr
    assert (labelled / "train" / "shard-000001.tar").read_bytes() == damaged
    assert label(photos, labelled, random_teacher).returncode == 0  # the line itself, from where the source is now
    assert contents(labelled) == before


def test_an_intact_data_set_needs_no_repair(labelled):
    before = contents(labelled)
    done = command("precompute-depth", "verify", labelled, "--repair")
    assert done.returncode == 0
    assert "repairing" not in done.stdout
    assert contents(labelled) == before
