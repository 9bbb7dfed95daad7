"""Damage to shards is found, named, and mended."""

import hashlib
import io
import json
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from running import command, contents, fails_in_one_line, jpeg, label

from pipeline import depth_codec, shards
from pipeline.shards import ShardError
from pipeline.verify import check_shards


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
        found = check_shards(str(labelled), Console(quiet=True))
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
    assert "depth constants differ from" in done.stdout


def test_verify_counts_what_the_shards_hold(labelled):
    index = labelled / "val" / "index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"num_rejects": 7}))
    done = command("precompute-depth", "verify", labelled)
    assert done.returncode == 1
    assert "index.json differs from its shards: num_rejects was 7, now 0" in done.stdout


def test_any_flipped_bit_of_the_jsons_is_found(labelled):
    rng = np.random.default_rng(0)
    changed = 0
    for name in ("train/index.json", "train/shard-000001.json", "stats.json", "job.json"):
        path = labelled / name
        saved = path.read_bytes()
        for offset in rng.integers(0, len(saved), 40):
            damaged = bytearray(saved)
            damaged[offset] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            try:
                same = json.loads(bytes(damaged)) == json.loads(saved)  # a space became a tab
            except ValueError:
                same = False
            changed += not same
            assert bool(check_shards(str(labelled), Console(quiet=True)).problems) != same, (name, offset)
        path.write_bytes(saved)
    assert changed > 100
    assert not check_shards(str(labelled), Console(quiet=True)).problems


def test_a_plan_with_a_flipped_bit_is_refused(labelled, bundled_photos, random_teacher):
    units = labelled / "plan" / "train.units"
    data = bytearray(units.read_bytes())
    data[20] ^= 1
    units.write_bytes(data)
    assert "plan is damaged" in command("precompute-depth", "verify", labelled).stdout
    (labelled / "train" / "index.json").unlink()
    fails_in_one_line(
        label(bundled_photos, labelled, random_teacher), "plan is damaged: delete it and run the same line"
    )
    for path in (labelled / "plan").iterdir():
        path.unlink()
    assert label(bundled_photos, labelled, random_teacher).returncode == 0


def test_a_shard_out_of_place_is_made_again(labelled, bundled_photos, random_teacher):
    before = contents(labelled)
    for suffix in (".tar", ".json"):
        data = (labelled / "train" / f"shard-000000{suffix}").read_bytes()
        (labelled / "train" / f"shard-000001{suffix}").write_bytes(data)
    (labelled / "train" / "index.json").unlink()
    assert label(bundled_photos, labelled, random_teacher).returncode == 0
    assert contents(labelled) == before


# --- a stranger's data set: every hash matches, the values are wrong ----------------------------------------------


def reseal(split: Path, members: dict[str, dict[str, bytes]] | None = None, tar: bytes | None = None) -> None:
    """Give the first shard these members' bytes, or other bytes altogether, and all JSON what then follows."""
    path = split / "shard-000000.tar"
    record = json.loads(path.with_suffix(".json").read_text())
    buffer = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for member in old.getmembers():
            key, _, extension = member.name.partition(".")
            data = (members or {}).get(key, {}).get(extension, old.extractfile(member).read())
            member.size = len(data)
            extents, place = record["members"][extension], record["keys"].index(key)
            extents["offset"][place] = buffer.tell() + 512
            extents["length"][place], extents["crc32"][place] = len(data), zlib.crc32(data)
            new.addfile(member, io.BytesIO(data))
    if tar is not None:
        buffer = io.BytesIO(tar + buffer.getvalue()[len(tar) :])
    path.write_bytes(buffer.getvalue())
    facts = {"bytes": len(buffer.getvalue()), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    text = json.dumps(record | facts)
    path.with_suffix(".json").write_text(text)
    index = json.loads((split / "index.json").read_text())
    index["shards"][0] |= facts | {"json_sha256": hashlib.sha256(text.encode()).hexdigest()}
    (split / "index.json").write_text(json.dumps(index))


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values, mode).save(buffer, "PNG")
    return buffer.getvalue()


def depth(step: float = 0.01, side: int = 48) -> bytes:
    """All at the largest level of this step, which may be none that is written."""
    data = depth_codec.encode(np.full((side, side), 327.0), 0.01)
    header = data[:8] + struct.pack("<f", step)
    return header + struct.pack("<I", zlib.crc32(header)) + data[16:]


def labels(value: int) -> np.ndarray:
    return np.full((48, 48), value, np.uint8)


@pytest.fixture
def strange(rooms: Path, tmp_path: Path) -> Path:
    shutil.copytree(rooms, tmp_path / "strange")
    return tmp_path / "strange"


