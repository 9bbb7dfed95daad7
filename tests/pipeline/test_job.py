"""The labelling job end to end, through the command line, with faults injected for real."""

import hashlib
import json
import shutil
import signal
import subprocess
import tarfile
import time

import numpy as np
import pytest
from fuzzing import mutations
from running import BIN, begin, command, contents, fails_in_one_line, jpeg, label, label_line

from pipeline import shards


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_photographs_to_shards_that_plain_webdataset_reads(labelled, photos):
    import webdataset as wds

    assert command("precompute-depth", "verify", labelled).returncode == 0
    train, val = (shards.open_split(labelled, split) for split in ("train", "val"))
    assert len(train) + len(val) == 12
    assert train.index.class_names == ["china", "flower"]
    tars = sorted(str(path) for path in (labelled / "train").glob("*.tar"))
    seen = list(wds.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in seen] == [train.key(i) for i in range(len(train))]
    for position, sample in enumerate(seen):
        ours = train[position]
        np.testing.assert_array_equal(sample["rgb.jpg"], ours["rgb"])
        assert sample["cls"] == ours["cls"]
        assert set(sample) >= {"rgb.jpg", "pseudo.pdz", "cls", "json"}
        assert ours["pseudo"].shape == ours["rgb"].shape[:2]
        assert ours["json"]["source"].startswith(train.index.class_names[ours["cls"]])


def test_stored_depth_is_the_standardised_estimate(labelled, random_teacher):
    from pipeline.teachers import open_teacher

    teacher = open_teacher(str(random_teacher), "cpu")
    split = shards.open_split(labelled, "train")
    constants = split.index.depth["pseudo"]
    assert constants.polarity == "closer_is_larger"
    sample = split[0]
    native = teacher.estimate([teacher.prepare(sample["rgb"])], [sample["rgb"].shape[:2]])[0]
    assert native.std() > 1e-3
    np.testing.assert_allclose(
        sample["pseudo"], -(native - constants.mean) / constants.std, atol=constants.max_error_z + 1e-3
    )
    assert sample["json"]["pseudo"]["mean"] == pytest.approx(native.mean(), rel=1e-4)


def test_standardised_depth_has_mean_zero_and_std_one(labelled):
    split = shards.open_split(labelled, "train")
    z = np.concatenate([split[i]["pseudo"].ravel() for i in range(len(split))])
    assert abs(z.mean()) < 0.2
    assert abs(z.std() - 1) < 0.2


def test_constants_by_hand(photos, random_teacher, tmp_path):
    done = label(photos, tmp_path / "out", random_teacher, "--stats", "2.5785,1.6296")
    assert done.returncode == 0, done.stderr
    depth = shards.open_split(tmp_path / "out", "val").index.depth["pseudo"]
    assert (depth.mean, depth.std, depth.constants_from) == (2.5785, 1.6296, "given")


def test_kill_in_the_middle_then_rerun_gives_the_same_bytes(photos, random_teacher, tmp_path, labelled):
    out = tmp_path / "killed"
    for wanted in (1, 2):
        line = label_line(photos, out, random_teacher)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(line, **quiet) if wanted == 1 else begin(line)  # one of them as a user starts it
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if len(list(out.rglob("shard-*.tar"))) >= wanted:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "train" / "index.json").exists() or process.returncode == 0
    assert label(photos, out, random_teacher).returncode == 0
    assert contents(out) == contents(labelled)
    assert not list(out.rglob("*.partial"))


def test_kill_between_tar_and_json_redoes_that_shard_alone(labelled, photos, random_teacher):
    before = contents(labelled)
    (labelled / "train" / "index.json").unlink()
    (labelled / "train" / "shard-000001.json").unlink()
    kept = (labelled / "train" / "shard-000000.tar").stat().st_mtime_ns
    assert label(photos, labelled, random_teacher).returncode == 0
    assert contents(labelled) == before
    assert (labelled / "train" / "shard-000000.tar").stat().st_mtime_ns == kept


