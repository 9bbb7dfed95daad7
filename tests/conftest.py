"""Fixtures shared by all tests: small shards, a small random teacher, photographs."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def spawn(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a console script as a user would, in a process of its own; stdout and stderr are captured."""
    return subprocess.run(
        [str(BIN / str(arguments[0])), *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"} | environment,
        check=False,
    )


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same inside this process, which saves importing torch a hundred times."""
    entry = import_module(
        {"precompute-depth": "pipeline", "train": "training", "analyze": "analysis"}[str(arguments[0])] + ".cli"
    )
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", words),
        redirect_stdout(out),
        redirect_stderr(err),
        patch.dict(os.environ, COLUMNS="200"),
    ):
        try:
            entry.main()
        except SystemExit as stop:
            code = stop.code or 0
    return subprocess.CompletedProcess(words, int(code) if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def fails_in_one_line(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """Non-zero exit, one line on stderr, no traceback, all fragments in it."""
    assert done.returncode not in (0, None), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for fragment in fragments:
        assert fragment in done.stderr


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


def jpeg(size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: object) -> bytes:
    """A small textured image's bytes."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "JPEG"), **options)  # type: ignore[arg-type]
    return buffer.getvalue()
