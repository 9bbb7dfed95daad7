"""The page of networks that answer depth where they are asked, on planted evaluations: no network, no shards."""

import html
import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pandas as pd
import planted
import pytest
from browsing import open_page
from scipy.stats import t

from analysis import report_teachers, teacher_findings, teacher_scores, teachers
from analysis.html import Html
from analysis.load import AnalysisError
from analysis.report_teachers import write_teachers
from analysis.teacher_examples import read_examples
from analysis.teachers import PIXELS, Answer, designs, read_networks
from pipeline.errors import UserError
from training.records import DepthErrors, DepthEvaluation, DepthScores, RunRecord, ShardsSeen, study_hash
from training.records.depth import DepthSpread, DepthTime

Analyze = Callable[..., tuple[int, str, str]]
NUM = 8  # images
BASE = np.array([0.10, 0.30, 0.20, 0.25, 0.15, 0.35, 0.12, 0.22])
TEACHER = Answer("teacher", "dense", "affine")


def score(who: str, asked: str, abs_rel: Any, aligned: str = "none", region: str = "all", protocol: str = "whole",
          **more: Any) -> DepthScores:  # fmt: skip
    known = [None if value is None or value != value else float(value) for value in abs_rel]
    mean = float(np.mean([each for each in known if each is not None] or [0.0]))
    errors = DepthErrors(abs_rel=mean, rmse_m=10 * mean, log10=mean, delta1=0.6, delta2=0.7, delta3=0.8)
    pooled = errors.model_copy(update={"abs_rel": 1.1 * mean})
    return DepthScores(
        who=who, asked=asked, aligned=aligned, protocol=protocol, region=region, num_pixels=1000, mean=errors,
        pooled=pooled, abs_rel=known, **more,
    )  # fmt: skip


def evaluation(model: str, offset: float, **changes: Any) -> DepthEvaluation:
    """Every pixel is off by BASE + offset, the dense map by .01 more, who else answers by .1 more and .05 less."""
    errors, scores = BASE + offset, []
    for region, factor in (("all", 1.0), ("edges", 2.0), ("rest", 0.9)):
        near = factor * errors
        scores += [
            score("model", "every-pixel", near, region=region),
            score("model", "dense", near + 0.01, region=region),
        ]
        missing = [None if region == "edges" and place == 3 else value for place, value in enumerate(near - 0.05)]
        scores += [
            score("position", "dense", near + 0.1, region=region),
            score("teacher", "dense", missing, "affine", region),
        ]
    for number in (1, 64, 256, 1024):
        spread = DepthSpread(abs_rel=0.05 / number**0.5, delta1=0.01, num_draws=100)
        scores.append(score("model", f"k-{number}", errors, spread=spread))
    times = {"encode": 10.0, "k-1": 1.0, "k-64": 2.0, "k-256": 4.0, "k-1024": 20.0, "dense": 12.0}
    values: dict[str, Any] = {
        "model": model, "checkpoint": "epoch-5", "epoch": 5, "checkpoint_sha256": "0" * 64, "data": "rooms",
        "split": "val", "fingerprint": "val-fingerprint", "depth_field": "exact", "edges_of": "exact",
        "num_images": NUM, "teacher": "toy", "scores": scores,
        "times": [DepthTime(asked=asked, ms=ms) for asked, ms in times.items()], "device": "cpu",
        "dense_from_asked": 0.0123,
    }  # fmt: skip
    return DepthEvaluation(**values | changes)


