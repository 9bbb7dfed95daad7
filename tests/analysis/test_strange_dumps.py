"""Dumps from somebody else, and what kills leave of dumps: refused by name, or put right; nothing else is touched."""

import json
import os
import shutil
import struct
import time
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import planted
import pytest
import zarr

from pipeline import files
from pipeline.errors import UserError
from training.dumps import store
from training.dumps.pairs import distances, num_distances
from training.dumps.schema import DumpInfo, arrays
from training.dumps.store import DumpError, DumpWriter, open_dump
from training.dumps.tokens import gram_batch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of every kind of array; read only."""
    path = tmp_path_factory.mktemp("whole") / "d.zarr"
    causal = {"num_causal": 6, "interventions": ["swap", "erase_depth-1"], "causal": -0.2}
    return planted.write_dump(path, planted.falling(planted.BETAS), model="mlin", num_images=20, num_raw=18, **causal)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "d.zarr")
    return tmp_path / "d.zarr"


def attributes_of(path: Path) -> dict[str, Any]:
    found = json.loads((path / "zarr.json").read_text())["attributes"]
    del found["sha256"]
    return found


def reseal(path: Path, attributes: dict[str, Any]) -> None:
    """Write attributes with the checksum that they then have."""
    sealed = attributes | {"sha256": store._checksum(attributes)}
    (path / "zarr.json").write_text(json.dumps({"attributes": sealed, "zarr_format": 3, "node_type": "group"}))


def test_what_zarr_writes_of_arrays_is_what_a_reader_takes(whole: Path) -> None:
    dump = open_dump(whole)
    for name, spec in arrays(dump.info).items():
        assert json.loads((whole / name / "zarr.json").read_text()) == store.metadata(name, spec), name
    assert set(dump.keys()) == {f"room-{number}" for number in range(20)}


def test_distances_are_counted_without_pairs() -> None:
    for grid in ((1, 1), (1, 7), (3, 5), (14, 14)):
        assert num_distances(grid) == len(distances(grid)[0])
    start = time.perf_counter()
    assert num_distances((256, 256)) > 10_000
    assert time.perf_counter() - start < 1


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        metadata = path / "statistics" / "labels" / "zarr.json"
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | changes))

    return edit


def as_format_2(path: Path) -> None:
    """Another store under the same name, which Zarr opens in its place unless told which format."""
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(json.dumps(json.loads((path / "zarr.json").read_text())["attributes"]))
    (path / "zarr.json").unlink()
    (path / "zarr.json").mkdir()


def linked(name: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        away = path.parent / "away"
        (path / name).rename(away)
        (path / name).symlink_to(away)

    return link


def claiming(num_bytes: int) -> Callable[[Path], None]:
    def claim(path: Path) -> None:
        frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", num_bytes) + b"\x01\x00\x00"
        (path / "statistics" / "labels" / "c" / "0").write_bytes(frame)

    return claim


def added(name: str) -> Callable[[Path], None]:
    def add(path: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")

    return add


def consolidated(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no part of the format's third version
        zarr.consolidate_metadata(path)


ENVIRONMENT = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "numcodecs.pickle"}]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (as_format_2, "not a Zarr store that can be read"),
        (consolidated, "no group of format 3"),
        (linked("zarr.json"), "no regular file|is a link"),
        (linked("statistics/labels/zarr.json"), "is a link"),
        (linked("statistics/labels/c"), "is a link"),
        (linked("statistics/labels/c/0"), "is a link"),
        (linked("statistics"), "is a link"),
        (edited(codecs=ENVIRONMENT), r"array statistics/labels is damaged \(codecs of its zarr.json\)"),
        (edited(storage_transformers=[{"name": "x"}]), "storage_transformers of its zarr.json"),
        (edited(data_type="float64"), "data_type of its zarr.json"),
        (edited(fill_value=7), "fill_value of its zarr.json"),
        (edited(zarr_format=2), "zarr_format of its zarr.json"),
        (edited(node_type="group"), "node_type of its zarr.json"),
        (edited(extra=1), "extra of its zarr.json"),
        (edited(shape=[10**12]), r"shape \[1000000000000\], expected \[20\]"),
        (edited(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1]}}), "chunk_grid of its zarr.json"),
        (claiming(10**13), r"size of statistics/labels/c/0"),
        (claiming(1 << 63), r"size of statistics/labels/c/0"),
        (claiming(81), r"size of statistics/labels/c/0"),
        (claiming(80), r"array statistics/labels is damaged"),
        (
            added("precious.txt"),
            "precious.txt is nothing that a dump holds: move it away, or make the dump again with train",
        ),
        (added("statistics/more/zarr.json"), "statistics/more is nothing that a dump holds"),
        (added("statistics/labels/more"), "labels/more is nothing that a dump holds"),
        (added("statistics/labels/c/1"), "labels/c/1 is nothing that a dump holds"),
        (added("statistics/labels/c/00"), "labels/c/00 is nothing that a dump holds"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__qualname__", "").split(".")[0],
)
def test_what_the_writer_does_not_write_is_refused(copy: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(copy)
    with pytest.raises(DumpError, match=message) as refused:
        open_dump(copy)["statistics/labels"]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("num_images", [10**12, 10**8])
def test_a_claim_of_images_is_held_against_what_is_there(copy: Path, num_images: int) -> None:
    attributes = attributes_of(copy) | {"num_images": num_images, "gram_batch": gram_batch(num_images)}
    reseal(copy, attributes)
    if num_images <= 10**8:
        for name, spec in arrays(DumpInfo.model_validate(attributes)).items():
            (copy / name / "zarr.json").write_text(json.dumps(store.metadata(name, spec)))
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(DumpError, match=r"num_images: .*, got 1000000000000|array images_done"):
            open_dump(copy)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5


def test_what_systems_leave_in_a_dump_does_not_matter(copy: Path) -> None:
    for folder in (".", "statistics", "statistics/labels", "statistics/labels/c"):
        for name in (".DS_Store", "._zarr.json", ".gitkeep", "zarr.json~"):
            (copy / folder / name).write_text("x")
    assert open_dump(copy)["statistics/labels"].shape == (20,)


@pytest.mark.parametrize(
    ("value", "message"), [(float("inf"), "no dump has"), (1e308, "no dump has"), (float("nan"), "missing")]
)
def test_numbers_that_nothing_can_be_made_of_are_refused(copy: Path, value: float, message: str) -> None:
    zarr.open_group(copy, mode="r+")["statistics/content/bins/sum"][0, 0, 0, 0] = value
    with pytest.raises(DumpError, match=rf"array statistics/content/bins/sum .*{message}"):
        open_dump(copy)["statistics/content/bins/sum"]
    zarr.open_group(copy, mode="r+")["statistics/patch_depth"][0, 0] = np.inf  # a patch without depth
    assert np.isinf(open_dump(copy)["statistics/patch_depth"]).sum() == 1


def test_a_dump_that_a_kill_left_aside_can_be_read(copy: Path) -> None:
    aside = copy.with_name(".d.zarr.0123abcd.old")
    copy.rename(aside)
    assert files.whole(copy) == aside
    assert open_dump(files.whole(copy)).info.model == "mlin"


@pytest.mark.parametrize("aside", [".d.zarr.replaced", ".d.zarr.0123abcd.old"])
def test_a_writer_puts_right_what_kills_left_of_its_dump_and_nothing_else(copy: Path, aside: str) -> None:
    info = open_dump(copy).info
    copy.rename(copy.with_name(aside))
    (copy.parent / ".d.zarr.89abcdef.partial" / "raw").mkdir(parents=True)
    others = [".vimrc.old", ".e.zarr.partial", ".d.zarr.more.partial"]
    for name in others:
        (copy.parent / name).touch()
    (copy.parent / ".vimrc").touch()
    DumpWriter(copy, info)
    assert open_dump(copy).info == info
    assert {path.name for path in copy.parent.iterdir()} == {"d.zarr", ".vimrc", *others}


def test_links_in_a_folder_of_dumps_are_replaced_not_followed(copy: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    copy.rename(away)
    before = {path: path.read_bytes() for path in away.rglob("*") if path.is_file()}
    copy.symlink_to(away)
    for name in (".d.zarr.partial", ".d.zarr.0123abcd.partial"):
        (tmp_path / name).symlink_to(away)
    with DumpWriter(copy, open_dump(away).info) as writer:
        writer.write_keys(0, ["one"])
    assert not copy.is_symlink() and not list(tmp_path.glob(".*"))
    assert {path: path.read_bytes() for path in away.rglob("*") if path.is_file()} == before


def test_a_dump_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    sync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def checked(source: Path, target: Path) -> None:
        if target == tmp_path / "d.zarr":
            inside = [str(path) for path in Path(source).rglob("*")]
            assert synced >= {str(source), *inside}
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", checked)
    planted.write_dump(tmp_path / "d.zarr", planted.constant(), num_images=4)
    assert str(tmp_path) in synced


def test_every_field_with_every_hostile_value_is_taken_rightly_or_refused(copy: Path) -> None:
    """One line where it is refused; names that are taken can be file names, anchors and words of a line."""
    taken, refusals = [], []
    for what, attributes in fuzzing.hostile_values(DumpInfo, attributes_of(copy)):
        reseal(copy, attributes)
        try:
            taken.append((what, store._read_info(copy)))
        except DumpError as error:
            refusals.append(str(error))
    assert all("\n" not in refusal and len(refusal) < 1000 for refusal in refusals)
    assert {what.partition(":")[0].partition(".")[0] for what, _ in taken} >= {"run", "data", "class_names", "config"}
    for what, info in taken:
        for name in (info.model, info.depth_field, info.split, info.checkpoint, info.patch_depth):
            assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in name), what
        assert "/" not in info.run and info.run.isprintable(), what
        assert info.num_images <= 10**8 and all(1 <= side <= 256 for side in info.grid), what
    numbers = [(what, info) for what, info in taken if arrays(info) != arrays(taken[0][1])]
    for _, info in numbers:  # another shape than what is there
        reseal(copy, info.model_dump(mode="json"))
        with pytest.raises(DumpError, match=r"d\.zarr"):
            open_dump(copy)


def test_random_damage_is_one_line(copy: Path) -> None:
    for harmed in (copy / "zarr.json", copy / "statistics" / "labels" / "zarr.json"):
        data = harmed.read_bytes()
        for damaged in (*fuzzing.WHOLE_FILES.values(), *fuzzing.mutations(data, seed=1, count=60)):
            harmed.write_bytes(damaged)
            try:
                attributes = json.loads(damaged)["attributes"]
                del attributes["sha256"]
                reseal(copy, attributes)  # else the checksum alone refuses it
            except (ValueError, KeyError, TypeError, RecursionError):
                pass
            with suppress(UserError):
                open_dump(copy)
        harmed.write_bytes(data)
    open_dump(copy)
