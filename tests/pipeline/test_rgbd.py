"""RGB-D data by a description: each ready one on a small set in the published layout, values worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from rgbd_sets import SETS, Expected
from running import command

from pipeline import shards
from pipeline.sources.rgbd.reading import ready

LABEL = ("--teacher", "toy", "--device", "cpu", "--samples-per-shard", 2, "--batch-size", 2, "--max-rejects", 1)

ALONE = ("--teacher", "none")


def read_all(out: Path) -> dict[str, tuple[shards.Split, int]]:
    """source -> where the sample is."""
    found = {}
    for name in ("train", "val"):
        split = shards.open_split(out, name)
        for place in range(len(split)):
            found[split.read(place, ("json",))["json"]["source"]] = (split, place)
    return found


def metres(split: shards.Split, place: int, field: str) -> np.ndarray:
    return split.index.depth[field].standardisation.invert(split.read(place, (field,))[field])


@pytest.fixture(scope="module", params=SETS)
def labelled(request, tmp_path_factory) -> tuple[str, Path, Expected]:
    root = tmp_path_factory.mktemp(request.param)
    expected = SETS[request.param](root / "src")
    done = command("precompute-depth", "rgbd", request.param, root / "src", root / "out", *LABEL)
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param, root, expected


def test_a_published_layout_is_read_to_the_millimetre(labelled):
    _name, root, expected = labelled
    found = read_all(root / "out")
    counts = {split: len(shards.open_split(root / "out", split)) for split in ("train", "val")}
    assert counts == {"train": expected.train, "val": expected.val}
    scenes = [{at[0].read(at[1], ("json",))["json"].get("scene") for at in found.values() if at[0].index.split == split}
              for split in ("train", "val")]  # fmt: skip
    assert not scenes[0] & scenes[1] - {None}
    for (source, field, row, column), value in expected.pixels.items():
        [where] = [at for known, at in found.items() if source in known]
        got = float(metres(*where, field)[row, column])
        step = where[0].index.depth[field].step_z * where[0].index.depth[field].std
        assert math.isnan(got) if math.isnan(value) else abs(got - value) <= step / 2 + 1e-4, (
            source,
            field,
            row,
            column,
        )
    for (source, row, column), value in expected.labels.items():
        [(split, place)] = [at for known, at in found.items() if source in known]
        assert split.read(place, ("seg",))["seg"][row, column] == value, (source, row, column)
    for source, name in expected.classes.items():
        [(split, place)] = [at for known, at in found.items() if source in known]
        assert split.index.class_names[split.read(place, ("cls",))["cls"]] == name, source


def test_what_is_listed_is_kept_rejected_or_left_out_with_its_reason(labelled):
    _name, root, expected = labelled
    index = shards.open_split(root / "out", "train").index
    left_out = {entry.reason: entry.count for entry in index.left_out}
    assert {reason: left_out.get(reason) for reason in expected.left_out} == expected.left_out
    rejects = [r for split in ("train", "val") for r in shards.open_split(root / "out", split).index.rejects]
    for source, words in expected.rejects.items():
        assert any(source in reject.source and words in reject.reason for reject in rejects), (source, rejects)
    assert len(rejects) == len(expected.rejects)


def test_the_shards_verify_and_say_what_their_depth_is(labelled):
    _name, root, _ = labelled
    done = command("precompute-depth", "verify", root / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    index = shards.open_split(root / "out", "train").index
    kinds = {field: index.provenance(field).kind for field in index.depth}
    assert kinds.pop("pseudo") == "estimated" and index.provenance("pseudo").by == "toy"
    assert set(kinds.values()) <= {"measured", "filled", "rendered"}
    assert all(index.provenance(field).files_sha256 for field in kinds)
    sample = shards.open_split(root / "out", "train").read(0)
    for field in kinds:
        assert len(sample["json"][field]["file_sha256"]) == 64
        assert (root / "src" / sample["json"][field]["file"]).is_file()


def test_dry_run_and_inspect_tell_range_share_and_median(labelled):
    name, root, _ = labelled
    done = command("precompute-depth", "rgbd", name, root / "src", root / "dry", *LABEL, *ALONE, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "median" in done.stdout and not (root / "dry").exists()
    assert ("relative depth" if name.startswith("dformer") else " m ") in done.stdout
    done = command("precompute-depth", "inspect", root / "out", "--samples", 2)
    assert done.returncode == 0 and "median" in done.stdout and "estimated by toy" in done.stdout
    assert (root / "out" / "contact-sheet.png").is_file()


def test_a_second_run_finds_all_done_and_ranks_and_repairs_make_the_same_bytes(labelled):
    name, root, _ = labelled
    if name not in ("sunrgbd", "dformer", "tum"):  # a reader of its own, lists, times; others are found as these are
        return
    before = {p.name: p.read_bytes() for p in (root / "out" / "train").glob("*.tar")}
    done = command("precompute-depth", "rgbd", name, root / "src", root / "out", *LABEL)
    assert done.returncode == 0 and "done before" in done.stdout
    for rank in (1, 0):
        where = ("--rank", rank, "--world-size", 2)
        done = command("precompute-depth", "rgbd", name, root / "src", root / "two", *LABEL, *where)
        assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name: p.read_bytes() for p in (root / "two" / "train").glob("*.tar")} == before
    shard = root / "two" / "train" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    done = command("precompute-depth", "verify", root / "two", "--repair", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name: p.read_bytes() for p in (root / "two" / "train").glob("*.tar")} == before


def test_ready_descriptions_are_listed_and_each_is_read_here():
    done = command("precompute-depth", "rgbd", "--list")
    assert done.returncode == 0
    assert {*SETS} == {*ready()}
    for name in SETS:
        assert name in done.stdout
