"""Table 3: what the cells and their intervals are made of, and the command that fills them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import command
from scipy.stats import t as student
from sklearn.metrics import jaccard_score

from training.records import Matrix, RecordError, SegmentationEvaluation, SegmentationScores, load_run, parse
from training.tasks.segmentation.matrix import MatrixError, MatrixRow, matrix
from training.tasks.segmentation.scores import Counts, counts_of
from training.tasks.segmentation.table3 import tables

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


def full_row(name: str = "m4ch-pseudo", **same: int) -> MatrixRow:
    rates = {("real", "real"): 0.8, ("real", "pseudo"): 0.5, ("pseudo", "pseudo"): 0.7, ("pseudo", "real"): 0.7}
    return MatrixRow(name, "m4ch", 0, {cell: evaluation(rate, tested=cell[1], **same) for cell, rate in rates.items()})


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


def left_out(scores: SegmentationScores) -> np.ndarray:
    """mIoU without each image, by loops."""
    found = []
    for out in range(IMAGES):
        iou = []
        for label in range(CLASSES):
            sums = np.sum([image[label] for place, image in enumerate(scores.per_image) if place != out], 0)
            iou.append(sums[0] / sum(sums))
        found.append(np.mean(iou))
    return np.array(found)


def test_intervals_are_students_on_a_jackknife_written_out():
    row = full_row()
    found = matrix([row], "rooms")
    without = {place: left_out(cell.single) for place, cell in row.cells.items()}

    def error(values: np.ndarray) -> float:
        return np.sqrt((IMAGES - 1) / IMAGES * ((values - values.mean()) ** 2).sum())

    for cell in found.cells:
        place = (cell.trained, cell.tested)
        assert cell.error == pytest.approx(error(without[place]))
        bounds = student.interval(0.95, IMAGES - 1, cell.miou, cell.error)
        assert (cell.low, cell.high) == pytest.approx(bounds)
        assert cell.pseudo_values == pytest.approx(IMAGES * cell.miou - (IMAGES - 1) * without[place])
        assert cell.commonest_miou == pytest.approx(0.25 / CLASSES, abs=0.005)  # of labels drawn evenly
    for each in found.differences:
        assert each.error == pytest.approx(error(without[each.of] - without[each.minus]), abs=1e-12)
        bounds = student.interval(0.95, IMAGES - 1, each.value, each.error) if each.error else (each.value,) * 2
        assert (each.low, each.high) == pytest.approx(bounds)


def test_a_perfect_model_and_a_single_image_have_bounds_or_are_refused():
    perfect = evaluation(1.0)
    [cell] = matrix([MatrixRow("m", "m4ch", 0, {("real", "real"): perfect})], "rooms").cells
    assert (cell.low, cell.miou, cell.high, cell.error) == (1, 1, 1, 0)
    empty = [perfect.single.per_image[0], *({} for _ in range(IMAGES - 1))]
    single = perfect.single.model_copy(update={"per_image": empty})
    row = MatrixRow("m", "m4ch", 0, {("real", "real"): perfect.model_copy(update={"single": single})})
    with pytest.raises(MatrixError, match="two images with labels or more, got 1"):
        matrix([row], "rooms")


def set_cell(name: str, value: object):
    return lambda content: content["cells"][0].__setitem__(name, value)


STRANGE = {
    "NaN": (set_cell("error", float("nan")), "cells.0.error: Input should be a finite number, got nan"),
    "NaN among the images": (lambda c: c["cells"][0]["pseudo_values"].__setitem__(3, float("nan")), "pseudo_values.3"),
    "other images": (lambda c: c["cells"][1]["pseudo_values"].pop(), "a pseudo-value for each of 30 images, it has 29"),
    "no value of a share": (lambda c: c["cells"][0]["pseudo_values"].__setitem__(0, 99.0), "within the number of"),
    "no interval": (set_cell("low", 0.99), "must lie in its interval, from 0.99 to"),
    "above 1": (set_cell("commonest_miou", 1.5), "less than or equal to 1, got 1.5"),
    "a cell that is not there": (lambda c: c["cells"].pop(0), "needs its two cells, m4ch from m4ch-pseudo"),
    "a cell twice": (lambda c: c["cells"].append(c["cells"][0]), "real to real, is there twice"),
    "another difference": (lambda c: c["differences"][0].update(value=0.0, high=0.1), "must be that of its cells"),
    "of before": (lambda c: c.update(schema_version=3), "reads a matrix from 4 on: the same 'train matrix' makes it"),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_a_strangers_matrix_is_refused_in_one_line(tmp_path, what):
    content = json.loads(matrix([full_row()], "rooms").model_dump_json())
    change, told = STRANGE[what]
    change(content)
    (tmp_path / "matrix.json").write_text(json.dumps(content))
    with pytest.raises(RecordError) as caught:
        parse(Matrix, tmp_path / "matrix.json")
    assert told in str(caught.value) and "\n" not in str(caught.value)


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
