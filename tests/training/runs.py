"""Runs as tests start, stop and compare them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from forking import Forked
from running import BIN

from training.engine import checkpoint

# Every augmentation, mixing, averaged weights and two workers: what a bit-identical resume has to carry.
SMALL = (
    "model.image_size=48", "model.width=32", "model.depth=3", "optim.epochs=3", "optim.batch_size=32", "data.depth=raw",
    "augment.rand_augment_ops=1", "augment.mixup_alpha=0.8", "augment.cutmix_alpha=1.0", "augment.mix_group=16",
    "optim.label_smoothing=0.1", "optim.ema_decay=0.9", "runtime.workers=2", "runtime.log_every=4",
    "runtime.checkpoint_every=3",
)  # fmt: skip


def arguments(rooms: object, out: Path, model: str = "mlin", settings: Sequence[str] = SMALL) -> list[str]:
    words = ["pretrain", "--preset", "tiny", "--model", model, "--data", str(rooms), "--out", str(out)]
    return words + [word for setting in settings for word in ("--set", setting)]


Process: TypeAlias = "subprocess.Popen[str] | Forked"


def start(words: Sequence[object], ranks: int = 1, *, afresh: bool = False, **environment: str) -> Process:
    """`train` in a process group of its own; with several ranks under torchrun, on gloo.

    It is forked off a process that has torch imported already, unless it is to start `afresh`, as a user's does.
    """
    line = [str(BIN / "train"), *map(str, words)]
    if ranks > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        line = [*launcher, "-m", "training.cli", *map(str, words)]
    env = os.environ | environment
    if not afresh:
        return Forked(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env
    )


def patched(folder: Path, body: str, **environment: str) -> dict[str, str]:
    """An environment in which `body`, the inside of `def patch(module)`, sees every module of training/ as it loads."""
    (folder / "sitecustomize.py").write_text(_PATCHING + textwrap.indent(textwrap.dedent(body), "    "))
    paths = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": paths, **environment}


_PATCHING = """
import importlib.util, json, os, signal, sys, time
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if not name.startswith("training."):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                patch(module)
            spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())

def patch(module):
"""


def wait_for(condition: Callable[[], object], process: Process, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"ended before it was time: {process.communicate()}"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def kill(process: Process) -> None:
    """The whole group at once, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


def final_state(run: Path) -> dict:
    return checkpoint.load(checkpoint.find(run, "latest")).state


def without_timings(run: Path) -> list[dict]:
    timed = ("images_per_s", "data_wait", "seconds", "train_seconds", "total_seconds", "resumes")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def assert_same_state(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"train_seconds", "total_seconds", "resumes"}:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_same_state(one, other)
    else:
        assert a == b


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, optimizer, averages, generators, metrics but for timings, snapshots and the final evaluation."""
    assert_same_state(final_state(a), final_state(b))
    assert without_timings(a) == without_timings(b)
    names = {path.name for path in (b / "checkpoints").iterdir() if path.name.startswith(("epoch", "best"))}
    assert names
    for name in names:
        assert_same_state(
            checkpoint.load(a / "checkpoints" / name).state, checkpoint.load(b / "checkpoints" / name).state
        )
    one, other = ((run / "evaluations" / "val-final.json").read_text() for run in (a, b))
    assert one == other
