from pathlib import Path

import planted
import pytest


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven planted runs; read only."""
    return planted.write_demo(tmp_path_factory.mktemp("demo"))
