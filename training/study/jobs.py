"""Several processes of one study on this machine: a thread each, no progress bars, signals passed on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from training.engine.loop import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def run_workers(study: Path, out: Path, jobs: int, began: float) -> None:
    """Start `jobs` processes and wait for them. Stopped where a signal ended them.

    They are in sessions of their own, so that Ctrl-C reaches each once: through this process.
    """
    line = [sys.executable, "-m", "training.cli", "study", str(study), "--out", str(out), "--worker", repr(began)]
    environment = os.environ | {"TTY_COMPATIBLE": "0", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    workers: list[subprocess.Popen[bytes]] = []
    stopped = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = number
        for worker in workers:
            worker.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    heeded = [name for name in _SIGNALS if signal.getsignal(name) != signal.SIG_IGN]  # nohup's stays ignored
    before = {name: signal.signal(name, pass_on) for name in heeded}
    try:
        for _ in range(jobs):
            if not stopped:
                workers.append(subprocess.Popen(line, env=environment, start_new_session=True))
        if stopped:  # the last may have begun meanwhile
            pass_on(stopped, None)
        for worker in workers:
            worker.wait()
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    if stopped:
        raise Stopped(
            f"stopped by {signal.Signals(stopped).name}: what was made is kept, the same line goes on", stopped
        )
