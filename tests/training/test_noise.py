"""Noise on depth: the draw, the sweep and its record, and what the command line refuses."""

import json
from contextlib import nullcontext
from typing import get_args

import numpy as np
import pytest
import torch
from running import command, fails_in_one_line
from sklearn.metrics import log_loss, top_k_accuracy_score

from pipeline import shards
from training import records
from training.commands import options
from training.engine.found import At
from training.engine.machine import Machine
from training.loading.augment.normalise import RGB_MEAN, RGB_STD, normalise
from training.noise.sweep import SIGMAS, Noise, NoiseError, noisy, parse_sigmas, sweep
from training.tasks.classification.config import resolve
from training.tasks.classification.data import eval_loader
from training.tasks.classification.evaluate import evaluate

CPU = torch.device("cpu")
SMALL = ("model.width=32", "model.depth=2", "data.depth=raw", "runtime.workers=0", "runtime.device=cpu")


def redrawn(model: str):
    """A config and a model whose logits depend on all that it reads: the head begins at zero."""
    config = resolve("tiny", model, SMALL, num_classes=6)
    torch.manual_seed(1)
    built = config.model.build()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.3 if parameter.ndim > 1 else 0.5))
            if name == "alpha":  # mlin's: a bias that is felt
                parameter.fill_(10.0)
    return config, built


def swept(model: str, rooms, noise: Noise, sigmas) -> records.NoiseSweep:
    config, built = redrawn(model)
    split = shards.open_split(rooms, "val")
    return sweep(built, split, config, "raw", Machine(CPU, nullcontext), noise, sigmas, at=At("latest", 0))


def test_noise_is_a_function_of_seed_key_and_size():
    keys = [f"key-{number}" for number in range(40)]
    for kind in ("pixel", "patch"):
        eps = Noise(kind, 3).draw(keys, 48, 8)
        assert eps.shape == (40, 1, 48, 48) and eps.dtype == torch.float32
        assert abs(eps.mean()) < 0.05 and abs(eps.std() - 1) < 0.05
        torch.testing.assert_close(Noise(kind, 3).draw(keys[7:9], 48, 8), eps[7:9], rtol=0, atol=0)
        for other in (Noise(kind, 4).draw(keys, 48, 8), Noise(kind, 3).draw(keys[::-1], 48, 8)):
            assert not torch.equal(other, eps)
    tiles = Noise("patch", 3).draw(keys, 48, 8).unfold(2, 8, 8).unfold(3, 8, 8)
    assert (tiles == tiles[..., :1, :1]).all()  # one number a patch
    assert len(tiles[..., 0, 0].unique()) == 40 * 36


def test_invalid_pixels_stay_invalid_and_nothing_is_added_at_sigma_0():
    z = torch.randn(2, 1, 8, 8)
    z[0, 0, 2] = torch.nan
    eps = torch.randn(z.shape)
    assert noisy(z, 0.0, eps) is z
    torch.testing.assert_close(noisy(z, 0.5, eps), z + 0.5 * eps, equal_nan=True)
    assert torch.equal(noisy(z, 0.5, eps).isnan(), z.isnan())


def test_an_evaluation_is_that_of_its_logits(rooms, monkeypatch):
    """In three batches: scikit-learn's top-k accuracy and log loss; an answer is right five times in six here."""
    monkeypatch.setattr("training.tasks.classification.evaluate.EVAL_BATCH", 30)
    config, built = redrawn("m4ch")
    split = shards.open_split(rooms, "val")
    found = evaluate(built, split, config, "raw", Machine(CPU, nullcontext))
    [batch] = eval_loader(split, config, "raw", 70)
    with torch.no_grad():
        logits = built.eval()(normalise(batch.rgb, RGB_MEAN, RGB_STD), batch.depth).double().numpy()
    label, classes = batch.label.numpy(), range(6)
    assert found.top1 == pytest.approx(top_k_accuracy_score(label, logits, k=1, labels=classes))
    assert found.top5 == pytest.approx(top_k_accuracy_score(label, logits, k=5, labels=classes))
    assert found.top1 < found.top5 < 1
    shares = torch.from_numpy(logits).softmax(1).numpy()
    assert found.loss == pytest.approx(log_loss(label, shares, labels=classes), rel=1e-4)
    assert found.largest_class == np.bincount(label).max() / 70


