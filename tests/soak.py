"""Long tests of bad luck and bad input: kills at random moments, mutated files. `make soak`; a tenth is in the suite.

    python tests/soak.py [--kills 30] [--mutations 500] [--seed 0] [--out tests/soak.json]

Kills: every command that writes is ended by SIGKILL at a random moment of its life, then repeated to its end; what it
leaves must be, byte by byte (weights tensor by tensor, logs without times), what an undisturbed run leaves, with
nothing hidden beside it. Mutations: every file that a command reads is changed at random, or claims absurd sizes;
reading it must end within seconds in a value or in one line of ours, and touch no other file.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
BIN = Path(sys.executable).parent

TINY = (
    "model.image_size=48", "model.width=16", "model.depth=2", "model.heads=2", "optim.warmup_epochs=0",
    "optim.batch_size=32", "data.depth=raw", "optim.epochs=2", "runtime.workers=0", "runtime.checkpoint_every=2",
)  # fmt: skip
TUNE = (
    "optim.epochs=2", "optim.steps_per_epoch=3", "runtime.workers=0", "runtime.checkpoint_every=2", "select.every=1",
)  # fmt: skip
SLOWEST_S = 10.0


# --- kills ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A command line that makes something in `place` (below a folder of its own) out of what the study holds."""

    name: str
    words: Callable[[Path, Path], list[object]]  # (study, folder) -> command
    made: str  # below the folder


