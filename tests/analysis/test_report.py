"""The report: self-contained, right, and alive in a browser without a network."""

import ast
import base64
import hashlib
import html
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import pytest
from browsing import open_page
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

import analysis
import analysis.figures
from analysis import accuracy, report_answer, report_figures
from analysis.causal import effects
from analysis.claims import claims
from analysis.commands import command, to_make_again
from analysis.figures.answer import attention_strip, changed_answers
from analysis.load import MODELS, AnalysisError, DigitsStudy, Given
from analysis.report import write_report
from analysis.report_answer import notices
from analysis.report_claims import _whole
from analysis.report_tables import causal_section, sheets_section
from analysis.style import new_figure
from training.dumps.store import open_dump
from training.records import Matrix
from training.tasks.classification.config import resolve


@pytest.fixture(scope="module")
def page(demo: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of some of the demo's runs, two of whose dumps hold raw scores of four images."""
    folder = tmp_path_factory.mktemp("report")
    study = analysis.load([run for run in demo if run.name in ("m3ch", "mlin-pseudo", "m4ch-pseudo", "m4ch-exact")])
    raw = {}
    for model, scores in (("m3ch", planted.local), ("mlin", planted.falling(planted.BETAS))):
        path = planted.write_dump(folder / f"{model}.zarr", scores, model=model, num_raw=4)
        raw[model, "pseudo", 5] = open_dump(path)
    dumps = [raw.get((each.info.model, each.info.depth_field, each.info.epoch), each) for each in study.dumps]
    return write_report(Given(study.runs, dumps), folder / "out")


def test_page_is_self_contained_and_small(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(text) < 10_000_000
    for source in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert source.startswith(("#", "figures/", "data:,", "data:image/png;base64,")), source
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)


def test_the_pages_policy_lets_nothing_run_but_its_own(page: Path) -> None:
    text = page.read_text("utf-8")

    def hashes(element: str) -> set[str]:
        found = {content for kind, content in re.findall(rf"<{element}([^>]*)>(.*?)</{element}>", text, re.DOTALL)
                 if "json" not in kind}  # fmt: skip
        return {f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found}

    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    directives = {name: set(values) for name, *values in map(str.split, policy.split(";"))}
    assert len(hashes("script")) == 1 and len(hashes("style")) == 2  # of the page, and of every drawing
    assert directives == {
        "default-src": {"'none'"},
        "base-uri": {"'none'"},
        "form-action": {"'none'"},
        "img-src": {"data:"},
        "script-src": hashes("script"),
        "style-src-elem": hashes("style"),
        "style-src-attr": {"'unsafe-inline'"},
    }
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


def test_only_templates_in_the_code_become_markup() -> None:
    """`Html` is made in `analysis.html` alone; what is given to `html.of` stands there word for word."""
    for path in Path(analysis.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name == "html.of" or (name == "of" and path.name == "html.py"):
                assert isinstance(node.args[0], ast.Constant), (path, node.lineno)
            elif name in ("Html", "html.Html") and path.name != "html.py":
                assert not node.args, (path, node.lineno)  # only nothing


def test_scripts_put_text_in_the_page_as_text() -> None:
    for path in Path(analysis.__file__).parent.glob("*.js"):
        assert not re.search(r"(inner|outer)HTML|insertAdjacent|document\.write|\beval\b|Function\(", path.read_text())


def test_the_same_report_twice_is_the_same_bytes(tmp_path: Path) -> None:
    """In processes whose sets are in another order."""
    run = planted.write_run(tmp_path / "m4ch", scores=planted.falling(planted.BETAS))
    written = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        command = [sys.executable, "-m", "analysis.cli", "report", str(run), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert Path("figures/figure10-pseudo-literal.svg") in written[0]
    assert written[0] == written[1]


def test_links_and_ids_hold(page: Path) -> None:
    text = page.read_text("utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)
    for file in set(re.findall(r'href="(figures/[^"]+)"', text)):
        assert (page.parent / file).stat().st_size > 0, file


def test_page_says_what_was_planted(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "+20.0 [" in text
    assert "1 seed: intervals cover" in text
    assert "largest difference" in text
    for word in ("abcdef0123", "m4ch-exact-0", "train-fing", "torch 2.11.0"):
        assert word in text
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


def first_screen(text: str) -> str:
    """Its words, without markup."""
    section = re.search(r'<section id="answer".*?</section>', text, re.DOTALL)
    assert section
    return html.unescape(" ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", section[0], flags=re.DOTALL).split()))


def test_first_screen_answers_the_title(page: Path) -> None:
    """Accuracies beside chance, three questions with verdicts, claims counted, then two pictures; models named once."""
    text = page.read_text("utf-8")
    said = first_screen(text)
    order = [
        "Top-1 on 1,000 validation images, where chance is 16.7 %", "m3ch (RGB alone) 62.0 %",
        "m4ch (depth as a fourth channel) 68.0 %", "Does pre-training with pseudo-depth raise accuracy? open",
        "for mlin +3.0", "Do attention and tokens heed depth?", "Does fine-tuning with real depth",
        "claims of the paper",
        "All claims", "What changing depth does to answers", "Where each model attends",
    ]  # fmt: skip
    places = [said.index(word) for word in order]
    assert places == sorted(places)
    assert text.count("depth as a fourth channel)") == 1
    assert "'train dump RUN --data SHARDS --causal 500' makes one" in said  # none of these dumps has any
    (papers, ours) = re.findall(r"Of (\d+) (?:claims of the paper|of ours) ([^.]*)\.", said)
    for count, words in (papers, ours):
        assert sum(map(int, re.findall(r"\d+", words))) == int(count)
    assert int(papers[0]) + int(ours[0]) == len(claims())
    assert {claim.id for claim in claims() if claim.contribution == 2} == set(report_answer._CLAUSES)


CHANCE = 1 / 6


def untrained(folder: Path, top1: dict[str, float], **changes: Any) -> Given:
    """Runs with these accuracies; `changes` of their shards."""
    runs = [planted.write_run(folder / model, model=model, top1=top, samples=600) for model, top in top1.items()]
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        record["shards"] |= changes
        (run / "run.json").write_text(json.dumps(record))
    return analysis.load(runs)


def test_six_models_at_chance_say_so_first_and_reproduce_nothing(tmp_path: Path) -> None:
    """On photographs that the toy teacher labelled, besides."""
    study = untrained(tmp_path, dict.fromkeys(MODELS, CHANCE), source="folder")
    said = first_screen(write_report(study, tmp_path / "out").read_text("utf-8"))
    guessed, chance, line = (
        said.index(words) for words in ("embedded toy teacher", "All six models are at chance: nothing", "Top-1 on")
    )
    assert guessed < chance < line
    assert (
        not re.search(r"\d reproduced|\d in part", said)
        and "not tested for mlin, mmlp, m4ch, mdf1 and mgem (at" in said
    )
    frame = pd.read_csv(tmp_path / "out" / "figures" / "claims.csv")
    assert not set(frame["verdict"]) & {"reproduced", "in part"}


def test_notices_name_who_is_at_chance_and_what_is_not_known(tmp_path: Path) -> None:
    rooms = untrained(tmp_path / "a", {"m3ch": 0.6, "mlin": CHANCE, "m4ch": CHANCE})
    assert notices(rooms) == ["mlin and m4ch are at chance: nothing that is said of them counts."]
    assert not notices(untrained(tmp_path / "b", {"m3ch": 0.6}))
    for run in rooms.runs:
        path = run.folder / "evaluations" / "val-final.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"largest_class": None}))
    (unknown,) = notices(analysis.load([run.folder for run in rooms.runs]))
    assert "is not known: needs the share of the largest class: evaluate again with train evaluate" in unknown


def test_a_study_without_pseudo_depth_has_a_first_screen(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "run", model="m4ch", depth="exact", top1=0.7)
    said = first_screen(write_report(analysis.load(run), tmp_path / "out").read_text("utf-8"))
    assert "m4ch (depth as a fourth channel on exact depth) 70.0 %" in said and "at chance" not in said
    assert (
        "raise accuracy? not tested for mlin, mmlp, m4ch, mdf1 and mgem (needs a run of each on pseudo depth)" in said
    )


def test_first_contribution_is_reproduced_where_seeds_agree(tmp_path: Path) -> None:
    tops = {"m3ch": 0.5, "mlin": 0.502, "m4ch": 0.8}
    runs = [
        planted.write_run(tmp_path / f"{model}{seed}", model=model, seed=seed, top1=top + 0.002 * seed)
        for model, top in tops.items()
        for seed in (0, 1, 2)
    ]
    study = analysis.load(runs)
    said = first_screen(write_report(study, tmp_path / "out").read_text("utf-8"))
    assert (
        "reproduced for m4ch +30.0 points; open for mlin +0.2 points; not tested for mmlp, mdf1 and mgem (needs" in said
    )
    assert "3 seeds, 1,000 images" in said
    assert "pooled over m3ch, mlin on pseudo, m4ch on pseudo" in (tmp_path / "out" / "index.html").read_text("utf-8")


def test_first_pictures_hold_what_dumps_hold(tmp_path: Path) -> None:
    """Bars are the causal tier's outcomes; the strip is a row of literal attention from the patch that stands out."""
    changes = ["swap", "zero", "mean"]
    settings = {"num_images": 20, "num_raw": 5}
    paths = [
        planted.write_dump(tmp_path / "m3ch.zarr", planted.local, model="m3ch", **settings),
        planted.write_dump(
            tmp_path / "m4ch.zarr", planted.falling(planted.BETAS), num_causal=20, interventions=changes, causal=-0.4,
            **settings,
        ),
    ]  # fmt: skip
    study = Given([], [open_dump(path) for path in paths])
    drawn = changed_answers(study, "pseudo")
    bars = drawn.frames[""].set_index(["model", "change"])
    expected = effects(study.dumps[1]).set_index("change")
    for change in changes:
        found = bars.loc[("m4ch", change), ["value", "low", "high"]]
        np.testing.assert_allclose(
            found.astype(float),
            expected.loc[change, ["top1_change", "top1_change_low", "top1_change_high"]].astype(float),
        )
    assert bars.loc[("m3ch", "swap"), "value"] == 0 and "m3ch reads no depth: 0 by construction" in drawn.caption
    settings |= {"num_causal": 20, "interventions": changes, "causal": -0.4, "seed": 1}
    second = open_dump(planted.write_dump(tmp_path / "second.zarr", planted.falling(planted.BETAS), **settings))
    both = changed_answers(Given([], [*study.dumps, second]), "pseudo")
    row = both.frames[""].set_index(["model", "change"]).loc[("m4ch", "swap")]
    other = effects(second).set_index("change").loc["swap", "top1_change"]
    assert row["of_seeds"] == pytest.approx([bars.loc[("m4ch", "swap"), "value"], other])
    assert row["value"] == pytest.approx(np.mean(row["of_seeds"])) and "circles: single seeds" in both.caption
    strip = attention_strip(study, "pseudo")
    frame = strip.frames[""]
    depths = study.dumps[0]["raw/patch_depth/mean"]
    image = int(depths.std(1).argmax())
    grid, best = depths[image].reshape(planted.GRID), (-1.0, -1)
    for row in range(planted.GRID[0]):
        for column in range(planted.GRID[1]):
            beside = [
                grid[r, c]
                for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
                if 0 <= r < planted.GRID[0] and 0 <= c < planted.GRID[1]
            ]
            best = max(best, (abs(grid[row, column] - np.mean(beside)), row * planted.GRID[1] + column))
    assert frame.index[frame["query"]].tolist() == [best[1]]
    scores = study.dumps[1]["raw/scores_pre_bias"][image].astype(float)[:, :, 1 + best[1]]
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(frame["m4ch"], weights[..., 1:].mean((0, 1)), rtol=1e-3)
    with pytest.raises(AnalysisError, match="keeps those of 16 images"):
        attention_strip(Given([], study.dumps[:0]), "pseudo")


def test_every_figure_is_there_or_says_what_is_lacking(page: Path) -> None:
    text = page.read_text("utf-8")
    for number, spec in ((spec.number, spec) for spec in analysis.figures.FIGURES.values()):
        section = text[text.index(f'<section id="figure{number}">') :].partition("</section>")[0]
        fields = ["pseudo", "exact"] if spec.per_depth else [None]
        drawn = re.findall(r"<figcaption>", section)
        lacking = re.findall(r'<p class="lacking">Not drawn: [^<]*[^.<]\.</p>', section)
        assert drawn or lacking, number
        assert len(drawn) + len(lacking) in (1, len(fields) * len(spec.variants)), number
        if drawn:
            for kind in ("pdf", "svg", "png", "csv"):
                assert section.count(f'.{kind}">{kind}</a>') == len(drawn), (number, kind)
            assert section.count("Code ") == len(drawn)


def test_changed_depth_is_shown_where_a_dump_holds_it(tmp_path: Path) -> None:
    changes = ["swap", "zero"]
    settings = {"num_causal": 20, "num_images": 20, "interventions": changes, "causal": -0.4, "model": "m4ch"}
    path = planted.write_dump(tmp_path / "d.zarr", planted.falling(planted.BETAS), **settings)
    section = causal_section(Given([], [open_dump(path)]), tmp_path)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section)
    assert cells[:2] == ["m4ch", "swap"] and "zero" in cells
    assert "m4ch 20 images (seed 0)" in section
    assert (tmp_path / "figures" / "causal-pseudo.csv").exists()
    without = planted.write_dump(tmp_path / "e.zarr", planted.constant(), num_images=4)
    assert "--causal 500" in causal_section(Given([], [open_dump(without)]), tmp_path)


def test_claims_fold_by_figure_and_say_why(page: Path) -> None:
    text = page.read_text("utf-8")
    section = text[text.index('<section id="claims">') :].partition("</section>")[0]
    groups = re.findall(
        r'<details class="claims"( open)?><summary>(.*?) <span class="counts">(.*?)</span></summary>', section
    )
    assert [name for _, name, _ in groups] == list(dict.fromkeys(claim.shown_in for claim in claims()))
    opened = {name for is_open, name, _ in groups if is_open}
    assert opened == {claim.shown_in for claim in claims() if claim.contribution}
    assert section.count('<div class="claim">') == len(claims())
    links = dict(re.findall(r'<a href="#([^"]+)">To ([^<]+)</a>', section))
    assert links["table2"] == "Table 2" and links["figure1-pseudo-panel"] == "Figure 1"
    judged = html.unescape(section)
    for row in pd.read_csv(page.parent / "figures" / "claims.csv").itertuples():
        assert row.sentence in judged and row.estimand in judged
        assert not isinstance(row.why, str) or row.why.replace("`", "") in re.sub("</?code>", "", judged)


def test_undefined_intervals_are_left_out() -> None:
    assert _whole("+0.225 [+nan, +nan]") == "–" and _whole("nanometres 3 [1, 4]") == "nanometres 3 [1, 4]"


def test_sheets_lie_beside_the_page(tmp_path: Path) -> None:
    study = untrained(tmp_path, {"m3ch": 0.6}, path=str(tmp_path / "shards"))
    assert sheets_section(study, tmp_path / "out") == ""
    tuned = tmp_path / "table3" / "m4ch-real" / "evaluations"
    tuned.mkdir(parents=True)
    (tmp_path / "shards").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "shards" / "contact-sheet.png")
    Image.new("RGB", (4, 4)).save(tuned / "val-real.png")
    (tuned / "val-pseudo.png").write_text("<script>")  # no picture
    section = sheets_section(replace(study, matrix_path=tmp_path / "table3" / "matrix.json"), tmp_path / "out")
    assert re.findall(r'href="([^"]+)">([^<]+)<', section) == [
        ("figures/contact-sheet-1.png", f"contact sheet of {tmp_path / 'shards'}"),
        ("figures/evaluation-sheet-2.png", "m4ch-real, val-real"),
    ]
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 2


def test_manifest_can_be_followed(page: Path) -> None:
    section = page.read_text("utf-8").partition('<section id="manifest">')[2]
    for word in ("train pretrain --preset tiny --model m4ch", "--set data.depth=exact", "0" * 12, "−(d − 2.5) / 1.6"):
        assert word in section
    assert "--checkpoint epoch-1 --depth pseudo --images 40 --raw 0 --patch-depth mean" in section
    assert "analyze report " in section
    assert "the depth is" in section  # measured, filled, rendered or estimated, and by whom


def test_commands_name_everything_that_was_measured(tmp_path: Path) -> None:
    folder = planted.write_run(tmp_path / "m4ch", model="m4ch", scores=planted.constant(), num_images=4)
    study = analysis.load(folder)
    (dump,) = study.dumps
    causal = replace(dump, info=dump.info.model_copy(update={"num_causal": 3}))
    lines = to_make_again(replace(study, dumps=[causal])).splitlines()
    assert [line.split()[:2] for line in lines] == [["train", "pretrain"], ["train", "dump"], ["analyze", "report"]]
    settings = {"model.width=32", "optim.epochs=5", "data.depth=pseudo", "seed=0"}  # not those of the preset
    assert settings < set(shlex.split(lines[0])) and "model.num_classes" not in lines[0]
    assert lines[1].endswith("--images 4 --raw 0 --patch-depth mean --causal 3")
    digits = to_make_again(
        replace(study, digits=DigitsStudy.model_construct(), digits_path=Path("d.json"))
    ).splitlines()
    assert digits[-1] == f"analyze report {folder} --digits d.json --out report"


@pytest.mark.parametrize(("preset", "model"), [("thesis", "mlin"), ("modern", "mgem"), ("tiny", "m4ch")])
def test_the_line_that_trains_a_run_again_gives_its_configuration(tmp_path: Path, preset: str, model: str) -> None:
    settings = ["optim.epochs=30", "optim.betas=[0.8,0.9]", "data.depth=real", "augment.flip=0.25", "seed=4"]
    wanted = resolve(preset, model, settings, num_classes=6)
    (run,) = analysis.load(planted.write_run(tmp_path / "run", model=model, seed=4, depth="real")).runs
    record = run.record.model_copy(update={"config": wanted.model_dump(mode="json"), "preset": preset})
    words = shlex.split(to_make_again(Given([replace(run, record=record)], [])).splitlines()[0])
    told = [value for name, value in pairwise(words) if name == "--set"]
    assert words[2:6] == ["--preset", preset, "--model", model]
    assert resolve(preset, model, told, num_classes=6).study_hash() == wanted.study_hash()
    assert resolve("tiny", model, told, num_classes=6).optim == wanted.optim  # whatever the preset says


def test_names_in_commands_are_words_whatever_they_hold(tmp_path: Path) -> None:
    """Of runs, dumps, sweeps, gaps, a matrix: pasted into a shell, a line is the one command that it seems to be."""
    folder = planted.write_run(tmp_path / "my run; touch HACKED", scores=planted.constant(), num_images=4)
    planted.write_sweep(folder, planted.enduring([0.7, 0.6]), data="$(touch HACKED)")
    planted.write_gap(folder, {"pixel": 1.0}, data="`touch HACKED` #")
    study = analysis.load(folder)
    cell = planted.matrix_cell("m4ch", "real", "real", 0.5, 0.05, num_images=2)
    matrix = Matrix(data="d", split="val", fingerprint="f", num_images=2, num_classes=2, multi_scale=False,
                    cells=[cell], differences=[])  # fmt: skip
    study = replace(study, matrix=matrix, matrix_path=tmp_path / "a 'matrix'")
    lines = to_make_again(study).split("\n")
    programs = ["pretrain", "dump", "evaluate", "gap", "report"]
    assert [shlex.split(line)[1] for line in lines] == programs
    for line in lines:
        assert str(folder) in shlex.split(line) and line.isprintable()
    assert "$(touch HACKED)" in shlex.split(lines[2])
    assert shlex.split(lines[-1])[-3:-2] == [str(tmp_path / "a 'matrix'")]
    (folder / "evaluations" / "val-final.json").unlink()
    with pytest.raises(AnalysisError) as refused:
        accuracy.table2(analysis.load(folder))
    assert str(folder) in shlex.split(str(refused.value).partition("with train")[2])
    assert command("train", "x\ntouch HACKED", "\x1b[2J") == "train 'x\ufffdtouch HACKED' '\ufffd[2J'"


def test_large_drawings_become_pictures(tmp_path: Path) -> None:
    def drawn(num_points: int) -> Any:
        figure = new_figure(6.4, 4.8)
        figure.subplots().plot(range(num_points), [place % 7 for place in range(num_points)], "o")
        return figure

    drawings = report_figures.Drawings(tmp_path, "abc")
    frame = {"": pd.DataFrame({"x": [1]})}
    small, large = (drawings.figure(f"f{n}", "t", drawn(n), frame, "text") for n in (600, 9000))
    assert (tmp_path / "figures" / "f9000.svg").stat().st_size > 300_000
    placed = drawings.place(small + "|" + large, 10_000_000).split("|")
    assert "<svg" in placed[0] and "<img" not in placed[0]
    assert "<svg" not in placed[1] and placed[1].count('src="data:image/png;base64,') == 1
    crowded = drawings.place(small, 60_000)
    assert "<svg" not in crowded and len(crowded) < len(placed[0])


def test_report_without_dumps_says_how_to_make_one(tmp_path: Path) -> None:
    run = planted.write_run(tmp_path / "m3ch<script>", model="m3ch")
    text = write_report(analysis.load(run), tmp_path / "out").read_text("utf-8")
    assert "Not drawn: no dump was given or found in a run's dumps/" in html.unescape(text)
    assert "No dump holds raw scores" in text
    assert text.count("<script>") == 1


@pytest.mark.parametrize("count", [1, 2])
def test_smallest_dumps_have_no_intervals_and_no_nan(tmp_path: Path, count: int) -> None:
    scores = planted.falling(planted.BETAS)
    runs = [
        planted.write_run(tmp_path / model, model=model, samples=2 * count, top1=0.5, scores=scores, num_images=count)
        for model in ("mlin", "m4ch")
    ]
    text = write_report(analysis.load(runs), tmp_path / "out").read_text("utf-8")
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "No model can be compared with m3ch" in text
    assert "Both models are at chance" in text  # of two to four samples


def test_report_of_dumps_on_different_axes_draws_them_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_figures, "FIGURES", {1: analysis.figures.figure_of(1)})
    runs = [planted.write_run(tmp_path / model, model=model) for model in ("m3ch", "m4ch")]
    for run, mode in zip(runs, ("mean", "center4"), strict=True):
        path = run / "dumps" / "latest.zarr"
        planted.write_dump(path, planted.falling(planted.BETAS), model=run.name, patch_depth=mode)
    write_report(analysis.load(runs), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "figures").glob("figure1-pseudo-literal*.svg")}
    assert names == {"figure1-pseudo-literal-1.svg", "figure1-pseudo-literal-2.svg"}