@pytest.mark.parametrize("model", ["m4ch", "mlin"])
@pytest.mark.parametrize("kind", ["pixel", "patch"])
def test_sigma_0_is_the_plain_evaluation_and_others_are_not(model, kind, rooms):
    config, built = redrawn(model)
    plain = evaluate(built, shards.open_split(rooms, "val"), config, "raw", Machine(CPU, nullcontext))
    found = swept(model, rooms, Noise(kind, 0), (0.0, 3.0))
    assert found.correct1[0] == "".join("01"[hit] for hit in plain.correct1)
    assert (found.top1[0], found.top5[0], found.loss[0]) == (plain.top1, plain.top5, plain.loss)
    assert found.largest_class == plain.largest_class
    assert found.loss[1] != found.loss[0]
    alone = swept(model, rooms, Noise(kind, 0), (3.0,))
    assert (alone.loss[0], alone.correct1[0]) == (found.loss[1], found.correct1[1])  # whatever else is asked for
    assert swept(model, rooms, Noise(kind, 1), (3.0,)).loss != alone.loss


def test_m3ch_reads_no_depth_whatever_the_noise(rooms):
    found = swept("m3ch", rooms, Noise("pixel", 0), SIGMAS)
    assert len(set(found.loss)) == len(set(found.correct1)) == 1 and len(found.sigmas) == 11


def test_sigmas_are_rising_numbers():
    assert parse_sigmas(None) == SIGMAS == tuple(sorted(SIGMAS))
    assert parse_sigmas(get_args(options.Sigmas)[1].show_default) == SIGMAS  # what --help says
    assert parse_sigmas("1, 0,0.5,1,-0") == (0.0, 0.5, 1.0)
    assert len(parse_sigmas(",".join(map(str, range(100))))) == 100
    for wrong in ("-1", "nan", "inf", "1e9", "", "0,,1", "a", ",".join(map(str, range(101)))):
        with pytest.raises(NoiseError, match="--sigma"):
            parse_sigmas(wrong)


def test_the_command_leaves_a_record_that_a_run_is_read_with(run, rooms):
    done = command("train", "evaluate", run, "--data", rooms, "--noise", "patch", "--sigma", "0,1", "--noise-seed", 5)
    assert done.returncode == 0, done.stderr
    assert "sigma" in done.stdout and "mlin, raw depth, patch noise" in done.stdout
    before = records.load_run(run)
    found = before.noise_sweeps[0]
    assert found == records.parse(records.NoiseSweep, run / "evaluations" / "noise-patch-val-raw-step-14.json")
    assert (found.noise, found.noise_seed, found.patch_size, found.sigmas) == ("patch", 5, 8, [0.0, 1.0])
    assert found.fingerprint == before.record.shards.val_fingerprint and found.epoch == 3
    assert len(before.evaluations) == 1 and found.correct1[0] == before.evaluations[0].correct1
    np.testing.assert_allclose(found.loss[0], before.evaluations[0].loss, rtol=1e-6)
    assert found.top1 == [hits.count("1") / 70 for hits in found.correct1]


def test_evaluations_of_unknown_kinds_are_refused_by_name(run):
    path = run / "evaluations" / "later.json"
    ours = json.loads((run / "evaluations" / "val-final.json").read_text())
    none = "later.json is nothing that train evaluate or train gap writes: move it away"
    for content, message in (
        (ours | {"kind": "later"}, "later.json is of kind 'later'"),
        (ours | {"epoch": -1}, "later.json is damaged"),
        ({"kind": "noise"}, "later.json is damaged"),
        (ours | {"kind": 5}, "later.json is damaged"),
        ({"kind": "later", "data": [1]}, none), ([], none), ("notes", none), ({"a": 1}, none), (None, none),
    ):  # fmt: skip
        path.write_text(json.dumps(content))
        with pytest.raises(records.RecordError, match=message):
            records.load_run(run)
    for text, message in ((json.dumps(ours)[:50], "later.json is damaged"), ("to do: all", none), ("", none)):
        path.write_text(text)
        with pytest.raises(records.RecordError, match=message):
            records.load_run(run)


def test_mistakes_end_in_one_line(run, rooms):
    for words, message in (
        (["--noise", "salt"], "--noise must be one of pixel, patch, got 'salt'"),
        (["--sigma", "0,1"], "--sigma needs --noise"),
        (["--noise", "pixel", "--sigma", "0,-1"], "--sigma must be numbers from 0 to 1000, in units of z, got -1"),
        (["--noise", "pixel", "--sigma", "x"], "--sigma takes numbers between commas, such as 0,0.5,1, got 'x'"),
        (["--noise", "pixel", "--sigma", ",".join(map(str, range(101)))], "at most 100 numbers, got 101"),
        (["--noise", "pixel", "--depth", "online"], "not to online depth"),
    ):
        fails_in_one_line(command("train", "evaluate", run, "--data", rooms, *words), message)
    assert [path.name for path in (run / "evaluations").iterdir()] == ["val-final.json"]