def sets(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


JOBS = (
    Job(
        "label",
        lambda study, out: [
            "precompute-depth", "toyrooms", out / "shards", "--teacher", "none", "--samples", 400, "--val-samples", 100,
            "--size", 48, "--samples-per-shard", 20, "--workers", 1,
        ],
        "shards",
    ),
    Job(
        "pretrain",
        lambda study, out: [
            "train", "pretrain", "--preset", "tiny", "--model", "m4ch", "--data", study / "rooms", "--out", out / "run",
            *sets(TINY), "--resume",
        ],
        "run",
    ),
    Job(
        "finetune",
        lambda study, out: [
            "train", "finetune", "--preset", "tiny", "--init", study / "run", "--data", study / "rooms",
            "--depth", "raw", "--out", out / "tuned", *sets(TUNE), "--resume",
        ],
        "tuned",
    ),
    Job(
        "dump",
        lambda study, out: [
            "train", "dump", study / "run", "--data", study / "rooms", "--images", 32, "--raw", 8, "--causal", 8,
            "--out", out / "dump.zarr",
        ],
        "dump.zarr",
    ),
    Job(
        "evaluate",
        lambda study, out: [
            "train", "evaluate", study / "run", "--data", study / "rooms", "--noise", "pixel", "--out", out / "results",
        ],
        "results",
    ),
    Job(
        "matrix",
        lambda study, out: [
            "train", "matrix", study / "run", "--preset", "tiny", "--data", study / "rooms", "--out", out / "table3",
            *sets(TUNE),
        ],
        "table3",
    ),
    Job("report", lambda study, out: ["analyze", "report", study / "run", "--out", out / "report"], "report"),
)  # fmt: skip


def command(words: list[object]) -> list[str]:
    """As a console script would be run, from this checkout."""
    package = {"precompute-depth": "pipeline", "train": "training", "analyze": "analysis"}[str(words[0])]
    return [sys.executable, "-m", f"{package}.cli", *map(str, words[1:])]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TTY_COMPATIBLE": "0"}


def begin(words: list[object]) -> Any:
    """Start a command in a group of its own."""
    return subprocess.Popen(
        command(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip


def run(words: list[object]) -> float:
    """Run to the end; returns its seconds."""
    start = time.perf_counter()
    process = begin(words)
    said = process.communicate()[0]
    if process.returncode:
        raise AssertionError(f"{words}: exit code {process.returncode}: {said}")
    return time.perf_counter() - start


def make_study(folder: Path) -> Path:
    """Rooms, a run with a dump, and the matrix of that run, for all jobs to read."""
    rooms = ["--teacher", "toy", "--samples", 96, "--val-samples", 48, "--size", 48, "--samples-per-shard", 32]
    run(["precompute-depth", "toyrooms", folder / "rooms", *rooms])
    few = ["--teacher", "none", "--samples", 4, "--val-samples", 2, "--size", 48]
    run(["precompute-depth", "toyrooms", folder / "few", *few])  # for what reads every byte
    pretrain = ["train", "pretrain", "--preset", "tiny", "--model", "m4ch", "--data", folder / "rooms"]
    run([*pretrain, "--out", folder / "run", *sets(TINY)])
    run(["train", "dump", folder / "run", "--data", folder / "rooms", "--images", 32, "--raw", 4, "--causal", 8])
    run(next(job for job in JOBS if job.name == "matrix").words(folder, folder))
    return folder


def contents(place: Path) -> dict[str, str]:
    """Every file below, by name: a hash of its content, less what no two runs share (times, paths of the run)."""
    found = {}
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = path.relative_to(place).as_posix()
        if name.split("/")[-1].startswith(".lock") or "tensorboard" in name or "/plan/" in f"/{name}":
            continue
        found[name] = hashlib.sha256(comparable(path)).hexdigest()
    return found


def comparable(path: Path) -> bytes:
    if path.name == "state.pt":
        import torch

        state = torch.load(path, weights_only=True)
        state = {k: v for k, v in state.items() if k not in ("total_seconds", "train_seconds", "resumes")}
        return repr(flat(state)).encode()
    if path.name == "checkpoint.json":
        return json.dumps(json.loads(path.read_text()) | {"sha256": ""}).encode()  # of a state that holds times
    if path.name in ("metrics.jsonl", "run.json"):
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else []
        lines = lines or [json.loads(path.read_text())]
        times = ("images_per_s", "data_wait", "seconds", "train_seconds", "total_seconds", "resumes", "created", "git")
        return json.dumps([{k: v for k, v in line.items() if k not in times} for line in lines]).encode()
    if path.suffix == ".json" and "checkpoint_sha256" in (text := path.read_text()):
        return json.dumps(json.loads(text) | {"checkpoint_sha256": ""}).encode()
    return path.read_bytes()


def flat(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: flat(each) for key, each in value.items()}
    return [flat(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass
class Killed:
    job: str
    after_s: float
    ended: bool  # before it could be killed
    same: bool
    left: list[str] = field(default_factory=list)


def kill_and_repeat(job: Job, study: Path, folder: Path, after_s: float, whole: dict[str, str]) -> Killed:
    """Kill the job after so many seconds, repeat it to its end, and compare what it made with `whole`."""
    words = job.words(study, folder)
    process = begin(words)
    try:
        process.wait(after_s)  # it says little: no pipe fills
        ended = True
    except subprocess.TimeoutExpired:
        ended = False
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run(words)
    left = [p.relative_to(folder).as_posix() for p in folder.rglob(".*") if p.name != ".lock" and p.name != ".files"]
    return Killed(job.name, round(after_s, 2), ended, contents(folder / job.made) == whole, left)


def kills(count: int, seed: int, study: Path, scratch: Path, jobs: tuple[Job, ...] = JOBS) -> list[Killed]:
    """`count` kills, spread over the jobs."""
    draw, found = random.Random(seed), []
    known: dict[str, tuple[float, dict[str, str]]] = {}
    for number in range(count):
        job = jobs[number % len(jobs)]
        if job.name not in known:
            folder = scratch / f"whole-{job.name}"
            seconds = run(job.words(study, folder))
            known[job.name] = seconds, contents(folder / job.made)
        seconds, whole = known[job.name]
        after_s, ended = seconds * draw.uniform(0.3, 1.0), True  # late moments write: the first seconds are imports
        while ended:
            folder = scratch / f"{job.name}-{number}"
            found[number:] = [kill_and_repeat(job, study, folder, after_s, whole)]
            shutil.rmtree(folder)
            ended, after_s = found[number].ended, 0.8 * after_s
        print(f"{number + 1}/{count} {found[-1]}", flush=True)
    return found


# --- mutations -----------------------------------------------------------------------------------------------------


@dataclass
class Mutated:
    reader: str
    tried: int = 0
    refused: int = 0  # in one line of ours
    read: int = 0  # as a value: the change did not matter, or made another valid file
    slowest_s: float = 0.0


def readers(study: Path) -> Iterator[tuple[str, Path, Callable[[], object]]]:
    """(name, the file that is changed, what reads it)."""
    from rich.console import Console

    from analysis.read import read_matrix
    from pipeline import shards
    from pipeline.verify import check_shards, commands
    from training import records
    from training.dumps.store import open_dump
    from training.engine import checkpoint

    rooms, run_folder = study / "rooms", study / "run"
    train = rooms / "train"
    dump = run_folder / "dumps" / "latest.zarr"
    last = checkpoint.find(run_folder, "latest")

    def samples() -> object:
        split = shards.open_split(rooms, "train")
        return [split.read(position) for position in (0, len(split) - 1)]

    def verified() -> object:
        return check_shards(str(study / "few"), Console(quiet=True)), commands(str(study / "few"))

    yield "run.json", run_folder / "run.json", lambda: records.load_run(run_folder)
    yield "metrics.jsonl", run_folder / "metrics.jsonl", lambda: records.load_run(run_folder)
    yield "evaluation", run_folder / "evaluations" / "val-final.json", lambda: records.load_run(run_folder)
    yield "checkpoint.json", last / "checkpoint.json", lambda: checkpoint.load(last)
    yield "index.json", train / "index.json", samples
    yield "shard JSON", train / "shard-000000.json", samples
    yield "shard tar", train / "shard-000000.tar", samples
    for name in ("job.json", "stats.json", "plan/train.json"):
        yield name, study / "few" / name, verified
    yield "dump attributes", dump / "zarr.json", lambda: open_dump(dump)
    yield "dump array", dump / "statistics" / "patch_depth" / "zarr.json", lambda: open_dump(dump)
    tuned = study / "table3" / "run-real"
    scores = tuned / "evaluations" / "val-final.json"
    yield "segmentation", scores, lambda: records.load_run(tuned)
    yield "matrix.json", study / "table3" / "matrix.json", lambda: read_matrix(study / "table3" / "matrix.json")


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refusal(read: Callable[[], object], what: str) -> bool:
    """Whether `read` refuses in one line of ours; AssertionError where it ends in anything else, or not in time."""
    from pipeline.errors import UserError

    try:
        with alarm(SLOWEST_S):
            read()
    except (UserError, FileNotFoundError) as error:
        if "\n" in str(error):
            raise AssertionError(f"{what}: several lines: {error}") from error
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    return False


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def mutate(count: int, seed: int, study: Path, names: frozenset[str] | None = None) -> list[Mutated]:
    """`count` mutations of every file, each read once; AssertionError names a seed that ends otherwise."""
    from fuzzing import mutations

    found = []
    for name, path, read in readers(study):
        if names is not None and name not in names:
            continue
        content, result = path.read_bytes(), Mutated(name)
        try:
            for number, changed in enumerate(mutations(content, seed, count)):
                path.write_bytes(changed)
                before, start = snapshot(study), time.perf_counter()
                refused = refusal(read, f"{name}, seed {seed}, mutation {number}")
                result.refused, result.read = result.refused + refused, result.read + (not refused)
                result.slowest_s = max(result.slowest_s, time.perf_counter() - start)
                assert snapshot(study) == before, f"{name}, seed {seed}, mutation {number}: a file was touched"
                result.tried += 1
        finally:
            path.write_bytes(content)
        result.slowest_s = round(result.slowest_s, 3)
        print(result, flush=True)
        found.append(result)
    return found


def mutate_sources(count: int, seed: int, scratch: Path) -> list[Mutated]:
    """`count` damaged WebDataset tars and official class tars, each listed once, every member of it accounted for."""
    from fuzzing_sources import KINDS, mutations, write_source

    from pipeline.sources.imagenet import ImageNet
    from pipeline.sources.ledger import Ledger

    found = []
    for kind in KINDS:
        result = Mutated(f"{kind} tar")
        for what, data in mutations(kind, seed, count):
            folder = scratch / f"source-{kind}"
            write_source(kind, data, folder)

            def listed(folder: Path = folder) -> None:
                ledger = Ledger()
                for unit in ImageNet(folder, "train", 32, 10).listing(ledger):
                    ledger.add(unit)
                ledger.settle()

            start = time.perf_counter()
            refused = refusal(listed, what)
            result.refused, result.read = result.refused + refused, result.read + (not refused)
            result.slowest_s = max(result.slowest_s, round(time.perf_counter() - start, 3))
            result.tried += 1
            shutil.rmtree(folder)
        print(result, flush=True)
        found.append(result)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "soak.json")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pseudodepth-soak-") as folder:
        scratch = Path(folder)
        study = make_study(scratch / "study")
        mutated = mutate(options.mutations, options.seed, study)
        mutated += mutate_sources(options.mutations, options.seed, scratch)
        killed = kills(options.kills, options.seed, study, scratch)
    wrong = [each for each in killed if not each.same or each.left]
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "numpy", "zarr", "pillow", "pydantic")},
        "seed": options.seed,
        "seconds": round(time.perf_counter() - start),
        "mutations": [asdict(each) for each in mutated],
        "kills": [asdict(each) for each in killed],
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{sum(each.tried for each in mutated):,} mutations, {len(killed)} kills, {len(wrong)} wrong: {options.out}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
