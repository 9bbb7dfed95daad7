"""`train study`: what it makes, reuses and makes again; who makes it; what it refuses."""

import inspect
import os
import signal
import textwrap
from pathlib import Path

import pytest
from running import command, contents, fails_in_one_line
from runs import arguments, assert_same_run, kill, start, wait_for

from training.dumps.store import open_dump
from training.engine import checkpoint
from training.records import Matrix, load_run, parse
from training.study.command import study as study_command
from training.study.config import StudyFile, read
from training.study.stages import STAGES
from training.study.work import claimed, is_claimed, outcome_of

TINY = ("model.width=16", "model.depth=2", "optim.epochs=1", "optim.batch_size=16", "runtime.workers=0",
        "runtime.loggers=[]")  # fmt: skip
FINE = (*TINY[4:], "optim.epochs=1", "optim.steps_per_epoch=2", "optim.batch_size=8", "select.every=1",
        "augment.crop=[48,48]")  # fmt: skip
DUMP = "[dump]\nimages = 10\nraw = 2\ncausal = 4\ncheckpoints = ['epoch-0']"
ALL = "[[runs]]\nmodels = ['m4ch']\ndepths = ['pseudo']\nseeds = [0]\nstages = ['dump', 'noise', 'gap']"
BARE = "[[runs]]\nmodels = ['m3ch']\ndepths = ['pseudo', 'real']\nseeds = [0, 1]"
MATRIX = (
    f"[matrix]\ndata = 'DATA'\npreset = 'tiny'\nsettings = {list(FINE)}\n"
    "[[matrix.runs]]\nmodels = ['m4ch']\ndepths = ['pseudo']\nseeds = [0]\ntuning_seeds = [0, 1]\n"
    "[[matrix.runs]]\nmodels = ['m3ch']\ndepths = ['pseudo']\nseeds = [1]"
)


