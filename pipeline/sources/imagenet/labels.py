"""ImageNet's classes, and the labels of its flat val, which come in a file of their own."""

import csv
import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import data_manifests
from pipeline import files
from pipeline.files import is_litter
from pipeline.sources import SourceError

SOLUTION = "LOC_val_solution.csv"  # Kaggle's
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_META, _GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def all_wnids() -> list[str]:
    """The 1000, sorted: the position is the label."""
    return data_manifests.load("imagenet1k")["wnids"]


def classes(root: Path, train: Sequence[str], val: Sequence[str]) -> list[str]:
    """The wnids of the train part, or all 1000 where there is none; those of val must be among them."""
    names = sorted(train) or all_wnids()
    if strange := sorted({*val} - {*names}):
        known = "the train split beside it" if train else "ImageNet-1k, and no train split is beside it"
        raise SourceError(
            f"val of {root} must hold classes of {known}, got {', '.join(strange[:3])}: add or remove them"
        )
    return names


def val_wnids(places: Sequence[Path]) -> dict[str, str]:
    """The wnid of every image of the flat val by the image's stem, from Kaggle's csv or the official devkit."""
    path, found = _read_labels(places)
    known = {*all_wnids()}
    if strange := next((image for image, wnid in found.items() if wnid not in known), None):
        raise SourceError(
            f"{path} labels {strange!r} as {found[strange]!r}, which is no class of ImageNet-1k: download it again"
        )
    return found


def found_below(root: Path, pattern: str) -> list[Path]:
    """What a glob finds, sorted, without what is hidden or litter on the way: ._x.tar is macOS's, no tar."""
    found = [path for path in root.glob(pattern) if not any(map(_is_litter, path.relative_to(root).parts))]
    return sorted(found)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or is_litter(name)


def _read_labels(places: Sequence[Path]) -> tuple[Path, dict[str, str]]:
    for place in places:
        if (place / SOLUTION).is_file():
            return place / SOLUTION, _read_solution(place / SOLUTION)
    for place in places:
        for devkit in (place, *found_below(place, "*devkit*")):
            if (devkit / _META).is_file() or devkit.name.endswith((".tar.gz", ".tgz", ".tar")):
                return devkit, _read_devkit(devkit)
    raise SourceError(
        f"the flat val of {places[0]} has no labels: put {DEVKIT}, its folder or Kaggle's {SOLUTION} there"
    )


def _read_solution(path: Path) -> dict[str, str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
    except (OSError, KeyError, IndexError, AttributeError, csv.Error, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path} must have the columns ImageId and PredictionString ('n01751748 x y x y ...'): download it again"
        ) from error
    found = dict(rows)
    if twice := next((image for image, wnid in rows if wnid != found[image]), None):
        raise SourceError(f"{path} gives {twice!r} two different labels: download it again")
    return found


def _read_devkit(devkit: Path) -> dict[str, str]:
    """Ground truth is one number a line in ILSVRC's own order; meta.mat tells the wnids of its numbers 1 to 1000."""
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        meta, ground_truth = _read_parts(devkit)
        synsets = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnid_of: Mapping[int, str] = {
            int(number): str(wnid)
            for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
            if number <= 1000  # the others are the nodes above the classes
        }
        return {f"ILSVRC2012_val_{i:08d}": wnid_of[int(line)] for i, line in enumerate(ground_truth.split(), 1)}
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, KeyError, ValueError, TypeError,
            NotImplementedError, MatReadError) as error:  # fmt: skip
        raise SourceError(
            f"{devkit} must hold {_META} and {_GROUND_TRUTH} as in {DEVKIT} ({files.reason(error)}): download it again"
        ) from error


def _read_parts(devkit: Path) -> tuple[bytes, bytes]:
    if devkit.is_dir():
        return (devkit / _META).read_bytes(), (devkit / _GROUND_TRUTH).read_bytes()
    parts = {_META: b"", _GROUND_TRUTH: b""}
    with tarfile.open(devkit) as tar:
        for member in tar:
            name = next((name for name in parts if member.name.endswith(name)), None)
            if name and (file := tar.extractfile(member)):
                parts[name] = file.read()
        while tar.fileobj and tar.fileobj.read(1 << 20):  # the checksum of a .gz comes at its end
            pass
    return parts[_META], parts[_GROUND_TRUTH]
