"""Any number of ranks, interrupted at any time, end with the bytes of one uninterrupted run."""

import json
import random
import signal
import subprocess
import time

import pytest
from running import BIN, begin, command, contents, fails_in_one_line, jpeg, label, label_line

from pipeline import shards
from pipeline.claim import JobError
from pipeline.ranks import Rank, resolve


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1"}, Rank(5, 6, 1)),
        ({"SLURM_NTASKS": "6"}, Rank(0, 1, 0)),  # a shell inside an allocation, not a task of it
        (  # --array=10-16:2 of single tasks
            {
                "SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1",
            },
            Rank(2, 4, 0),
        ),
        (  # --array=0-1 --ntasks=3
            {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "2", "SLURM_NTASKS": "3"},
            Rank(5, 6, 0),
        ),
        # torchrun inside a job
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Rank(1, 2, 0)),
    ],
)  # fmt: skip
def test_ranks_come_from_the_scheduler(environment, expected):
    assert resolve(None, None, environment) == expected


def test_ranks_as_told_come_first_and_are_checked():
    assert resolve(2, 3, {"RANK": "0", "WORLD_SIZE": "1"}) == Rank(2, 3, 2)
    for rank, size, environment, message in (
        (3, 3, {}, "got rank 3 of 3"),
        (0, None, {}, "go together"),
        (None, None, {"RANK": "a", "WORLD_SIZE": "2"}, "cannot be read"),
        (None, None, {"RANK": "2", "WORLD_SIZE": "2"}, "got rank 2 of 2"),
    ):
        with pytest.raises(JobError, match=message):
            resolve(rank, size, environment)


@pytest.fixture(scope="module")
def spoiled(bundled_photos, tmp_path_factory):
    """Photographs with a bad one in most shards, so that rejects lie inside batches."""
    folder = tmp_path_factory.mktemp("spoiled") / "photos"
    for photo in bundled_photos.rglob("*.jpg"):
        (folder / photo.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / photo.parent.name / photo.name).write_bytes(photo.read_bytes())
    for number in range(5):
        (folder / "china" / f"bad{number}.jpg").write_bytes(jpeg()[: 100 + number])
    return folder


