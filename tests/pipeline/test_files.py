"""Whole or not at all, through no link, and what a kill leaves is put right."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table
from running import ROOT

from pipeline import errors, files
from pipeline.terminal import make_console, print_table


def hidden(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def test_a_block_that_ends_badly_changes_nothing(tmp_path):
    path = files.write_whole(tmp_path / "a.json", "first")
    with pytest.raises(ZeroDivisionError), files.writing(path) as file:
        file.write(b"half" * (1 // 0))
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_link_is_replaced_and_never_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / "a.json").symlink_to(victim)
    for name in (".a.json.partial", ".a.json.0123abcd.partial"):  # a stranger's guess of a hidden name
        (run / name).symlink_to(victim)
    files.write_whole(run / "a.json", "new")
    assert victim.read_text() == "precious"
    assert (run / "a.json").read_text() == "new" and not (run / "a.json").is_symlink()
    (run / "b").symlink_to(tmp_path / "elsewhere")
    with files.making(run / "b") as made:
        (made / "x").write_text("x")
    assert (run / "b" / "x").exists() and not (run / "b").is_symlink() and not (tmp_path / "elsewhere").exists()


def test_no_folder_below_the_named_one_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    assert files.folder_in(tmp_path / "run", "a", "b").is_dir()  # the named one may
    (tmp_path / "real" / "c").symlink_to(tmp_path)
    with pytest.raises(files.WriteError, match=r"c is a link to .* put a folder in its place"):
        files.folder_in(tmp_path / "run", "c", "d")
    (tmp_path / "real" / ".lock").symlink_to(tmp_path / "made-by-a-lock")
    with pytest.raises(OSError, match="symbolic links"):
        files.lock_file(tmp_path / "run" / ".lock")


def test_one_place_one_line_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "none" / "x"):
        with pytest.raises(files.WriteError, match=r"cannot write .*x \(.*\): make that place writable"):
            files.write_whole(path, "")
    with pytest.raises(files.WriteError, match="cannot write"), files.making(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("kind", ["old", "0123abcd.old", "replaced"])
def test_a_kill_between_two_renames_is_undone(tmp_path, kind):
    (tmp_path / f".latest.zarr.{kind}").mkdir()
    (tmp_path / ".latest.zarr.89abcdef.partial").mkdir()
    assert files.whole(tmp_path / "latest.zarr").name == f".latest.zarr.{kind}"  # a reader finds it
    assert files.set_aside(tmp_path, ".zarr") == [files.whole(tmp_path / "latest.zarr")]
    assert files.set_aside(tmp_path, ".json") == files.set_aside(tmp_path / "none") == []
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["latest.zarr"] and files.set_aside(tmp_path) == []
    (tmp_path / f".latest.zarr.{kind}").mkdir()  # killed after the second rename
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["latest.zarr"]
    assert files.whole(tmp_path / "latest.zarr").name == "latest.zarr"
    assert files.whole(tmp_path / "none").name == "none"


def test_a_sweep_takes_links_away_and_not_what_they_lead_to(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "a").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".best.partial", ".best.old", ".step-3.removed", ".notes.old", ".x.0123abcd.old"):
        (run / name).symlink_to(tmp_path / "victim")
    (run / ".z.0123abcd.partial").mkdir()
    (run / ".z.0123abcd.partial" / "inner").symlink_to(tmp_path / "victim")
    files.sweep(run)
    assert (tmp_path / "victim" / "a").read_text() == "precious"
    assert sorted(os.listdir(run)) == [".notes.old", "best", "x"]  # put back as the links they were; not ours


def test_a_living_writer_is_left_alone_and_a_dead_one_swept(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from pipeline import files\n"
        "with files.writing(Path('a')) as f, files.making(Path('b')):\n"
        "    f.write(b'x'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "ready\n"
    files.sweep(tmp_path)
    assert len(hidden(tmp_path)) == 2
    with pytest.raises(files.WriteError, match="another process is writing"), files.making(tmp_path / "b"):
        pass
    files.write_whole(tmp_path / "a", "mine")  # files may have two writers: each has a name of its own
    process.kill()
    process.wait()
    process.stdout.close()
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["a"]


def test_litter_is_nobodys_data(tmp_path):
    litter = (
        ".DS_Store", "._val-final.json", ".gitkeep", ".gitignore", "Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX",
        "val.json~", ".val.json.swp", "#val.json#", ".#val.json", ".nfs000123", ".ipynb_checkpoints", "lost+found",
        ".~lock.a#", "val.json.bak", "~$val.json",
    )  # fmt: skip
    for name in (*litter, "val.json", "b.json", ".hidden.json"):
        (tmp_path / name).touch()
    assert all(map(files.is_litter, litter))
    assert [p.name for p in files.listed(tmp_path, ".json")] == ["b.json", "val.json"]
    assert files.listed(tmp_path / "none") == []
    assert not any(map(files.is_litter, ("latest.zarr", "step-3", "shard-000000.tar", "job.json", "n01440764_1.JPEG")))


def test_what_is_read_is_a_file_of_bounded_size_and_shallow_json(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 300 * 2**30)
    (tmp_path / "fine").write_bytes(b'{"a": [1]}')
    for name, message in (("pipe", "no regular file"), ("sparse", "more than 1,000"), (".", "a folder")):
        with pytest.raises(files.ReadError, match=message):
            files.read_bytes(tmp_path / name, 1000)
    assert files.parsed_json(files.read_bytes(tmp_path / "fine", 1000)) == {"a": [1]}
    for data in (b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe\x00", b"{", b"9" * 10_000, b""):
        with pytest.raises(files.ReadError):
            files.parsed_json(data)


def test_an_ascii_terminal_gets_other_signs(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    errors.print_anywhere()
    print("Δ → σ ≤ 3 × 2 · 中 \udcff")
    make_console().print("[/x] :cat: α")
    assert written.getvalue() == b"Delta -> sigma <= 3 x 2 * \\u4e2d \\udcff\n[/x] :cat: alpha\n"


@pytest.mark.parametrize("width", [40, 60, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_number_is_cut_short(width, terminal):
    table = Table("model", "samples", "top-1", "[/x]", title="a title")
    table.add_row("m4ch-with-a-long-name", "1,281,167", "83.25 %", "[/x] 0.123456789")
    said = io.StringIO()
    print_table(Console(file=said, width=width, force_terminal=terminal, color_system=None, markup=False), table)
    for value in ("1,281,167", "83.25 %", "[/x] 0.123456789"):
        assert value in said.getvalue()
    if terminal:
        assert max(map(len, said.getvalue().splitlines())) <= width


def test_a_command_ends_in_one_line_where_memory_or_a_reader_is_lacking(capsys):
    def failing(error: Exception):
        def app() -> None:
            raise error

        return app

    for error, said in (
        (MemoryError(), "error: memory is lacking (no more can be had)"),
        (OSError(13, "Permission denied", "a\x1b[2J\nb"), r"error: a\x1b[2J b cannot be used (Permission denied)"),
        (errors.UserError("one\ntwo"), "error: one two"),
    ):
        with pytest.raises(SystemExit, match="1"):
            errors.main(failing(error))
        assert capsys.readouterr().err.startswith(said)
    with pytest.raises(ZeroDivisionError):  # a defect shows where
        errors.main(failing(ZeroDivisionError()))