def test_kill_between_tar_and_json(photos, random_teacher, tmp_path, labelled):
    """For real: the process kills itself where the second shard's JSON would be published."""
    out = tmp_path / "out"
    code = (
        "import os, signal, sys; from pipeline import shards; from pipeline.shards import write\n"
        "publish = write.publish\n"
        "def kill(store, name, data):\n"
        "    if name == 'shard-000001.json': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    publish(store, name, data)\n"
        "sys.modules['pipeline.shards.write'].publish = kill\n"
        "from pipeline.cli import main; sys.argv[0] = 'precompute-depth'; main()"
    )
    line = [str(BIN / "python"), "-c", code, *label_line(photos, out, random_teacher)[1:]]
    assert begin(line).wait(timeout=60) == -signal.SIGKILL
    assert (out / "train" / "shard-000001.tar").exists() and not (out / "train" / "shard-000001.json").exists()
    assert label(photos, out, random_teacher).returncode == 0
    assert contents(out) == contents(labelled)


def test_workers_do_not_change_a_byte(labelled, photos, random_teacher, tmp_path):
    assert label(photos, tmp_path / "more", random_teacher, "--workers", 5).returncode == 0
    assert contents(tmp_path / "more") == contents(labelled)


def test_rejects_are_counted_named_and_do_not_stop_the_job(photos, random_teacher, tmp_path):
    (photos / "china" / "empty.jpg").write_bytes(b"")
    (photos / "flower" / "cut.jpg").write_bytes(jpeg()[:400])
    (photos / "flower" / "dot.ted ünïcode name.jpg").write_bytes(jpeg((40, 30)))
    (photos / "china" / "pixel.png").write_bytes(jpeg((1, 1), format="PNG"))
    done = label(photos, tmp_path / "out", random_teacher, "--max-rejects", 0.5)
    assert done.returncode == 0, done.stderr
    assert "china/empty.jpg: empty file" in done.stdout
    splits = shards.splits_of(tmp_path / "out")
    assert sum(s.index.num_listed for s in splits) == 16
    assert sum(s.index.num_samples for s in splits) == 13
    reasons = {r.source: r.reason for s in splits for r in s.index.rejects}
    assert set(reasons) == {"china/empty.jpg", "flower/cut.jpg", "china/pixel.png"}
    assert "constant depth" in reasons["china/pixel.png"]
    keys = [s.key(i) for s in splits for i in range(len(s))]
    assert len(set(keys)) == 13
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for key in keys)
    assert command("precompute-depth", "verify", tmp_path / "out").returncode == 0


def test_too_many_rejects_fail_at_the_end_with_the_shards_kept(photos, random_teacher, tmp_path):
    for number in range(3):
        (photos / "china" / f"bad{number}.jpg").write_bytes(b"bad")
    done = label(photos, tmp_path / "out", random_teacher)
    fails_in_one_line(done, "3 of 15 images were rejected", "--max-rejects")
    assert sum(len(s) for s in shards.splits_of(tmp_path / "out")) == 12


