"""Table 3: what the cells and their intervals are made of, and the command that fills them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import command
from sklearn.metrics import jaccard_score

from training.records import Matrix, RecordError, SegmentationEvaluation, SegmentationScores, load_run, parse
from training.segmentation.matrix import MatrixError, Row, counts, matrix, resampled_miou
from training.segmentation.scores import Counts, counts_of
from training.segmentation.table3 import tables

CLASSES, IMAGES, PIXELS = 4, 30, 200


def evaluation(right: float, seed: int = 0, tested: str = "real", keys: int = 0) -> SegmentationEvaluation:
    """Random labels; predictions that are right at this rate, and else random."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (IMAGES, PIXELS))
    guess = np.where(rng.random(label.shape) < right, label, rng.integers(0, CLASSES, label.shape))
    images = np.stack([np.bincount(a * CLASSES + b, minlength=CLASSES**2) for a, b in zip(label, guess, strict=True)])
    images = images.reshape(IMAGES, CLASSES, CLASSES)
    found = Counts(images.sum(0), np.stack([counts_of(image) for image in images]))
    assert found.miou == pytest.approx(jaccard_score(label.ravel(), guess.ravel(), average="macro"), abs=1e-12)
    scores = SegmentationScores(
        miou=found.miou, pixel_accuracy=found.pixel_accuracy, class_iou=[None] * CLASSES,
        confusion=found.confusion.tolist(),
        per_image=[{c: tuple(image[c].tolist()) for c in range(CLASSES)} for image in found.per_image],
    )  # fmt: skip
    return SegmentationEvaluation(
        model="m4ch", checkpoint="best", epoch=2, selection="best-on-val", checkpoint_sha256="c", data="rooms",
        split="val", fingerprint="f",
        depth_field=tested, num_samples=IMAGES, keys=[f"{keys + place}" for place in range(IMAGES)],
        classes=list("abcd"), loss=1.0, single=scores, multi=None, scales=[],
    )  # fmt: skip


def full_row(name: str = "m4ch-pseudo", **same: int) -> Row:
    rates = {("real", "real"): 0.8, ("real", "pseudo"): 0.5, ("pseudo", "pseudo"): 0.7, ("pseudo", "real"): 0.7}
    return Row(name, "m4ch", 0, {cell: evaluation(rate, tested=cell[1], **same) for cell, rate in rates.items()})


def test_cells_and_differences_come_with_intervals_over_images():
    found = matrix([full_row()], "rooms")
    by_place = {(cell.trained, cell.tested): cell for cell in found.cells}
    assert len(by_place) == 4 and all(cell.low < cell.miou < cell.high for cell in found.cells)
    cost = next(d for d in found.differences if d.of == ("real", "pseudo"))
    assert cost.minus == ("real", "real")
    assert cost.value == pytest.approx(by_place["real", "pseudo"].miou - by_place["real", "real"].miou)
    assert cost.high < 0  # 0.5 against 0.8 of the pixels
    same = next(d for d in found.differences if d.of == ("pseudo", "real"))
    assert (same.value, same.low, same.high) == (0, 0, 0)  # one outcome, one draw: paired


def test_the_interval_is_that_of_a_bootstrap_written_out():
    scores = evaluation(0.6).single
    rng, rows = np.random.default_rng(1), counts(scores)
    drawn = []
    for _ in range(2000):
        sums = rows[rng.integers(0, IMAGES, IMAGES)].sum(0)
        drawn.append(np.mean(sums[:, 0] / sums.sum(1)))
    literal, ours = np.percentile(drawn, (2.5, 97.5)), np.percentile(resampled_miou(scores), (2.5, 97.5))
    assert ours == pytest.approx(literal, abs=0.1 * (literal[1] - literal[0]))


def test_tests_on_other_images_make_no_table():
    with pytest.raises(MatrixError, match="mlin was tested on other images than m4ch"):
        matrix([full_row("m4ch"), full_row("mlin", keys=5)], "rooms")


def test_the_papers_numbers_stand_under_ours():
    shown = tables(matrix([full_row()], "rooms"))[0]
    texts = [list(column.cells) for column in shown.columns]
    assert texts[0] == ["m4ch-pseudo", "  paper, NYU"]
    assert [column[1] for column in texts[1:]] == ["29.16", "23.72", "30.35", "21.80"]


