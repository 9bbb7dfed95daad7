"""A finished small run that many tests look at."""

import shutil
from pathlib import Path

import pytest
from running import command
from runs import arguments


@pytest.fixture(scope="session")
def run_once(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mlin"
    done = command("train", *arguments(rooms, out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run(run_once: Path, tmp_path: Path) -> Path:
    """The same, for a test that changes it."""
    shutil.copytree(run_once, tmp_path / "mlin")
    return tmp_path / "mlin"
