"""Every command of the three prints on a terminal that knows ASCII alone, and cuts no number in 40 columns."""

import io
import sys
from importlib import import_module
from unittest.mock import patch

import pytest
from rich.console import Console
from running import command

QUICK = (
    "model.image_size=48", "model.width=16", "model.depth=2", "model.heads=2", "optim.epochs=1", "runtime.workers=0",
    "optim.warmup_epochs=0", "optim.batch_size=32", "data.depth=raw",
)  # fmt: skip
DIGITS = ("--samples", 8, "--val-samples", 4, "--teacher", "none")
PACKAGES = {"precompute-depth": "pipeline", "train": "training", "analyze": "analysis"}


def pretrain(rooms: object, out: object) -> list[object]:
    settings = [word for setting in QUICK for word in ("--set", setting)]
    return ["pretrain", "--preset", "tiny", "--model", "m4ch", "--data", rooms, "--out", out, *settings]


def printed(*words: object, encoding: str = "ascii") -> tuple[int, str]:
    """What a command prints to both streams of this encoding, which refuses all other signs."""
    entry = import_module(f"{PACKAGES[str(words[0])]}.cli")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    code: object = 0
    with patch.multiple(sys, argv=list(map(str, words)), stdout=stream, stderr=stream):
        try:
            entry.main()
        except SystemExit as stop:
            code = stop.code or 0
    return int(code) if isinstance(code, int) else 1, raw.getvalue().decode(encoding)


@pytest.fixture(scope="module")
def study(rooms, tmp_path_factory):
    """A run of m4ch with a dump, evaluations and noise, a fine-tuned run and a matrix; folders with odd names."""
    folder = tmp_path_factory.mktemp("odd") / "[" / "x] sträße"
    run = folder / "m4ch [bold]"
    assert command("train", *pretrain(rooms, run)).returncode == 0
    return folder, run


def lines(study, rooms, photos) -> list[tuple[object, ...]]:
    folder, run = study
    tune = ("--preset", "tiny", "--set", "optim.epochs=1", "--set", "optim.steps_per_epoch=2")
    return [
        ("precompute-depth", "folder", photos, folder / "labelled", "--teacher", "toy", "--dry-run"),
        ("precompute-depth", "folder", photos, folder / "labelled", "--teacher", "toy"),
        ("precompute-depth", "digits", folder / "digits", *DIGITS),
        ("precompute-depth", "verify", folder / "labelled"),
        ("precompute-depth", "inspect", folder / "labelled", "--samples", 2),
        ("train", *pretrain(rooms, folder / "x"), "--dry-run"),
        ("train", "evaluate", run, "--data", rooms),
        ("train", "evaluate", run, "--data", rooms, "--noise", "pixel", "--sigma", "0,1"),
        ("train", "dump", run, "--data", rooms, "--images", 8, "--raw", 2, "--causal", 4),
        ("train", "export", run, folder / "export"),
        ("train", "finetune", *tune, "--init", run, "--data", rooms, "--depth", "raw", "--out", folder / "tuned"),
        ("train", "evaluate", folder / "tuned", "--data", rooms),
        ("analyze", "table1", run),
        ("analyze", "table2", run, "--out", folder / "tables"),
        ("analyze", "causal", run),
        ("analyze", "fig1", run, "--out", folder / "figures"),
        ("analyze", "report", run, "--out", folder / "report"),
        # what is refused
        ("precompute-depth", "folder", folder / "σ [/x]", folder / "o"),
        ("train", "evaluate", folder / "σ [/x]", "--data", rooms),
        ("analyze", "table2", folder / "σ [/x]"),
    ]


@pytest.mark.slow
def test_every_command_prints_on_an_ascii_terminal(study, rooms, photos):
    for words in lines(study, rooms, photos):
        code, text = printed(*words)
        refused = "σ" in " ".join(map(str, words))
        assert code == int(refused), (words, text)
        assert "Traceback" not in text and "Error" not in text.replace("error:", ""), (words, text)
        assert text.strip()
    for name, package in PACKAGES.items():
        app = import_module(f"{package}.cli").app
        for each in (None, *(found.name or found.callback.__name__ for found in app.registered_commands)):
            code, text = printed(*filter(None, (name, each and each.replace("_", "-"), "--help")))
            assert code == 0 and "Usage" in text, (name, each)


@pytest.mark.slow
def test_no_number_is_cut_in_40_columns(study, rooms, monkeypatch):
    folder, run = study
    for module, words in (
        ("training.commands.options", ("train", "evaluate", run, "--data", rooms)),
        ("analysis.cli", ("analyze", "table1", run)),
        (
            "pipeline.commands.label",
            ("precompute-depth", "digits", folder / "d", "--samples", 8, "--val-samples", 4, "--teacher", "none"),
        ),
    ):
        said = io.StringIO()
        narrow = Console(file=said, width=40, force_terminal=True, color_system=None, markup=False)
        for place in {module, "training.commands.evaluate"} if module.startswith("training") else {module}:
            monkeypatch.setattr(import_module(place), "console", narrow, raising=False)
        assert command(*words).returncode == 0
        assert said.getvalue().strip() and "…" not in said.getvalue(), said.getvalue()
