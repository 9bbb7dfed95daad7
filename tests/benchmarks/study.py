"""One run with its dumps, noise and gap: a command a stage, as before, and `train study`, all in one process.

    python tests/benchmarks/study.py        # writes study.json beside itself; some five minutes

CPU seconds, user and system, of a command and its children, a thread each: a clock would measure the neighbours too.
The two ways take turns, on the same rooms; what they leave is compared.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

BIN = Path(sys.executable).parent
ROUNDS = 3
SETTINGS = ("optim.epochs=2",)
STUDY = f"""
data = "shards"
pairs = "pairs"
preset = "tiny"
settings = {list(SETTINGS)}
[dump]
images = 100
causal = 20
checkpoints = ["epoch-0"]
[[runs]]
models = ["m4ch"]
depths = ["pseudo"]
seeds = [0]
stages = ["dump", "noise", "gap"]
"""


def commands(run: str) -> list[list[str]]:
    """The five of one run."""
    pretrain = ["pretrain", "--preset", "tiny", "--model", "m4ch", "--data", "shards", "--out", run]
    return [
        pretrain + [word for setting in SETTINGS for word in ("--set", setting)],
        ["dump", run, "--data", "shards", "--images", "100", "--causal", "20"],
        ["dump", run, "--data", "shards", "--images", "100", "--raw", "0", "--checkpoint", "epoch-0"],
        ["evaluate", run, "--data", "shards", "--noise", "pixel", "--noise", "patch"],
        ["gap", run, "--data", "pairs"],
    ]


def cpu_seconds(folder: Path, lines: list[list[str]], program: str = "train") -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for line in lines:
        subprocess.run([BIN / program, *line], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def evaluations(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run / "evaluations").glob("*.json")}


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds: dict[str, list[float]] = {"a process a stage": [], "train study": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ["--teacher", "toy", "--samples", "600", "--val-samples", "200"]
        pairs = ["--teacher", "toy", "--samples", "80", "--val-samples", "20", "--seed", "1", "--stats-from", "shards"]
        cpu_seconds(folder, [["toyrooms", "shards", *sizes], ["toyrooms", "pairs", *pairs]], "precompute-depth")
        (folder / "study.toml").write_text(STUDY)
        for number in range(ROUNDS):
            seconds["a process a stage"].append(cpu_seconds(folder, commands(f"alone-{number}")))
            seconds["train study"].append(cpu_seconds(folder, [["study", "study.toml", "--out", f"study-{number}"]]))
            both = [folder / f"alone-{number}", folder / f"study-{number}" / "runs" / "m4ch-pseudo-0"]
            assert evaluations(both[0]) == evaluations(both[1]), "the two ways differ in what they measure"
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    result = {
        "what": "CPU seconds of pre-training, two dumps, noise and gap of one m4ch: 600 rooms, 2 epochs, 100 images",
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in ("torch", "numpy", "zarr")},
        "cpu_s": {way: [round(one, 1) for one in each] for way, each in seconds.items()},
        "median_cpu_s": {way: round(each, 1) for way, each in medians.items()},
        "saved_cpu_s": round(medians["a process a stage"] - medians["train study"], 1),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
