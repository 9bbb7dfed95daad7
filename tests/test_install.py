"""What `pip install -e .` makes, built by setuptools from this pyproject.toml and four empty packages."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from running import ROOT

PACKAGES = ("pipeline", "training", "analysis", "data_manifests")


def test_a_folder_called_analysis_does_not_hide_ours(tmp_path):
    """An editable install by setuptools' finder would lose to it; a path in a .pth file does not."""
    pytest.importorskip("setuptools.build_meta")
    project, site, elsewhere = (tmp_path / name for name in ("project", "site", "elsewhere"))
    for package in PACKAGES:
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").touch()
        (elsewhere / package).mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    build = [sys.executable, "-c", f"from setuptools.build_meta import build_editable; build_editable({str(site)!r})"]
    done = subprocess.run(build, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    zipfile.ZipFile(next(site.glob("*.whl"))).extractall(site)
    code = f"import site; site.addsitedir({str(site)!r}); import {', '.join(PACKAGES)}; print(analysis.__file__)"
    told = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == str(project / "analysis" / "__init__.py"), told.stdout + told.stderr