def test_a_second_job_on_the_same_folder_is_refused(photos, random_teacher, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    hold = (
        "import sys; from pipeline.claim import only_rank; from pipeline.output import Output\n"
        "from pipeline.shards import open_store\n"
        "with only_rank(Output(open_store(sys.argv[1])), 0, 1): print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [str(BIN / "python"), "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    fails_in_one_line(label(photos, out, random_teacher), "another precompute-depth is writing")
    first.kill()  # the kernel releases its hold
    first.communicate()
    assert label(photos, out, random_teacher).returncode == 0


def test_another_configuration_or_source_is_refused_by_name(labelled, photos, random_teacher):
    fails_in_one_line(label(photos, labelled, random_teacher, "--seed", 5), "options.seed was 0, now 5")
    (photos / "china" / "new.jpg").write_bytes(jpeg())
    fails_in_one_line(label(photos, labelled, random_teacher), "the source's files (names or sizes) have changed")
    assert command("precompute-depth", "verify", labelled).returncode == 0


def test_disk_full_leaves_the_old_state_and_a_rerun_finishes(photos, random_teacher, tmp_path, labelled):
    out = tmp_path / "full"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from pipeline.cli import main; sys.argv[0] = 'precompute-depth'; main()"
    )
    line = [str(BIN / "python"), "-c", code, *label_line(photos, out, random_teacher)[1:]]
    process = begin(line, subprocess.PIPE, subprocess.PIPE)
    said = process.communicate(timeout=60)
    done = subprocess.CompletedProcess(line, process.returncode, *said)
    fails_in_one_line(done, "File too large")
    assert not list(out.rglob("shard-*"))
    assert not list(out.rglob("*.partial"))
    assert label(photos, out, random_teacher).returncode == 0
    assert contents(out) == contents(labelled)


def test_a_full_disk_for_real(photos, random_teacher, tmp_path, labelled):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here; the test above limits the file size instead")
    try:
        fails_in_one_line(label(photos, disk / "out", random_teacher), "No space left on device")
        assert not list(disk.rglob("*.partial"))
        whole = list(disk.rglob("shard-*.json"))
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        before = {path: path.stat().st_mtime_ns for path in whole}
        assert label(photos, disk / "out", random_teacher).returncode == 0
        assert contents(disk / "out") == contents(labelled)
        assert {path: path.stat().st_mtime_ns for path in whole} == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_teacher_that_gives_nan_stores_nothing(photos, random_teacher, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "teacher"
    shutil.copytree(random_teacher, copy)
    weights = load_file(copy / "model.safetensors")
    weights["head.conv3.bias"][:] = float("nan")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    done = label(photos, tmp_path / "out", copy)
    fails_in_one_line(done, "none of the 10 images tried can be used", "teacher gave non-finite depth")
    done = label(photos, tmp_path / "given", copy, "--stats", "1,1")
    fails_in_one_line(done, "all 10 images of split 'train' were rejected", "teacher gave non-finite depth")
    assert not any(
        record["keys"] for record in map(json.loads, (p.read_text() for p in tmp_path.rglob("shard-*.json")))
    )


def test_an_image_too_thin_for_the_teacher_is_a_reject(photos, random_teacher, tmp_path):
    (photos / "china" / "thin.png").write_bytes(jpeg((400, 21), format="PNG"))
    done = label(photos, tmp_path / "out", random_teacher, "--max-rejects", 1)
    assert done.returncode == 0, done.stderr
    assert "rejected china/thin.png: 400x21 pixels: too thin for the teacher" in done.stdout


def test_constants_that_put_depth_out_of_reach_make_rejects(photos, random_teacher, tmp_path):
    done = label(photos, tmp_path / "out", random_teacher, "--stats", "1,0.0001")
    fails_in_one_line(done, "were rejected", "pseudo depth cannot be stored")


def test_constants_of_another_data_set(photos, random_teacher, tmp_path, labelled):
    for number, location in enumerate((labelled, labelled / "train", labelled / "train" / "index.json")):
        out = tmp_path / f"out{number}"
        done = label(photos, out, random_teacher, "--stats-from", location, "--batch-size", 2)
        assert done.returncode == 0, done.stderr
        ours, theirs = (shards.open_split(where, "val").index.depth["pseudo"] for where in (out, labelled))
        assert ours.standardisation == theirs.standardisation
        assert str(location) in ours.constants_from
    fails_in_one_line(label(photos, tmp_path / "a", "toy", "--stats-from", labelled), "weights_sha256 differs")
    fails_in_one_line(
        label(photos, tmp_path / "b", random_teacher, "--stats-from", tmp_path / "no"), "no finished split"
    )
    both = ("--stats", "1,1", "--stats-from", labelled)
    fails_in_one_line(label(photos, tmp_path / "c", random_teacher, *both), "exclude each other")


def test_other_encoders_are_refused_by_name(labelled, photos, random_teacher, monkeypatch):
    monkeypatch.setattr("pipeline.job.version", lambda name: "0.1")
    fails_in_one_line(label(photos, labelled, random_teacher), "versions.numpy was", "now '0.1'")


def test_losing_the_plan_does_not_make_a_new_job(labelled, photos, random_teacher):
    before = contents(labelled)
    shutil.rmtree(labelled / "plan")
    assert label(photos, labelled, random_teacher).returncode == 0
    assert contents(labelled) == before
    shutil.rmtree(labelled / "plan")
    (photos / "china" / "new.jpg").write_bytes(jpeg())
    fails_in_one_line(label(photos, labelled, random_teacher), "was made from another listing of the source")
    assert contents(labelled) == before


def test_losing_the_constants_does_not_make_a_new_job(labelled, photos, random_teacher):
    before = contents(labelled)
    (labelled / "stats.json").unlink()
    fails_in_one_line(label(photos, labelled, random_teacher, "--stats", "0,1"), "options.stats was 'auto'")
    fails_in_one_line(label(photos, labelled, random_teacher, "--samples-per-shard", 5), "options.samples_per_shard")
    assert label(photos, labelled, random_teacher).returncode == 0
    assert contents(labelled) == before


def test_other_constants_than_those_it_began_with_are_refused(labelled, photos, random_teacher, tmp_path):
    assert label(photos, tmp_path / "other", random_teacher, "--stats", "9,9").returncode == 0
    before = contents(labelled)
    done = label(photos, labelled, random_teacher, "--stats-from", tmp_path / "other")
    fails_in_one_line(done, "begun with other constants", "pseudo depth differs")
    assert contents(labelled) == before


def test_shards_of_other_constants_than_the_settled_ones_are_not_taken_as_finished(labelled, photos, random_teacher):
    stats = json.loads((labelled / "stats.json").read_text())
    stats["constants"]["pseudo"]["mean"] += 1
    (labelled / "stats.json").write_text(json.dumps(stats))
    before = contents(labelled)
    done = label(photos, labelled, random_teacher)
    fails_in_one_line(done, "shard-000000 was standardised with other constants", "verify --repair")
    assert contents(labelled) == before


def test_a_teacher_with_another_config_is_refused(labelled, photos, random_teacher, tmp_path):
    copy = tmp_path / "teacher"
    shutil.copytree(random_teacher, copy)
    config = json.loads((copy / "config.json").read_text())
    config["backbone_config"]["layer_norm_eps"] = 1e-3
    (copy / "config.json").write_text(json.dumps(config))
    fails_in_one_line(label(photos, labelled, copy), "teacher.config_sha256 was")


def test_ctrl_c_says_how_to_go_on(tmp_path):
    # A background job of a shell ignores Ctrl-C, and so would what the tests start in one.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    line = [str(BIN / "precompute-depth"), "toyrooms", str(tmp_path / "out"), "--teacher", "none", "--samples", "50000"]
    process = subprocess.Popen(
        [str(BIN / "python"), "-c", heed, *line], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "out" / "stats.json").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "interrupted: the same line again goes on where this stopped"


def test_another_teacher_is_refused_by_name(labelled, photos):
    fails_in_one_line(label(photos, labelled, "toy"), "weights_sha256")


def test_a_teacher_may_move(labelled, photos, random_teacher, tmp_path):
    shutil.copytree(random_teacher, tmp_path / "elsewhere")
    assert label(photos, labelled, tmp_path / "elsewhere").returncode == 0


def test_a_dry_run_says_what_the_job_will_be_and_writes_nothing(photos, random_teacher, tmp_path, labelled):
    (photos / "china" / "bad.jpg").write_bytes(b"bad")
    done = label(photos, tmp_path / "out", random_teacher, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    row = next(line for line in done.stdout.splitlines() if "│ train" in line)
    cells = [cell.strip() for cell in row.split("│")]
    assert cells[2:4] == ["11", "3"]
    real = sum(path.stat().st_size for path in (labelled / "train").glob("*.tar")) * 11 / 10
    assert cells[4].endswith(" MB")
    assert float(cells[4].split()[0]) == pytest.approx(real / 1e6, rel=0.35)
    assert "would reject china/bad.jpg: does not decode" in done.stdout


def test_the_summary_separates_the_teacher_and_names_the_bottleneck(photos, random_teacher, tmp_path):
    done = label(photos, tmp_path / "out", random_teacher)
    assert "teacher alone" in done.stdout
    assert "train: the bottleneck was" in done.stdout


def test_a_rerun_makes_a_shard_with_damaged_json_again(labelled, photos, random_teacher):
    before = contents(labelled)
    (labelled / "train" / "shard-000000.json").write_text("{")
    (labelled / "train" / "index.json").unlink()
    assert label(photos, labelled, random_teacher).returncode == 0
    assert contents(labelled) == before


def test_a_job_that_wrote_nothing_does_not_hold_its_folder(photos, random_teacher, tmp_path):
    out = tmp_path / "out"
    spoiled = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    for path in spoiled:
        path.write_bytes(b"spoiled")
    fails_in_one_line(label(photos, out, random_teacher), "none of the", "does not decode")
    for path, data in spoiled.items():
        path.write_bytes(data)
    assert label(photos, out, random_teacher).returncode == 0


def test_tars_are_deterministic_and_plain(labelled):
    with tarfile.open(labelled / "train" / "shard-000000.tar") as tar:
        for member in tar.getmembers():
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_bad_sources_and_teachers_end_in_one_line(tmp_path, photos, random_teacher):
    out = tmp_path / "out"
    fails_in_one_line(label(tmp_path / "none", out, random_teacher), "does not exist")
    (tmp_path / "empty").mkdir()
    fails_in_one_line(label(tmp_path / "empty", out, random_teacher), "holds no image")
    fails_in_one_line(label(photos, out, tmp_path / "no-teacher"), "teacher folder", "does not exist")
    fails_in_one_line(label(photos, out, "no-such-org/no-such-model"), "nor reachable on the hub", "--teacher toy")
    fails_in_one_line(label(photos, out, "none"), "needs a --teacher")
    fails_in_one_line(label(photos, out, random_teacher, "--stats", "1"), "--stats must be 'auto' or 'MEAN,STD'")
    fails_in_one_line(label(photos, out, random_teacher, "--batch-size", 0), "--batch-size must be at least 1")
    fails_in_one_line(label(photos, photos / "out", random_teacher), "lies inside the source")
    (tmp_path / "file").write_bytes(b"mine")
    fails_in_one_line(label(photos, tmp_path / "file", random_teacher), "is a file")
    fails_in_one_line(label(photos, tmp_path / "empty", tmp_path / "file"), "is a file")
    (tmp_path / "empty" / "mine").write_bytes(b"mine")
    fails_in_one_line(label(photos, tmp_path / "empty", random_teacher), "is not empty")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["mine"]
    assert not list(tmp_path.rglob("*.tar"))


def test_a_model_that_estimates_no_depth_is_refused(tmp_path, photos):
    from transformers import ViTConfig, ViTModel

    small = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(small).save_pretrained(tmp_path / "vit")
    fails_in_one_line(label(photos, tmp_path / "out", tmp_path / "vit"), "not a depth model")


def test_a_teacher_with_other_weights_is_refused(tmp_path, photos, random_teacher):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "teacher"
    shutil.copytree(random_teacher, copy)
    weights = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "head" not in k}, copy / "model.safetensors", {"format": "pt"})
    fails_in_one_line(label(photos, tmp_path / "out", copy), "lacks", "weights")


# --- toy rooms -----------------------------------------------------------------------------------------------------


def test_rooms_hold_exact_real_and_raw_depth_in_one_scale(rooms):
    split = shards.open_split(rooms, "train")
    assert set(split.index.depth) == {"exact", "real", "raw"}
    assert len({(d.mean, d.std) for d in split.index.depth.values()}) == 1
    filled = split.index.depth["real"]  # its constants are all fields': calibration saw every image
    assert (filled.mean, filled.std) == pytest.approx((filled.realised_mean, filled.realised_std), rel=1e-9)
    assert all(abs(split.index.depth[name].realised_mean - filled.mean) > 1e-3 for name in ("exact", "raw"))
    holes = 0
    for position in range(0, len(split), 10):
        sample = split[position]
        assert np.isfinite(sample["exact"]).all()
        assert np.isfinite(sample["real"]).all()
        holes += np.isnan(sample["raw"]).sum()
        assert sample["seg"].shape == (48, 48)
        measured = np.isfinite(sample["raw"])
        np.testing.assert_allclose(sample["raw"][measured], sample["real"][measured], atol=1e-3)
    assert holes > 0


def test_train_and_val_never_share_a_scene(rooms):
    train, val = (shards.open_split(rooms, split) for split in ("train", "val"))
    hashes = {train[i]["rgb"].tobytes() for i in range(len(train))}
    assert not hashes & {val[i]["rgb"].tobytes() for i in range(len(val))}


def test_inspect_draws_a_sheet(rooms, tmp_path):
    from PIL import Image

    done = command("precompute-depth", "inspect", rooms, "--out", tmp_path / "sheet.png", "--samples", 3)
    assert done.returncode == 0, done.stderr
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] > 800
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 200
    fails_in_one_line(command("precompute-depth", "inspect", tmp_path / "nothing"), "does not exist")


