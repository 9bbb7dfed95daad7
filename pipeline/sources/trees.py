"""Walking a tree of photographs: what is an image, what is left out and why, and which names are never a class."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.files import is_litter
from pipeline.images import is_image
from pipeline.sources import SourceError, printable
from pipeline.sources.ledger import Ledger

# Reasons of the ledger.
HIDDEN = "hidden, or a system's file"
CACHE = "thumbnails, cache or trash"
RAW = "a raw photograph: develop it to .tif or .jpg"
NO_ENDING = "no image ending"
SEEN_ALREADY = "a folder that another name leads to as well"

_RAWS = re.compile(r"\.(cr2|cr3|crw|nef|nrw|arw|srf|sr2|dng|raf|orf|rw2|pef|srw|x3f|raw|rwl|3fr|iiq|erf|kdc|mos|mrw)")
_SYSTEMS = re.compile(  # folders that nobody would call a class so
    r"@(eaDir|Recycle|Recently-Snapshot|__thumb)|__MACOSX|#(recycle|snapshot)|\$RECYCLE\.BIN|lost\+found|\..*"
    r"|System Volume Information|.*\.(lrdata|photoslibrary)|\.?picasaoriginals",
    re.IGNORECASE,
)
_CACHES = re.compile(rf"{_SYSTEMS.pattern}|@.*|_?thumb(nail)?s?|cache|.*\.cache|trash|recycler", re.IGNORECASE)
_SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validset", "validationset", "dev", "devset"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "tst"), "test"),
}
_PHOTOGRAPHS = re.compile("rgb|images?|imgs?|colou?r|photos?|jpegimages|leftimgbit")
_OTHER_MODALITIES = re.compile(
    r"(raw|real|sensor|gt|filled|colou?r)?depths?(raw|maps?|images?|gt|filled|anything)?|disparit(y|ies)|disp|hha"
    r"|(seg|semantic|instance|gt)?(label|mask)s?(raw|images?|id|ids)?|seg(s|map|maps|mentations?(class|object|maps?)?)?"
    r"|semantics?|instances?|panoptic|gt|gtfine|gtcoarse|groundtruths?|annotations?|normals?|surfacenormals?|thermal|ir"
    r"|infrared|flow|opticalflow|pointclouds?|lidar"
)

# frame-0001.depth.png, 0001_mask.png: never JPEG, which would spoil them
_MODALITY_FILE = re.compile(
    r".+[._ -](depth|depthmap|depth_?raw|disparity|mask|labels?|label_?ids|labeltrainids|instanceids|seg|segmentation"
    r"|semantic|normals?|gt)\.(png|tiff?|pgm|bmp|gif)",
    re.IGNORECASE,
)


def split_of(name: str) -> str | None:
    """ "train", "val" or "test" where a folder is called so, in any spelling: Training, train_set, val2017."""
    return _SPLITS.get(_letters(re.sub(r"(19|20)\d\d$", "", name)))


def is_photographs(name: str) -> bool:
    """Whether a folder is called what data sets call the photographs among other modalities."""
    return _PHOTOGRAPHS.fullmatch(_letters(name)) is not None


def is_other_modality(name: str) -> bool:
    """Whether a folder is called what data sets call depth maps, masks and the like."""
    return _OTHER_MODALITIES.fullmatch(_letters(name)) is not None


def is_cache(name: str) -> bool:
    """Whether a folder holds copies and what was thrown away, not photographs."""
    litter = is_litter(name) and not name.startswith("#")  # `#1` may be somebody's class
    return litter or _CACHES.fullmatch(name) is not None


def refuse_ambiguous(folder: Path) -> None:
    """Where classes are looked for, images in trash/ or thumbs/ may be one: only a person can tell."""
    with _scanned(folder) as found:
        names = [e.name for e in found if is_folder(e) and is_cache(e.name) and not _SYSTEMS.fullmatch(e.name)]
    if name := next((name for name in sorted(names) if holds_image(folder / name)), None):
        other = re.sub("[^A-Za-z0-9]+", "_", printable(name)).strip("_")
        raise SourceError(
            f"{printable(str(folder))} holds {printable(name)}/, with images, which may be a class, or copies and what "
            f"was thrown away: rename it (class_{other}/) to make it a class, or move it away"
        )


def walk_images(root: Path, start: str, ledger: Ledger) -> Iterator[tuple[str, int]]:
    """(path below root, bytes) of every image at any depth below `start` ("" or "a/b/"); all else goes to `ledger`.

    -1 bytes where it cannot be looked at: it will be a reject. A folder that links lead to is walked once, under its
    own name if that is here. Memory grows with folders, not with files.
    """
    seen: set[tuple[int, int]] = set()
    pending, links = [start], list[str]()
    while pending or links:
        below = pending.pop() if pending else links.pop()
        if (identity := identify(root / below)) in seen:
            ledger.seen += 1
            ledger.leave_out(SEEN_ALREADY, below)
            continue
        seen.add(identity)
        folders, linked = [], set()
        num_images, num_maps, a_map = 0, 0, ""
        for entry in entries(root, below, ledger):
            if is_folder(entry):
                folders.append(entry.name)
                if entry.is_symlink():
                    linked.add(entry.name)
            else:
                ledger.seen += 1
                if is_image(entry.name):
                    num_images += 1
                    if _MODALITY_FILE.fullmatch(entry.name):
                        num_maps, a_map = num_maps + 1, min(a_map or entry.name, entry.name)
                    yield f"{below}{entry.name}", _size(entry)
                else:
                    ledger.leave_out(why_no_image(entry.name), f"{below}{entry.name}")
        if num_images > num_maps >= num_images / 4:  # not all, which would be names of another kind; not a few
            raise SourceError(
                f"source folder {printable(str(root / below))} looks like an RGB-D data set, with {printable(a_map)} "
                "among photographs, which alone are wanted: move such files away"
            )
        if below:  # at the top the source itself looks
            refuse_modalities(root, below, folders)
            _refuse_splits(root, below, folders)
        for name in sorted(folders, reverse=True):
            (links if name in linked else pending).append(f"{below}{name}/")


def why_no_image(name: str) -> str:
    ending = os.path.splitext(name)[1].lower()
    return HIDDEN if is_litter(name) else RAW if _RAWS.fullmatch(ending) else NO_ENDING


def entries(root: Path, below: str, ledger: Ledger) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, streamed; what is hidden or a cache goes to `ledger`, and nobody looks into it.

    A folder that cannot be listed ends the job: its images would be lost silently.
    """
    with _scanned(root / below) as found:
        for entry in found:
            hidden = entry.name.startswith(".")
            if hidden or (is_folder(entry) and is_cache(entry.name)):
                ledger.seen += 1
                slash = "/" if is_folder(entry) else ""
                ledger.leave_out(HIDDEN if hidden else CACHE, f"{below}{entry.name}{slash}")
            else:
                yield entry