def write(
    folder: Path,
    model: str = "spd-v15",
    seed: int = 0,
    offset: float = 0.0,
    settings: dict[str, Any] | None = None,
    found: DepthEvaluation | str | None = "",
    **shards: Any,
) -> Path:
    """A run of `train depth` with an evaluation, `found` or one of `offset`."""
    seen: dict[str, Any] = {
        "path": "rooms", "source": "toyrooms", "train_fingerprint": "train-fingerprint",
        "val_fingerprint": "val-fingerprint", "num_train": 100, "num_val": NUM, "classes_sha256": "", "num_classes": 0,
        "depth_field": "exact", "teacher": None,
        "standardisation": {"mean": 2.5, "std": 1.6, "polarity": "farther_is_larger", "unit": "m"},
    }  # fmt: skip
    seen |= shards
    config = {"preset": "tiny", "seed": seed, "model": {"name": model, **(settings or {})},
              "data": {"depth": seen["depth_field"]}, "optim": {"lr": 1e-3}, "runtime": {"workers": seed}}  # fmt: skip
    record = RunRecord(
        name=folder.name, created="2026-01-01T00:00:00Z", preset="tiny", task="sparse-depth", model=model, seed=seed,
        config=config, study_hash=study_hash(config), shards=ShardsSeen(**seen), num_parameters=1000, macs=1,
        steps_per_epoch=1, num_steps=5, git={"revision": "abc"}, versions={}, machine={},
    )  # fmt: skip
    (folder / "evaluations").mkdir(parents=True)
    (folder / "run.json").write_text(record.model_dump_json())
    if isinstance(found, str):
        found = evaluation(model, offset)
    if found:
        put(folder, found)
    return folder


def put(run: Path, found: DepthEvaluation, name: str = "depth-val-exact-epoch-5") -> Path:
    path = run / "evaluations" / f"{name}.json"
    path.write_text(found.model_dump_json())
    return path


