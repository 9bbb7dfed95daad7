"""Runs, evaluations and matrices from somebody else: one line, or a page on which their words are words.

Every field of every record of `training.records` is given every hostile value; a new field is covered by itself.
"""

import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import planted
import pytest
import zarr
from browsing import open_page
from pydantic import BaseModel

import analysis
from analysis import report_figures
from analysis.claims import judge
from analysis.figures import figure_of
from analysis.html import Html
from analysis.load import Given
from analysis.manifest import limitations, manifest
from analysis.report import _header, write_report
from analysis.report_tables import table3_section, tables_section
from pipeline.errors import UserError
from training.dumps import store
from training.dumps.schema import DumpInfo
from training.records import (
    EndLine,
    EvalLine,
    Evaluation,
    Gap,
    Matrix,
    MatrixDifference,
    NoiseSweep,
    ParametersLine,
    RunRecord,
    TrainLine,
)

FILES: dict[str, type[BaseModel]] = {
    "run/run.json": RunRecord,
    "run/evaluations/val-final.json": Evaluation,
    "run/evaluations/noise-pixel-val-pseudo-5.json": NoiseSweep,
    "run/evaluations/gap-final.json": Gap,
    "matrix.json": Matrix,
}
LINES: dict[str, type[BaseModel]] = {
    "train": TrainLine, "eval": EvalLine, "parameters": ParametersLine, "end": EndLine,
}  # fmt: skip


def write_study(folder: Path) -> Path:
    """A run of mlin with everything that a run may have but dumps, beside the baseline and a matrix."""
    for model in ("mlin", "m3ch"):
        run = folder / ("run" if model == "mlin" else model)
        planted.write_run(run, model=model, samples=40)
        planted.write_sweep(run, planted.enduring([0.7, 0.6], samples=40))
        planted.write_gap(run, {"pixel": 1.0})
    places = (("real", 0.5), ("pseudo", 0.4))
    cells = [planted.matrix_cell("mlin", "real", tested, miou, 0.05, 9, name="run") for tested, miou in places]
    both = {"of": ("real", "pseudo"), "minus": ("real", "real"), "value": 0.4 - 0.5, "low": -0.2, "high": 0.0}
    matrix = Matrix(
        data="d", split="val", fingerprint="f", num_images=9, num_classes=4, multi_scale=False, cells=cells,
        differences=[MatrixDifference(name="run", model="mlin", seed=0, error=0.05, **both)],
    )  # fmt: skip
    (folder / "matrix.json").write_text(matrix.model_dump_json())
    return folder


def read(folder: Path) -> Given:
    return analysis.load([folder / "run", folder / "m3ch"], folder / "matrix.json")


def pieces(study: Given, out: Path) -> str:
    """What the page says of a study, but for its drawings."""
    sections = [_header(study), tables_section(study, out, Html), limitations(study), manifest(study)]
    assert study.matrix is not None
    sections.append(table3_section(study.matrix, out))
    judge(study)
    return "\n".join(sections)


def hostile_files(folder: Path) -> Iterator[tuple[str, Path, bytes]]:
    """(what, which file, its content) for every field and kind, and some random damage."""
    for name, schema in FILES.items():
        data = (folder / name).read_bytes()
        for what, changed in fuzzing.hostile_values(schema, json.loads(data)):
            yield f"{name} {what}", folder / name, json.dumps(changed).encode()
        for number, damaged in enumerate(fuzzing.mutations(data, seed=2, count=25)):
            yield f"{name} {number}", folder / name, damaged
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    for kind, line_schema in LINES.items():
        (place,) = [place for place, line in enumerate(lines) if json.loads(line)["kind"] == kind][-1:]
        for what, changed in fuzzing.hostile_values(line_schema, json.loads(lines[place])):
            content = [*lines[:place], json.dumps(changed), *lines[place + 1 :]]
            yield f"{kind} {what}", path, ("\n".join(content) + "\n").encode()