@contextmanager
def _scanned(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as found:
            yield found
    except OSError as error:
        raise _unlistable(folder, error) from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def holds_image(folder: Path) -> bool:
    return next(walk_images(folder, "", Ledger()), None) is not None


def identify(folder: Path) -> tuple[int, int]:
    """The same for all links that lead to a folder."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unlistable(folder, error) from error
    return status.st_dev, status.st_ino


def refuse_modalities(root: Path, below: str, folders: Sequence[str]) -> None:
    """Depth maps and masks beside photographs are no photographs, and their folders no classes.

    A word such as `mask` among many classes is one of them.
    """
    if not any(is_other_modality(name) for name in folders):
        return
    holding = [name for name in folders if holds_image(root / below / name)]
    others = [name for name in holding if is_other_modality(name)]
    beside = [name for name in holding if is_photographs(name) or split_of(name)]
    if not others or len(others) + bool(beside) < 2 or 2 * len(others + beside) < len(holding):
        return
    photographs = next((name for name in holding if is_photographs(name)), None)
    example = f"{root / below}/{photographs}" if photographs else "the folder that holds them"
    raise SourceError(
        f"source folder {printable(str(root / below))} looks like an RGB-D data set, with "
        f"{', '.join(map(printable, sorted([*others, *beside])[:4]))} beside each other: photographs alone are wanted, "
        f"as in precompute-depth folder {printable(example)} OUT"
    )


def _refuse_splits(root: Path, below: str, folders: Sequence[str]) -> None:
    found = {split_of(name): name for name in folders}
    if "train" in found and {"val", "test"} & found.keys():
        raise SourceError(
            f"{printable(str(root / below))} holds the splits {', '.join(sorted(n for s, n in found.items() if s))} "
            "inside what was taken for a class: give the folder whose train/ and val/ hold the classes"
        )


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _unlistable(folder: Path, error: OSError) -> SourceError:
    name = printable(str(folder))
    return SourceError(f"folder {name} cannot be listed ({error.strerror}): make it readable, or move it away")


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1