WRONG = {
    "cls": [b"-1", b"99", b"6.5", b"", b"9" * 5000],
    "json": [b"[]", b'"x"', b"null", b"3", b"{", b"[" * 100_000],
    "seg.png": [
        png(labels(77)), png(labels(254)), png(np.zeros((48, 48, 3), np.uint8)), png(np.zeros((48, 48), np.uint16)),
        png(np.zeros((48, 48), bool)), png(labels(0)[:20]), b"x", png(labels(0))[:60],
    ],
    "rgb.png": [png(np.zeros((40, 48, 3), np.uint8)), png(labels(0))[:60], jpeg((48, 48)), b""],
    "exact.pdz": [depth(np.inf), depth(np.nan), depth(1e37), depth(0), depth(-1), depth(side=40), b"PDZ2", b""],
}  # fmt: skip


@pytest.mark.parametrize(("extension", "number"), [(e, n) for e, all_ in WRONG.items() for n in range(len(all_))])
def test_wrong_values_under_right_hashes_are_named(strange, extension, number, tmp_path):
    split = strange / "val"
    key = json.loads((split / "shard-000000.json").read_text())["keys"][0]
    data = WRONG[extension][number]
    reseal(split, {key: {extension: data}})
    where = f"{split}/shard-000000.tar, key {key}"
    done = command("precompute-depth", "verify", strange)
    assert done.returncode == 1
    told = " ".join((done.stdout + done.stderr).split())
    assert where in told and "differs from" not in told
    with pytest.raises(ShardError, match=key) as caught:
        shards.open_split(strange, "val").read(0)
    assert f"member {extension}" in str(caught.value) or "differ in size" in str(caught.value)
    fails_in_one_line(
        command("precompute-depth", "inspect", strange, "--split", "val", "--out", tmp_path / "sheet.png"), where
    )


def test_right_values_pass_after_the_same_treatment(strange, tmp_path):
    split = strange / "val"
    key = json.loads((split / "shard-000000.json").read_text())["keys"][0]
    right = {"cls": b"0", "json": b'{"scene": "of two\\nlines \\ud800"}', "seg.png": png(labels(255))}
    reseal(split, {key: right | {"exact.pdz": depth()}})
    done = command("precompute-depth", "verify", strange)
    assert done.returncode == 0, done.stdout
    sheet = command("precompute-depth", "inspect", strange, "--split", "val", "--out", tmp_path / "sheet.png")
    assert sheet.returncode == 0, sheet.stderr


@pytest.mark.parametrize(
    "start", [b"\xff" * 512, b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\0" * 512, b"x" * 512], ids=str
)
def test_what_no_tar_reader_reads_is_a_problem(strange, start):
    reseal(strange / "val", tar=start)
    done = command("precompute-depth", "verify", strange)
    assert done.returncode == 1
    assert f"{strange}/val/shard-000000.tar" in done.stdout
    assert not done.stderr


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


def edit_constants(folder):
    content = json.loads((folder / "stats.json").read_text())
    content["constants"]["pseudo"]["mean"] += 1
    (folder / "stats.json").write_text(json.dumps(content))


def lose_much(folder):
    flip_bit(folder)
    for split in ("train", "val"):
        (folder / split / "index.json").unlink()
    (folder / "stats.json").unlink()


DAMAGES = (
    cut_tar, lose_tar, flip_bit, spoil_json, lose_json, spoil_index, lose_index, spoil_constants, edit_constants,
    lose_much,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_redoes_what_is_damaged_and_nothing_else(labelled, damage):
    before = contents(labelled)
    whole = labelled / "train" / "shard-000000.tar"
    untouched = whole.stat().st_mtime_ns
    damage(labelled)
    assert command("precompute-depth", "verify", labelled).returncode == 1
    done = command("precompute-depth", "verify", labelled, "--repair", "--yes")
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
    done = command("precompute-depth", "verify", labelled, "--repair", "--yes")
    assert done.returncode == 1
    assert "gone does not exist" in done.stderr
    assert (labelled / "train" / "shard-000001.tar").read_bytes() == damaged
    assert label(photos, labelled, random_teacher).returncode == 0  # the line itself, from where the source is now
    assert contents(labelled) == before


def test_a_repair_accepts_the_rejects_that_were_accepted_before(photos, random_teacher, tmp_path):
    for number in range(3):
        (photos / "china" / f"bad{number}.jpg").write_bytes(b"bad")
    out = tmp_path / "out"
    assert label(photos, out, random_teacher).returncode == 1  # too many rejects; the shards are kept
    before = contents(out)
    flip_bit(out)
    done = command("precompute-depth", "verify", out, "--repair", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(out) == before


def test_a_damaged_plan_is_named_by_a_repair(labelled):
    flip_bit(labelled)
    (labelled / "plan" / "train.json").write_text("[]")
    done = command("precompute-depth", "verify", labelled, "--repair", "--yes")
    fails_in_one_line(done, "plan/train.json is damaged")


def test_an_intact_data_set_needs_no_repair(labelled):
    before = contents(labelled)
    done = command("precompute-depth", "verify", labelled, "--repair", "--yes")
    assert done.returncode == 0
    assert "repairing" not in done.stdout
    assert contents(labelled) == before
