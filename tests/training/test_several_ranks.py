"""Two processes on gloo against one, at the same global batch; and what happens when one of them is lost."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from running import command, fails_in_one_line, spawn
from runs import SMALL, arguments, assert_same_run, final_state, patched, start, wait_for, without_timings

from training import records
from training.engine import checkpoint
from training.engine.ranks import RanksError, started
from training.engine.share import DataError, Share
from training.tasks.classification.config import resolve

# Two ranks of one piece hold the mixing groups that one rank of two pieces holds.
ALONE = (*SMALL, "runtime.micro_batch=16")
PAIR = (*SMALL, "runtime.micro_batch=8")  # each rank accumulates two forward passes before gradients are averaged


def finished(process) -> None:
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, out + error


@pytest.fixture(scope="module")
def pair(rooms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ranks") / "pair"
    finished(start(arguments(rooms, out, settings=PAIR), ranks=2, afresh=True))
    return out


@pytest.mark.slow
def test_two_ranks_equal_one_at_the_same_global_batch(pair, rooms, tmp_path):
    alone = tmp_path / "alone"
    done = command("train", *arguments(rooms, alone, settings=ALONE))
    assert done.returncode == 0, done.stderr
    for name in ("model", "ema"):
        one, two = final_state(alone)[name], final_state(pair)[name]
        for key in one:
            a, b = one[key], two[key]
            if key.endswith("qkv.bias"):
                # The softmax ignores the keys' bias, its gradient is rounding alone, and AdamW makes steps of that.
                a, b = (torch.cat(tensor.chunk(3)[::2]) for tensor in (a, b))
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
    ours, theirs = without_timings(alone), without_timings(pair)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a["kind"] == b["kind"] and a["step"] == b["step"]
        if a["kind"] == "train":
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    evaluations = [records.load_run(run).evaluations[0] for run in (alone, pair)]
    assert all(len(e.correct1) == e.num_samples == 70 for e in evaluations)
    differing = sum(a != b for a, b in zip(evaluations[0].correct1, evaluations[1].correct1, strict=True))
    assert differing <= 1
    assert records.load_run(pair).record.machine["world_size"] == 2


@pytest.mark.slow
def test_a_signal_saves_once_a_killed_rank_ends_the_run_and_both_resume(pair, rooms, tmp_path):
    out = tmp_path / "mlin"
    words = [*arguments(rooms, out, settings=PAIR), "--resume"]
    process = start(words, ranks=2, **patched(tmp_path, SLOWING))
    wait_for((out / "checkpoints" / "step-3").exists, process)
    for pid in ranks_of(process.pid):
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)  # in the middle of a step, and torchrun passes on what it got itself
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "stopped by SIGTERM" in error
    assert checkpoint.steps_of(out)[-1] in (4, 5), "saved where it was"

    process = start(words, ranks=2)
    wait_for((out / "checkpoints" / "step-9").exists, process)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "lost the others" in error

    finished(start(words, ranks=2))
    assert_same_run(out, pair)


@pytest.mark.slow
def test_a_non_finite_loss_on_one_rank_stops_both_and_names_its_samples(rooms, tmp_path):
    out = tmp_path / "run"
    process = start(arguments(rooms, out), ranks=2, **patched(tmp_path, SPOILING, SPOILED=str(tmp_path / "keys")))
    _, error = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    lines = [line for line in error.splitlines() if line.startswith("error: non-finite loss at step 4")]
    assert len(lines) == 2, "each rank says so"
    keys = json.loads((tmp_path / "keys").read_text())
    for line in lines:
        assert ", ".join(keys[:8]) in line
    assert not any(line["step"] > 4 for line in without_timings(out))


SLOWING = """
if module.__name__ == "training.engine.step":
    call = module.TrainingStep.__call__
    def slow(self, pieces, number, *rest):
        time.sleep(1 if number >= 3 else 0)
        return call(self, pieces, number, *rest)
    module.TrainingStep.__call__ = slow
"""

SPOILING = """
if module.__name__ == "training.engine.step" and os.environ["RANK"] == "1":
    call, inner, step = module.TrainingStep.__call__, module.TrainingStep._accumulate, [0]
    def counted(self, pieces, number, *rest):
        step[0] = number
        return call(self, pieces, number, *rest)
    def spoiled(self, piece, *rest):
        loss = inner(self, piece, *rest)
        if step[0] == 4:
            json.dump(piece.keys, open(os.environ["SPOILED"], "w"))
            loss = loss * float("nan")
        return loss
    module.TrainingStep.__call__, module.TrainingStep._accumulate = counted, spoiled
