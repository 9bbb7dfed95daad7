"""A finished small run that many tests look at."""

import shutil
import sys
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    """torch compiles a function for so many kinds of input only, and gives up; each test has that number to itself."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