@pytest.fixture(scope="module")
def alone(spoiled, random_teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "shards"
    done = label(spoiled, out, random_teacher, "--max-rejects", 0.5)
    assert done.returncode == 0, done.stderr
    index = json.loads((out / "train" / "index.json").read_text())
    assert index["num_rejects"] >= 2
    assert index["num_samples"] + index["num_rejects"] == index["num_listed"]
    return contents(out)


@pytest.mark.parametrize("world_size", [2, 7])
def test_ranks_one_after_the_other(spoiled, random_teacher, tmp_path, alone, world_size):
    out = tmp_path / "out"
    for rank in reversed(range(world_size)):
        done = label(
            spoiled, out, random_teacher, "--max-rejects", 0.5, "--rank", rank, "--world-size", world_size
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"rank {rank} of {world_size}" in done.stdout
    assert contents(out) == alone


def test_an_unfinished_rank_says_what_remains(spoiled, random_teacher, tmp_path):
    done = label(spoiled, tmp_path, random_teacher, "--max-rejects", 0.5, "--rank", 0, "--world-size", 2)
    assert done.returncode == 0
    assert "shards of other ranks are not" in done.stdout
    assert not (tmp_path / "train" / "index.json").exists()


@pytest.mark.slow
def test_ranks_at_once_killed_at_random(spoiled, random_teacher, tmp_path, alone):
    out = tmp_path / "out"
    chance = random.Random(0)
    for world_size in (3, 2):
        running = [
            begin(
                label_line(
                    spoiled, out, random_teacher, "--max-rejects", 0.5, "--rank", rank, "--world-size", world_size
                )
            )
            for rank in range(world_size)
        ]
        if world_size == 3:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not list(out.rglob("shard-*.json")):
                time.sleep(0.005)
            for process in chance.sample(running, 2):
                process.send_signal(signal.SIGKILL)
        codes = [process.wait(timeout=120) for process in running]
    assert codes == [0, 0]
    assert contents(out) == alone
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_torchrun_against_a_plain_run(spoiled, random_teacher, tmp_path, alone):
    out = tmp_path / "out"
    line = label_line(spoiled, out, random_teacher, "--max-rejects", 0.5)
    done = subprocess.run(
        [str(BIN / "torchrun"), "--nproc-per-node", "2", "-m", "pipeline.cli", *line[1:]],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(out) == alone


def test_two_jobs_of_different_world_sizes_cooperate(spoiled, random_teacher, tmp_path, alone):
    out = tmp_path / "out"
    lines = [
        label_line(spoiled, out, random_teacher, "--max-rejects", 0.5),
        label_line(spoiled, out, random_teacher, "--max-rejects", 0.5, "--rank", 0, "--world-size", 2),
    ]
    running = [begin(line) for line in lines]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert contents(out) == alone


def test_a_machine_that_differs_refuses_to_join(spoiled, random_teacher, tmp_path):
    line = ("--max-rejects", 0.5, "--world-size", 2)
    assert label(spoiled, tmp_path, random_teacher, *line, "--rank", 0, "--threads", 1).returncode == 0
    done = label(spoiled, tmp_path, random_teacher, *line, "--rank", 1, "--threads", 2)
    fails_in_one_line(done, "teacher.num_threads was 1, now 2")


def test_a_changed_source_is_noticed_by_rank_0(photos, random_teacher, tmp_path):
    out = tmp_path / "out"
    assert label(photos, out, random_teacher, "--rank", 0, "--world-size", 2).returncode == 0
    (photos / "china" / "late.jpg").write_bytes(jpeg())
    fails_in_one_line(label(photos, out, random_teacher, "--rank", 0, "--world-size", 2), "files (names or sizes)")


@pytest.mark.slow
def test_ranks_that_start_while_one_begins_anew(photos, random_teacher, tmp_path):
    """A job that ended in its first pass, a source that grew, and a rank that comes while another lists it again."""
    out = tmp_path / "out"
    whole = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    for path in whole:
        path.write_bytes(b"spoiled")
    assert label(photos, out, random_teacher).returncode == 1
    for path, data in whole.items():
        path.write_bytes(data)
        path.with_name(f"more-{path.name}").write_bytes(data)
    slowly = (
        "import sys, time; from pipeline.sources.folder import Folder\n"
        "listing = Folder.listing\n"
        "def slow(self, ledger): time.sleep(1.2); yield from listing(self, ledger)\n"
        "Folder.listing = slow\n"
        "from pipeline.cli import main; sys.argv[0] = 'precompute-depth'; main()"
    )
    running = []
    for rank in range(2):
        line = label_line(photos, out, random_teacher, "--rank", rank, "--world-size", 2)
        running.append(begin([BIN / "python", "-c", slowly, *line[1:]]))
        time.sleep(0.4)
    codes = [process.wait(timeout=120) for process in running]
    done = label(photos, out, random_teacher)
    if codes == [0, 0]:
        assert done.returncode == 0
        keys = [s.key(k) for s in shards.splits_of(out) for k in range(len(s))]
        assert len(keys) == len(set(keys)) == 24
        assert command("precompute-depth", "verify", out).returncode == 0
    else:  # rank 1 went on by the old plan before rank 0 knew better: refused for good, never mixed
        fails_in_one_line(done, "files (names or sizes) have changed")
        listings = {json.loads(path.read_text())["listing"] for path in out.rglob("train/shard-*.json")}
        assert len(listings) <= 1


def test_a_source_that_vanishes_ends_the_job_and_makes_no_rejects(photos, random_teacher, tmp_path):
    out = tmp_path / "out"
    assert label(photos, out, random_teacher, "--rank", 0, "--world-size", 2).returncode == 0
    for photo in photos.rglob("*.jpg"):
        photo.unlink()
    done = label(photos, out, random_teacher, "--rank", 1, "--world-size", 2)
    fails_in_one_line(done)
    records = [json.loads(p.read_text()) for p in out.rglob("shard-*.json")]
    assert records and not any(record["rejects"] for record in records)


def test_shards_of_ranks_are_plain_shards(spoiled, random_teacher, tmp_path):
    for rank in range(2):
        label(spoiled, tmp_path / "out", random_teacher, "--max-rejects", 0.5, "--rank", rank, "--world-size", 2)
    assert command("precompute-depth", "verify", tmp_path / "out").returncode == 0
    assert len(shards.open_split(tmp_path / "out", "train")) > 0


def test_a_process_that_an_environment_made_a_rank_says_so_first(photos, random_teacher, tmp_path, monkeypatch):
    for variables, origin in (
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, "SLURM's variables"),
        ({"RANK": "1", "WORLD_SIZE": "4"}, "RANK and WORLD_SIZE"),
    ):
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            done = label(photos, tmp_path / origin, random_teacher)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == (
            f"rank 1 of 4: shards 1, 5, ... by {origin} alone; to do the whole in this process: --rank 0 --world-size 1"
        )
        assert "shards of other ranks are not; the last rank writes the index" in done.stdout
    done = label(photos, tmp_path / "told", random_teacher, "--rank", 1, "--world-size", 4)
    assert done.stdout.splitlines()[0] == "rank 1 of 4: shards 1, 5, ..."