def test_page_in_a_browser(page: Path, browser: Any) -> None:
    open_page(browser, page)
    panels = browser.find_elements("css selector", "#figure1-pseudo-panel > [data-tabs] > .panel")
    buttons = browser.find_elements("css selector", "#figure1-pseudo-panel > [data-tabs] > .tabs > button")
    assert len(panels) == len(buttons) == len(analysis.figures.figure_of(1).variants)
    assert [panel.is_displayed() for panel in panels] == [True] + [False] * (len(panels) - 1)
    buttons[1].click()
    assert [panel.is_displayed() for panel in panels][:2] == [False, True]
    assert buttons[1].get_attribute("aria-selected") == "true"
    assert panels[1].find_element("css selector", "svg, img").size["height"] > 100
    buttons[0].click()
    below = browser.find_element("css selector", "#figure4")
    height = below.rect["y"]
    for button in buttons:
        button.click()
        assert below.rect["y"] == height  # tabs do not move the page
    browser.execute_script("location.hash = 'figure1-pseudo-gauge_fixed-panel'")
    WebDriverWait(browser, 5).until(lambda _: panels[1].is_displayed())
    assert 0 <= panels[1].rect["y"] - browser.execute_script("return scrollY") < 200
    hint = (
        "return [...document.querySelectorAll('.scroll.overflows')].map((e) => getComputedStyle(e, '::before').content)"
    )
    for width in (1400, 420):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        WebDriverWait(browser, 5).until(lambda _, width=width: bool(browser.execute_script(hint)) == (width < 500))
    assert all("scroll sideways" in said for said in browser.execute_script(hint))
    assert not browser.execute_script("return document.querySelectorAll('.first .overflows').length")
    models = browser.find_elements("css selector", "#explorer-view [data-choice=model] option")
    assert [model.text for model in models] == ["m3ch, pseudo depth", "mlin, pseudo depth"]
    assert browser.find_element("css selector", "#explorer-view [data-value=attention]").text
    assert not browser.find_element("css selector", "#explorer .unscripted").is_displayed()
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page.as_uri())
    panels = browser.find_elements("css selector", ".panel")
    assert all(panel.is_displayed() for panel in panels)
    assert browser.find_element("css selector", "#explorer .unscripted").is_displayed()


def test_a_report_that_fails_leaves_the_old_one(demo: list[Path], tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "report"
    (out / "figures").mkdir(parents=True)
    for name in ("index.html", "figures/claims.csv"):
        (out / name).write_text("old")

    def spoiled(*given: Any) -> str:
        raise AnalysisError("spoiled")

    monkeypatch.setattr("analysis.report.explorer_section", spoiled)
    with pytest.raises(AnalysisError, match="spoiled"):
        write_report(analysis.load(demo[:1]), out)
    assert {path.name for path in tmp_path.iterdir()} == {"report"}
    assert {path.read_text() for path in out.rglob("*") if path.is_file()} == {"old"}
