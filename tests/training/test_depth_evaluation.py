"""`train evaluate` of sparse-query networks: what it asks, what it compares with, and what it leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from nyu_file import facts_for, small_arrays, write_nyu
from PIL import Image
from rich.console import Console
from running import command, fails_in_one_line
from runs import start

from pipeline import job, scenes, shards
from pipeline.sources.nyu import Nyu
from pipeline.sources.toyrooms import ToyRooms
from pipeline.teachers import sparse_teacher
from training import records
from training.engine.machine import Machine
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.loading.metric import open_metric
from training.tasks.sparse_depth import metrics
from training.tasks.sparse_depth.data import decode
from training.tasks.sparse_depth.evaluate import Evaluator, Images, medians

NUM_VAL = 6


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    out = tmp_path_factory.mktemp("rooms") / "shards"
    job.run(ToyRooms(8, NUM_VAL, 4, scenes.SceneConfig(size_px=70)), None, out, job.Options(),
            console=Console(quiet=True))  # fmt: skip
    return out


@pytest.fixture(scope="module")
def run(rooms, tmp_path_factory):
    """A step of v13.1 on pieces of 64 px: it knows next to nothing, but answers."""
    out = tmp_path_factory.mktemp("run") / "v13"
    settings = ("augment.crop=[64, 64]", "optim.epochs=1", "optim.steps_per_epoch=1", "optim.batch_size=4",
                "optim.warmup_epochs=0", "data.queries=8", "model.local_layers=1", "model.routed=3",
                "runtime.workers=0", "runtime.loggers=[]")  # fmt: skip
    line = ["train", "depth", "--model", "spd-v13", "--preset", "tiny", "--data", rooms, "--out", out]
    done = command(*line, *(word for setting in settings for word in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    assert records.load_run(out).scores[0].scores["routed_cells"] >= 3
    return out


@pytest.fixture(scope="module")
def evaluated(rooms, run):
    done = command("train", "evaluate", run, "--data", rooms, "--every-pixel", "--against", "toy")
    assert done.returncode == 0, done.stderr
    assert "every-pixel" in done.stdout and "median of each position" in done.stdout and "then k-64" in done.stdout
    [found] = records.load_run(run).depths
    return found


def scores_of(found, **wanted):
    [one] = [s for s in found.scores if all(getattr(s, name) == value for name, value in wanted.items())]
    return one


def test_answers_are_those_of_the_network_asked_pixel_by_pixel(rooms, run, evaluated):
    network, _ = sparse_teacher.load(run / "teacher")
    split = open_metric(rooms, "val", "exact")
    errors, near = [], []
    for place in range(NUM_VAL):
        rgb, depth = decode(split, split.members(place, ("rgb", "exact")), "exact")
        rgb, true = rgb[:, 3:67, 3:67], depth[0, 3:67, 3:67].numpy()  # the centre, in multiples of 32
        v, u = np.nonzero(np.isfinite(true))
        queries = torch.from_numpy(np.stack([u, v], 1)).float()[None]
        with torch.no_grad():
            found = network(normalise(rgb[None], RGB_MEAN, RGB_STD), queries)[0].numpy()
        errors.append(metrics.errors(found, true[v, u]))
        near.append(metrics.near_edges(depth[0].numpy())[3:67, 3:67][v, u])
    one = scores_of(evaluated, who="model", asked="every-pixel", region="all")
    np.testing.assert_allclose(one.abs_rel, [each[0].mean() for each in errors], rtol=1e-5)
    assert one.num_pixels == sum(each.shape[1] for each in errors) and one.protocol == "whole"
    assert one.pooled.delta1 == pytest.approx(np.concatenate(errors, 1)[3].mean(), abs=1e-6)
    assert 0 < evaluated.dense_from_asked < 0.1
    edges, rest = (scores_of(evaluated, who="model", asked="every-pixel", region=r) for r in ("edges", "rest"))
    assert edges.num_pixels == sum(each.sum() for each in near) and edges.num_pixels + rest.num_pixels == one.num_pixels
    pooled = edges.pooled.abs_rel * edges.num_pixels + rest.pooled.abs_rel * rest.num_pixels
    assert pooled / one.num_pixels == pytest.approx(one.pooled.abs_rel)


def test_an_evaluation_replaces_none_that_answers_more(rooms, run, evaluated):
    assert evaluated.examples == "depth-val-exact-step-1-every-pixel-against-toy.npz"
    assert command("train", "evaluate", run, "--data", rooms).returncode == 0
    found = records.load_run(run).depths
    try:
        assert evaluated in found and len(found) == 2
    finally:
        for path in (run / "evaluations").glob("depth-val-exact-step-1.*"):
            path.unlink()  # for the other tests


def test_asking_fewer_pixels_finds_the_same_to_its_spread(evaluated):
    everything = scores_of(evaluated, who="model", asked="every-pixel", region="all")
    for number in (1, 64, 256, 1024):
        one = scores_of(evaluated, who="model", asked=f"k-{number}")
        assert one.num_pixels == number * NUM_VAL and one.spread.num_draws >= 3
        assert abs(one.mean.abs_rel - everything.mean.abs_rel) < 5 * one.spread.abs_rel


def test_others_stand_beside_the_network_at_the_same_pixels(evaluated):
    answers = {(s.who, s.asked, s.aligned) for s in evaluated.scores if s.region == "all"}
    assert {("position", "dense", "none"), ("teacher", "dense", "affine"), ("teacher", "dense", "median"),
            ("model", "dense", "none"), ("model", "dense", "affine"),
            ("model", "dense", "median")} <= answers  # fmt: skip
    assert ("teacher", "dense", "none") not in answers, "the toy teacher gives no metres"
    assert len({s.num_pixels for s in evaluated.scores if s.region == "edges"}) == 1
    affine = scores_of(evaluated, who="model", asked="dense", aligned="affine", region="all")
    assert (
        affine.mean.abs_rel
        < scores_of(evaluated, who="model", asked="dense", aligned="none", region="all").mean.abs_rel
    )
    assert evaluated.edges_of == evaluated.depth_field == "exact" and evaluated.teacher == "toy"
    assert [time.asked for time in evaluated.times] == ["encode", "k-1", "k-64", "k-256", "k-1024", "dense"]


def test_examples_hold_what_the_page_of_teachers_shows(run, evaluated):
    [picture] = (run / "evaluations").glob("*.png")
    assert picture.with_suffix(".npz").name == evaluated.examples
    with np.load(run / "evaluations" / evaluated.examples) as stored:
        assert stored["rgb-0"].shape == (64, 64, 3) and stored["dense-3"].shape == stored["true-3"].shape == (64, 64)
        assert stored["routed-0"].shape == (64, 3) and stored["routed-0"].max() < np.prod(stored["grid-0"])
    assert 0 < evaluated.routed_share <= 1


@pytest.mark.slow
def test_several_ranks_find_the_same(rooms, run, evaluated, tmp_path):
    process = start(["evaluate", run, "--data", rooms, "--every-pixel", "--out", tmp_path], ranks=2)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    [path] = tmp_path.glob("*.json")
    found = records.read_evaluation(path)
    for one in found.scores:
        other = scores_of(evaluated, who=one.who, asked=one.asked, aligned=one.aligned, region=one.region)
        np.testing.assert_allclose(one.abs_rel, other.abs_rel, rtol=1e-5)


def test_a_teacher_of_metres_is_also_taken_at_its_word(rooms, run, tmp_path):
    done = command("train", "evaluate", run, "--data", rooms, "--against", run, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("*.json")
    found = records.read_evaluation(path)
    scores_of(found, who="teacher", aligned="none", region="all")
    sampled = scores_of(found, who="model", asked="k-256")
    assert sampled.num_pixels == 256 * NUM_VAL and not [s for s in found.scores if s.asked == "every-pixel"]


def test_an_image_without_depth_counts_nothing(rooms, run):
    network, _ = sparse_teacher.load(run / "teacher")
    evaluator = Evaluator(network, Machine(torch.device("cpu"), torch.inference_mode), "toyrooms", every_pixel=True)
    nothing = np.full((64, 64), np.nan, np.float32)
    assert evaluator.look("key", torch.zeros(3, 64, 64, dtype=torch.uint8), nothing, nothing) == {}
    assert medians(open_metric(rooms, "train", "exact"), "exact").shape == (70, 70)


def test_an_image_smaller_than_a_patch_is_told_by_name(rooms):
    split = open_metric(rooms, "val", "exact")
    with pytest.raises(shards.ShardError, match=rf"key {split.key(0)}: an image must be 96 px or more a .*, got 70x70"):
        Images(split, "exact", "exact", 96)[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--multi-scale"], "for runs that label pixels"), (["--noise", "pixel"], "for runs of train pretrain"),
        (["--depth", "pseudo"], "must hold 'pseudo' depth"), (["--against", "./nowhere"], "nowhere does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_in_one_line(rooms, run, tmp_path, words, told):
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms, "--out", tmp_path, *words), told)
    assert not list(tmp_path.iterdir())


def test_a_record_of_other_images_is_refused(run, evaluated):
    content = json.loads(evaluated.model_dump_json())
    content["scores"][0]["abs_rel"] = [0.1]
    with pytest.raises(ValueError, match="abs_rel must be of the 6 images"):
        records.DepthEvaluation.model_validate(content)


# --- NYUDepthV2 -------------------------------------------------------------------------------------------------------


def frames(count):
    """Photographs and depth in metres of NYU's size, which a test can predict."""
    arrays = small_arrays(count, 480, 640)
    ramp = np.linspace(1, 9, 640, dtype=np.float32)[None, None] * np.linspace(1, 1.2, 480, dtype=np.float32)[:, None]
    depths = np.repeat(np.minimum(ramp, 9.9), count, 0)
    return replace(arrays, depths=depths, raw_depths=np.where(arrays.raw_depths == 0, 0, depths))


