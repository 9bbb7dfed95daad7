"""A tenth of `make soak`, with fixed seeds."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import soak
from forking import Forked
from running import BIN, begin

SEED = 14


@pytest.fixture(scope="module", autouse=True)
def _forked() -> Iterator[None]:
    """Commands begin with torch imported, which spares most of the time."""

    def begun(words: list[object]) -> Forked:
        return begin([BIN / str(words[0]), *words[1:]], subprocess.PIPE, subprocess.PIPE)

    with patch.object(soak, "begin", begun):
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return soak.make_study(tmp_path_factory.mktemp("soak") / "study")


@pytest.mark.slow
def test_mutated_files_end_in_one_line_or_a_value(study: Path) -> None:
    found = soak.mutate(50, SEED, study)
    assert len(found) == 14
    assert all(each.tried == 50 and each.slowest_s < soak.SLOWEST_S for each in found)
    assert sum(each.refused for each in found) > sum(each.tried for each in found) / 2


@pytest.mark.slow
def test_damaged_tars_end_in_one_line_or_a_listing(tmp_path: Path) -> None:
    for each in soak.mutate_sources(50, SEED, tmp_path):
        assert each.tried == 50 and each.refused and each.slowest_s < soak.SLOWEST_S, each


@pytest.mark.slow
def test_killed_and_repeated_ends_in_the_same_bytes(study: Path, tmp_path: Path) -> None:
    chosen = tuple(job for job in soak.JOBS if job.name in ("label", "pretrain", "dump"))
    for killed in soak.kills(3, SEED, study, tmp_path, chosen):
        assert killed.same and not killed.left, killed
