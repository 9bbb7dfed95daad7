"""Labelled RGB-D sets from their published layout to Table 3: shards, fine-tuning with their own classes, the table."""

import json

import pytest
from rgbd_sets import SETS
from running import command
from segments import FAST

from pipeline import shards
from training import records

FEW = ("augment.crop=[24,32]", "optim.epochs=1", "optim.steps_per_epoch=2", "optim.batch_size=1",
       "select.share=0.5", "head.channels=8", "head.width=8", "head.rank=4")  # fmt: skip
CLASSES = {"sunrgbd": 37, "dformer": 40, "dformer-sunrgbd": 37, "scannet": 20, "hypersim": 40}
REAL = {"sunrgbd": "raw", "hypersim": "exact"}  # a field of another name may stand for real


@pytest.fixture(scope="module", params=CLASSES)
def shards_of(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    SETS[request.param](root / "src")
    words = ("--teacher", "toy", "--device", "cpu", "--samples-per-shard", 2, "--batch-size", 2, "--max-rejects", 1)
    if (
        request.param == "hypersim"
    ):  # its camera is described at full size, and the tiny preset sees 48 pixels at a time
        words += ("--short-side", 48)
    done = command("precompute-depth", "rgbd", request.param, root / "src", root / "out", *words)
    assert done.returncode == 0, done.stderr
    return request.param, root / "out"


@pytest.mark.slow
def test_a_set_is_fine_tuned_with_its_own_classes_and_drawn_as_table_3(shards_of, run_once, tmp_path):
    name, data = shards_of
    real = REAL.get(name, "real")
    words = [word for setting in (*FAST, *FEW) for word in ("--set", setting)]
    done = command(
        "train",
        "matrix",
        run_once,
        "--preset",
        "tiny",
        "--data",
        data,
        "--out",
        tmp_path / "table3",
        "--real",
        real,
        *words,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for depth in (real, "pseudo"):
        [folder] = (tmp_path / "table3").glob(f"*-{depth}")
        record = records.load_run(folder).record
        assert record.shards.num_classes == CLASSES[name] and record.shards.depth_field == depth
        provenance = record.shards.provenance
        assert provenance == shards.open_split(data, "train").index.provenance(depth)
        kind = {"hypersim": "rendered"}.get(name, "filled" if name.startswith("dformer") else "measured")
        assert provenance.kind == ("estimated" if depth == "pseudo" else kind)
    found = json.loads((tmp_path / "table3" / "matrix.json").read_text())
    assert found["num_classes"] == CLASSES[name] and found["fields"] == {"real": real, "pseudo": "pseudo"}
    assert {(cell["trained"], cell["tested"]) for cell in found["cells"]} == {
        (one, other) for one in ("real", "pseudo") for other in ("real", "pseudo")
    }
    done = command("analyze", "table3", tmp_path / "table3" / "matrix.json", "--out", tmp_path / "drawn")
    assert done.returncode == 0, done.stdout + done.stderr
    assert any((tmp_path / "drawn").rglob("*.csv"))


@pytest.mark.slow
def test_scenes_are_classified(run_once, tmp_path):
    SETS["sunrgbd-scenes"](tmp_path / "src")
    done = command(
        "precompute-depth", "rgbd", "sunrgbd-scenes", tmp_path / "src", tmp_path / "out", "--teacher", "none"
    )
    assert done.returncode == 0, done.stderr
    words = ("--task", "classification", "--preset", "finetune-tiny", "--init", run_once, "--depth", "real")
    few = ("--set", "optim.epochs=1", "--set", "optim.batch_size=2", "--set", "runtime.device=cpu")
    done = command("train", "finetune", *words, "--data", tmp_path / "out", "--out", tmp_path / "tuned", *few)
    assert done.returncode == 0 and "mean-class" in done.stdout, done.stdout + done.stderr
    assert records.load_run(tmp_path / "tuned").record.shards.num_classes == 19
