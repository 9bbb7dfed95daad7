"""Does OMP_WAIT_POLICY=PASSIVE (set by the command lines) matter? Training steps with one and with two processes.

    python tests/benchmarks/contention.py        # writes contention.json beside itself; about a minute

Idle OpenMP threads spin by default. With as many processes as cores, each with as many threads as cores (a loader's
workers, another run, a neighbour), the spinning ones take the cores from those that work.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEP = """
import sys, time
import torch
from training.config import resolve
model = resolve("tiny", "m4ch", num_classes=6).model.build()
rgb, depth = torch.randn(128, 3, 48, 48), torch.randn(128, 1, 48, 48)
seconds = []
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    start = time.perf_counter()
    model(rgb, depth).square().sum().backward()
    seconds.append(time.perf_counter() - start)
print(sorted(seconds[1:])[len(seconds) // 2 - 1] if len(seconds) > 2 else seconds[-1])
"""


def median_step_ms(num_processes: int, policy: str | None, neighbours: int = 0, seconds: float = 12) -> float:
    """Median milliseconds of a forward and backward pass at batch 128, mean over the processes.

    `neighbours` processes beside them keep one core's worth of plain Python busy each.
    """
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", STEP, str(seconds)]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(num_processes)
    ]
    result = 1000 * statistics.mean(float(process.communicate()[0]) for process in running)
    for process in busy:
        process.kill()
        process.wait()
    return result


def main() -> None:
    import torch

    situations = {"alone": (1, 0), "two of them": (2, 0), "beside two busy neighbours": (1, 2)}
    rows = {
        name: {policy or "default": round(median_step_ms(count, policy, busy), 1) for policy in (None, "PASSIVE")}
        for name, (count, busy) in situations.items()
    }
    result = {
        "what": "median ms of forward + backward, m4ch tiny, batch 128, all cores' threads in each process",
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "step_ms": rows,
        "default over PASSIVE": {name: round(row["default"] / row["PASSIVE"], 2) for name, row in rows.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
