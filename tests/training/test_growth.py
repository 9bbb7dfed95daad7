"""What it costs to add something: a copy of the packages, one new file, one line, and everything works with it."""

import json
import shutil
from pathlib import Path

import pytest
from running import BIN, ROOT
from runs import Forked, assert_same_run, kill, wait_for
from segments import FAST

from training.dumps.store import open_dump

HERE = Path(__file__).parent / "growth"
QUICK = ("model.image_size=48", "model.width=16", "model.depth=2", "model.heads=2", "optim.epochs=2",
         "optim.batch_size=32", "optim.warmup_epochs=0", "data.depth=raw", "runtime.workers=0",
         "runtime.checkpoint_every=3", "runtime.loggers=[]")  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """The packages with a task and a technique more."""
    tree = tmp_path_factory.mktemp("grown")
    for package in ("pipeline", "training", "analysis", "data_manifests"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "training/tasks/toy").mkdir()
    shutil.copy(HERE / "toy_task.py", tree / "training/tasks/toy/__init__.py")
    (tree / "training/presets/toy").mkdir()
    shutil.copy(HERE / "toy.toml", tree / "training/presets/toy/toy.toml")
    shutil.copy(HERE / "msq.py", tree / "training/models/fusion/msq.py")
    add(tree / "training/tasks/registry.py", "TeacherTraining)", "TeacherTraining, toy.Toy)", "import toy", "tasks")
    add(tree / "training/models/registry.py", "Vit = M3chConfig", "Vit = msq.MsqConfig | M3chConfig", "import msq",
        "models.fusion")  # fmt: skip
    return tree


def add(path: Path, old: str, new: str, what: str, package: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    docstring, rest = text.split('"""\n', 2)[:1][0] + '"""\n', text.split('"""\n', 1)[1]
    path.write_text(f"{docstring}\nfrom training.{package} {what}\n{rest.replace(old, new)}")


def begin(tree: Path, *words: object) -> Forked:
    import os
    import subprocess

    line = [str(BIN / str(words[0])), *map(str, words[1:])]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return Forked(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(tree: Path, *words: object) -> str:
    process = begin(tree, *words)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@pytest.mark.slow
def test_a_task_is_a_folder_a_line_and_a_preset(grown, rooms, tmp_path):
    words = ["train", "task", "toy", "--preset", "toy", "--data", rooms, "--resume"]
    whole = run(grown, *words, "--out", tmp_path / "whole")
    assert "mse" in whole
    process = begin(grown, *words, "--out", tmp_path / "killed", *settings("optim.epochs=2"))
    wait_for((tmp_path / "killed/checkpoints/step-3").exists, process)
    kill(process)
    run(grown, *words, "--out", tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert "mse" in run(grown, "train", "evaluate", tmp_path / "whole", "--data", rooms)
    assert json.loads((tmp_path / "whole/run.json").read_text())["task"] == "toy"
    process = begin(grown, "analyze", "report", tmp_path / "whole", "--out", tmp_path / "report")
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in error and "'toy'" in error


@pytest.mark.slow
def test_a_technique_with_a_bias_of_its_own_is_a_file_and_a_line(grown, rooms, tmp_path):
    words = ["train", "pretrain", "--preset", "tiny", "--model", "msq", "--data", rooms, "--resume"]
    words += settings(*QUICK)
    run(grown, *words, "--out", tmp_path / "whole")
    process = begin(grown, *words, "--out", tmp_path / "killed")
    wait_for((tmp_path / "killed/checkpoints/step-3").exists, process)
    kill(process)
    run(grown, *words, "--out", tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    run(grown, "train", "finetune", "--preset", "tiny", "--init", tmp_path / "whole", "--data", rooms, "--depth", "raw",
        "--out", tmp_path / "tuned", *settings(*FAST, "optim.epochs=1"))  # fmt: skip
    run(grown, "train", "evaluate", tmp_path / "tuned", "--data", rooms, "--depth", "real")
    run(grown, "train", "dump", tmp_path / "whole", "--data", rooms, "--images", 24, "--raw", 3, "--causal", 8)
    dump = open_dump(tmp_path / "whole/dumps/latest.zarr")
    assert dump.info.bias == "raw" and dump["raw/bias_table"].shape == (3, 2, 37, 37)
    assert any(name.startswith("ablate-") for name in dump.info.interventions)
    report = run(grown, "analyze", "report", tmp_path / "whole", "--out", tmp_path / "report")
    assert "index.html" in report
    assert "msq" in (tmp_path / "report/index.html").read_text()
