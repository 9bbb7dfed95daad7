"""A depth field beside finished shards: made by the same job, read as one sample, looked after by the same commands."""

import json
import shutil
import signal
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from fuzzing import hostile_values
from running import BIN, begin, command, contents, fails_in_one_line
from test_job import as_version

from pipeline import job, shards
from pipeline.output import Sidecar
from pipeline.shards import ShardError
from pipeline.sources.finished import FinishedShards
from pipeline.teachers import UnfitImage


def add(out: object, *options: object, run=command):
    return run("precompute-depth", "add", out, "--device", "cpu", "--batch-size", 3, *options)


def own(out: Path) -> dict[str, bytes]:
    """What a data set was before anything was added to it."""
    return {name: data for name, data in contents(out).items() if name.count("/") < 2}


@pytest.fixture(scope="module")
def added_once(labelled_once, random_teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("added") / "shards"
    shutil.copytree(labelled_once, out)
    done = add(out, "--teacher", random_teacher, "--as", "da3")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def added(added_once, tmp_path) -> Path:
    """Shards to which a field was added, that a test may damage."""
    shutil.copytree(added_once, tmp_path / "added")
    return tmp_path / "added"


def test_the_shards_are_not_touched_and_the_field_is_one_of_them(added_once, labelled_once):
    assert own(added_once) == contents(labelled_once)
    for name in shards.SPLITS:
        split, before = (shards.open_split(out, name) for out in (added_once, labelled_once))
        assert split.index.fields == [*before.index.fields, "da3"]
        assert split.index.fingerprint == before.index.fingerprint == split.sidecars["da3"].beside
        provenance = split.index.provenance("da3")
        assert (provenance.kind, provenance.weights_sha256) == (
            "estimated", split.sidecars["da3"].teacher["weights_sha256"],
        )  # fmt: skip
        sample = split[0]
        assert sample["da3"].shape == sample["rgb"].shape[:2]
        assert sample["json"]["da3"].keys() == sample["json"]["pseudo"].keys()
        assert split.read(0, ("da3",)).keys() == {"key", "da3"}
    assert command("precompute-depth", "verify", added_once).returncode == 0


def test_the_same_teacher_sees_the_same_pixels_in_the_same_company(labelled, random_teacher):
    """So its maps are those of the first pass, byte for byte, where the constants are."""
    constants = shards.open_split(labelled, "train").index.depth["pseudo"]
    stats = f"{constants.mean!r},{constants.std!r}"
    assert add(labelled, "--teacher", random_teacher, "--as", "again", "--stats", stats).returncode == 0
    for name in shards.SPLITS:
        split = shards.open_split(labelled, name)
        for position in range(len(split)):
            members = split.members(position, ("pseudo", "again"))
            assert members.data["pseudo"][1] == members.data["again"][1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_plain_webdataset_reads_both_side_by_side(added_once):
    import webdataset as wds

    split = shards.open_split(added_once, "train")
    rgb, beside = (sorted(str(path) for path in folder.glob("*.tar")) for folder in (
        added_once / "train", added_once / "train" / "da3"
    ))  # fmt: skip
    read = [list(wds.WebDataset(tars, shardshuffle=False)) for tars in (rgb, beside)]
    keys = [[sample["__key__"] for sample in samples] for samples in read]
    assert keys[0] == keys[1] == [split.key(k) for k in range(len(split))]
    for position, sample in enumerate(read[1]):
        assert np.array_equal(shards.decode_depth(sample["da3.pdz"]), split[position]["da3"])
    assert not {key for key in read[1][0] if not key.startswith("__")} & read[0][0].keys()


@pytest.mark.parametrize("version", [2, 3])
def test_shards_of_earlier_versions_get_one_too(version, labelled, random_teacher):
    as_version(version, labelled)
    before = contents(labelled)
    assert add(labelled, "--teacher", random_teacher, "--as", "da3").returncode == 0
    assert own(labelled) == before
    assert command("precompute-depth", "verify", labelled).returncode == 0
    index = shards.open_split(labelled, "val").index
    assert index.schema_version == version and set(index.depth) == {"pseudo", "da3"}


# --- interrupted, shared, repeated -----------------------------------------------------------------------------------

KILL = (
    "import os, signal, sys; from pipeline.shards import write\n"
    "publish = write.publish\n"
    "def kill(store, name, data):\n"
    "    if name == 'shard-000001.json': os.kill(os.getpid(), signal.SIGKILL)\n"
    "    publish(store, name, data)\n"
    "sys.modules['pipeline.shards.write'].publish = kill\n"
    "from pipeline.cli import main; sys.argv[0] = 'precompute-depth'; main()"
)


def test_killed_then_repeated_by_two_ranks_it_has_the_same_bytes(labelled, random_teacher, added_once):
    line = ("--teacher", random_teacher, "--as", "da3")
    killed = add(labelled, *line, run=lambda name, *words: begin([str(BIN / "python"), "-c", KILL, *map(str, words)]))
    assert killed.wait(timeout=60) == -signal.SIGKILL
    split = shards.open_split(labelled, "train")
    assert "da3" not in split.index.depth
    with pytest.raises(
        ShardError, match=r"train/da3 is not finished .* run the same line of precompute-depth add"
    ) as no:
        split.check_depth("da3")
    assert "\n" not in str(no.value)
    verify = command("precompute-depth", "verify", labelled)
    assert verify.returncode == 1 and "train/da3 is not finished" in verify.stdout
    assert "val/da3 is not finished" in verify.stdout
    for rank in (1, 0):
        assert add(labelled, *line, "--rank", rank, "--world-size", 2).returncode == 0
    assert contents(labelled) == contents(added_once)


def test_repeated_it_does_nothing_and_otherwise_it_is_refused(added, random_teacher):
    before = contents(added)
    made = {path: path.stat().st_mtime_ns for path in added.rglob("*.tar")}
    assert add(added, "--teacher", random_teacher, "--as", "da3").returncode == 0
    assert contents(added) == before and {path: path.stat().st_mtime_ns for path in made} == made
    again = ("was begun with another configuration", "or give another name with --as")
    fails_in_one_line(add(added, "--teacher", "toy", "--as", "da3"), "teacher.weights_sha256 was", *again)
    fails_in_one_line(
        add(added, "--teacher", random_teacher, "--as", "da3", "--stats", "0,1"), "options.stats was 'auto'", *again
    )
    assert contents(added) == before


def test_constants_of_the_same_field_elsewhere(labelled, added_once, random_teacher):
    line = ("--teacher", random_teacher, "--as", "other")
    fails_in_one_line(add(labelled, *line, "--stats-from", added_once), "has no other depth, it has pseudo, da3")
    line = (*line[:3], "da3", "--stats-from", added_once)
    assert add(labelled, *line).returncode == 0
    ours, theirs = (shards.open_split(out, "val").index.depth["da3"] for out in (labelled, added_once))
    assert ours.standardisation == theirs.standardisation and ours.constants_from.startswith("the index of")


# --- rejects ---------------------------------------------------------------------------------------------------------


class Picky:
    """A teacher that cannot see one photograph and finds no depth in another."""

    name, polarity, unit = "picky", "farther_is_larger", "m"

    def identity(self):
        return {"name": self.name, "polarity": self.polarity, "unit": self.unit, "weights_sha256": "00"}

    def prepare(self, rgb):
        if rgb[0, 0].mean() < 20:
            raise UnfitImage("too dull")
        return rgb.mean(2, dtype=np.float32)

    def estimate(self, pixels, sizes):
        return [np.full_like(each, np.nan) if each[0, 0] > 213 else each for each in pixels]


def test_a_reject_keeps_its_row_and_is_listed(labelled):
    data = shards.open_store(labelled)
    source = FinishedShards(data)
    job.run(source, Picky(), Sidecar(data, "picky", source.splits_by_name), job.Options(batch_size=3))
    assert command("precompute-depth", "verify", labelled).returncode == 0
    rejected = 0
    for name in shards.SPLITS:
        split = shards.open_split(labelled, name)
        index = split.sidecars["picky"]
        reasons = {reject.source: reject.reason for reject in index.rejects}
        rejected += len(reasons)
        assert index.num_samples == index.num_listed == len(split) and index.num_rejects == len(reasons)
        for position in range(len(split)):
            sample = split[position]
            why = reasons.get(sample["key"])
            assert np.isnan(sample["picky"]).all() == bool(why)
            assert sample["json"]["picky"].get("reject") == why
            if not why:
                assert np.corrcoef(sample["rgb"].mean(2).ravel(), sample["picky"].ravel())[0, 1] > 0.99
    assert rejected == 2


# --- damage ----------------------------------------------------------------------------------------------------------


def flip_bit(out):
    tar = out / "train" / "da3" / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    record = shards.load_record(shards.open_store(tar.parent), tar.stem)
    data[record.extents(0)["da3.pdz"][0] + 100] ^= 4
    tar.write_bytes(data)


def lose_index(out):
    (out / "train" / "da3" / "index.json").unlink()


def spoil_constants(out):
    (out / "sidecars" / "da3" / "stats.json").write_text("nothing")


def swap_shards(out):
    """Whole shards in each other's place: every checksum holds."""
    folder = out / "train" / "da3"
    index = json.loads((folder / "index.json").read_text())
    first, second = index["shards"][:2]
    for ending in (".tar", ".json"):
        one, two = (folder / f"{entry['name']}{ending}" for entry in (first, second))
        one_data, two_data = one.read_bytes(), two.read_bytes()
        one.write_bytes(two_data)
        two.write_bytes(one_data)


@pytest.mark.parametrize("damage", [flip_bit, lose_index, spoil_constants, swap_shards])
def test_damage_is_found_and_only_what_was_added_is_made_again(damage, added, tmp_path):
    before = contents(added)
    for facts in (added / "plan").glob("*.json"):  # the photographs are gone: nobody needs them
        content = json.loads(facts.read_text())
        facts.write_text(json.dumps(content | {"command": ["folder", str(tmp_path / "gone"), str(added)]}))
    damage(added)
    found = command("precompute-depth", "verify", added)
    assert found.returncode == 1 and "da3" in found.stdout
    done = command("precompute-depth", "verify", added, "--repair", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(added) == before


def test_a_damaged_map_is_named_by_its_own_tar(added):
    flip_bit(added)
    split = shards.open_split(added, "train")
    with pytest.raises(ShardError, match=r"train/da3/shard-000001\.tar, key \S+, member da3\.pdz is damaged"):
        [split[position] for position in range(len(split))]
    assert len([split.read(position, ("rgb", "pseudo")) for position in range(len(split))]) == len(split)


def test_keys_that_are_not_those_of_the_tar_beside_are_found(added):
    """A field from other shards, with an index that says it belongs here."""
    folder = added / "train" / "da3"
    record = json.loads((folder / "shard-000000.json").read_text())
    record["keys"] = record["keys"][::-1]
    text = json.dumps(record)
    (folder / "shard-000000.json").write_text(text)
    split = shards.open_split(added, "train")
    with pytest.raises(ShardError, match="must have the keys of its RGB"):
        split.read(0, ("da3",))
    found = command("precompute-depth", "verify", added)
    assert found.returncode == 1 and "its keys are not those of the tar beside it" in found.stdout


def test_a_field_of_other_shards_is_not_offered(added, rooms):
    shutil.copytree(added / "val" / "da3", added / "train" / "stray")
    shutil.rmtree(added / "train" / "da3")
    shutil.copytree(added / "val" / "da3", added / "train" / "da3")
    split = shards.open_split(added, "train")
    assert set(split.index.depth) == {"pseudo"} and split.unusable.keys() == {"da3", "stray"}
    with pytest.raises(ShardError, match="belongs to other shards than those beside it"):
        split.check_depth("da3")


# --- maps made elsewhere ---------------------------------------------------------------------------------------------


@pytest.fixture
def maps(labelled, tmp_path) -> Path:
    """Of each sample a map in millimetres by its photograph's name, in two formats; one lacks, one has another size."""
    from PIL import Image

    folder = tmp_path / "maps"
    for name in shards.SPLITS:
        split = shards.open_split(labelled, name)
        for position in range(len(split)):
            sample = split[position]
            depth = (1000 + 10 * sample["rgb"].mean(2)).astype(np.uint16)
            depth[0, 0] = 0
            (folder / sample["json"]["source"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / sample["key"]).parent.mkdir(exist_ok=True)
            Image.fromarray(depth).save((folder / sample["json"]["source"]).with_suffix(".png"))
            np.save(folder / f"{sample['key']}.npy", depth[::2, ::2] if position == 0 else depth)
    return folder


def test_maps_by_the_photographs_path(labelled, maps):
    line = ("--depth-from", maps, "--format", "png16", "--kind", "metres", "--scale", 0.001)
    done = add(labelled, "--as", "mine", *line, "--files", "{source_stem}.png", "--by", "sfm")
    assert done.returncode == 0, done.stderr
    assert command("precompute-depth", "verify", labelled).returncode == 0
    split = shards.open_split(labelled, "train")
    depth, provenance = split.index.depth["mine"], split.index.provenance("mine")
    assert (depth.unit, provenance.kind, provenance.by) == ("m", "estimated", "sfm") and provenance.files_sha256
    sample = split[1]
    metres = depth.standardisation.invert(sample["mine"])
    assert np.isnan(metres[0, 0]) and np.isfinite(metres.ravel()[1:]).all()
    expected = (1000 + 10 * sample["rgb"].mean(2)).astype(np.uint16) / 1000
    np.testing.assert_allclose(metres.ravel()[1:], expected.ravel()[1:], atol=depth.max_error_z * depth.std * 1.01)
    assert sample["json"]["mine"]["file"] == str(Path(sample["json"]["source"]).with_suffix(".png"))
    whole = shutil.copytree(labelled, labelled.parent / "whole")
    flip = labelled / "train" / "mine" / "shard-000000.tar"
    flip.write_bytes(flip.read_bytes()[:-600])
    assert command("precompute-depth", "verify", labelled, "--repair", "--yes").returncode == 0
    assert contents(labelled) == contents(whole)


def test_maps_of_another_size_or_of_none_are_rejects(labelled, maps):
    gone = shards.open_split(labelled, "train").key(1)
    (maps / f"{gone}.npy").unlink()
    line = ("--as", "mine", "--depth-from", maps, "--format", "npy", "--kind", "disparity", "--invalid", 0)
    done = add(labelled, *line)
    fails_in_one_line(done, "3 of 12 images were rejected")
    assert f"rejected {gone}: no map {gone}.npy in {maps}" in done.stdout and "--resized says so" in done.stdout
    assert shards.open_split(labelled, "val").index.depth["mine"].polarity == "closer_is_larger"
    line = ("--as", "resized", *line[2:], "--resized", "--scale-lost", "--max-rejects", 0.2)
    assert add(labelled, *line).returncode == 0
    assert shards.open_split(labelled, "val").index.provenance("resized").scale_lost
    assert [s.sidecars["resized"].num_rejects for s in shards.splits_of(labelled)] == [1, 0]


MISTAKES = {
    "is no format": (("--format", "nyp", "--kind", "metres"), "format: must be one of png16, png8"),
    "no polarity": (("--format", "npy", "--kind", "relative"), "needs polarity"),
    "no kind": (("--format", "npy"), "--depth-from needs --kind"),
    "no such hole": (("--format", "npy", "--kind", "metres", "--files", "{kye}.npy"), "--files may name key"),
    "one file for all": (("--format", "npy", "--kind", "metres", "--files", "a.npy"), "else all share a file"),
    "metres without scale": (("--format", "npy", "--kind", "metres", "--scale-lost"), "contradict each other"),
    "a teacher too": (("--format", "npy", "--kind", "metres", "--teacher", "toy"), "exclude each other"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_about_maps_are_one_line(labelled_once, tmp_path, mistake):
    options, told = MISTAKES[mistake]
    fails_in_one_line(add(labelled_once, "--as", "mine", "--depth-from", tmp_path, *options), told)


def test_mistakes_about_names_and_folders_are_one_line(labelled, random_teacher, tmp_path):
    line = ("--teacher", random_teacher, "--as")
    fails_in_one_line(add(labelled, *line, "pseudo"), "has pseudo depth of its own: give another name with --as")
    for name in ("DA3", "rgb", "a.b", ""):
        fails_in_one_line(add(labelled, *line, name), "--as must be 1 to 32 small letters")
    fails_in_one_line(add(labelled / "train", *line, "da3"), "give the folder that it lies in")
    fails_in_one_line(add(tmp_path / "nowhere", *line, "da3"), "holds no finished split")
    fails_in_one_line(add(labelled, "--teacher", "none", "--as", "da3"), "--teacher none adds nothing")
    fails_in_one_line(add(labelled, "--teacher", "toy", "--as", "da3", "--by", "me"), "add --depth-from DIR")
    (labelled / "train" / "notes").mkdir()
    (labelled / "train" / "notes" / "mine.txt").write_text("not to be written over")
    fails_in_one_line(add(labelled, *line, "notes"), "is not empty (mine.txt) and holds no precompute-depth job")
    (labelled / "val" / "index.json").unlink()
    done = add(labelled, *line, "da3", "--dry-run")
    assert done.returncode == 0 and "note: val is not finished: run this line again" in done.stdout
    assert not (labelled / "sidecars").exists()


def test_shards_at_a_url_get_the_same_bytes(labelled_once, added_once, random_teacher):
    import fsspec

    fs = fsspec.filesystem("memory")
    try:
        for path in labelled_once.rglob("*"):
            if path.is_file():
                fs.pipe_file(f"/added/{path.relative_to(labelled_once)}", path.read_bytes())
        assert add("memory://added", "--teacher", random_teacher, "--as", "da3").returncode == 0
        for name, data in contents(added_once).items():
            assert fs.cat_file(f"/added/{name}") == data, name
        assert command("precompute-depth", "verify", "memory://added").returncode == 0
        assert "da3" in shards.open_split("memory://added", "val").read(0)
    finally:
        fs.store.clear()


def test_a_stranger_s_index_of_a_field_ends_in_a_field_or_in_one_line(added):
    path = added / "val" / "da3" / "index.json"
    instance = json.loads(path.read_text())
    offered = refused = 0
    for what, changed in islice(hostile_values(shards.SidecarIndex, instance), 0, None, 40):
        path.write_text(json.dumps(changed))
        split = shards.open_split(added, "val")
        assert ("da3" in split.index.depth) != ("da3" in split.unusable), what
        assert "\n" not in split.unusable.get("da3", ""), what
        offered += "da3" in split.index.depth
        refused += "da3" in split.unusable
        assert split.read(0, ("rgb", "pseudo"))["pseudo"].size
    assert offered and refused > 20


def test_a_tar_is_deterministic_and_plain(added_once):
    with tarfile.open(added_once / "train" / "da3" / "shard-000000.tar") as tar:
        for member in tar.getmembers():
            assert (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