"""


def ranks_of(pid: int) -> list[int]:
    """The processes that torchrun started, in that order, which is by rank; not their workers."""
    ranks = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(ranks) == 2
    return ranks


@pytest.mark.slow
def test_what_the_first_rank_refuses_ends_all_in_one_line(pair, rooms):
    process = start(arguments(rooms, pair), ranks=2)
    _, error = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
    assert "holds a run: add --resume" in error


# --- shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world_size", "micro_batch", "pieces"), [(1, None, 1), (1, 16, 4), (2, 16, 2), (4, 8, 1)])
def test_shares_cover_the_stream_without_overlap_and_cut_no_mixing_group(world_size, micro_batch, pieces):
    settings = ["optim.batch_size=64", "augment.mixup_alpha=1.0", "augment.mix_group=16"]
    if micro_batch:
        settings.append(f"runtime.micro_batch={micro_batch}")
    config = resolve("tiny", "m3ch", settings)
    seen = []
    for step in range(3):
        for rank in range(world_size):
            share = Share.of(config, rank, world_size)
            assert share.pieces == pieces
            assert share.piece % 16 == 0
            for piece in range(share.pieces):
                seen += range(share.first(step, piece), share.first(step, piece) + share.piece)
    assert seen == list(range(3 * 64))


def test_shares_that_cannot_be_are_refused(rooms, tmp_path):
    config = resolve("thesis", "m3ch")
    with pytest.raises(DataError, match="whole mixing groups of 192 for each of 2 ranks"):
        Share.of(config, 0, 2)
    settings = [*SMALL, "runtime.micro_batch=12"]
    fails_in_one_line(command("train", *arguments(rooms, tmp_path / "run", settings=settings)), "micro_batch 12")


@pytest.mark.slow
def test_the_tasks_of_an_srun_are_the_ranks_of_one_run(pair, rooms, tmp_path):
    """Without torchrun: SLURM's variables as srun sets them, on one machine. The same weights as under torchrun."""
    out = tmp_path / "srun"
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"} | {"SLURM_JOB_ID": str(os.getpid())}
    tasks = [
        start([*arguments(rooms, out, settings=PAIR), "--resume"], SLURM_PROCID=str(n), SLURM_LOCALID=str(n), **step)
        for n in range(2)
    ]
    said = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    first = said[0][0].splitlines()[0]
    assert first.startswith("rank 0 of 2, as SLURM's variables say") and "srun --ntasks 1" in said[0][0]
    assert_same_run(out, pair)
    alone = spawn("train", "gap", out, "--data", rooms, SLURM_PROCID="0", SLURM_LOCALID="0", **step)
    fails_in_one_line(alone, "by one process", "srun --ntasks 1")


def test_who_is_one_of_several_is_read_from_the_environment():
    step = {
        "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4242",
        "SLURM_STEP_NODELIST": "gpu[03-05,11]-a,login",
    }  # fmt: skip
    found = started(step)
    assert found is not None and found.meet_at == "tcp://gpu03-a:24242"
    assert (found.ranks.rank, found.ranks.world_size) == (5, 8)
    assert started(step | {"MASTER_ADDR": "n1", "MASTER_PORT": "77"}).meet_at == "tcp://n1:77"
    # A batch script is one process, whatever the number of tasks it may start; so is a step of one task.
    assert started({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}) is None
    assert started(step | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert started({}) is None
    launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    torchrun = started(step | launched)
    assert torchrun is not None and torchrun.ranks.world_size == 2 and not torchrun.by_slurm
    for lacking in ("SLURM_PROCID", "SLURM_STEP_NODELIST"):
        with pytest.raises(RanksError, match=f"cannot be read .*{lacking}"):
            started({name: value for name, value in step.items() if name != lacking})
    for wrong in (launched | {"RANK": "2"}, launched | {"WORLD_SIZE": "-1"}, step | {"SLURM_PROCID": "8"}):
        with pytest.raises(RanksError, match="the rank must be 0 to the number of processes less 1"):
            started(wrong)
    for lacking in ("MASTER_ADDR", "RANK"):
        with pytest.raises(RanksError, match=f"cannot be read .*{lacking}"):
            started({name: value for name, value in launched.items() if name != lacking})
    with pytest.raises(RanksError, match=r"cannot be read .*zz"):
        started(launched | {"MASTER_PORT": "zz"})
    for nodes, first in (("a", "a"), ("a,b", "a"), ("n[7,9]", "n7"), ("n[007-012]", "n007")):
        assert started(step | {"SLURM_STEP_NODELIST": nodes}).meet_at == f"tcp://{first}:24242"
