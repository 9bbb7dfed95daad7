"""How often each claim gets each verdict, in every planted world it can be in (tests/analysis/worlds.py).

    python tests/benchmarks/verdicts.py                      # writes verdicts.json beside itself; an hour on two cores
    python tests/benchmarks/verdicts.py --claims figure1     # those again, into the same file
    python tests/benchmarks/verdicts.py --missing            # what that file does not hold

Where the project is not installed, PYTHONPATH=. before it. Asked of the rates, over the draws of a claim and world:

reproduced or in part   at most 5 % where there is nothing: the lower 99 % Clopper-Pearson bound is not above it
reproduced              at least 80 % where the claim is true
contradicted            at least 80 % where it is reversed

A draw has a seed of its own (claim, world, number), so that a rate does not depend on what else was drawn.
"""

import argparse
import json
import os
import platform
import sys
import time
import zlib
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process a core
sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))

import numpy as np
import worlds
from rich.progress import track
from scipy.special import betaincinv

from analysis.claims import VERDICTS, Claim, claims, judge

OUT = Path(__file__).with_suffix(".json")
NOTHING = ("nothing learned", worlds.SHUFFLED, "confounded", worlds.LUCK)


def generator(claim: str, world: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(f"{claim} {world}".encode()), number])


def rates(task: tuple[str, str, int]) -> tuple[str, str, dict[str, float]]:
    """Shares of each word over so many draws."""
    name, world, draws = task
    claim = next(each for each in claims() if each.id == name)
    found: Counter[str] = Counter()
    for number in range(draws):
        study = worlds.draw(claim, world, generator(name, world, number))
        (row,) = judge(study, [claim])
        found[row.verdict] += 1
    return name, world, {word: found[word] / draws for word in VERDICTS if found[word]}


def at_least(hits: int, draws: int, level: float = 0.99) -> float:
    """Clopper and Pearson's lower bound of a share."""
    return float(betaincinv(hits, draws - hits + 1, 1 - level)) if hits else 0.0


def missed(world: str, found: dict[str, float], draws: int) -> str:
    """What is asked of a world's rates and is not so; empty where all is well."""
    if world.startswith(NOTHING):
        false = found.get("reproduced", 0.0) + found.get("in part", 0.0)
        if at_least(round(false * draws), draws) > 0.05:
            return f"{100 * false:.1f} % reproduced or in part, at most 5 % asked"
    for name, word in (("true", "reproduced"), ("reversed", "contradicted")):
        if world == name and found.get(word, 0.0) < 0.8:
            return f"{100 * found.get(word, 0.0):.1f} % {word}, at least 80 % asked"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--claims", nargs="*", default=[""], help="beginnings of ids")
    parser.add_argument("--worlds", nargs="*", default=[""], help="beginnings of names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--missing", action="store_true")
    options = parser.parse_args()
    chosen: list[Claim] = [each for each in claims() if each.id.startswith(tuple(options.claims))]
    tasks = [
        (claim.id, world, options.draws)
        for claim in chosen
        for world in worlds.worlds_of(claim)
        if world.startswith(tuple(options.worlds))
    ]
    known: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {"rates": {}}
    if options.missing:
        tasks = [task for task in tasks if task[1] not in known["rates"].get(task[0], {})]
    table, begun = known["rates"], time.perf_counter()
    with Pool(options.jobs) as pool:
        for name, world, found in track(pool.imap_unordered(rates, tasks), "worlds", total=len(tasks)):
            table.setdefault(name, {})[world] = found
            result = {
                "what": "share of draws of a planted world in which a claim gets a verdict",
                "date": datetime.now(UTC).date().isoformat(),
                "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
                "versions": {each: version(each) for each in ("numpy", "scipy")},
                "python": platform.python_version(),
                "draws": options.draws,
                "sizes": worlds.SIZES,
                "rates": {c.id: {w: table[c.id][w] for w in worlds.worlds_of(c) if w in table[c.id]} for c in claims()
                          if c.id in table},
            }  # fmt: skip
            result["missed"] = {
                f"{claim}, {world}": reason
                for claim, of in result["rates"].items()
                for world, each in of.items()
                if (reason := missed(world, each, options.draws))
            }
            OUT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(tasks)} claims and worlds in {(time.perf_counter() - begun) / 60:.1f} min")
    for place, reason in result["missed"].items():
        print(f"missed: {place}: {reason}")


if __name__ == "__main__":
    main()
