"""What goes wrong in practice, done: kills at bad moments, signals, full disks, damaged checkpoints, lost processes."""

import errno
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from running import command, fails_in_one_line
from runs import SMALL, arguments, assert_same_run, kill, patched, start, wait_for, without_timings

from pipeline import errors
from training import records
from training.commands.options import explained
from training.engine import checkpoint

ACCUMULATED = (*SMALL, "runtime.micro_batch=8")


def finish(rooms: Path, out: Path, settings=SMALL) -> str:
    done = command("train", *arguments(rooms, out, settings=settings), "--resume")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_in_a_step_twice_in_a_row_then_resumed_equals_uninterrupted_bit_for_bit(run_once, rooms, tmp_path):
    out = tmp_path / "mlin"
    for wanted in ("step-3", "step-9"):
        process = start([*arguments(rooms, out), "--resume"], afresh=wanted == "step-3")
        wait_for((out / "checkpoints" / wanted).exists, process)
        kill(process)
    assert "resuming" in finish(rooms, out)
    assert_same_run(out, run_once)
    assert [records.load_run(run).lines(records.EndLine)[0].resumes for run in (run_once, out)] == [0, 2]


@pytest.mark.slow
def test_killed_during_accumulation_and_at_an_epochs_edge(rooms, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finish(rooms, whole, ACCUMULATED)
    # Step 5 is the first of epoch 1 (150 samples, batches of 32): the edge is gone through, then the process dies.
    for moment in ("_accumulate 5", "_end_epoch 1", "_accumulate 12"):
        process = start([*arguments(rooms, out, settings=ACCUMULATED), "--resume"], **dying(tmp_path, moment))
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, moment
    finish(rooms, out, ACCUMULATED)
    assert_same_run(out, whole)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(run_once, rooms, tmp_path):
    out = tmp_path / "mlin"
    for moment in ("save best", "replace step-9", "replaced best", "prune 12"):
        process = start([*arguments(rooms, out), "--resume"], **dying(tmp_path, moment))
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, moment
        for path in (out / "checkpoints").glob("[!.]*"):
            checkpoint.load(path)  # whatever has a name is whole
    finish(rooms, out)
    assert_same_run(out, run_once)
    assert not list((out / "checkpoints").glob(".*")), "leftovers of killed writers"


def test_a_replaced_checkpoint_is_never_without_a_whole_one(tmp_path):
    """`best` is replaced again and again: between the two renames the earlier one is found under its other name."""
    folder = tmp_path / "checkpoints" / "best"
    checkpoint.save(folder, {"model": {"x": torch.zeros(1)}}, step=1, epoch=0, study_hash="a")
    replace = os.replace

    def failing(source, target):
        if Path(target) == folder and ".partial" in str(source):
            found.append(checkpoint.load(checkpoint.find(tmp_path, "best")).info.step)
            raise OSError(errno.EIO, "no")
        replace(source, target)

    found: list[int] = []
    with patch("os.replace", failing), pytest.raises(checkpoint.CheckpointError, match="no"):
        checkpoint.save(folder, {"model": {"x": torch.ones(1)}}, step=2, epoch=0, study_hash="a")
    assert found == [1]
    assert checkpoint.load(folder).info.step == 1
    assert [p.name for p in folder.parent.iterdir()] == ["best"]
    os.replace(folder, folder.parent / ".best.old")  # as a kill there leaves it
    checkpoint.sweep(tmp_path)
    assert checkpoint.load(folder).info.step == 1


def test_a_run_that_evaluates_to_no_finite_loss_stops_with_its_lines_readable(rooms, tmp_path):
    out = tmp_path / "mlin"
    body = """
    if module.__name__ == "training.tasks.classification.evaluate":
        inner = module.judge
        module.judge = lambda *given: (*inner(*given)[:2], float("nan"))
    """
    process = start(arguments(rooms, out), **patched(tmp_path, body))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1 and told.count("\n") == 1
    assert "error: the loss of mlin (raw) after epoch 1 is nan: it has diverged" in told
    kinds = {line.kind for line in records.read_metrics(out / "metrics.jsonl")}
    assert kinds == {"train", "parameters"}


def dying(folder: Path, moment: str) -> dict[str, str]:
    """An environment in which `train` kills itself at that moment, from inside."""
    return patched(folder, DYING, DIE_AT=moment)


DYING = """
where, what = os.environ["DIE_AT"].split()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if module.__name__ == "training.engine.step" and where == "_accumulate":
    inner, call, seen = module.TrainingStep._accumulate, module.TrainingStep.__call__, [-1, 0]
    def counted(self, pieces, step, *rest):
        seen[:] = [step, 0]
        return call(self, pieces, step, *rest)
    def accumulate(self, *rest):
        if seen[0] == int(what) and seen[1] == 1:
            die()
        seen[1] += 1
        return inner(self, *rest)
    module.TrainingStep.__call__, module.TrainingStep._accumulate = counted, accumulate
if module.__name__ == "training.engine.loop" and where == "_end_epoch":
    note = module._Training._take_note
    def take_note(self, epoch, *rest):
        note(self, epoch, *rest)
        if epoch == int(what):
            die()
    module._Training._take_note = take_note
if module.__name__ == "training.engine.checkpoint":
    if where == "save":
        write = module.torch.save
        def torn(state, file):
            if what in file.name:
                file.write(b"half of it")
                file.flush()
                die()
            write(state, file)
        module.torch.save = torn
    if where in ("replace", "replaced", "prune"):
        replace = os.replace
        def around(source, target):
            name = os.path.basename(target)
            if where == "replace" and name == what:
                die()
            replace(source, target)
            aside = {"replaced best": (".best.", ".old"), "prune 12": (".step-9.", ".removed")}
            start, end = aside.get(os.environ["DIE_AT"], ("never", ""))
            if name.startswith(start) and name.endswith(end):
                die()
        os.replace = around
"""


def test_a_finished_run_stays_as_it_is(run, rooms):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "is finished" in finish(rooms, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_code(rooms, tmp_path, number):
    out = tmp_path / "run"
    endless = (*SMALL, "optim.epochs=50", "runtime.checkpoint_every=999")
    process = start(arguments(rooms, out, settings=endless), afresh=number == signal.SIGTERM)
    metrics = out / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"train"' in metrics.read_text(), process)
    asked = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal or a scheduler does: workers too
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - asked < 30
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in error
    assert "Traceback" not in error
    assert len(checkpoint.steps_of(out)) == 1


@pytest.mark.slow
def test_a_signal_during_an_evaluation_is_heeded_and_the_evaluation_made_up_for(run_once, rooms, tmp_path):
    out = tmp_path / "mlin"
    done = None

    def asked(model, split, config, depth, machine, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        machine.between()
        raise AssertionError("the evaluation went on")

    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        with patch("training.tasks.classification.task.evaluate", asked):
            done = command("train", *arguments(rooms, out))
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert done.returncode == 128 + signal.SIGTERM
    assert checkpoint.steps_of(out) == [3, 5], "the checkpoint before, and the epoch's edge"
    finish(rooms, out)
    assert_same_run(out, run_once)


def test_resume_falls_back_past_a_damaged_checkpoint(run, run_once, rooms):
    damage(run / "checkpoints" / "step-14" / "state.pt")
    said = finish(rooms, run)
    assert "step-14 is damaged" in said
    assert "resuming" in said
    assert "at step 12 of 14" in said
    assert_same_run(run, run_once)


def test_resume_with_every_checkpoint_damaged_loses_nothing(run, rooms):
    for step in (12, 14):
        damage(run / "checkpoints" / f"step-{step}" / "state.pt")
    (run / "checkpoints" / "step-12" / "checkpoint.json").write_bytes(b"\xff\xfe")
    lines = (run / "metrics.jsonl").read_text()
    fails_in_one_line(command("train", *arguments(rooms, run), "--resume"), "every checkpoint of")
    assert (run / "metrics.jsonl").read_text() == lines


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again_silently(run, rooms):
    shutil.rmtree(run / "checkpoints")
    lines = (run / "metrics.jsonl").read_text()
    done = command("train", *arguments(rooms, run), "--resume")
    fails_in_one_line(done, "came to step 14 but has no checkpoint to go on from")
    assert (run / "metrics.jsonl").read_text() == lines


def test_lost_metrics_are_told_of_and_do_not_double(run, rooms):
    shutil.rmtree(run / "checkpoints" / "step-14")
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    assert "lacks" in finish(rooms, run)
    steps = [(line["kind"], line["step"]) for line in without_timings(run)]
    assert len(steps) == len(set(steps))
    shutil.rmtree(run / "checkpoints" / "step-14")
    finish(rooms, run)
    assert [(line["kind"], line["step"]) for line in without_timings(run)] == steps
    metrics.write_bytes(b"\xff\xfe")
    fails_in_one_line(command("train", *arguments(rooms, run), "--resume"), "metrics.jsonl is damaged")


@pytest.mark.slow
def test_two_jobs_do_not_share_a_folder(rooms, tmp_path):
    out = tmp_path / "run"
    process = start([*arguments(rooms, out, settings=(*SMALL, "optim.epochs=500")), "--resume"])
    wait_for((out / "checkpoints" / "step-3").exists, process)
    fails_in_one_line(command("train", *arguments(rooms, out), "--resume"), "another job is training in")
    kill(process)


@pytest.mark.slow
def test_a_signal_while_workers_start_is_heeded_like_any_other(rooms, tmp_path):
    """Workers that begin in the middle of it must not take it for theirs: at every moment of an evaluation's start."""
    settings = (*SMALL, "optim.epochs=400", "runtime.checkpoint_every=9999", "runtime.log_every=1")
    for delay_ms in (0, 60):
        out = tmp_path / f"run-{delay_ms}"
        process = start(arguments(rooms, out, settings=settings))
        metrics = out / "metrics.jsonl"
        wait_for(lambda metrics=metrics: metrics.exists() and '"step": 4,' in metrics.read_text(), process)
        time.sleep(delay_ms / 1000)
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM, error
        assert len(checkpoint.steps_of(out)) == 1


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_evaluation_refuses_a_damaged_checkpoint_by_name(run, rooms):
    damage(run / "checkpoints" / "step-14" / "state.pt")
    fails_in_one_line(command("train", "evaluate", run, "--data", rooms), "step-14 is damaged")


def test_disk_full_on_a_checkpoint_leaves_the_old_one_and_the_run_goes_on_later(run_once, rooms, tmp_path):
    out = tmp_path / "mlin"
    early = [*arguments(rooms, out), "--resume"]
    process = start(early)
    wait_for((out / "checkpoints" / "step-3").exists, process)
    kill(process)
    kept = checkpoint.steps_of(out)[-1]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        # No workers: their batches travel in files too, in memory.
        full = command("train", *early, "--set", "runtime.workers=0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    fails_in_one_line(full, "cannot write checkpoint", "make room, then add --resume")
    assert checkpoint.steps_of(out)[-1] == kept
    finish(rooms, out)
    assert_same_run(out, run_once)


def test_only_folders_are_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoint.save(tmp_path / "checkpoints" / "step-1", {}, step=1, epoch=0, study_hash="a")
    (tmp_path / "checkpoints" / "step-999").touch()
    assert checkpoint.steps_of(tmp_path) == [1]
    assert checkpoint.find(tmp_path, "latest").name == "step-1"


def test_a_checkpoint_that_does_not_fit_the_disk_leaves_what_was_there(tmp_path):
    checkpoint.save(tmp_path / "step-1", {"model": {"x": torch.zeros(10)}}, step=1, epoch=0, study_hash="a")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(checkpoint.CheckpointError, match="cannot write checkpoint"):
            checkpoint.save(
                tmp_path / "step-1", {"model": {"x": torch.zeros(1_000_000)}}, step=1, epoch=0, study_hash="a"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert torch.equal(checkpoint.load(tmp_path / "step-1").weights["x"], torch.zeros(10))
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_resume_refuses_another_study_or_other_shards_and_allows_another_runtime(run, run_once, rooms, tmp_path):
    changed = command("train", *arguments(rooms, run, settings=[*SMALL, "optim.lr=5e-4"]), "--resume")
    fails_in_one_line(changed, "optim.lr was 0.002, now 0.0005")
    other = tmp_path / "other"
    made = command(
        "precompute-depth", "toyrooms", other, "--teacher", "none", "--samples", 150, "--val-samples", 70, "--size", 48,
        "--seed", 9,
    )  # fmt: skip
    assert made.returncode == 0
    fails_in_one_line(command("train", *arguments(other, run), "--resume"), "train shards are not the ones")
    shutil.rmtree(run / "checkpoints" / "step-14")
    another = [*SMALL, "runtime.workers=0", "runtime.checkpoint_every=5", "runtime.keep_checkpoints=3"]
    allowed = command("train", *arguments(rooms, run, settings=another), "--resume")
    assert allowed.returncode == 0, allowed.stderr
    assert_same_run(run, run_once)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_in_one_line(rooms, tmp_path):
    out = tmp_path / "run"
    process = start(arguments(rooms, out, settings=(*SMALL, "optim.epochs=500", "runtime.eval_every=500")))
    metrics = out / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and '"train"' in metrics.read_text(), process)
    os.kill(a_child_of(process.pid), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker" in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, error


def test_a_second_dead_worker_does_not_break_the_line_that_tells_of_the_first(monkeypatch, capsys):
    """torch 2.15's handler (torch/utils/data/_utils/signal_handling.py) raises in the main thread for every worker
    that ends, wherever that thread is: while the first is being told of, too.
    """

    def told_of_a_worker(number, frame):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")

    def complain(error):
        os.kill(os.getpid(), signal.SIGCHLD)
        print(f"error: {error}", file=sys.stderr)

    before = signal.signal(signal.SIGCHLD, told_of_a_worker)
    monkeypatch.setattr(errors, "complain", complain)
    try:
        with pytest.raises(SystemExit) as stopped:
            errors.main(lambda: os.kill(os.getpid(), signal.SIGCHLD), explained)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert stopped.value.code == 1
    assert "a loader worker, process 12, was killed (Killed)" in capsys.readouterr().err


def a_child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    workers = [
        int(child) for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return workers[-1]


def test_non_finite_loss_stops_before_the_update(rooms, tmp_path):
    settings = [*SMALL, "optim.lr=100", "optim.grad_clip=1000", "optim.epochs=30", "optim.warmup_epochs=0"]
    done = command("train", *arguments(rooms, tmp_path / "run", settings=settings))
    fails_in_one_line(done, "non-finite", "samples room-", "before the update")
    for line in records.load_run(tmp_path / "run").lines(records.TrainLine):
        assert line.loss == line.loss
