"""SUN RGB-D, whose samples, split and pixel labels are in three MATLAB files of its toolbox.

Image k of `SUNRGBDMeta` has its labels in `SUNRGBD2Dseg(k).seglabel`; `allsplit` lists folders. Paths in them begin as
on the authors' machine, and say `depth_bfx` (holes filled); `depth` beside it is as measured.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.files import listed
from pipeline.images import UnreadableImage
from pipeline.sources import SourceError
from pipeline.sources.ledger import Ledger
from pipeline.sources.rgbd.listing import Found, Variables

_TOOLBOX = "SUNRGBDtoolbox"
_SPLIT = f"{_TOOLBOX}/traintestSUNRGBD/allsplit.mat"
_SEG = f"{_TOOLBOX}/Metadata/SUNRGBD2Dseg.mat"
_SPLITS = {"alltrain": "train", "alltest": "val"}


class _Image(NamedTuple):
    sequence: str
    rgb: str
    depth: str


class SunRgbd:
    """`root` holds SUNRGBD/ and SUNRGBDtoolbox/, unpacked as published."""

    def __init__(self, root: Path) -> None:
        self.root = root
        metas = sorted((root / _TOOLBOX / "Metadata").glob("SUNRGBDMeta*.mat"))
        if not metas:
            raise SourceError(
                f"{root} must hold {_TOOLBOX}/Metadata/SUNRGBDMeta*.mat, got none: unpack SUNRGBDtoolbox.zip there"
            )
        self._meta = metas[0]
        self.files: Sequence[Path] = (self._meta, root / _SPLIT, root / _SEG)

    def found(self, ledger: Ledger) -> Iterator[Found]:
        split_of = self._split_of
        for number, image in enumerate(self._images):
            ledger.seen += 1
            unit = f"{number:05d} {image.sequence}"
            if image.sequence not in split_of:
                ledger.leave_out("in neither split", image.sequence)
            else:
                yield Found(unit, split_of[image.sequence], self.variables(unit))

    def variables(self, unit: str) -> Variables:
        number, _, sequence = unit.partition(" ")
        image = self._images[int(number)]
        assert image.sequence == sequence, unit
        return {
            "sequence": sequence,
            "rgb": image.rgb,
            "depth": self._in("depth_bfx", image),
            "raw_depth": self._in("depth", image),
            "number": number,
        }

    def _in(self, folder: str, image: _Image) -> str:
        """The depth map in a sequence's folder: of the image's name for it, or the only one."""
        here = self.root / image.sequence / folder
        if (here / image.depth).is_file():
            return image.depth
        found = listed(here, ".png")
        return found[0].name if len(found) == 1 else image.depth

    def labels(self, unit: str) -> NDArray[np.uint16]:
        """Stored labels of a unit, (height, width): 0 void, 1 to 37."""
        reference = self._seg[int(unit.partition(" ")[0])]
        try:
            return np.ascontiguousarray(self._seg_file[reference][()].T)  # h5py sees MATLAB's axes reversed
        except (OSError, KeyError, ValueError) as error:
            raise UnreadableImage(f"its labels in {Path(_SEG).name} are damaged ({error})") from error

    @cached_property
    def _images(self) -> list[_Image]:
        entries = _structs(self._load(self._meta).get("SUNRGBDMeta"))
        images = []
        for number, entry in enumerate(entries):
            try:
                sequence = _below(entry.get("sequenceName") or str(entry["rgbpath"]).rsplit("/", 2)[0])
                images.append(_Image(sequence, str(entry["rgbname"]).strip(), str(entry["depthname"]).strip()))
            except (KeyError, TypeError, AttributeError) as error:
                raise SourceError(f"{self._meta}: image {number + 1} has no {error}: download it again") from None
        if not images:
            raise SourceError(f"{self._meta} must hold SUNRGBDMeta, a list of images: download it again")
        return images

    @cached_property
    def _split_of(self) -> dict[str, str]:
        found = self._load(self.root / _SPLIT)
        of: dict[str, str] = {}
        for name, split in _SPLITS.items():
            if name not in found:
                raise SourceError(f"{self.root / _SPLIT} must hold {name}, it has none: download it again")
            of |= dict.fromkeys(map(_below, _strings(found[name])), split)
        return of

    @cached_property
    def _seg_file(self) -> Any:
        import h5py

        try:
            return h5py.File(self.root / _SEG, "r")
        except OSError as error:
            raise SourceError(f"{self.root / _SEG} must be a MATLAB 7.3 file ({error}): download it again") from None

    @cached_property
    def _seg(self) -> Any:
        try:
            references = self._seg_file["SUNRGBD2Dseg"]["seglabel"][()].ravel()
        except (KeyError, TypeError):
            raise SourceError(f"{self.root / _SEG} must hold SUNRGBD2Dseg.seglabel: download it again") from None
        if len(references) != len(self._images):
            raise SourceError(
                f"{self.root / _SEG} must label the {len(self._images):,} images of {self._meta.name}, it has "
                f"{len(references):,}: download both again"
            )
        return references

    def _load(self, path: Path) -> Mapping[str, Any]:
        import scipy.io

        try:
            return scipy.io.loadmat(path, simplify_cells=True)
        except FileNotFoundError:
            raise SourceError(f"{path} does not exist: unpack SUNRGBDtoolbox.zip there") from None
        except NotImplementedError:
            raise SourceError(f"{path} is a MATLAB 7.3 file, published is an older kind: download it again") from None
        except Exception as error:  # scipy raises whatever damage leads it to
            told = " ".join(str(error).split())[:120]
            raise SourceError(f"{path} is no MATLAB file ({told}): download it again") from None


def _below(path: str) -> str:
    """`SUNRGBD/kv1/...` of a path on the authors' machine."""
    clean = re.sub("/+", "/", str(path).strip()).strip("/")
    place = clean.find("SUNRGBD/")
    return clean[place:] if place >= 0 else f"SUNRGBD/{clean}"


def _structs(value: Any) -> list[dict[str, Any]]:
    """A struct array as scipy simplifies it: a list, but a dict where it has one element, and nothing for none."""
    if isinstance(value, dict):
        return [value]
    return [] if value is None else [entry for entry in value if isinstance(entry, dict)]


def _strings(value: Any) -> list[str]:
    """A cell array of strings, which is a string where it has one cell."""
    return [value] if isinstance(value, str) else [str(entry) for entry in np.atleast_1d(value)]