# --- the command ------------------------------------------------------------------------------------------------------

TINY = ("model.width=16", "model.depth=2", "optim.epochs=1", "optim.batch_size=16", "runtime.workers=0")
FINE = ("optim.epochs=2", "optim.steps_per_epoch=2", "optim.batch_size=8", "select.every=1", "runtime.workers=0",
        "optim.warmup_epochs=1", "augment.crop=[48,48]")  # fmt: skip


def settings(some: tuple[str, ...]) -> list[str]:
    return [word for one in some for word in ("--set", one)]


@pytest.fixture(scope="module")
def shards(random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "shards"
    done = command(
        "precompute-depth", "toyrooms", out, "--teacher", random_teacher, "--samples", 40, "--val-samples", 12,
        "--size", 48,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_the_command_fine_tunes_reuses_and_fills_the_table(shards, tmp_path):
    for model in ("m3ch", "m4ch"):
        done = command(
            "train", "pretrain", "--preset", "tiny", "--model", model, "--data", shards, "--out", tmp_path / model,
            *settings(TINY),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    line = (
        "train", "matrix", tmp_path / "m3ch", tmp_path / "m4ch", "--preset", "tiny", "--data", shards, "--out",
        tmp_path / "table", *settings(FINE),
    )  # fmt: skip
    done = command(*line)
    assert done.returncode == 0, done.stderr
    found = parse(Matrix, tmp_path / "table" / "matrix.json")
    assert {(c.name, c.trained, c.tested) for c in found.cells} == {
        ("m3ch", "real", "real"), ("m3ch", "real", "pseudo"), ("m4ch", "real", "real"), ("m4ch", "real", "pseudo"),
        ("m4ch", "pseudo", "pseudo"), ("m4ch", "pseudo", "real"),
    }  # fmt: skip
    blind = [c.miou for c in found.cells if c.name == "m3ch"]
    assert blind[0] == blind[1]  # reads no depth
    assert len(found.differences) == 4  # one of m3ch, three of m4ch
    made = tmp_path / "table" / "m4ch-real"
    assert load_run(made).record.started_from["run"] == "m4ch"
    assert {e.depth_field for e in load_run(made).segmentations} == {"real", "pseudo"}

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*.pt")}
    done = command(*line)
    assert done.returncode == 0 and "is finished" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*.pt")} == before
    assert parse(Matrix, tmp_path / "table" / "matrix.json") == found

    given = [tmp_path / "table" / name for name in ("m4ch-real", "m4ch-pseudo", "m3ch-real")]
    done = command("train", "matrix", *given, "--data", shards, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again = parse(Matrix, tmp_path / "again" / "matrix.json")
    assert sorted(again.cells, key=str) == sorted(found.cells, key=str)

    # Tested on other images: every cell anew, whatever lies in the runs' folders.
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    sha256 = json.loads((other / "val" / "shard-000000.json").read_text())["sha256"]
    for name in ("index", "shard-000000"):
        path = other / "val" / f"{name}.json"
        path.write_text(path.read_text().replace(sha256, "0" * 64))
    done = command("train", "matrix", *given, "--data", other, "--out", tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert parse(Matrix, tmp_path / "elsewhere" / "matrix.json").fingerprint != found.fingerprint

    def refused(words, *line):
        done = command("train", "matrix", *line, "--data", shards, "--out", tmp_path / "refused")
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "refused").exists()

    same = ("--preset", "tiny", *settings(FINE))
    refused("are the same fine-tuning: give one of them", made, tmp_path / "m4ch", *same)
    refused("but differ in head", made, tmp_path / "m4ch", *same, "--head", "linear")
    refused("--set data.depth: it is chosen", tmp_path / "m4ch", *same, "--set", "data.depth=raw")

    (made / "metrics.jsonl").write_text("".join((made / "metrics.jsonl").read_text().splitlines(True)[:-1]))
    done = command("train", "matrix", *given, "--data", shards, "--out", tmp_path / "again")
    assert done.returncode == 1 and "m4ch-real is not finished" in done.stderr


def test_a_matrix_of_a_later_version_is_refused(tmp_path):
    (tmp_path / "matrix.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(RecordError, match="schema version 99"):
        parse(Matrix, tmp_path / "matrix.json")
