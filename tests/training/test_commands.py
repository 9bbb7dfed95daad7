"""What every command line of `train` has in common, and how far runs are."""

import shutil
import subprocess
import sys
import tomllib

import pytest
from running import ROOT, command, fails_in_one_line
from runs import SMALL, arguments, kill, start, wait_for

from training.export import read_export


@pytest.mark.parametrize("name", ["precompute-depth", "train", "analyze"])
def test_each_command_says_its_version(name):
    done = command(name, "--version")
    assert done.returncode == 0 and done.stdout.startswith("pseudodepth 0")


@pytest.mark.parametrize("name", ["precompute-depth", "train", "analyze"])
def test_each_command_is_a_word_of_the_module(name):
    """For those who have not activated the environment."""
    line = [sys.executable, "-m", "pseudodepth"]
    done = subprocess.run([*line, name, "--version"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stdout.startswith("pseudodepth 0"), done.stderr


def test_the_module_says_which_commands_there_are():
    line = [sys.executable, "-m", "pseudodepth"]
    done = subprocess.run([*line, "trian"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and "must be one of precompute-depth, train, analyze, got 'trian'" in done.stderr
    assert subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False).returncode == 0


def test_a_preset_must_be_said(rooms, tmp_path):
    done = command("train", "pretrain", "--model", "m4ch", "--data", rooms, "--out", tmp_path / "run")
    assert done.returncode == 2 and "--preset" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_printed_configuration_is_a_preset(rooms, tmp_path):
    line = arguments(rooms, tmp_path / "run", "mlin")
    printed = command("train", *line, "--print-config")
    assert printed.returncode == 0 and not (tmp_path / "run").exists()
    path = tmp_path / "tiny.toml"
    path.write_text(printed.stdout)
    line = ["train", "pretrain", "--preset", path, "--model", "mlin", "--data", rooms, "--out", tmp_path / "run"]
    again = command(*line, "--print-config")
    assert tomllib.loads(again.stdout) == tomllib.loads(printed.stdout)
    assert tomllib.loads(printed.stdout)["optim"]["ema_decay"] == 0.9


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("optim = [", "must be TOML"), ("[optim]\nlrr = 1\n", "did you mean 'optim.lr'")],
)
def test_a_preset_file_that_cannot_be_is_named(rooms, tmp_path, content, message):
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_text(content)
    done = command("train", "pretrain", "--preset", path, "--model", "m4ch", "--data", rooms, "--out", tmp_path / "run")
    fails_in_one_line(done, message)


def test_a_presets_batch_is_capped_to_the_data_and_a_chosen_one_is_refused(rooms, tmp_path):
    line = ["train", "pretrain", "--preset", "tiny", "--model", "m4ch", "--data", rooms, "--out", tmp_path / "run",
            "--set", "data.depth=raw", "--print-config"]  # fmt: skip
    assert "batch_size = 128\n" in command(*line).stdout, "150 rooms hold it"
    own = tmp_path / "own.toml"
    own.write_text(command(*line).stdout.replace("batch_size = 128\n", "batch_size = 4096\n"))
    line[3] = str(own)
    done = command(*line)
    assert "note: optim.batch_size is 150, as there are 150 training samples" in done.stdout
    assert "batch_size = 150\n" in done.stdout
    done = command(*line[:-1], "--set", "optim.batch_size=4096")
    fails_in_one_line(done, "optim.batch_size must be at most the 150 training samples, got 4096")


def test_an_export_goes_to_out_or_to_what_stands_there_and_names_no_teacher_that_took_no_part(run_once, tmp_path):
    assert command("train", "export", run_once, "--out", tmp_path / "a").returncode == 0
    assert command("train", "export", run_once, tmp_path / "b").returncode == 0
    assert read_export(tmp_path / "a")[0] == read_export(tmp_path / "b")[0]
    assert '"teacher": "depth-anything' not in (tmp_path / "a/config.json").read_text()
    for words in ((), ("--out", tmp_path / "c", tmp_path / "d")):
        assert command("train", "export", run_once, *words).returncode == 2


def test_status_tells_how_far_runs_are(run_once, rooms, tmp_path):
    shutil.copytree(run_once, tmp_path / "runs/done")
    process = start(arguments(rooms, tmp_path / "runs/going", settings=(*SMALL, "optim.epochs=400")))
    wait_for((tmp_path / "runs/going/checkpoints/step-6").exists, process)
    done = command("train", "status", tmp_path / "runs")
    kill(process)
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if "mlin" in line}
    assert "finished" in lines["done"] and "14/14" in lines["done"] and "top-1" in lines["done"]
    assert "running" in lines["going"] and "/1,875" in lines["going"]
    assert "stopped" in command("train", "status", tmp_path / "runs/going").stdout
    (tmp_path / "runs/going/run.json").write_text("{")
    assert "damaged" in command("train", "status", tmp_path / "runs/going").stdout
    fails_in_one_line(command("train", "status", tmp_path), "holds no run")