# --- what the source holds ------------------------------------------------------------------------------------------


def test_what_is_left_out_is_told_before_and_after_the_work_and_kept_in_the_index(photos, random_teacher, tmp_path):
    for name in ("notes.txt", "china/film.mp4", "china/._1.jpg", "flower/raw.nef", "flower/plain"):
        (photos / name).write_bytes(b"x")
    (photos / "flower" / "cut.jpg").write_bytes(jpeg()[:400])
    done = label(photos, tmp_path / "out", random_teacher, "--max-rejects", 1)
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("teacher alone")
    for line in (
        "2 classes, 6 to 7 images each",
        "left out 3: no image ending (.mp4 1, .txt 1, none 1): china/film.mp4, flower/plain, notes.txt",
        "left out 1: a raw photograph: develop it to .tif or .jpg (.nef 1): flower/raw.nef",
        "left out 1: hidden, or a system's file (.jpg 1): china/._1.jpg",
    ):
        assert line in before and line in after, done.stdout
    train, val = (shards.open_split(tmp_path / "out", split).index for split in ("train", "val"))
    assert train.left_out == val.left_out
    assert [entry.count for entry in train.left_out] == [1, 1, 3]
    assert train.left_out[2].names == ["china/film.mp4", "flower/plain", "notes.txt"]
    assert train.num_rejects + val.num_rejects == 1
    assert command("precompute-depth", "verify", tmp_path / "out").returncode == 0
    index = tmp_path / "out" / "train" / "index.json"
    index.write_text(index.read_text().replace('"china/film.mp4"', '"china/film.mp5"'))
    done = command("precompute-depth", "verify", tmp_path / "out")
    assert done.returncode == 1 and "index.json differs from its shards: left_out was" in done.stdout
    (photos / "more notes.txt").write_bytes(b"x")  # nothing that the shards hold has changed
    assert label(photos, tmp_path / "out", random_teacher, "--max-rejects", 1).returncode == 0


