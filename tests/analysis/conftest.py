import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsing
import planted
import pytest

from analysis import cli

Analyze = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven planted runs; read only."""
    return planted.write_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    yield from browsing.session(tmp_path / "profile")


@pytest.fixture
def analyze(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Analyze:
    """Run main() in this process -> (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["analyze", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run