def store(run: Path, routed: bool = True, **changes: Any) -> Path:
    """The examples of its evaluation: two images of 64 x 96 on a grid of 2 x 3, each query routed to the same cells."""
    put(run, evaluation("spd-v13", 0.0, examples="examples.npz", routed_share=2 / 6 if routed else None))
    arrays: dict[str, Any] = {}
    for place in range(2):
        true = np.linspace(1, 4, 64 * 96, dtype=np.float32).reshape(64, 96)
        true[0, :5] = np.nan
        arrays |= {
            f"rgb-{place}": np.full((64, 96, 3), 99, np.uint8),
            f"true-{place}": true,
            f"dense-{place}": 1.1 * true,
        }
        if routed:
            arrays |= {f"routed-{place}": np.tile([1, 4], (64, 1)), f"grid-{place}": np.array([2, 3])}
    path = run / "evaluations" / "examples.npz"
    np.savez_compressed(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def page_of(tmp_path: Path, *runs: Path) -> str:
    text = write_teachers(read_networks(runs), tmp_path / "out").read_text("utf-8")
    assert "nan" not in re.sub(r"<svg.*?</svg>|base64,[^\"]*", "", text, flags=re.DOTALL)
    return text


def words(text: str) -> str:
    """Without pictures and markup."""
    return html.unescape(
        " ".join(re.sub(r"<svg.*?</svg>|<script.*?</script>|<[^>]*>", " ", text, flags=re.DOTALL).split())
    )


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds each of two designs, of which v15 is better by .05 of every image."""
    folder = tmp_path_factory.mktemp("four")
    offsets = {"spd-v15": (0.0, 0.002), "spd-v13": (0.05, 0.056)}
    runs = [write(folder / f"{m}-{s}", m, s, o) for m, two in offsets.items() for s, o in enumerate(two)]
    for run in runs[2:]:
        store(run)
        put(
            run,
            evaluation("spd-v13", offsets["spd-v13"][int(run.name[-1])], examples="examples.npz", routed_share=2 / 6),
        )
    return runs


@pytest.fixture(scope="module")
def page(four: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teachers(read_networks(four), tmp_path_factory.mktemp("page"))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_scores_are_means_over_seeds_with_who_else_answered_once(four: list[Path]) -> None:
    frame = teacher_scores.scores(designs(read_networks(four)))
    of = frame.set_index(["name", "who", "asked", "aligned", "region"])
    row = of.loc[("spd-v13", "model", "every-pixel", "none", "all")]
    assert row["abs_rel"] == pytest.approx(BASE.mean() + 0.053) and row["seeds"] == 2
    assert row["abs_rel_sd"] == pytest.approx(0.006 / math.sqrt(2))
    assert row["pooled_abs_rel"] == pytest.approx(1.1 * row["abs_rel"]) and row["rmse_m"] == pytest.approx(
        10 * row["abs_rel"]
    )
    drawn = of.loc[("spd-v15", "model", "k-64", "none", "all")]
    assert drawn["draws_abs_rel"] == pytest.approx(0.05 / 8) and drawn["draws_delta1"] == pytest.approx(0.01)
    assert list(dict.fromkeys(frame[frame["who"] == "model"]["asked"])) == [
        "every-pixel", "dense", "k-1", "k-64", "k-256", "k-1024",
    ]  # fmt: skip
    same = [evaluation(m, 0.0) for m in ("spd-v13", "spd-v15")]  # who see the same
    networks = [teachers.Network(n.run, e) for n, e in zip(read_networks([four[2], four[0]]), same, strict=True)]
    frame = teacher_scores.scores(designs(networks))
    assert set(frame[frame["who"] != "model"]["name"]) == {"median of each position", "teacher toy"}
    assert len(frame[(frame["who"] == "teacher") & (frame["region"] == "all")]) == 1


def test_an_interval_over_images_is_students_of_the_paired_differences(tmp_path: Path) -> None:
    other = BASE + np.array([0.02, -0.01, 0.03, 0.01, 0.02, 0.04, 0.0, 0.01])
    scores = [
        score("model", "every-pixel", BASE),
        score("model", "dense", BASE),
        score("teacher", "dense", other, "affine"),
    ]
    runs = [write(tmp_path / "one", found=evaluation("spd-v15", 0.0, scores=scores))]
    [design] = designs(read_networks(runs))
    found = teacher_scores.within(design, PIXELS, TEACHER)
    difference = BASE - other
    half = t.ppf(0.975, NUM - 1) * difference.std(ddof=1) / math.sqrt(NUM)
    assert found is not None and not found.seeded and found.settled
    assert (found.value, found.low, found.high) == pytest.approx(
        (difference.mean(), difference.mean() - half, difference.mean() + half)
    )
    assert not teacher_scores.edge_differences([design])  # no edges there


def test_a_difference_of_designs_counts_images_and_seeds(tmp_path: Path) -> None:
    """By hand: s² pooled over both, 2 degrees of freedom; images paired; what seeds add is the same to all images."""
    tilt = np.linspace(-0.02, 0.02, NUM)
    seeds: dict[str, tuple[float, float]] = {"spd-v13": (0.05, 0.06), "spd-v15": (0.0, 0.004)}
    runs = []
    for model, offsets in seeds.items():
        for seed, offset in enumerate(offsets):
            errors = BASE + offset + (tilt if model == "spd-v13" else 0)
            found = evaluation(model, 0.0, scores=[score("model", "every-pixel", errors)])
            runs.append(write(tmp_path / f"{model}-{seed}", model, seed, found=found))
    second, first = designs(read_networks(runs))
    found = teacher_scores.apart(first, second, PIXELS)
    variance = (0.01**2 / 2 + 0.004**2 / 2) / 2
    half = math.sqrt(
        t.ppf(0.975, 2) ** 2 * variance * (1 / 2 + 1 / 2) + t.ppf(0.975, NUM - 1) ** 2 * tilt.var(ddof=1) / NUM
    )
    assert found is not None and found.seeded and found.value == pytest.approx(-0.053)
    assert found.high == pytest.approx(-0.053 + half)
    wider = teacher_scores.apart(first, second, PIXELS, choices=3)
    assert wider is not None and wider.low < found.low


def test_near_edges_images_pair_and_those_without_are_left_out(four: list[Path]) -> None:
    found = teacher_scores.edge_differences(designs(read_networks(four)))
    by = {(each.name, each.answer, each.minus): each.difference for each in found}
    difference = by["spd-v15", "every pixel asked", "teacher toy, scale and shift fitted"]
    assert (difference.num_images, difference.left_out) == (NUM - 1, 1) and difference.value == pytest.approx(0.05)
    assert by["spd-v13", "dense map", "median of each position"].value == pytest.approx(0.01 - 0.1)
    assert by["spd-v13", "every pixel asked", "its own dense map"].value == pytest.approx(-0.01)
    of_designs = by["spd-v13", "every pixel asked", "spd-v15"]
    assert (of_designs.num_images, of_designs.left_out, of_designs.seeded) == (NUM, 0, True)


@pytest.mark.parametrize(
    ("asked_ms", "dense_ms", "wanted"),
    [
        ([1, 2, 4, 20], 12.0, 256 + 768 / 2),
        ([1, 2, 4, 20], 4.0, 256.0),
        ([5, 6, 7, 8], 4.0, 0.0),
        ([1, 2, 3, 4], 9.0, math.inf),
    ],
)
def test_break_even_is_where_the_lines_cross(asked_ms: list[float], dense_ms: float, wanted: float) -> None:
    assert teacher_scores.break_even([1, 64, 256, 1024], asked_ms, dense_ms) == pytest.approx(wanted)
    assert teacher_scores.break_even([], [], dense_ms) is None


def test_runs_that_differ_in_seed_alone_are_one_design(tmp_path: Path) -> None:
    for seed in (0, 1):
        for decoder in ("full", "look-up"):
            write(tmp_path / f"{decoder}-{seed}", seed=seed, settings={"decoder": decoder, "width": 32})
    write(tmp_path / "v13", "spd-v13")
    found = designs(read_networks([tmp_path]))
    assert [(each.name, len(each.networks)) for each in found] == [
        ("spd-v13", 1), ("spd-v15, decoder full", 2), ("spd-v15, decoder look-up", 2),
    ]  # fmt: skip
    write(tmp_path / "again", seed=1, settings={"decoder": "full", "width": 32})
    with pytest.raises(AnalysisError, match="are both spd-v15 of one configuration and seed 1: give one"):
        designs(read_networks([tmp_path]))


def test_designs_are_not_named_by_what_most_of_them_have(tmp_path: Path) -> None:
    for place, settings in enumerate(({}, {"decoder": "look-up"}, {"decoder": "no-stage-2"}, {"width": 64})):
        write(tmp_path / str(place), settings={"decoder": "full", "width": 32} | settings)
    assert [each.name for each in designs(read_networks([tmp_path]))] == [
        "spd-v15, decoder full", "spd-v15, decoder look-up", "spd-v15, decoder no-stage-2",
        "spd-v15, decoder full, width 64",
    ]  # fmt: skip


def test_the_latest_evaluation_of_its_own_val_counts(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    for name, changes in {
        "older": {"epoch": 4, "checkpoint": "epoch-4"}, "train": {"epoch": 9, "split": "train"},
        "elsewhere": {"epoch": 9, "fingerprint": "other"}, "other": {"epoch": 9, "depth_field": "raw"},
        "relabelled": {"epoch": 9, "other_depth": ["mean 2.5 and 3.1"]},
    }.items():  # fmt: skip
        put(run, evaluation("spd-v15", 1.0, **changes), name)
    [network] = read_networks([run])
    assert network.found.epoch == 5 and network.found.scores[0].abs_rel == pytest.approx(BASE.tolist())
    put(run, evaluation("spd-v15", 0.5, epoch=6, checkpoint="epoch-6"), "newer")
    assert read_networks([run])[0].found.epoch == 6


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_first_sentence_claims_no_more_than_its_interval(tmp_path: Path, four: list[Path]) -> None:
    first, *rest = teacher_findings.findings(designs(read_networks(four)))
    assert first.startswith("spd-v15 has the lower AbsRel: 0.2122 against 0.2642 of spd-v13, a difference of −0.0520 [")
    assert "95 % over 8 images and seeds; every pixel asked" in first
    assert (
        "is lower for spd-v13 (every pixel asked: −0.0100 [−0.0100, −0.0100]; 95 % over 8 images and seeds)" in rest[0]
    )
    assert "less time than the dense map takes: up to 640, by spd-v13 on cpu; up to 640, by spd-v15 on cpu." in rest[1]
    single = teacher_findings.findings(designs(read_networks([four[0], four[2]])))[0]
    assert (
        single.startswith("The network of spd-v15 has a lower AbsRel than that of spd-v13")
        and "nothing is said" in single
    )
    close = [write(tmp_path / f"{m}{s}", m, s, o) for m, s, o in
             [("spd-v13", 0, 0.0), ("spd-v13", 1, 0.04), ("spd-v15", 0, 0.03), ("spd-v15", 1, -0.01)]]  # fmt: skip
    assert teacher_findings.findings(designs(read_networks(close)))[0].startswith(
        "AbsRel does not tell spd-v15 from spd-v13"
    )
    assert not teacher_findings.not_learned(designs(read_networks([four[0]])))
    bad = evaluation("spd-v15", 0.0, scores=[score("model", "dense", BASE), score("position", "dense", BASE)])
    notice = teacher_findings.not_learned(designs(read_networks([write(tmp_path / "bad", found=bad)])))
    assert "is not shown to be better than the median depth of each position" in notice


def test_the_page_holds_it_all(page: Path) -> None:
    text, said = page.read_text("utf-8"), words(page.read_text("utf-8"))
    order = ["spd-v15 has the lower AbsRel", "AbsRel is the mean of", "median of each position", "teacher toy",
             "measured on cpu", "± the deviation between draws", "Near depth edges", "is routed to 2 of 6 cells",
             "routing has collapsed", "toy rooms, rendered", "To make it again"]  # fmt: skip
    places = [said.index(word) for word in order]
    assert places == sorted(places)
    assert "0.2642 ± 0.0042" in said and "together they read 33% of the cells" in said and "v15.1.1" not in said
    assert "8 0 images and seeds 1.23 %" in said
    assert len(text) < 2_000_000 and text.count("data:image/jpeg;base64,") == 2 * 6
    for source in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert source.startswith(("#", "figures/", "data:,", "data:image/")), source
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    for file in set(re.findall(r'href="(figures/[^"]+)"', text)):
        assert (page.parent / file).stat().st_size > 0, file
    frame = pd.read_csv(page.parent / "figures" / "teachers-time.csv")
    assert set(frame["break_even"]) == {640.0}


def test_the_authors_figures_stand_beside_his_protocol_alone(tmp_path: Path) -> None:
    scores = [
        score("model", asked, BASE, protocol=name) for name in ("whole", "author") for asked in ("every-pixel", "dense")
    ]
    run = write(tmp_path / "run", found=evaluation("spd-v15", 0.0, scores=scores), source="nyu")
    text = page_of(tmp_path, run)
    panel = words(text[text.index('id="accuracy-author"') :].partition("</section>")[0])
    assert "as its author prints every pixel asked 0.1150 – – –" in panel and "0.1075" in panel
    assert "0.1150" not in text.partition('id="accuracy-author"')[0] and "another network (v15.1.1)" in words(text)


# --- odd, empty, damaged ---------------------------------------------------------------------------------------------


def one_image() -> DepthEvaluation:
    return evaluation(
        "spd-v15", 0.0, num_images=1, scores=[score("model", "dense", [0.2]), score("position", "dense", [0.4])]
    )


ODD = {
    "one image": one_image,
    "no lists of images": lambda: evaluation(
        "spd-v15", 0.0, scores=[score("model", "dense", BASE).model_copy(update={"abs_rel": []})]
    ),
    "only a baseline": lambda: evaluation("spd-v15", 0.0, scores=[score("position", "dense", BASE)], times=[]),
    "no image counts": lambda: evaluation("spd-v15", 0.0, scores=[score("model", "every-pixel", [None] * NUM)]),
    "strange answers": lambda: evaluation(
        "spd-v15", 0.0, device="",
        scores=[score("oracle", "k-0", BASE), score("model", "sideways", BASE, protocol="mine")],
        times=[DepthTime(asked="k-9", ms=1e18), DepthTime(asked="encode", ms=0), DepthTime(asked="k-9", ms=3)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_evaluations_make_a_page(tmp_path: Path, name: str) -> None:
    said = words(page_of(tmp_path, write(tmp_path / "run", found=ODD[name]())))
    if name == "one image":
        assert "spd-v15, dense map, has AbsRel 0.2000 (no interval) on 1 image." in said
    assert "its evaluation has no examples" in said


def test_runs_without_evaluation_and_of_other_tasks_are_one_line(analyze: Analyze, tmp_path: Path) -> None:
    run = write(tmp_path / "run", found=None)
    put(run, evaluation("spd-v15", 0.0, fingerprint="other"))
    classifier = planted.write_run(tmp_path / "m3ch", model="m3ch")
    elsewhere = write(
        tmp_path / "elsewhere", seed=1, found=evaluation("spd-v15", 0, fingerprint="v"), val_fingerprint="v"
    )
    good = write(tmp_path / "good")
    for given, told in (
        ([run], f"train evaluate {run} --data rooms --against TEACHER --every-pixel"),
        ([classifier], "is a run of task 'classification', 'analyze teachers' reads those of 'train depth'"),
        ([good, elsewhere], "have different val shards"),
        ([good, good], "is given twice"),
    ):
        code, _, errors = analyze("teachers", *given, "--out", tmp_path / "out")
        assert code == 1 and errors.startswith("error: ") and errors.count("\n") == 1 and told in errors
    code, _, errors = analyze("report", good, "--out", tmp_path / "out")
    assert code == 1 and errors.count("\n") == 1 and "'analyze teachers' makes it" in errors
    code, _, errors = analyze("table2", good)
    assert code == 1 and errors.count("\n") == 1 and "a network that answers depth" in errors
    assert not (tmp_path / "out").exists()


class Hostile:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


DAMAGE: dict[str, dict[str, Any]] = {
    "pickled": {"true-0": np.array([Hostile()], dtype=object)},
    "other size": {"dense-0": np.zeros((64, 95), np.float32)},
    "other type": {"rgb-0": np.zeros((64, 96, 3), np.float32)},
    "beyond the grid": {"routed-0": np.full((64, 2), 6)},
    "no grid": {"grid-0": np.array([0, 3])},
    "negative": {"routed-1": np.full((64, 2), -1)},
    "too small": {"rgb-0": np.zeros((1, 1, 3), np.uint8)},
    "missing": {"true-1": None},
    "nothing": {f"{name}-{place}": None for name in ("rgb", "true", "dense", "routed", "grid") for place in (0, 1)},
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_examples_are_told_in_a_line(tmp_path: Path, name: str) -> None:
    path = store(write(tmp_path / "run", "spd-v13"), **DAMAGE[name])
    with pytest.raises((ValueError, OSError)) as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)


def test_examples_that_cannot_be_read_are_left_out_with_a_sentence(tmp_path: Path, capsys: Any) -> None:
    run = write(tmp_path / "run", "spd-v13")
    path = store(run)
    whole = path.read_bytes()
    section = report_teachers.examples_section
    found = designs(read_networks([run]))
    assert "No examples" not in section(found)
    for damaged in fuzzing.mutations(whole, seed=3, count=40):
        path.write_bytes(damaged)
        assert section(found).count("<img") in (0, 2 * 6 + 2 * 4)  # none, or all with their legends
    liar = io.BytesIO()
    with zipfile.ZipFile(liar, "w") as stored:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (10**5, 10**6, 3)}
        )
        stored.writestr("rgb-0.npy", header.getvalue())
    path.write_bytes(liar.getvalue())
    assert "does not have as many bytes as it says" in section(found)
    path.unlink()
    assert "is not there: make it again with" in words(section(found))
    assert "unpickled" not in capsys.readouterr().out


def pieces(networks: list[teachers.Network], out: Path) -> str:
    """What the page says, but for its drawings."""
    found = designs(networks)
    made: list[Html] = [report_teachers._header(found), report_teachers._accuracy(found, out)]
    return "\n".join([*made, report_teachers._limitations(found), report_teachers._manifest(found)])


def test_every_hostile_field_is_refused_in_a_line_or_shown_as_text(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    path = put(run, evaluation("spd-v15", 0.0, examples="examples.npz"))
    tags = set(re.findall(r"<\w+", pieces(read_networks([run]), tmp_path / "out")))
    refusals: list[str] = []
    shown, files = 0, {path: DepthEvaluation, run / "run.json": RunRecord}
    for target, schema in files.items():
        valid = target.read_bytes()
        for place, (what, changed) in enumerate(fuzzing.hostile_values(schema, json.loads(valid))):
            if place % 9:
                continue
            target.write_text(json.dumps(changed))
            try:
                text = pieces(read_networks([run]), tmp_path / "out")
            except UserError as error:
                refusals.append(str(error))
            except BaseException as error:
                error.add_note(what)
                raise
            else:
                shown += 1
                assert set(re.findall(r"<\w+", text)) <= tags, what
        target.write_bytes(valid)
    assert shown > 3 and refusals and not [told for told in refusals if "\n" in told]


# --- as it is used ---------------------------------------------------------------------------------------------------


def test_strangers_words_are_words_on_a_page_that_fits_a_phone(tmp_path: Path, browser: Any) -> None:
    hostile = fuzzing.TEXTS["element"] + fuzzing.TEXTS["ends a script"]
    told = {"teacher": hostile, "device": hostile}
    runs = [
        write(tmp_path / model, model, settings={"decoder": hostile}, found=evaluation(model, 0.0, **told))
        for model in ("spd-v13", "spd-v15")
    ]
    store(runs[0])
    other = write(tmp_path / "other", "spd-v15", settings={"decoder": "full"})
    page = write_teachers(read_networks([*runs, other]), tmp_path / "out")
    assert html.escape(hostile[:20]) in page.read_text("utf-8") and hostile[:20] not in page.read_text("utf-8")
    open_page(browser, page)
    assert browser.title == report_teachers.TITLE
    for width in (1400, 390):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    pictures = browser.find_elements("css selector", ".example > img")
    assert len(pictures) == 2 * 6 and all(each.size["width"] > 100 for each in pictures)


def test_a_report_links_the_page_of_the_networks_among_its_runs(analyze: Analyze, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    planted.write_run(runs / "m3ch", model="m3ch")
    write(runs / "v15")
    code, _, errors = analyze("report", runs, "--out", out)
    assert code == 0, errors
    assert '<a href="teachers.html">' in (out / "index.html").read_text("utf-8")
    beside = (out / "teachers.html").read_text("utf-8")
    assert '<a href="index.html">' in beside and "spd-v15" in beside
    code, _, _ = analyze("report", runs / "m3ch", "--out", out)
    assert code == 0 and "teachers.html" not in (out / "index.html").read_text("utf-8")
    assert not (out / "teachers.html").exists() and not list((out / "figures").glob("teachers-*"))


def test_help_teaches(analyze: Analyze, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, shown, _ = analyze("teachers", "--help")
    assert code == 0 and "analyze teachers runs/v15-* runs/v13-* --out teachers" in shown