@pytest.fixture(scope="module", params=["nyu", "nyu-lists"])
def nyu(request, tmp_path_factory):
    """Shards of NYUDepthV2 at its full size: of the labelled part, or of lists of raw frames."""
    root, arrays = tmp_path_factory.mktemp("nyu"), frames(4)
    if request.param == "nyu":
        source = Nyu(write_nyu(root / "small.mat", arrays), facts_for(arrays, train=[1, 2], test=[3, 4]))
        job.run(source, None, root / "out", job.Options(), console=Console(quiet=True))
        return request.param, root / "out"
    for number in range(4):
        folder = root / "src/kitchen"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(arrays.images[number]).save(folder / f"rgb_{number}.jpg")
        Image.fromarray(np.round(arrays.raw_depths[number] * 1000).astype(np.uint16)).save(
            folder / f"depth_{number}.png"
        )
    for split, own in (("train", (0, 1)), ("test", (2, 3))):
        lines = [f"/kitchen/rgb_{number}.jpg /kitchen/depth_{number}.png 518.8579\n" for number in own]
        (root / f"src/{split}.txt").write_text("".join(lines))
    done = command("precompute-depth", "rgbd", "nyu-lists", root / "src", root / "out", "--teacher", "none")
    assert done.returncode == 0, done.stderr
    return request.param, root / "out"


