"""Are sparse-query networks worth their decoders? Both designs, their baselines and the toy teacher on toy rooms.

    python tests/benchmarks/sparse_rooms.py FOLDER      # hours on two cores; writes sparse_rooms.json here

Rooms of 224 px, which both designs can see whole. Four arms, three seeds each, preset `tiny` as it is, which asks both
designs at pixels: SPD v15.2, the same without its second stage, the baseline of a bilinear look-up with an MLP of two
layers, and SPD v13.1. One more run learns from v15.2's dense maps of crops, as its document does. Each is
asked at every pixel that has depth, one by one, and by its dense map; the toy teacher is measured anew on these rooms,
aligned to the truth. FOLDER holds shards and runs; the same line goes on after an interruption.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

from steps import machine

from analysis import teacher_findings, teacher_scores, teachers
from training.records import EndLine

ROOMS = ("--size", 224, "--samples", 4000, "--val-samples", 200, "--seed", 18)
ARMS = {
    "v15": ("spd-v15",),
    "v15-no-stage-2": ("spd-v15", "--set", "model.decoder=no-stage-2"),
    "look-up": ("spd-v15", "--set", "model.decoder=look-up"),
    "v13": ("spd-v13",),
}
AS_WRITTEN = ("spd-v15", "--set", "data.queries=0", "--set", "augment.crop=[168, 168]")  # a seed alone: twice the time
SEEDS = (0, 1, 2)
BIN = Path(sys.executable).parent


def ran(*words: object) -> None:
    line = [str(BIN / str(words[0])), *map(str, words[1:])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(line, check=True, env=environment, stdout=subprocess.DEVNULL)


def one(folder: Path, arm: str, seed: int, how: tuple[str, ...]) -> None:
    """Trained and evaluated, as far as that is not done."""
    run, rooms = folder / "runs" / f"{arm}-{seed}", folder / "rooms"
    if not list((run / "teacher").glob("*.safetensors")):
        ran("train", "depth", "--preset", "tiny", "--model", *how, "--depth", "exact", "--data", rooms, "--out",
            run, "--set", f"seed={seed}", "--set", "runtime.loggers=[]", "--resume")  # fmt: skip
    if not list((run / "evaluations").glob("depth-*.json")):
        ran("train", "evaluate", run, "--data", rooms, "--every-pixel", "--against", "toy")


def summary(folder: Path) -> dict[str, Any]:
    """Of every run there is: errors, differences with their 95 % intervals over images and seeds, times."""
    networks = teachers.read_networks([folder / "runs"])
    found = teachers.designs(networks)
    frame = teacher_scores.scores(found).drop(columns=["protocol"])
    rows = [{k: rounded(v) for k, v in row.items() if v == v} for row in frame.to_dict("records")]
    timed = teacher_scores.times(found).to_dict("records")
    pairs = {f"{a.name} - {b.name}": teacher_scores.apart(a, b, teachers.PIXELS) for a, b in combinations(found, 2)}
    dense = {each.name: teacher_scores.within(each, teachers.PIXELS, teachers.DENSE) for each in found}
    edges = {
        f"{each.name}, {each.answer} - {each.minus}": each.difference for each in teacher_scores.edge_differences(found)
    }
    return {
        "what": "sparse-query networks on toy rooms of 224 px, preset tiny; errors of metric depth",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine("cpu"),
        "rooms": dict(zip(ROOMS[::2], ROOMS[1::2], strict=True)),
        "runs": {
            each.run.record.name: {
                "train_minutes": round(each.run.lines(EndLine)[-1].train_seconds / 60, 1),
                "routed_share": each.found.routed_share, "dense_from_asked": each.found.dense_from_asked,
            }
            for each in networks
        },
        "errors": rows,
        "AbsRel, every pixel asked, difference": {k: told(v) for k, v in pairs.items()},
        "AbsRel, every pixel asked - dense map": {k: told(v) for k, v in dense.items()},
        "AbsRel near edges, difference": {k: told(v) for k, v in edges.items()},
        "ms": [{k: rounded(v) for k, v in row.items() if v == v} for row in timed],
        "found": teacher_findings.findings(found),
    }  # fmt: skip


def rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def told(found: teacher_scores.Difference | None) -> Any:
    return None if found is None else {k: rounded(v) for k, v in vars(found).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if not (given.folder / "rooms/val/index.json").exists():
        ran("precompute-depth", "toyrooms", given.folder / "rooms", "--teacher", "none", *ROOMS)
    start = time.perf_counter()
    with ThreadPoolExecutor(given.jobs) as jobs:
        arms = [("v15-dense", 0, AS_WRITTEN), *((arm, seed, how) for seed in SEEDS for arm, how in ARMS.items())]
        list(jobs.map(lambda job: one(given.folder, *job), arms))  # the longest first
    result = summary(given.folder)
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(*result["found"], f"{(time.perf_counter() - start) / 60:.0f} minutes", sep="\n")


if __name__ == "__main__":
    main()
