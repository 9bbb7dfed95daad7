"""Code that a command line names becomes a teacher, held to the protocol; code that only a file names is never run."""

import json
import re
import shutil
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from running import ROOT, command, contents, fails_in_one_line

from pipeline import job, shards
from pipeline.sources.folder import Folder
from pipeline.teachers import TeacherError, elsewhere, open_teacher
from training.tasks.classification.config import resolve
from training.tasks.classification.online import OnlineDepth

GOOD = (ROOT / "docs" / "extend.md").read_text("utf-8").partition("## A teacher")[2]
GOOD = re.search(r"```python\n(.*?)```", GOOD, re.DOTALL)[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that we are in, where `write` makes modules; they are forgotten afterwards."""
    known, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """The teacher of docs/extend.md as a module, with `changes`; returns what --teacher takes."""
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.py").write_text(text)
    return f"{name}:Darkness"


def label(photos, out, teacher, *options):
    words = ("precompute-depth", "folder", photos, out, "--teacher", teacher, "--short-side", 96, "--val-fraction",
             0.25, "--samples-per-shard", 4, "--batch-size", 3, *options)  # fmt: skip
    return command(*words)


# --- the example of the docs, from a file beside us, as a factory and as an entry point ----------------------------


def entry_points_are(monkeypatch, *points: tuple[str, str]) -> None:
    made = EntryPoints(EntryPoint(name, value, elsewhere.GROUP) for name, value in points)
    monkeypatch.setattr(elsewhere, "entry_points", lambda group: made.select(group=group))


def test_the_example_of_the_docs_labels_photographs(here, bundled_photos):
    assert len(GOOD.strip().splitlines()) <= 20
    name = write(here, "darkness")
    done = label(bundled_photos, here / "out", name)
    assert done.returncode == 0, done.stderr
    split = shards.open_split(here / "out", "train")
    assert split.index.teacher["name"] == "darkness" and split.index.depth["pseudo"].unit == "m"
    sample = split[0]
    assert np.corrcoef(255 - sample["rgb"].mean(2).ravel(), sample["pseudo"].ravel())[0, 1] > 0.99
    facts = here / "darkness-1.dist-info"  # as pip leaves it
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: darkness\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[{elsewhere.GROUP}]\ndark = {name}\ndusk = no_such_module:Dusk\n")
    sys.path.insert(0, str(here))
    done = label(bundled_photos, here / "again", "entry-point:dark", "--batch-size", 5)
    assert done.returncode == 0, done.stderr
    tars = [{k: v for k, v in contents(here / out).items() if k.endswith(".tar")} for out in ("out", "again")]
    assert tars[0] == tars[1] and len(tars[0]) >= 4


def test_a_factory_takes_the_options_that_it_names(here):
    head = "class Darkness:\n"
    write(here, "some", (head, f"{head}    def __init__(self, size=None, *, device): self.given = (size, device)\n\n"))
    write(here, "every", (head, f"{head}    def __init__(self, **options): self.given = options\n\n"))
    opened = open_teacher("some:Darkness", "cpu", size=64, typed=True)
    assert opened._teacher.given == (64, "cpu")
    assert open_teacher("every:Darkness", typed=True)._teacher.given.keys() == elsewhere.OPTIONS.keys()
    for options, typed in (({"dtype": "fp16"}, "--dtype"), ({"compile": True}, "--compile"), ({"fov": 60.0}, "-fov")):
        with pytest.raises(TeacherError, match=rf"takes --device, --teacher-size: leave out .*{typed}"):
            open_teacher("some:Darkness", typed=True, **options)


# --- what is refused, each in one line ------------------------------------------------------------------------------


def test_names_that_stand_for_nothing(here, monkeypatch):
    entry_points_are(monkeypatch, ("dark", "darkness:Darkness"), ("two", "a:b"), ("two", "c:d"), ("odd", "darkness"))
    write(here, "darkness")
    (here / "broken.py").write_text("1 / 0")
    (here / "leaves.py").write_text("raise SystemExit(3)")
    (here / "plain.py").write_text(
        "value = 3\ndef needy(weights, *, device): ...\ndef fails():\n    raise OSError('no\\nweights')"
    )
    for name, told in (
        ("entry-point:drak", "did you mean 'dark'?"),
        ("entry-point:zzz", "there are dark, odd, two"),
        ("entry-point:two", "2 installed packages have it: name one of a:b, c:d"),
        ("entry-point:odd", "'darkness', which is no package.module:factory"),
        ("nowhere.at_all:Darkness", "ModuleNotFoundError.*install its package, or run where it lies"),
        ("broken:Darkness", "broken does not import .ZeroDivisionError: division by zero.: mend it"),
        ("leaves:Darkness", "leaves does not import .SystemExit: 3"),
        ("darkness:Drakness", "darkness has no 'Drakness': did you mean 'Darkness'?"),
        ("plain:value", "must be a function or class that makes a teacher, got 3"),
        ("plain:needy", "needs weights, which no option gives"),
        ("plain:fails", "its factory failed .OSError: no weights"),
        ("plain:needy.inner", "has no 'inner'"),
        ("my-module:Darkness", "no folder, and no name of code either: that is package.module:factory"),
    ):
        with pytest.raises(TeacherError, match=told) as refusal:
            open_teacher(name, typed=True)
        assert "\n" not in str(refusal.value) and name in str(refusal.value)
    entry_points_are(monkeypatch)
    with pytest.raises(TeacherError, match="install the package that has it"):
        open_teacher("entry-point:dark", typed=True)


IDENTITY = '"weights_sha256": "none"'


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([("def estimate", "def guess")], "Darkness lacks estimate; pipeline.teachers.Teacher says"),
        (
            [("class Darkness:", "class Darkness:\n    prepare = 3\n"), ("def prepare", "def other")],
            r"lacks prepare\(\)",
        ),
        ([('"farther_is_larger"', '"far"')], "polarity must be closer_is_larger or farther_is_larger, got 'far'"),
        ([('"farther_is_larger"', "['far']")], r"polarity must be .* got \['far'\]"),
        ([('"darkness", "far', '7, "far')], "name must be a text"),
        ([('larger", "m"', 'larger", "m²"')], "unit must be a text of ASCII .* got 'm²'"),
        ([('larger", "m"', 'larger", ""')], "unit must be a text"),
        ([(IDENTITY, '"weights": 1')], "identity.. must have a text 'weights_sha256', got None"),
        ([(IDENTITY, IDENTITY + ', "x": {1, 2}')], "identity.. must be JSON .TypeError"),
        ([(IDENTITY, IDENTITY + ', "x": float("nan")')], "identity.. must be JSON .ValueError"),
        ([(IDENTITY, IDENTITY + ', "unit": "km"')], "identity.. has unit 'km', the teacher itself 'm'"),
        ([("class Darkness:", "class Darkness:\n    masks = 1\n")], "masks must be True or False, got 1"),
        ([("1 + (255", "[1] or (255")], "prepare.. must give an array or a tensor, got list"),
        ([("return list(pixels)", "return list(pixels)[1:]")], "one map for each of 2 images, got 1"),
        ([("return list(pixels)", "return [p.tolist() for p in pixels]")], "must give numpy arrays, got list"),
        ([("return list(pixels)", "return [p.astype(np.float64) for p in pixels]")], r"got float64 of \(9, 8\)"),
        ([("return list(pixels)", "return [p[1:] for p in pixels]")], r"size \(9, 8\), got float32 of \(8, 8\)"),
    ],
)
def test_what_breaks_the_protocol(here, changes, told):
    name = write(here, "other", *changes)
    with pytest.raises(TeacherError, match=rf"^teacher other:Darkness: .*{told}") as refusal:
        asked(name)
    assert "\n" not in str(refusal.value)


def asked(name: str) -> None:
    teacher = open_teacher(name, typed=True)
    prepared = [teacher.prepare(np.full((9, 8, 3), grey, np.uint8)) for grey in (3, 4)]
    teacher.estimate(prepared, [(9, 8), (9, 8)])


def test_a_class_in_place_of_its_object(here):
    write(here, "darkness")
    (here / "gives.py").write_text("from darkness import Darkness\ndef teacher(): return Darkness")
    with pytest.raises(TeacherError, match="is a class, not one of its objects"):
        open_teacher("gives:teacher", typed=True)


# --- who may name code ----------------------------------------------------------------------------------------------


def test_what_a_file_names_is_never_imported(here, bundled_photos):
    """A plan's command, and a training run's configuration."""
    name = write(here, "darkness", ("import numpy", "import pathlib\npathlib.Path('ran').touch()\nimport numpy"))
    done = label(bundled_photos, here / "out", name)
    assert done.returncode == 0, done.stderr
    before = contents(here / "out")
    tar = here / "out" / "train" / "shard-000000.tar"
    tar.write_bytes(b"damaged")
    (here / "ran").unlink()
    del sys.modules["darkness"]
    repair = ("precompute-depth", "verify", here / "out", "--repair", "--yes")
    fails_in_one_line(command(*repair), f"names the teacher {name}, which is code", f"repair with --teacher {name}")
    fails_in_one_line(command(*repair, "--teacher", "toy"), "which is code")
    config = resolve("tiny", "m4ch", ["data.depth=online", f"data.teacher={name}"])
    for open_it in (lambda: open_teacher(name), lambda: OnlineDepth(config, torch.device("cpu"))):
        with pytest.raises(TeacherError, match="runs only where precompute-depth --teacher names it"):
            open_it()
    assert not (here / "ran").exists() and "darkness" not in sys.modules
    done = command(*repair, "--teacher", name)
    assert done.returncode == 0, done.stderr
    assert (here / "ran").exists() and contents(here / "out") == before


@pytest.mark.parametrize(
    "hidden", [["--teacher=darkness:Darkness"], ["--teacher", "entry-point:dark", "--teacher", "toy"],
               ["--stats-from", "--teacher", "darkness:Darkness", "--teacher", "toy"]],
)  # fmt: skip
def test_a_plan_cannot_hide_code(here, bundled_photos, hidden):
    labelled = here / "out"
    assert label(bundled_photos, labelled, write(here, "shade")).returncode == 0
    for plan in (labelled / "plan").glob("*.json"):
        content = json.loads(plan.read_text())
        words = content["command"]
        place = words.index("--teacher")
        plan.write_text(json.dumps(content | {"command": [*words[:place], *hidden, *words[place + 2 :]]}))
    (labelled / "train" / "shard-000000.tar").write_bytes(b"damaged")
    done = command("precompute-depth", "verify", labelled, "--repair", "--yes", "--teacher", "toy")
    fails_in_one_line(done, "which is code: where you trust it")


def test_a_repair_with_a_teacher_that_moved(here, bundled_photos, random_teacher):
    labelled, moved = here / "out", here / "moved"
    shutil.copytree(random_teacher, here / "was")
    assert label(bundled_photos, labelled, here / "was").returncode == 0
    before = contents(labelled)
    (here / "was").rename(moved)
    (labelled / "train" / "shard-000000.tar").write_bytes(b"damaged")
    assert command("precompute-depth", "verify", labelled, "--teacher", moved).returncode == 2
    done = command("precompute-depth", "verify", labelled, "--repair", "--yes", "--teacher", "moved")
    assert done.returncode == 0, done.stderr
    assert contents(labelled) == before


# --- masks ----------------------------------------------------------------------------------------------------------


class Odd:
    """Gives the next of `maps`; what it knows of 20 x 20 photographs."""

    name, polarity, unit, masks = "odd", "farther_is_larger", "m", True

    def __init__(self, *maps: np.ndarray) -> None:
        self.maps = list(maps)

    def identity(self):
        return {"name": self.name, "polarity": self.polarity, "unit": self.unit, "weights_sha256": "none"}

    def prepare(self, rgb):
        return rgb

    def estimate(self, pixels, sizes):
        return [np.array(self.maps[int(image[0, 0, 0]) // 40], np.float32) for image in pixels]


RAMP = np.arange(400, dtype=np.float32).reshape(20, 20)


def changed(value: float, where: object = 3) -> np.ndarray:
    depth = RAMP.copy()
    depth[where] = value
    return depth


def test_nan_is_no_depth_where_the_teacher_masks(tmp_path):
    """Of one that does not, as those of transformers, it is a fault: half a network in fp16 that overflowed."""
    flat = np.full((20, 20), 2.0)
    maps = {
        "whole": RAMP, "masked": changed(np.nan), "infinite": changed(np.inf),
        "both": changed(np.nan, 1) + changed(-np.inf),
        "nothing": changed(np.nan, slice(None)), "constant": np.where(np.eye(20) > 0, np.nan, flat),
    }  # fmt: skip
    photos = tmp_path / "photos" / "grey"
    photos.mkdir(parents=True)
    for number, name in enumerate(maps):
        (photos / f"{name}.png").write_bytes(shards.png_bytes(np.full((20, 20, 3), 40 * number, np.uint8)))
    reasons = {}
    for masks in (True, False):
        teacher = Odd(*maps.values())
        teacher.masks = masks
        out, options = tmp_path / f"{masks}", job.Options(max_rejects=1.0, batch_size=2)
        job.run(Folder(tmp_path / "photos", 0, 0.0), teacher, out, options, console=Console(quiet=True))
        assert command("precompute-depth", "verify", out).returncode == 0
        split = shards.open_split(out, "train")
        reasons[masks] = {Path(r.source).stem: r.reason for r in split.index.rejects}
        if masks:
            assert split.index.depth["pseudo"].num_pixels == 400 + 380
            stored = {sample["json"]["source"]: sample for sample in (split[k] for k in range(len(split)))}
            z = next(sample["pseudo"] for source, sample in stored.items() if "masked" in source)
            np.testing.assert_array_equal(np.isnan(z), np.isnan(maps["masked"]))
            assert next(s for name, s in stored.items() if "masked" in name)["json"]["pseudo"]["valid_fraction"] == 0.95
    bad = {"infinite", "both", "nothing", "constant"}
    assert reasons[True].keys() == bad and reasons[False].keys() == bad | {"masked"}
    assert reasons[True] == {
        "infinite": "teacher gave non-finite depth", "both": "teacher gave non-finite depth",
        "nothing": "teacher gave no valid depth", "constant": "teacher gave constant depth",
    }  # fmt: skip
    assert set(reasons[False].values()) == {"teacher gave non-finite depth"}
