"""Contact sheets: what is drawn, in which colour, and that odd data does not stop them."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from running import ROOT

from pipeline import inspect
from pipeline.colours import DEPTH_MAP, NOT_MEASURED, class_colours, depth_colours
from pipeline.shards import VOID, Split, describe_depth, teacher_note
from pipeline.standardize import Standardisation

RED = NOT_MEASURED


class FakeSplit:
    """As much of a Split as a sheet needs."""

    def __init__(
        self, samples: list[dict[str, Any]], units: dict[str, str], seg_names=(), class_names=(), teacher="some"
    ) -> None:
        depth = {
            field: describe_depth(
                Standardisation(3.0, 2.0, "farther_is_larger" if unit == "m" else "closer_is_larger"),
                unit=unit, constants_from="given", step_z=0.001, max_error_z=0.0, realised_mean=3.0, realised_std=2.0,
                num_pixels=1,
            )
            for field, unit in units.items()
        }  # fmt: skip
        self.index = SimpleNamespace(
            depth=depth, seg_names=list(seg_names), class_names=list(class_names), source="folder",
            teacher={"name": teacher},
        )  # fmt: skip
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, position: int) -> dict[str, Any]:
        return self.samples[position]


def sample(height: int, width: int, seed: int = 0, **fields: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    z = rng.normal(size=(height, width)).astype(np.float32)
    return {"key": f"key-{seed}", "rgb": rgb, "json": {}, "pseudo": z, "real": z, "raw": z, **fields}


def draw(samples, units, count=8, **names) -> np.ndarray:
    image = inspect.sheet(cast(Split, FakeSplit(samples, units, **names)), count)
    assert image.mode == "RGB"
    return np.asarray(image)


def holds(pixels: np.ndarray, colour) -> bool:
    return bool((pixels == np.asarray(colour)).all(-1).any())


def test_pseudo_depth_of_the_toy_teacher_is_named_where_it_knows_nothing():
    plain, named = (draw([sample(64, 64)], ALL, teacher=teacher) for teacher in ("some", "toy"))
    assert named.shape[0] == plain.shape[0] + 20, "a line more in the legend"
    assert teacher_note("folder", "toy") and teacher_note("digits", "toy")
    for source, teacher in (("toyrooms", "toy"), ("folder", "some"), ("folder", None)):
        assert teacher_note(source, teacher) is None


ALL = {"pseudo": "relative inverse depth", "real": "m", "raw": "m"}
FORTY = [f"class {number}" for number in range(40)]


def test_every_column_in_its_place():
    depth = np.zeros((480, 640), np.float32)
    depth[:, 320:] = 1
    raw = np.full((480, 640), np.nan, np.float32)
    raw[0, 0] = 0.0
    shown = sample(480, 640, rgb=np.full((480, 640, 3), (1, 2, 3), np.uint8), pseudo=depth, real=depth, raw=raw,
                   seg=np.full((480, 640), 7, np.uint8))  # fmt: skip
    pixels = draw([shown], ALL, seg_names=FORTY)
    assert pixels.shape[1] == 5 * 246 + 6
    row = pixels[20 + 22 + 90]  # the middle of the only row
    middle = [tuple(row[6 + 246 * column + 200]) for column in range(5)]
    left = [tuple(row[6 + 246 * column + 40]) for column in range(5)]
    near, far = ((np.array(colormaps[DEPTH_MAP](end)[:3]) * 255).round().tolist() for end in (0.0, 1.0))
    assert sum(near) > 500 > 150 > sum(far), "near is bright"
    near, far = tuple(near), tuple(far)
    assert (left[0], left[1], left[2], left[3]) == ((1, 2, 3), near, near, RED)
    assert (middle[1], middle[2], middle[3]) == (far, far, RED)
    assert left[4] == middle[4] == tuple(class_colours(40)[7])


def test_metric_fields_of_a_row_share_their_colours():
    real = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(64, 64)
    raw = np.where(real > 0, np.nan, real)
    split = cast(Split, FakeSplit([sample(64, 64, real=real, raw=raw)], ALL))
    assert inspect._range(split, split.read(0), "real") == inspect._range(split, split.read(0), "raw")
    assert inspect._range(split, split.read(0), "pseudo") != inspect._range(split, split.read(0), "raw")


def test_the_legend_of_many_labels_lists_those_that_occur():
    seg = np.zeros((64, 64), np.uint8)
    seg[:32] = 21
    few = draw([sample(64, 64, seg=seg)], ALL, seg_names=FORTY)
    colours = class_colours(40)
    legend = few[22 + 20 + 160 + 6 : -340]
    assert [number for number in range(40) if holds(legend, colours[number])] == [0, 21]
    every = draw([sample(64, 64, seg=np.arange(4096).reshape(64, 64).astype(np.uint8) % 40)], ALL, seg_names=FORTY)
    legend = every[22 + 20 + 160 + 6 : -340]
    assert all(holds(legend, colour) for colour in colours[:40])
    assert every.shape[0] > few.shape[0]


def test_the_farther_the_darker_and_what_is_not_measured_is_red():
    z = np.array([-9, -1, 0, 1, 9, np.nan], np.float32)
    colours = depth_colours(z, -1, 1)
    brightness = colours[:5].astype(int).sum(1)
    assert brightness[0] == brightness[1] > brightness[2] > brightness[3] == brightness[4]
    assert tuple(colours[5]) == NOT_MEASURED
    assert not (depth_colours(np.linspace(-1, 1, 256, dtype=np.float32), -1, 1) == NOT_MEASURED).all(-1).any()


def test_forty_colours_are_told_apart():
    colours = class_colours(40)
    assert tuple(colours[VOID]) == (255, 255, 255)
    shown = np.vstack([colours[:40], colours[VOID]]).astype(int)
    gaps = np.abs(shown[:, None] - shown[None]).max(-1) + 255 * np.eye(41, dtype=int)
    assert gaps.min() >= 30


def test_a_short_list_of_labels_is_shown_whole():
    names = [f"class {number}" for number in range(9)]
    legend = draw([sample(64, 64, seg=np.zeros((64, 64), np.uint8))], ALL, seg_names=names)[208:-340]
    assert all(holds(legend, colour) for colour in class_colours(9)[:9])


def test_the_histograms_change_with_the_depth():
    one, other = sample(64, 64), sample(64, 64)
    other["pseudo"] = other["pseudo"] + 2
    below = [draw([shown], {"pseudo": "relative inverse depth"})[-340:] for shown in (one, other)]
    assert not np.array_equal(*below)


@pytest.mark.parametrize("constant", [np.nan, 1.0])
def test_depth_that_is_missing_or_constant(constant):
    flat = np.full((64, 64), constant, np.float32)
    shown = sample(64, 64, pseudo=flat, real=flat, raw=flat)
    assert holds(draw([shown], ALL), RED) == np.isnan(constant)
    draw([shown | {"raw": sample(64, 64)["raw"]}], ALL)


def test_long_names_and_images_of_any_shape():
    shown = [sample(20, 400, 1, cls=0), sample(400, 20, 2, cls=0), sample(1, 1, 3, cls=0)]
    pixels = draw(shown, {"pseudo": "relative inverse depth"}, class_names=["a very long name " * 40])
    assert pixels.shape[1] == 720
    assert (pixels[:40, -6:] == 255).all()  # the caption ends before the edge


def test_rows_are_spread_over_the_split_and_bounded(tmp_path, monkeypatch):
    samples = [sample(64, 64, rgb=np.full((64, 64, 3), number, np.uint8)) for number in range(10)]
    split = FakeSplit(samples, ALL)
    monkeypatch.setattr(inspect.shards, "open_split", lambda data, name: split)
    inspect.contact_sheet(tmp_path, "train", 3, tmp_path / "new" / "sheet.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]
    pixels = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    tiles = [int(pixels[22 + row * 186 + 20 + 80, 6 + 80, 0]) for row in range(3)]
    assert tiles == [0, 4, 9]


def test_nothing_here_imports_torch():
    code = (
        "import sys; sys.path += ['tests', 'tests/pipeline']\n"
        "from test_inspect import ALL, draw, sample; draw([sample(64, 64)], ALL); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
