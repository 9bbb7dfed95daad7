"""Which folders hold photographs, and what those that hold none have instead."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.sources.ledger import Ledger
from pipeline.sources.trees import (
    NO_ENDING,
    RAW,
    entries,
    holds_image,
    identify,
    is_folder,
    is_image,
    walk_images,
)

_DOCUMENTS = re.compile(  # what lies beside photographs without being any; a folder of them alone is no lost class
    r"\.(txt|json|jsonl|xml|csv|tsv|md|rst|html?|pdf|docx?|xlsx?|ya?ml|toml|ini|cfg|log|py|ipynb|sh|m|mat|npy|npz|pkl|h5"
    r"|hdf5|pth?|ckpt|zip|tar|gz|tgz|bz2|xz|7z|rar|md5|sha\d+|db|lnk|url)"
)


class Looked(NamedTuple):
    """The folders in a folder, by whether an image lies in them at any depth."""

    holding: list[str]  # folders that hold an image, sorted
    without: list[str]  # those that hold none
    flat: str | None  # an image that lies in the folder itself


def look(root: Path) -> Looked:
    """What lies in `root` itself, a folder that several links lead to once."""
    folders, flat = [], None
    for entry in entries(root, "", Ledger()):
        if is_folder(entry):
            folders.append((entry.is_symlink(), entry.name))  # links last, as the walk takes them
        elif flat is None and is_image(entry.name):
            flat = entry.name
    holding: list[str] = []
    without: list[str] = []
    seen: set[tuple[int, int]] = set()
    for _, name in sorted(folders):
        if (identity := identify(root / name)) not in seen:
            (holding if holds_image(root / name) else without).append(name)
        seen.add(identity)
    return Looked(sorted(holding), without, flat)


def unread(folder: Path) -> str:
    """What a folder without images holds instead that may be photographs: "4 .xyz"; "" where there is nothing."""
    ledger = Ledger()
    for _ in walk_images(folder, "", ledger):
        pass
    endings = {
        ending: count
        for entry in ledger.left_out()
        if entry.reason in (NO_ENDING, RAW)
        for ending, count in entry.endings.items()
        if not (_only_documents(entry.names) if ending == "none" else _DOCUMENTS.fullmatch(ending))
    }
    return ", ".join(
        f"{count:,} {'without ending' if ending == 'none' else ending}" for ending, count in endings.items()
    )


def _only_documents(names: Sequence[str]) -> bool:
    """Of names that have no ending."""
    plain = [os.path.basename(name).lower() for name in names if not os.path.splitext(name)[1]]
    return all(re.fullmatch(r"readme|licen[cs]e|copying|makefile|checksums?", name) for name in plain)