@pytest.fixture(scope="module")
def labelled_rooms(random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards`, and `pairs` with its constants."""
    out = tmp_path_factory.mktemp("study")
    for name, more in (("shards", ()), ("pairs", ("--seed", 1, "--stats-from", out / "shards"))):
        done = command(
            "precompute-depth", "toyrooms", out / name, "--teacher", random_teacher, "--samples", 40, "--val-samples",
            12, "--size", 48, *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return out


def study_file(folder: Path, rooms: Path, *tables: str, settings: tuple[str, ...] = TINY, top: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    head = f"data = 'DATA'\npreset = 'tiny'\nsettings = {list(settings)}\npairs = '{rooms / 'pairs'}'"
    text = "\n".join((head, top, *tables)).replace("DATA", str(rooms / "shards"))
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


@pytest.fixture(scope="module")
def made(labelled_rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study file and the folder that it made."""
    folder = tmp_path_factory.mktemp("made")
    file = study_file(folder, labelled_rooms, DUMP, ALL, BARE, MATRIX)
    done = command("train", "study", file, "--out", folder / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    return file, folder / "out"


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def rows(output: str, *names: str) -> dict[str, list[str]]:
    """Cells of the last table, by run."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    return {line[0]: line[1:] for line in lines if line[0] in names}


# --- what is made ---------------------------------------------------------------------------------------------------


def test_every_run_has_its_stages_and_table_3_its_seeds(made):
    _, out = made
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["m3ch-pseudo-0", "m3ch-pseudo-1", "m4ch-pseudo-0"]
    run = load_run(out / "runs" / "m4ch-pseudo-0")
    assert {sweep.noise for sweep in run.noise_sweeps} == {"pixel", "patch"} and len(run.gaps) == 1
    found = {info.checkpoint: info for info in (open_dump(path).info for path in run.dumps)}
    assert {name: (i.num_images, i.num_raw, i.num_causal) for name, i in found.items()} == {
        "step-2": (10, 2, 4), "epoch-0": (10, 0, 0)
    }  # fmt: skip
    assert load_run(out / "runs" / "m3ch-pseudo-1").record.seed == 1
    cells = parse(Matrix, out / "table3" / "matrix.json").cells
    assert {(c.name, c.seed) for c in cells} == {("m4ch-pseudo-0", 0), ("m4ch-pseudo-0", 1), ("m3ch-pseudo-1", 0)}
    assert len(cells) == 10  # four of m4ch's each, two of m3ch's


def test_a_run_is_the_one_that_train_pretrain_makes(made, labelled_rooms, tmp_path):
    """After another run, its dumps and noise in the same process."""
    alone = arguments(labelled_rooms / "shards", tmp_path / "alone", "m3ch", (*TINY, "data.depth=pseudo", "seed=1"))
    assert command("train", *alone).returncode == 0
    assert_same_run(made[1] / "runs" / "m3ch-pseudo-1", tmp_path / "alone")


def test_what_is_finished_is_reused_and_the_table_says_so(made):
    file, out = made
    before = times(out)
    done = command("train", "study", file, "--out", out)
    assert done.returncode == 0, done.stderr
    assert times(out) == before
    found = rows(done.stdout, "m4ch-pseudo-0", "table3")
    assert found["m4ch-pseudo-0"][:-1] == ["done", "done", "done", "done", ""]
    assert found["table3"][:-1] == ["", "", "", "", "done"]


def test_a_dump_of_another_number_is_made_again_and_nothing_else(made, labelled_rooms, tmp_path):
    _, out = made
    before = times(out)
    for number in (8, 10):  # fewer, then more
        dump = DUMP.replace("images = 10", f"images = {number}")
        done = command("train", "study", study_file(tmp_path, labelled_rooms, dump, ALL, BARE, MATRIX), "--out", out)
        assert done.returncode == 0, done.stderr
        assert rows(done.stdout, "m4ch-pseudo-0")["m4ch-pseudo-0"][:-1] == ["done", "made", "done", "done", ""]
        dumps = out / "runs" / "m4ch-pseudo-0" / "dumps"
        assert {open_dump(path).info.num_images for path in dumps.glob("*.zarr")} == {number}
    now = times(out)
    changed = {path for path in before.keys() | now.keys() if before.get(path) != now.get(path)}
    assert changed and all(path.is_relative_to(dumps) or path.parent.name == ".study" for path in changed)


def test_noise_that_is_lost_is_measured_again(made):
    file, out = made
    lost = next((out / "runs" / "m4ch-pseudo-0" / "evaluations").glob("noise-patch-*"))
    kept = next((out / "runs" / "m4ch-pseudo-0" / "evaluations").glob("noise-pixel-*"))
    before, text = kept.stat().st_mtime_ns, lost.read_text()
    lost.unlink()
    done = command("train", "study", file, "--out", out)
    assert rows(done.stdout, "m4ch-pseudo-0")["m4ch-pseudo-0"][2] == "made"
    assert lost.read_text() == text and kept.stat().st_mtime_ns == before


def test_a_dry_run_and_a_job_array_write_nothing(made, labelled_rooms, tmp_path):
    _, out = made
    before = times(out)
    more = BARE.replace("[0, 1]", "[0, 1, 2]")
    larger = study_file(tmp_path / "larger", labelled_rooms, DUMP, ALL, more, MATRIX)
    done = command("train", "study", larger, "--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout, "m3ch-pseudo-0", "m3ch-pseudo-2", "all")
    assert found["m3ch-pseudo-0"] == ["pretrain", "", "0.000", "0.00"]
    assert found["m3ch-pseudo-2"][:2] == ["", "pretrain"]
    assert "not estimated" in done.stdout
    done = command("train", "study", larger, "--out", tmp_path / "new", "--slurm")
    assert done.returncode == 0 and done.stdout.startswith("#!/bin/bash")
    assert "--array=0-4\n" in done.stdout  # four runs and Table 3
    assert f"study {larger} --out {tmp_path / 'new'}\n" in done.stdout
    assert times(out) == before and not (tmp_path / "new").exists()


# --- who makes it ---------------------------------------------------------------------------------------------------


def test_a_unit_that_fails_stops_no_other_and_is_named(labelled_rooms, tmp_path):
    matrix = MATRIX.rpartition("[[matrix.runs]]")[0].replace(", 1]", "]")
    runs = BARE.replace("['m3ch']", "['m4ch', 'mlin']").replace(", 'real'", "").replace("[0, 1]", "[0]")
    file, out = study_file(tmp_path, labelled_rooms, runs, matrix), tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "m4ch-pseudo-0").write_text("in the way")
    done = command("train", "study", file, "--out", out)
    assert done.returncode == 1
    failed, waits = sorted(done.stderr.splitlines())
    assert "m4ch-pseudo-0 failed in pretrain: " in failed and "is a file" in failed
    assert waits == "error: table3 waits for m4ch-pseudo-0"
    found = rows(done.stdout, "m4ch-pseudo-0", "mlin-pseudo-0", "table3")
    assert [found[name][:2] for name in sorted(found)] == [["failed", ""], ["made", ""], ["", "open"]]
    (out / "runs" / "m4ch-pseudo-0").unlink()
    done = command("train", "study", file, "--out", out)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout, "table3")["table3"][1] == "made"


def test_processes_share_a_study_end_with_its_signal_and_go_on(labelled_rooms, tmp_path):
    long = (*TINY[:2], "optim.epochs=150", *TINY[3:], "runtime.eval_every=150", "runtime.checkpoint_every=20")
    file, out = study_file(tmp_path, labelled_rooms, BARE, settings=long), tmp_path / "out"
    folders = [out / "runs" / f"m3ch-pseudo-{seed}" for seed in (0, 1)]
    process = start(["study", file, "--out", out, "--jobs", 2])
    wait_for(lambda: all(checkpoint.steps_of(folder) for folder in folders), process)
    with claimed(out, "m3ch-pseudo-0") as mine:
        assert not mine
    done = command("train", "study", file, "--out", out)  # another study of the same folder
    assert done.returncode == 0, done.stderr
    assert "other processes are still at m3ch-pseudo-0, m3ch-pseudo-1" in done.stdout

    os.kill(process.pid, signal.SIGTERM)  # not to the group: the study itself passes it on
    printed, complained = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, printed + complained
    assert "stopped by SIGTERM: what was made is kept, the same line goes on" in complained
    steps = [checkpoint.steps_of(folder)[-1] for folder in folders]
    assert all(f"SIGTERM at step {step}, saved: the same line goes on" in complained for step in steps), complained
    assert not any(is_claimed(out, folder.name) for folder in folders)
    assert outcome_of(out, "m3ch-pseudo-0").failed is None

    process = start(["study", file, "--out", out])
    assert process.stdout is not None
    said = ""
    while (line := process.stdout.readline()) and "375 steps" not in line:
        said += line
    assert f"resuming {folders[0]} at step {steps[0]} of 375" in " ".join(said.split()), said
    assert is_claimed(out, "m3ch-pseudo-0")
    kill(process)
    assert not is_claimed(out, "m3ch-pseudo-0"), "a claim ends with its process, however that ends"


# --- what it refuses ------------------------------------------------------------------------------------------------


def test_a_folder_of_another_study_file_is_refused_by_the_runs_name(made, labelled_rooms, tmp_path):
    _, out = made
    before = times(out)
    other = tuple(setting.replace("width=16", "width=32") for setting in TINY)
    done = command("train", "study", study_file(tmp_path, labelled_rooms, ALL, settings=other), "--out", out)
    fails_in_one_line(done, "m4ch-pseudo-0", "model.width was 16, now 32")
    matrix = MATRIX.replace("steps_per_epoch=2", "steps_per_epoch=3")
    done = command("train", "study", study_file(tmp_path, labelled_rooms, DUMP, ALL, BARE, matrix), "--out", out)
    fails_in_one_line(done, "table3/seed-0/m4ch-pseudo-0-real", "optim.steps_per_epoch was 2, now 3")
    assert times(out) == before


@pytest.mark.parametrize(
    ("old", "new", "fragments"),
    [
        ("['m4ch']\ndepths", "['m5ch']\ndepths", ["runs.models must be one of m3ch", "'m5ch'"]),
        ("depths = ['pseudo']\nseeds = [0]\nstages", "depths = ['A b']\nseeds = [0]\nstages", ["must match", "'A b'"]),
        ("seeds = [0]\nstages", "seeds = [3, 3]\nstages", ["runs must name each model, depth and seed once, got 3"]),
        ("seeds = [0]\nstages", "seeds = [-1]\nstages", ["runs.0.seeds.0 must be greater than or equal to 0, got -1"]),
        ("seeds = [0]\nstages", "sedes = [0]\nstages", ["unknown key 'runs.0.sedes'", "did you mean 'runs.seeds'?"]),
        ("stages = [", "stages = ['dream', ", ["runs.stages must be of pretrain, dump, noise, gap, got 'dream'"]),
        ("[[runs]]\nmodels = ['m3ch']", "[[runs]]\nmodels = ['m3ch', 'm4ch']", ["got m4ch-pseudo-0 twice"]),
        ("pairs = ", "noise = ['pixel'] # ", ["pairs must name shards", "where a stage is gap"]),
        ("pairs = '", "pairs = '/nowhere", ["/nowhere", "no finished split"]),
        ("preset = 'tiny'\nsettings", "preset = 'huge'\nsettings", ["--preset must be one of", "'huge'"]),
        ("'optim.epochs=1'", "'optim.epoch=1'", ["unknown key 'optim.epoch'"]),
        ("'optim.epochs=1'", "'seed=1'", ["settings must leave seed to runs"]),
        ("['epoch-0']", "['epoch-7']", ["checkpoints must be of best, epoch-0, epoch-1", "'epoch-7'"]),
        ("['epoch-0']", "['last']", ["dump.checkpoints.0", "'last'"]),
        ("images = 10", "images = 1", ["dump.images", "got 1"]),
        ("models = ['m3ch']\ndepths = ['pseudo']\nseeds = [1]", "models = ['m3ch']\ndepths = ['pseudo']\nseeds = [5]",
         ["matrix.runs must be of this study's runs, got m3ch-pseudo-5"]),
        ("tuning_seeds = [0, 1]", "tuning_seeds = [1, 1]", ["matrix.runs.tuning_seeds must name each seed once"]),
        ("steps_per_epoch=2", "steps_per_epoch=0", ["optim.steps_per_epoch must be greater than 0, got 0"]),
        ("[[runs]]", "[[runs]", ["must be TOML, got", "line 11"]),
        ("data = '", "data = '/nowhere", ["/nowhere", "does not exist"]),
        ("[dump]", "a = " + "[" * 3000, ["must be TOML, got"]),
    ],
)  # fmt: skip
def test_a_study_file_that_cannot_be_ends_in_one_line(labelled_rooms, tmp_path, old, new, fragments):
    file = study_file(tmp_path / "file", labelled_rooms, DUMP, ALL, BARE, MATRIX)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    done = command("train", "study", file, "--out", tmp_path / "out")
    fails_in_one_line(done, *fragments)
    assert not (tmp_path / "out").exists()


def test_depth_that_the_shards_lack_is_refused(rooms, tmp_path):
    (tmp_path / "study.toml").write_text(f"data = '{rooms}'\npreset = 'tiny'\n{BARE}")
    done = command("train", "study", tmp_path / "study.toml", "--out", tmp_path / "out")
    fails_in_one_line(done, "has no 'pseudo' depth, it has exact")
    assert not (tmp_path / "out").exists()


def test_no_file_and_an_out_that_is_one_are_refused(labelled_rooms, tmp_path):
    fails_in_one_line(
        command("train", "study", tmp_path / "no.toml", "--out", tmp_path / "out"), "no.toml does not exist"
    )
    fails_in_one_line(
        command("train", "study", tmp_path, "--out", tmp_path / "out"), "must be a TOML file, got a folder"
    )
    file = study_file(tmp_path, labelled_rooms, BARE)
    fails_in_one_line(command("train", "study", file, "--out", file), "is a file: choose a folder")
    assert contents(tmp_path) == {}


# --- what is shipped ------------------------------------------------------------------------------------------------


def test_the_files_that_are_shipped_say_what_they_should():
    folder = Path(inspect.getfile(study_command)).parent.parent / "presets" / "study"
    demo, larger = (read(folder / f"{name}.toml") for name in ("demo", "study"))
    names = [named.name for runs in demo.runs for named in runs.named]
    assert {"m3ch-pseudo-1", "mlin-pseudo-1", "m4ch-real-0"} <= set(names) and len(names) == 9
    assert "epoch-0" in demo.dump.checkpoints
    assert len([named for runs in larger.runs for named in runs.named]) == 3 * (1 + 5 * 3)


def test_the_help_shows_a_file_that_can_be_read(tmp_path):
    block = study_command.__doc__.split("options of `train`:\n")[1].split("Examples:")[0]
    (tmp_path / "shown.toml").write_text(textwrap.dedent(block))
    shown = read(tmp_path / "shown.toml")
    given = shown.model_dump(exclude_unset=True)
    assert given.keys() == StudyFile.model_fields.keys(), "every key is shown"
    assert set(shown.runs[0].stages) == STAGES.keys() - {"pretrain"}
