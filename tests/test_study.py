"""The whole study on real photographs: folder -> shards -> training -> dump -> report, as the README shows it."""

import os
import shutil
from pathlib import Path

import pytest
from running import command

from analysis import load
from pipeline import shards


def study(photos: Path, out: Path, *settings: str) -> None:
    lines = [
        ("precompute-depth", "folder", photos, out / "shards", "--teacher", "toy", "--val-fraction", "0.25"),
        ("precompute-depth", "verify", out / "shards"),
        ("precompute-depth", "inspect", out / "shards"),
        ("train", "pretrain", "--preset", "tiny", "--model", "m4ch", "--data", out / "shards", "--out", out / "m4ch",
         *(word for setting in settings for word in ("--set", setting))),
        ("train", "evaluate", out / "m4ch", "--data", out / "shards"),
        ("train", "dump", out / "m4ch", "--data", out / "shards"),
        ("analyze", "report", out / "m4ch", "--out", out / "report"),
    ]  # fmt: skip
    for line in lines:
        done = command(*line)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


def check(out: Path, num_photos: int) -> None:
    splits = shards.splits_of(out / "shards")
    assert sum(len(split) for split in splits) == num_photos
    depths = [split[i]["pseudo"] for split in splits for i in range(len(split))]
    assert all(depth.std() > 0.01 for depth in depths), "the teacher must see something in every photograph"
    page = (out / "report" / "index.html").read_text("utf-8")
    assert "m4ch" in page
    assert len(page) < 10_000_000
    loaded = load([out / "m4ch"])
    assert len(loaded.table(2)) == 1


def test_on_the_photographs_bundled_with_scikit_learn(bundled_photos, tmp_path):
    study(bundled_photos, tmp_path, "optim.epochs=2", "optim.batch_size=4")
    check(tmp_path, 12)


def test_on_real_photographs(tmp_path):
    folder = os.environ.get("PSEUDODEPTH_PHOTOS")
    if not folder:
        pytest.skip("PSEUDODEPTH_PHOTOS names no folder of photographs (PHOTOS/<class>/*.JPEG)")
    chosen = sorted(Path(folder).glob("*/*"))[::17][:12]
    assert len(chosen) == 12, f"{folder} holds too few photographs"
    for path in chosen:
        (tmp_path / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "photos" / path.parent.name)
    study(tmp_path / "photos", tmp_path, "optim.epochs=2", "optim.batch_size=4")
    check(tmp_path, 12)
