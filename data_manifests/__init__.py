"""Facts about data sets and teachers, one TOML file each; the only place for them."""

import tomllib
from importlib import resources
from typing import Any


def load(name: str) -> dict[str, Any]:
    """The manifest `data_manifests/<name>.toml`."""
    return tomllib.loads((resources.files("data_manifests") / f"{name}.toml").read_text("utf-8"))