@pytest.mark.slow
def test_nyu_is_trained_on_and_scored_by_the_fields_protocols(nyu, tmp_path):
    name, data = nyu
    settings = ("augment.crop=[350, 476]", "optim.epochs=1", "optim.batch_size=2", "optim.warmup_steps=1",
                "model.width=8", "model.encoder_width=24", "model.encoder_depth=4", "runtime.workers=0",
                "model.encoder_heads=3", "model.taps=[0, 1, 2, 3]", "model.heads=2", "runtime.loggers=[]")  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    line = ["train", "depth", "--model", "spd-v15", "--preset", "spd-v15", "--data", data, "--out", tmp_path / "run"]
    done = command(*line, *words)
    assert done.returncode == 0 and "without --init" in done.stdout, done.stderr
    done = command("train", "evaluate", tmp_path / "run", "--data", data)
    assert done.returncode == 0, done.stderr
    [found] = records.load_run(tmp_path / "run").depths
    dense = {
        s.protocol: s
        for s in found.scores
        if (s.who, s.asked, s.aligned, s.region) == ("model", "dense", "none", "all")
    }
    assert dense.keys() == {"whole", "eigen", "author"}
    if name == "nyu":  # filled depth, of which every pixel within 10 m counts
        assert dense["eigen"].num_pixels == 2 * (471 - 45) * (601 - 41)
        assert dense["author"].num_pixels == 2 * 350 * 476
        assert dense["whole"].num_pixels == 2 * 476 * 630
    else:
        assert 0.8 < dense["eigen"].num_pixels / (2 * (471 - 45) * (601 - 41)) < 0.95, "a tenth is not measured"
    assert found.depth_field == "real" and "position" in {s.who for s in found.scores}
