"""Fixtures shared by all tests: small shards, a small random teacher, photographs."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from running import command, label, spawn

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
# dcor imports numba, whose OpenMP layer would change torch's number of threads in this process, and so the last bits.
os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
os.environ["COLUMNS"] = "200"  # whichever test makes a console first, by an import: it keeps this width


def pytest_sessionfinish() -> None:
    """Workers of loaders that a test left open heed no signal that Python would end them with, and it would wait."""
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


_SECONDS: dict[str, float] = {}  # by test file
_FEW = 20  # files; of fewer nobody asks


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    file = report.nodeid.split("::")[0]
    _SECONDS[file] = _SECONDS.get(file, 0.0) + report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The time of each file, all workers' added up: the whole suite has twelve minutes on two cores."""
    if len(_SECONDS) > _FEW:
        terminalreporter.section("seconds of each file")
        for file, seconds in sorted(_SECONDS.items(), key=lambda pair: -pair[1]):
            terminalreporter.write_line(f"{seconds:7.1f} {file}")


@pytest.fixture(scope="session")
def random_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DepthAnything with random weights that gives non-constant depth, saved as transformers saves it."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        image_size=56, patch_size=14, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        head_hidden_size=4,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # the default initialisation gives constant zero after the ReLU
                parameter.normal_(0, (parameter[0].numel()) ** -0.5)
        model.head.conv3.bias.fill_(2.0)
    folder = tmp_path_factory.mktemp("random-teacher")
    model.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small toy rooms (48 px) with exact, real and raw depth, two training shards; no teacher."""
    out = tmp_path_factory.mktemp("rooms") / "shards"
    done = command(
        "precompute-depth", "toyrooms", out, "--teacher", "none", "--samples", 150, "--val-samples", 70, "--size", 48,
        "--samples-per-shard", 100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def photos(tmp_path: Path, bundled_photos: Path) -> Path:
    """A copy of `bundled_photos` that a test may change."""
    shutil.copytree(bundled_photos, tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def bundled_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's two bundled photographs, twelve crops in two class folders."""
    from sklearn.datasets import load_sample_images

    source = tmp_path_factory.mktemp("photos")
    for name, image in zip(("china", "flower"), load_sample_images().images, strict=True):
        (source / name).mkdir(parents=True)
        for number in range(6):
            crop = Image.fromarray(image[10 * number : 10 * number + 240, 20 * number : 20 * number + 320])
            crop.save(source / name / f"{name}.{number}.jpg", quality=92)
    return source


@pytest.fixture(scope="session")
def labelled_once(bundled_photos: Path, random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "shards"
    done = label(bundled_photos, out, random_teacher, run=spawn)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def labelled(labelled_once: Path, tmp_path: Path) -> Path:
    """Finished shards that a test may damage."""
    shutil.copytree(labelled_once, tmp_path / "shards")
    return tmp_path / "shards"
