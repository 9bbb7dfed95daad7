"""A run folder from somebody else: what says two things at once, or holds what no run writes, ends in one line."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import command, fails_in_one_line
from runs import arguments

from training import records

QUICK = (
    "model.image_size=48", "model.width=16", "model.depth=2", "model.heads=2", "optim.epochs=1", "runtime.workers=0",
    "optim.warmup_epochs=0", "optim.batch_size=32", "data.depth=raw", "runtime.checkpoint_every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(rooms, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("made") / "m4ch"
    assert command("train", *arguments(rooms, run, model="m4ch", settings=QUICK)).returncode == 0
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "m4ch")
    return tmp_path / "m4ch"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(model="m3ch"), "model is 'm3ch', config says 'm4ch'"),
        (lambda d: d.update(seed=5), "seed is 5, config says 0"),
        (lambda d: d.update(preset="thesis"), "preset is 'thesis', config says 'tiny'"),
        (lambda d: d["shards"].update(depth_field="zzz"), "shards.depth_field is 'zzz', config says 'raw'"),
        (lambda d: d["shards"].update(standardisation={}), "Field required"),
        (lambda d: d["shards"]["standardisation"].update(mean="x"), "standardisation"),
        (lambda d: d["shards"]["standardisation"].update(std=-1), "standardisation"),
        (lambda d: d["config"]["optim"].update(lr=0.5), "was changed since"),
    ],
)
def test_a_run_that_says_two_things_is_refused(run, rooms, change, told):
    edit(run / "run.json", change)
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms), "run.json is damaged", told)
    fails_in_one_line(command("analyze", "table2", run), "run.json is damaged", told)


@pytest.mark.parametrize("runtime", ["x", None, [], {"workers": "a"}, {"precision": "fp8"}])
def test_a_runtime_that_is_none_is_named(run, rooms, runtime):
    edit(run / "run.json", lambda d: d["config"].update(runtime=runtime))
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms), "runtime")


def test_a_checkpoint_of_another_study_is_refused(run, rooms, tmp_path):
    last = max((run / "checkpoints").glob("step-*"))
    edit(last / "checkpoint.json", lambda d: d.update(study_hash="0000"))
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms), "belongs to another run")
    tune = ("--preset", "tiny", "--data", rooms, "--depth", "raw", "--out", tmp_path / "tuned")
    fails_in_one_line(command("train", "finetune", *tune, "--init", run), "belongs to another run")


def replaced(run: Path, content: Any) -> None:
    """The last checkpoint but one, alone, with other content under its right hash."""
    first, *others = sorted((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    for other in others:
        shutil.rmtree(other)
    if isinstance(content, bytes):
        (first / "state.pt").write_bytes(content)
    else:
        torch.save(content, first / "state.pt")
    sha256 = hashlib.sha256((first / "state.pt").read_bytes()).hexdigest()
    edit(first / "checkpoint.json", lambda d: d.update(sha256=sha256))


def state_of(run: Path) -> dict[str, Any]:
    first = min((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    return torch.load(first / "state.pt", weights_only=True)


WEIGHT = "head.weight"
MOMENTS = {0: {"exp_avg": torch.zeros(3)}}


def with_weight(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state | {"model": {**state["model"], WEIGHT: value(state["model"][WEIGHT])}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: b"\x80\x02.", "is no checkpoint"),
        (lambda state: b"", "is no checkpoint"),
        (lambda state: [1, 2], "holds no weights"),
        (lambda state: 3, "holds no weights"),
        (lambda state: {"x": 1}, "holds no weights"),
        (lambda state: state | {"model": {"x": 3}}, "holds no weights"),
        (lambda state: state | {"ema": 5}, "holds no weights"),
        (with_weight(lambda value: value.to_sparse()), "is damaged"),
        (with_weight(lambda value: value.to(torch.complex64)), "holds no weights"),
        (with_weight(lambda value: value[:1]), "does not fit the model"),
        (lambda state: state | {"model": {}}, "does not fit the model"),
    ],
)
def test_a_state_with_the_right_hash_and_other_content_is_refused(run, rooms, change, told):
    replaced(run, change(state_of(run)))
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms), "checkpoint", told)


def without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in names}


def lacking_a_step(state: dict[str, Any]) -> dict[str, Any]:
    del state["optimizer"]["state"][0]["step"]
    return state


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: without(state, "optimizer"), "optimizer"),
        (lambda state: without(state, "window"), "window"),
        (lambda state: without(state, "rng"), "rng"),
        (lambda state: state | {"best": "x"}, "best"),
        (lambda state: state | {"rng": torch.zeros(3)}, "rng"),
        (lambda state: state | {"window": {"loss": 1.0}}, "window"),
        (lambda state: state | {"optimizer": {"state": MOMENTS, "param_groups": []}}, "optimizer"),
        (lambda state: state | {"optimizer": state["optimizer"] | {"state": MOMENTS}}, "optimizer"),
        (lacking_a_step, "optimizer"),
    ],
)
def test_a_run_goes_on_from_nothing_but_its_own_state(run, rooms, change, told):
    replaced(run, change(state_of(run)))
    words = arguments(rooms, run, model="m4ch", settings=QUICK)
    fails_in_one_line(command("train", *words, "--resume"), "step-2", told)


def test_links_inside_a_run_are_refused_before_the_work(run, rooms, tmp_path):
    shutil.move(run / "evaluations", tmp_path / "elsewhere")
    (run / "evaluations").symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").iterdir())
    for words in (("evaluate", run, "--data", rooms), (*arguments(rooms, run, "m4ch", QUICK), "--resume")):
        done = command("train", *words)
        fails_in_one_line(done, "evaluations is a link to", "put a folder in its place")
        assert "images in" not in done.stdout
    assert sorted((tmp_path / "elsewhere").iterdir()) == before


def test_a_result_without_a_finite_loss_is_not_recorded(run, rooms):
    last = max((run / "checkpoints").glob("step-*"))
    state = torch.load(last / "state.pt", weights_only=True)
    state["model"][WEIGHT].fill_(float("nan"))
    replaced(run, state)
    before = sorted((run / "evaluations").iterdir())
    for more in ((), ("--noise", "pixel", "--sigma", "0,1")):
        done = command("train", "evaluate", run, "--data", rooms, *more)
        fails_in_one_line(done, "its weights have diverged", "--checkpoint epoch-N")
    assert sorted((run / "evaluations").iterdir()) == before


def test_text_from_outside_is_quoted_and_printed_without_control_signs(run, tmp_path):
    other = tmp_path / "other"
    words = ("toyrooms", other, "--teacher", "none", "--samples", 40, "--val-samples", 8, "--size", 48)
    assert command("precompute-depth", *words, "--stats", "3,0.5").returncode == 0
    edit(run / "run.json", lambda d: d["shards"].update(path="x`touch PWNED`; \x1b]0;title\x07 \u202e"))
    done = command("train", "evaluate", run, "--data", other)
    fails_in_one_line(done, "--stats-from 'x`touch PWNED`; \\x1b]0;title\\x07 \\u202e'")
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stderr)
    assert records.load_run(run).record.shards.path.startswith("x`")