def test_a_source_that_loses_a_file_is_a_defect(photos, random_teacher, tmp_path, monkeypatch):
    from pipeline.sources.folder import Folder

    listing = Folder.listing

    def forgetful(self, ledger):
        for item in listing(self, ledger):
            if not item.unit.endswith(".3.jpg"):
                yield item

    monkeypatch.setattr(Folder, "listing", forgetful)
    with pytest.raises(AssertionError, match="12 members seen, 10 in samples, 0 left out"):
        label(photos, tmp_path / "out", random_teacher)


def as_version(version, out):
    """Rewrite a data set as a version before `left_out` (2), or before `provenance` (3), wrote it."""

    def configured(config):
        data_set = dict(config["data_set"])
        names = [*data_set.pop("depth")]
        return config | {"schema_version": version, "data_set": data_set | {"depth_fields": names}}

    later = ("left_out", "members_seen", "tree") if version == 2 else ()
    for path in (out / "plan").glob("*.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in facts.items() if k not in later}))
    job = configured(json.loads((out / "job.json").read_text()))
    (out / "job.json").write_text(json.dumps(job, indent=1))
    for split in ("train", "val"):
        index = json.loads((out / split / "index.json").read_text()) | {"schema_version": version}
        if version == 2:
            del index["left_out"]
        for depth in index["depth"].values():
            del depth["provenance"]
        index["config"] = configured(index["config"])
        index["config_hash"] = shards.config_hash(index["config"])
        for entry in index["shards"]:
            path = out / split / f"{entry['name']}.json"
            record = json.loads(path.read_text()) | {"schema_version": version}
            del record["files"]
            path.write_text(json.dumps(record))
            entry["json_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (out / split / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("version", [2, 3])
def test_shards_of_earlier_versions_are_read_verified_and_finished(version, labelled, photos, random_teacher):
    as_version(version, labelled)
    opened = shards.open_split(labelled, "train")
    assert (opened.index.left_out is None) == (version == 2) and opened.index.schema_version == version
    assert opened.index.depth["pseudo"].provenance is None
    provenance = opened.index.provenance("pseudo")
    assert (provenance.kind, provenance.by) == ("estimated", str(random_teacher))
    assert provenance.weights_sha256 == opened.index.teacher["weights_sha256"]
    assert len([opened.read(k, ("cls",)) for k in range(len(opened))]) == len(opened)
    assert command("precompute-depth", "verify", labelled).returncode == 0
    for suffix in (".json", ".tar"):
        (labelled / "train" / f"shard-000001{suffix}").unlink()
    (labelled / "train" / "index.json").unlink()
    assert label(photos, labelled, random_teacher).returncode == 0
    finished = shards.open_split(labelled, "train").index
    assert (finished.left_out is None) == (version == 2) and finished.schema_version == version
    assert command("precompute-depth", "verify", labelled).returncode == 0


def test_shards_of_version_1_and_5_are_refused(labelled):
    index = labelled / "train" / "index.json"
    for version, message in ((1, "this version reads 2 to 4: make the shards again"), (5, "update pseudodepth")):
        index.write_text(json.dumps(json.loads(index.read_text()) | {"schema_version": version}))
        with pytest.raises(shards.ShardError, match=message):
            shards.open_split(labelled, "train")


def test_a_handful_of_photographs_without_val(tmp_path, random_teacher):
    for name in ("a/a0", "a/a1", "a/a2", "b/b0", "b/b1", "b/b2"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(jpeg())
    out = tmp_path / "out"
    line = ("precompute-depth", "folder", tmp_path / "photos", out, "--teacher", random_teacher)
    done = command(*line)
    assert done.returncode == 0, done.stderr
    note = (
        "note: no image of 6 falls to val at --val-fraction 0.1: there will be no val; choose a larger one in a new "
        "folder, or 0 for none"
    )
    assert done.stdout.count(note) == 2 and done.stdout.index(note) < done.stdout.index("images/s")
    assert command("precompute-depth", "verify", out).returncode == 0
    with pytest.raises(shards.ShardError, match="has no 'val' split: no image fell to it; label the photographs again"):
        shards.open_split(out, "val")
    assert note in command(*line, "--dry-run").stdout
    assert command(*line).returncode == 0


def test_another_pillow_heif_refuses_to_join(labelled, photos, random_teacher):
    job = json.loads((labelled / "job.json").read_text())
    job["versions"]["pillow-heif"] = "0.1"
    (labelled / "job.json").write_text(json.dumps(job))
    fails_in_one_line(label(photos, labelled, random_teacher), "versions.pillow-heif was '0.1', now")


def test_heic_without_its_reader_is_refused_by_name(photos, random_teacher, tmp_path, monkeypatch):
    (photos / "china" / "IMG_0001.HEIC").write_bytes(b"x")
    monkeypatch.setattr("pipeline.images._reads_heif", lambda: False)
    fails_in_one_line(
        label(photos, tmp_path / "out", random_teacher),
        "IMG_0001.HEIC: HEIC needs pillow-heif: pip install 'pseudodepth",
    )
    assert not (tmp_path / "out" / "plan").exists()


def test_a_process_that_is_the_whole_job_never_ends_well_without_its_shards(
    photos, random_teacher, tmp_path, monkeypatch
):
    from pipeline.split_job import SplitJob

    commit = SplitJob._commit

    def lossy(self, number, *rest):
        commit(self, number, *rest)
        if number == 1:
            self.store.delete("shard-000001.json")

    monkeypatch.setattr(SplitJob, "_commit", lossy)
    message = "1 shards of split 'train' were made and are not there any more"
    fails_in_one_line(label(photos, tmp_path / "out", random_teacher), message)
    alone = label(photos, tmp_path / "one", random_teacher, "--rank", 0, "--world-size", 2)
    assert alone.returncode == 0 and "shards of other ranks are not" in alone.stdout
    fails_in_one_line(label(photos, tmp_path / "other", random_teacher, "--rank", 1, "--world-size", 2), message)


def test_a_job_that_began_without_heic_takes_whoever_reads_it_and_never_the_other_way(labelled, photos, random_teacher):
    job = labelled / "job.json"
    begun = json.loads(job.read_text())
    assert "pillow-heif" in begun["versions"]  # a test extra
    job.write_text(json.dumps(begun | {"versions": {k: v for k, v in begun["versions"].items() if k != "pillow-heif"}}))
    assert label(photos, labelled, random_teacher).returncode == 0
    job.write_text(json.dumps(begun | {"versions": begun["versions"] | {"pillow-heif": "0.1"}}))
    fails_in_one_line(label(photos, labelled, random_teacher), "versions.pillow-heif was '0.1', now")


@pytest.mark.parametrize(
    "name", ["job.json", "stats.json", "plan/train.json", "train/index.json", "train/shard-000000.json"]
)
def test_a_job_goes_on_or_ends_in_one_line_whatever_its_files_say(tmp_path, name):
    """A folder from somebody else: the same line again, over each of its files at random."""
    out = tmp_path / "out"
    line = ("toyrooms", out, "--teacher", "none", "--samples", 3, "--val-samples", 2, "--size", 48)
    assert command("precompute-depth", *line).returncode == 0
    shutil.copytree(out, tmp_path / "whole")
    for changed in mutations((out / name).read_bytes(), 5, 25):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "whole", out)
        (out / name).write_bytes(changed)
        (out / "train" / "shard-000000.damaged").touch()
        done = command("precompute-depth", *line)
        assert done.returncode in (0, 1), changed
        assert len(done.stderr.splitlines()) == done.returncode, done.stderr
