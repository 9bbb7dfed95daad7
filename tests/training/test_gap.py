"""The gap: a planted one is found again; curves, crossings and intervals; what the command writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import command, fails_in_one_line
from test_noise import redrawn

from pipeline import depth_codec, index, shards
from pipeline.standardize import Moments, Standardisation
from training import records
from training.engine.found import At
from training.intervals import central_interval, resampled_means
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.noise.crossing import crossing
from training.noise.gap import Distances, GapError, as_record, measure, measure_inverse, open_pairs, solve
from training.noise.sweep import KINDS, SIGMAS, Noise
from training.random_numbers import generator

CPU = torch.device("cpu")
METRES, TEACHER = Standardisation(5.0, 0.6, "farther_is_larger"), Standardisation(2.5, 1.6, "closer_is_larger")
SIDE = 48  # the tiny preset's: squashing changes nothing
Real = Callable[[np.ndarray, str], np.ndarray]  # z of pseudo-depth and the sample's key -> z of real depth


def pairs(out: Path, real: Real, unit: str = "m", count: int = 80, side: int = SIDE, **depths: Standardisation) -> Path:
    """Shards of noise images without classes, a quarter of them val: smooth pseudo-depth, and real depth made of it."""
    constants = depths or {"pseudo": TEACHER, "real": METRES}
    rng = np.random.default_rng(0)
    for split, number in (("train", count - count // 4), ("val", count // 4)):
        samples, moments = [], {name: Moments() for name in constants}
        for place in range(number):
            rgb = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            coarse = torch.from_numpy(rng.normal(size=(1, 1, 4, 4)))
            z = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[0, 0].numpy().astype(np.float32)
            key = f"{split}-{place:03d}"
            both = dict.fromkeys(constants, real(z, key).astype(np.float32)) | {"pseudo": z}
            members = {"rgb.png": shards.png_bytes(rgb), "json": b"{}"}
            for name in constants:
                members[f"{name}.{depth_codec.EXTENSION}"] = depth_codec.encode(both[name], 1e-3)
                moments[name] = moments[name].merge(Moments.of(constants[name].invert(both[name])))
            samples.append((key, members))
        store = shards.open_store(out / split)
        record = shards.write_shard(
            store, "shard-000000", samples, listing="", num_listed=number, rejects=[], moments=moments,
            constants=constants,
        )  # fmt: skip
        config = {"source": {"name": "test"}, "teacher": {"unit": "relative inverse depth"}}
        built = index.build(
            split, [index.Finished.of(record, "")], config, dict.fromkeys(constants, "given"), [], [], []
        )
        field = built.depth["real"].model_copy(update={"unit": unit}) if "real" in constants else None
        built = built.model_copy(update={"depth": built.depth | ({"real": field} if field else {})})
        shards.publish(store, "index.json", built.model_dump_json().encode())
    return out


def gap(model: str, data: Path, sigmas=SIGMAS, real: str = "real") -> records.Gap:
    config, built = redrawn(model)
    splits = open_pairs(str(data), real)
    inverse = measure_inverse(splits, config, real)
    moved = measure(built, splits, config, real, inverse, CPU, sigmas, 0)
    return as_record(moved, splits, config, real, inverse, sigmas, 0, At("latest", 0))


def found(record: records.Gap, **wanted: str) -> list[records.GapCrossing]:
    return [c for c in record.crossings if all(getattr(c, name) == value for name, value in wanted.items())]


def other_noise(key: str) -> np.ndarray:
    return generator("planted", key).normal(size=(SIDE, SIDE))


@pytest.fixture(scope="module")
def pixel_04(tmp_path_factory) -> Path:
    """Real depth that is pseudo-depth with other noise of sigma 0.4 a pixel."""
    return pairs(tmp_path_factory.mktemp("pixel"), lambda z, key: z + 0.4 * other_noise(key), count=160)


@pytest.mark.parametrize("model", ["m4ch", "mlin"])
@pytest.mark.parametrize("kind", ["pixel", "patch"])
def test_planted_noise_is_found_again(model, kind, tmp_path):
    """Real depth with the very noise that is added: its strength is off the grid, so what is left is interpolation."""

    def planted(z: np.ndarray, key: str) -> np.ndarray:
        return z + 0.4 * Noise(kind, 0).draw([key], SIDE, 8)[0, 0].numpy()

    record = gap(model, pairs(tmp_path, planted, count=24))
    assert record.num_images == 24 and set(record.fingerprints) == {"train", "val"}
    for c in found(record, noise=kind, reading="z"):
        assert c.sigma_star == pytest.approx(0.4, rel=0.04) and not c.undefined and c.share_above == 0
        assert 0.4 * 0.8 < c.low <= c.sigma_star <= c.high < 0.4 * 1.2
    for curve in record.curves:
        assert curve.e[0] == 0.0 and min(curve.e[1:]) > 0


@pytest.mark.parametrize("model", ["m4ch", "mlin"])
def test_the_strength_of_other_noise_is_found_within_its_interval(model, pixel_04):
    c = found(gap(model, pixel_04, (0, 0.2, 0.3, 0.5, 1)), noise="pixel", reading="z", output="logits")[0]
    standard_error = (c.high - c.low) / 3.92
    assert 0.005 < standard_error < 0.04
    assert c.sigma_star == pytest.approx(0.4, abs=3 * standard_error)


def test_no_gap_is_sigma_0(tmp_path):
    for c in found(gap("m4ch", pairs(tmp_path, lambda z, key: z, count=8), (0, 1)), reading="z"):
        assert (c.e_star, c.sigma_star, c.low, c.high, c.undefined) == (0, 0, 0, 0, False)


def test_beyond_the_grid_is_said_not_extrapolated(pixel_04):
    for c in found(gap("m4ch", pixel_04, (0, 0.05, 0.1)), noise="pixel", reading="z"):
        assert (c.sigma_star, c.low, c.high, c.share_above, c.undefined) == (None, None, None, 1.0, False)


def test_a_model_that_reads_no_depth_has_no_sigma_star(pixel_04):
    record = gap("m3ch", pixel_04, (0, 1))
    assert {tuple(curve.e) for curve in record.curves} == {(0.0, 0.0)}
    for c in record.crossings:
        assert (c.e_star, c.sigma_star, c.low, c.high, c.share_above, c.undefined) == (0, None, None, None, 0, True)


def test_the_inverse_reading_undoes_a_teacher_of_inverse_depth(tmp_path):
    """Metres that are the inverse of what the teacher gives: only read as -1/d are they pseudo-depth again."""

    def metres(z: np.ndarray, key: str) -> np.ndarray:
        per_metre = 0.2 - 0.03 * np.clip(z, -3, 3)  # 1/d falls with z
        return METRES.apply(1 / per_metre)

    record = gap("m4ch", pairs(tmp_path, metres, count=40))
    by_reading = {c.reading: c for c in found(record, noise="pixel", output="logits")}
    assert record.inverse_mean == pytest.approx(0.2, abs=0.005) and 0.02 < record.inverse_std < 0.04
    assert by_reading["inverse"].e_star < 0.5 * by_reading["z"].e_star


def test_distances_are_means_over_images_and_classes(tmp_path):
    data = pairs(tmp_path, lambda z, key: z + 0.5 * other_noise(key), count=8)
    record = gap("m4ch", data, (0, 1))
    _, built = redrawn("m4ch")
    samples = [split[place] for split in open_pairs(str(data), "real") for place in range(len(split))]
    rgb = torch.stack([torch.from_numpy(sample["rgb"].copy()).permute(2, 0, 1) for sample in samples])
    with torch.no_grad():
        before, after = (
            built.eval()(
                normalise(rgb, RGB_MEAN, RGB_STD),
                torch.stack([torch.from_numpy(sample[name])[None] for sample in samples]),
            )
            for name in ("pseudo", "real")
        )
    for output, moved in (("logits", after - before), ("softmax", after.softmax(1) - before.softmax(1))):
        for c in found(record, output=output, reading="z"):
            assert c.e_star == pytest.approx(moved.abs().mean().item(), rel=1e-4)


def test_each_reading_is_resampled_with_its_own_distances():
    """Images differ in how far they move, in proportion for noise and real depth: every resample crosses there."""
    sigmas, factor = (0.0, 0.5, 1.0), np.random.default_rng(0).uniform(1, 9, (50, 1, 1))
    away = factor * np.array(sigmas)[:, None] * np.ones(2)
    real = factor * np.array([0.3, 0.7])[:, None] * np.ones(2)
    _, crossings = solve(Distances({kind: [away] for kind in KINDS}, [real]), sigmas, 0)
    assert len(crossings) == 8
    for c in crossings:
        wanted = {"z": 0.3, "inverse": 0.7}[c.reading]
        assert (c.sigma_star, c.low, c.high) == pytest.approx((wanted, wanted, wanted), rel=1e-9)


def test_sensor_depth_with_holes_of_another_size_works(tmp_path):
    def holes(z: np.ndarray, key: str) -> np.ndarray:
        return np.where(generator(key).random(z.shape) < 0.2, np.nan, z + 0.3)

    record = gap("mlin", pairs(tmp_path, holes, count=8, side=70), (0, 1, 3))
    assert all(np.isfinite([c.e_star, *record.curves[0].e]).all() for c in record.crossings)


def test_crossing_inverts_curves():
    x = np.array([0, 0.5, 1, 2, 3])
    for power, off in ((0.7, 0.1), (1.0, 1e-9), (2.0, 0.05)):
        levels = np.array([0.0, 0.75, 0.5, 1.7, 3.0, 3.01])
        curves = np.tile(x**power, (len(levels), 1))
        got = crossing(x, curves, levels**power)
        assert got[0] == 0 and np.isinf(got[-1])
        np.testing.assert_allclose(got[1:5], levels[1:5], rtol=off)
        np.testing.assert_allclose(got[[2, 4]], levels[[2, 4]], rtol=1e-9)  # grid points are met exactly
    dented, flat = np.array([[0, 2, 1, 4, 5]]), np.array([[0, 1, 1, 1, 2]])
    assert crossing(x, dented, np.array([1.5]))[0] == pytest.approx(0.5)  # 2 and 1 become 1.5: the least sigma counts
    assert crossing(x, flat, np.array([1.0]))[0] == pytest.approx(0.5)


def test_resampled_means_are_the_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(400, 2))
    means = resampled_means(values, rng)
    assert means.shape == (1000, 2)
    np.testing.assert_allclose(means.mean(0), values.mean(0), rtol=0.01)
    np.testing.assert_allclose(means.std(0), values.std(0) / 20, rtol=0.1)
    low, high = central_interval(np.array([*range(1, 97), *[np.inf] * 4]))
    assert low == 3 and np.isinf(high)


def test_the_command_leaves_a_record_that_a_run_is_read_with(run, pixel_04):
    done = command("train", "gap", run, "--data", pixel_04, "--sigma", "0.5,2")
    assert done.returncode == 0, done.stderr
    assert "mlin, pseudo to real depth, 160 images" in done.stdout
    assert "note:" not in done.stdout  # the run's own depth is a sensor's, which has constants of another kind
    loaded = records.load_run(run)
    record = loaded.gaps[0]
    [path] = (run / "evaluations").glob("gap-real-step-14-*.json")  # of data that are not the run's own
    assert record == records.parse(records.Gap, path)
    assert record.sigmas == [0.0, 0.5, 2.0] and record.epoch == 3 and len(record.crossings) == 8
    assert len(loaded.evaluations) == 1 and not loaded.noise_sweeps
    path = run / "run.json"
    seen = json.loads(path.read_text())
    seen["config"]["data"]["depth"] = "pseudo"
    seen["study_hash"] = records.study_hash(seen["config"])
    for info in (run / "checkpoints").glob("*/checkpoint.json"):
        info.write_text(json.dumps(json.loads(info.read_text()) | {"study_hash": seen["study_hash"]}))
    seen["shards"] |= {"depth_field": "pseudo", "standardisation": seen["shards"]["standardisation"] | {"mean": 9.0}}
    path.write_text(json.dumps(seen))
    again = command("train", "gap", run, "--data", pixel_04, "--sigma", "0.5,2")
    assert again.returncode == 0
    told = " ".join(again.stdout.split())
    assert "note: pseudo depth of" in told and "the run's with mean 9.0000" in told and "--stats-from" in told
    assert any("mean 9.0000" in difference for difference in records.load_run(run).gaps[0].other_depth)


def test_the_table_says_what_has_no_number(run, pixel_04, capsys):
    from training.commands.gap import _gap_table

    for record, words in (
        (gap("m4ch", pixel_04, (0, 0.05)), ["above 0.05", "real depth moves it farther than noise of 0.05 does"]),
        (gap("m3ch", pixel_04, (0, 1)), ["undefined", "what this model says does not change with depth"]),
    ):
        _gap_table(record)
        told = capsys.readouterr().out
        assert all(word in told for word in words) and "nan" not in told and "None" not in told


def test_mistakes_end_in_one_line(run, rooms, pixel_04, tmp_path):
    feet = pairs(tmp_path / "feet", lambda z, key: z, unit="ft", count=4)
    none = pairs(tmp_path / "none", lambda z, key: np.full_like(z, np.nan), count=4)
    flat = pairs(tmp_path / "flat", lambda z, key: 0 * z, count=4)
    for words, message in (
        ([rooms], "has no 'pseudo' depth, it has"),
        ([pixel_04, "--real", "raw"], "has no 'raw' depth, it has pseudo, real"),
        ([pixel_04, "--sigma", "0"], "--sigma must hold a number above 0, got 0"),
        ([pixel_04, "--sigma", "-1"], "--sigma must be numbers from 0 to 1000"),
        ([feet], "'real' depth must be in m, got 'ft'"),
        ([none], "no pixel of 'real' depth is measured"),
        ([flat], "'real' depth is the same everywhere"),
        ([tmp_path / "nowhere"], "no finished split"),
    ):
        fails_in_one_line(command("train", "gap", run, "--data", *words), message)
    assert [path.name for path in (run / "evaluations").iterdir()] == ["val-final.json"]


def test_depth_that_lost_its_scale_has_no_gap(tmp_path, monkeypatch):
    """Maps that were stretched to 0 to 255 one by one: their values mean something else in every image."""
    data = pairs(tmp_path / "pairs", lambda z, rng: z, count=2)
    assert open_pairs(str(data), "real")
    stretched = shards.Provenance(kind="filled", scale_lost=True)
    monkeypatch.setattr(shards.ShardIndex, "provenance", lambda index, field: stretched)
    with pytest.raises(GapError, match="'pseudo' depth was stretched image by image"):
        open_pairs(str(data), "real")


def test_any_depth_of_the_scene_itself_in_metres_will_do(tmp_path, monkeypatch):
    data = pairs(tmp_path / "pairs", lambda z, rng: z, count=2, pseudo=TEACHER, exact=METRES)
    assert open_pairs(str(data), "exact")
    of_teacher = shards.Provenance(kind="estimated")
    monkeypatch.setattr(shards.ShardIndex, "provenance", lambda index, field: of_teacher)
    with pytest.raises(GapError, match="'exact' depth is a teacher's: the gap is to depth of the scene itself"):
        open_pairs(str(data), "exact")