def test_every_hostile_field_is_refused_in_a_line_or_shown_as_text(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    untouched = pieces(read(folder), tmp_path / "out")
    tags = set(re.findall(r"<\w+", untouched))
    shown, refusals = 0, []
    step = 1 if os.environ.get("PSEUDODEPTH_SOAK") == "1" else 13  # every field still gets two of the kinds
    for what, path, content in islice(hostile_files(folder), 0, None, step):
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            text = pieces(read(folder), tmp_path / "out")
        except UserError as error:
            refusals.append(str(error))
            continue
        except BaseException as error:
            error.add_note(what)
            raise
        finally:
            path.write_bytes(before)
        shown += 1
        assert set(re.findall(r"<\w+", text)) <= tags, what
    assert shown > 20
    assert not [told for told in refusals if "\n" in told or "pydantic.dev" in told]
    assert {path.name for path in tmp_path.iterdir()} == {"study", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"figures"}


EMPTY: dict[str, dict[str, Any]] = {
    "run/evaluations/val-final.json": {"num_samples": 0, "correct1": "", "correct5": "", "top1": 0.0, "top5": 0.0},
    "run/evaluations/noise-pixel-val-pseudo-5.json": {"num_samples": 0, "correct1": ["", ""], "top1": [0.0, 0.0]},
    "run/evaluations/gap-final.json": {"curves": [], "crossings": []},
    "matrix.json": {"cells": [], "differences": []},
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_record_of_nothing_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Every writer writes of at least one sample, image or cell: no table could divide by none."""
    folder = write_study(tmp_path / "study")
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | EMPTY[name]))
    with pytest.raises(UserError, match=re.escape(f"{path} is damaged")):
        read(folder)


@pytest.mark.parametrize("name", ["val-final", "noise-pixel-val-pseudo-5", "metrics"])
def test_a_loss_that_was_not_finite_is_called_so(tmp_path: Path, name: str) -> None:
    """Not damage: to make the record again would write the same."""
    folder = write_study(tmp_path / "study")
    if name == "metrics":
        path = folder / "run" / "metrics.jsonl"
        path.write_text(re.sub(r'"loss": ?[0-9.]+', '"loss":null', path.read_text(), count=1))
    else:
        path = folder / "run" / "evaluations" / f"{name}.json"
        content = json.loads(path.read_text())
        loss = [float("nan") for _ in content["loss"]] if isinstance(content["loss"], list) else float("inf")
        schema = NoiseSweep if isinstance(loss, list) else Evaluation
        path.write_text(schema.model_validate(content).model_copy(update={"loss": loss}).model_dump_json())
    with pytest.raises(UserError, match="the model gave no finite loss, so its weights are not finite: ") as caught:
        read(folder)
    assert str(path) in str(caught.value) and "damaged" not in str(caught.value)


def with_line(path: Path, kind: str, changes: dict[str, Any]) -> int:
    """Change the last line of a kind; its number."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    place = max(place for place, line in enumerate(lines) if line["kind"] == kind)
    lines[place] |= changes
    lines[place] = {name: value for name, value in lines[place].items() if value != "absent"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place + 1


NAN, INFINITE = float("nan"), float("inf")
STRANGE_LINES: list[tuple[str, dict[str, Any], str]] = [
    ("train", {"grad_norm": NAN}, "grad_norm: Input should be a finite number, got nan"),
    ("train", {"epoch": "absent"}, "epoch: Field required"),
    ("eval", {"top1": NAN}, "top1: Input should be "),
    ("eval", {"top5": 1.5}, "top5: Input should be less than or equal to 1, got 1.5"),
    ("eval", {"seconds": -1.0}, "seconds: Input should be greater than or equal to 0, got -1.0"),
    ("eval", {"kind": "guess"}, "kind must be one of train, eval, segmentation, scores, parameters, end, got 'guess'"),
    ("end", {"train_seconds": -41.0}, "train_seconds: Input should be greater than or equal to 0, got -41.0"),
    ("end", {"total_seconds": INFINITE}, "total_seconds: Input should be a finite number, got inf"),
    ("end", {"resumes": -1}, "resumes: Input should be greater than or equal to 0, got -1"),
    ("parameters", {"values": {"alpha": [1.0, 1.0, 1.0, NAN]}}, "Input should be a finite number, got nan"),
    ("parameters", {"values": {"alpha": [1.0, 1.0]}}, "alpha must be of as many blocks and numbers as at epoch 1"),
    ("parameters", {"values": {"beta": [1.0] * 4}}, "must be of as many blocks and numbers as at epoch 1"),
    ("parameters", {"values": {"alpha": [[1.0]] * 4}}, "alpha must be one number a block, got lists"),
    ("parameters", {"values": {"phi": [[1.0], [1.0, 2.0]]}}, "phi must have as many numbers in each block, got 1, 2"),
    ("parameters", {"values": {"phi": [[1.0]], "phi_grid": [0.0, 1.0]}}, "each with a number for each of phi_grid"),
    ("parameters", {"values": {"phi": [[1.0]]}}, "each with a number for each of phi_grid"),
]


@pytest.mark.parametrize(("kind", "changes", "told"), STRANGE_LINES)
def test_a_strange_line_is_refused_by_its_number(tmp_path: Path, kind: str, changes: dict[str, Any], told: str) -> None:
    path = planted.write_run(tmp_path / "run", model="mlin", samples=40) / "metrics.jsonl"
    number = with_line(path, kind, changes)
    with pytest.raises(UserError) as caught:
        analysis.load(path.parent)
    line = str(caught.value)
    assert line.startswith(f"{path} line {number} is damaged (") and told in line and "\n" not in line


@pytest.mark.parametrize("loss", [NAN, INFINITE])
def test_a_line_whose_loss_is_not_finite_is_refused_by_its_number(tmp_path: Path, loss: float) -> None:
    path = planted.write_run(tmp_path / "run", model="mlin", samples=40) / "metrics.jsonl"
    number = with_line(path, "eval", {"loss": loss})
    with pytest.raises(UserError, match=re.escape(f"{path} line {number}: the model gave no finite loss")):
        analysis.load(path.parent)


KEPT = ("study_hash", "model", "config", "depth_field", "fingerprint", "correct1", "correct5", "split")  # or it is no
# part of the study


def planted_everywhere(schema: type[BaseModel], valid: dict[str, Any], kept: tuple[str, ...]) -> dict[str, Any]:
    """Every text that can end what it stands in, in every field that takes it; an element where not all of them fit."""
    for text in (fuzzing.TEXTS["element"], ENDS):
        valid = fuzzing.planted(schema, valid, text) | {name: valid[name] for name in kept if name in valid}
    return valid


ENDS = "".join(
    fuzzing.TEXTS[kind]
    for kind in ("element", "breaks out of an attribute", "breaks out of another attribute", "ends a script")
)


def plant_in_dump(path: Path) -> None:
    whole = json.loads((path / "zarr.json").read_text())
    attributes = whole["attributes"]
    del attributes["sha256"]
    attributes = planted_everywhere(DumpInfo, attributes, (*KEPT, "run", "standardisation"))
    attributes["class_names"] = [ENDS] * 6
    whole["attributes"] = attributes | {"sha256": store._checksum(attributes)}
    (path / "zarr.json").write_text(json.dumps(whole))
    key = zarr.open_group(path, mode="r+")["image_keys"]
    key[0] = np.frombuffer(ENDS.encode()[:96], np.uint8)


def test_planted_scripts_never_run(tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every field at once, of everything that a page is made of."""
    monkeypatch.setattr(report_figures, "FIGURES", {number: figure_of(number) for number in (1, 4, 14)})
    folder = write_study(tmp_path / "study")
    planted.write_dump(
        folder / "run" / "dumps" / "latest.zarr", planted.falling(planted.BETAS), model="mlin", num_images=8,
        num_raw=2, num_causal=4, interventions=["swap"], causal=-0.1,
    )  # fmt: skip
    for name, schema in FILES.items():
        valid = json.loads((folder / name).read_text())
        changed = planted_everywhere(schema, valid, KEPT if name != "matrix.json" else ())
        if name == "run/run.json":
            same = ("depth_field", "train_fingerprint", "val_fingerprint", "classes_sha256", "standardisation")
            changed["shards"] |= {key: valid["shards"][key] for key in same}
            changed["name"] = valid["name"]
        if name == "matrix.json":
            for row in (*changed["cells"], *changed["differences"]):
                row["name"] = fuzzing.TEXTS["element"]  # in all of them, or a difference has no cells
        (folder / name).write_text(json.dumps(changed))
    plant_in_dump(folder / "run" / "dumps" / "latest.zarr")
    page = write_report(read(folder), tmp_path / "page")
    assert "<img src=x" not in page.read_text() and "<script>document" not in page.read_text()
    open_page(browser, page)  # which nothing may complain of, the policy neither
    assert fuzzing.PLANTED not in browser.title
    for selector in ("img[src=x]", "[onerror]", "[onmouseover]", "[onfocus]", "[autofocus]"):
        assert not browser.find_elements("css selector", selector), selector
    assert len(browser.find_elements("css selector", "script:not([type])")) == 1
    assert browser.find_element("tag name", "body").get_attribute("textContent").count(ENDS) > 5
    said = browser.find_element("css selector", "#explorer-view [data-value=image]").get_attribute("textContent")
    assert said == f"image {ENDS}, taken for {ENDS}"
    option = browser.find_element("css selector", "[data-choice=image] option").get_attribute("textContent")
    assert option == ENDS[:96]
    tab = browser.find_elements("css selector", "#figure1 [role=tab]")[1]
    browser.execute_script("arguments[0].click()", tab)
    assert tab.get_attribute("aria-selected") == "true"
    assert {path.name for path in tmp_path.iterdir()} <= {"study", "page", "profile"}
