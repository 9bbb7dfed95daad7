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
    r"|infrared|flow|opticalflow|pointclouds?|lidar|velodyne"
)

# Words inside longer names, as in seg_train, lowres_depth, labelsTr. A weak one is a class of many data sets, as in
# with_mask/ without_mask/: it tells a modality beside photographs alone.
_SPLIT_WORDS = _SPLITS | {"tr": "train", "ts": "test"}
_PHOTOGRAPH_WORDS = re.compile("rgb|images?|imgs?|colou?r|photos?|left|right|wide|preview")
_MODALITY_WORDS = re.compile(
    "depths?|disparit(y|ies)|disp|velodyne|lidar|confidence|segmentations?|segmented|semantics?|gr[ae]yscale|annotations"
    "|labels|masks|groundtruths?|pointclouds?|geometry"
)
_WEAK_WORDS = re.compile("label|mask|normals?|seg|gt|ir|infrared|thermal|flow")

# frame-0001.depth.png, depth_0001.png, 0001_mask.png: never JPEG, which would spoil them
_DEPTHS = "depth(s|map|[ _]?raw|[ _]?meters|crop)?|disparity"
_MAPS = rf"{_DEPTHS}|masks?(crop)?|labels?|seg|segmentation|semantic"
_MAPS_LAST = rf"{_MAPS}|label_?ids|labeltrainids|instanceids|normals?([ _]?cam)?|gt"  # Normal-1.png is an X-ray
_LOSSLESS = r"\.(png|tiff?|pgm|bmp|gif)"
_MODALITY_FILE = re.compile(rf"(.+[._ -]({_MAPS_LAST})|({_MAPS})[._ -].+){_LOSSLESS}|d-.+\.pgm", re.IGNORECASE)
_DEPTH_FILE = re.compile(rf"(.+[._ -]({_DEPTHS})|({_DEPTHS})[._ -].+){_LOSSLESS}|d-.+\.pgm", re.IGNORECASE)


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
        num_images, num_maps, num_depth, a_map = 0, 0, 0, ""
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
                        num_depth += _DEPTH_FILE.fullmatch(entry.name) is not None
                    yield f"{below}{entry.name}", _size(entry)
                else:
                    ledger.leave_out(why_no_image(entry.name), f"{below}{entry.name}")
        if num_images > num_maps >= num_images / 4:  # not all, which would be names of another kind; not a few
            raise SourceError(
                f"source folder {printable(str(root / below))} looks like an RGB-D data set, with {printable(a_map)} "
                "among photographs, which alone are wanted: move such files away"
            )
        if num_images and num_depth == num_images:
            raise SourceError(
                f"source folder {printable(str(root / below))} holds maps alone, such as {printable(a_map)}, and "
                "photographs alone are wanted: move it away, or give the folder of these"
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
    if not any(is_other_modality(name) or _modality(name) for name in folders):
        return
    holding = [name for name in folders if holds_image(root / below / name)]
    strong = [name for name in holding if is_other_modality(name) or _modality(name) == "strong"]
    weak = [name for name in holding if name not in strong and _modality(name)]
    photographs = [name for name in holding if name not in (*strong, *weak) and _is_like_photographs(name)]
    others = strong + (weak if photographs else [])
    beside = [*photographs, *(name for name in holding if split_of(name))]
    kinds = {name if is_other_modality(name) else _kind(name) for name in others}  # low_, high_confidence are one
    if not others or len(kinds) + bool(beside) < 2 or 2 * len(others + beside) < len(holding):
        return
    exact = [name for name in photographs if is_photographs(name)] or photographs
    example = printable(f"{root / below}/{sorted(exact)[0]}") if exact else "the folder that holds the photographs"
    raise SourceError(
        f"source folder {printable(str(root / below))} looks like an RGB-D data set, with "
        f"{', '.join(map(printable, sorted([*others, *beside])[:4]))} beside each other, and photographs alone are "
        f"wanted: label both together with precompute-depth rgbd (--list), give {example} instead of it, or rename the "
        "folders where they are classes"
    )


def _modality(name: str) -> str:
    """ "strong" or "weak" where a word of a longer name tells a modality, else ""."""
    words = _words(name)
    if any(map(_MODALITY_WORDS.fullmatch, words)):
        return "strong"
    return "weak" if any(map(_WEAK_WORDS.fullmatch, words)) else ""


def _kind(name: str) -> str:
    return next(word for word in _words(name) if _MODALITY_WORDS.fullmatch(word) or _WEAK_WORDS.fullmatch(word))


def _is_like_photographs(name: str) -> bool:
    return is_photographs(name) or any(map(_PHOTOGRAPH_WORDS.fullmatch, _words(name)))


def refuse_worded_splits(folder: Path, names: Sequence[str]) -> None:
    """train_images/ beside test_images/, seg_train/ beside seg_test/: names that differ in the split alone."""
    of_rest: dict[str, dict[str, str]] = {}
    for name in names:
        if len(of_split := [word for word in _words(name) if word in _SPLIT_WORDS]) == 1:
            rest = name.lower().replace(of_split[0], "*", 1)
            of_rest.setdefault(rest, {})[_SPLIT_WORDS[of_split[0]]] = name
    if found := next((splits for splits in of_rest.values() if len(splits) > 1), None):
        raise SourceError(
            f"source folder {printable(str(folder))} holds {', '.join(map(printable, sorted(found.values())))}, which "
            "are splits and no classes: rename them to train/ and val/, with the class folders right in them, or give "
            "one of them"
        )
    if len(names) == 1 and any(word in _SPLIT_WORDS for word in _words(names[0])) and _holds_folders(folder / names[0]):
        raise SourceError(
            f"{printable(str(folder))} holds {printable(names[0])}/ alone, which is a split and no class: give "
            f"{printable(str(folder / names[0]))}, or move what it holds up"
        )


def _holds_folders(folder: Path) -> bool:
    """Whether images lie in folders of it, none in itself."""
    found = [*entries(folder, "", Ledger())]
    return any(map(is_folder, found)) and not any(is_image(entry.name) for entry in found if not is_folder(entry))


def _words(name: str) -> list[str]:
    """seg_train2, asl-alphabet, imagesTr -> its words, in small letters."""
    parts = re.findall(r"[^\W\d_]+", name)
    return [
        word.lower()
        for part in parts
        for word in (re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part) if part.isascii() else [part])
    ]


def _refuse_splits(root: Path, below: str, folders: Sequence[str]) -> None:
    found = {split_of(name): name for name in folders}
    if "train" in found and {"val", "test"} & found.keys():
        raise SourceError(
            f"{printable(str(root / below))} holds the splits {', '.join(sorted(n for s, n in found.items() if s))} "
            "inside what was taken for a class: give the folder whose train/ and val/ hold the classes"
        )
    if len(folders) > 1:
        refuse_worded_splits(root / below, folders)


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]", "", name.lower())


def _unlistable(folder: Path, error: OSError) -> SourceError:
    name = printable(str(folder))
    return SourceError(f"folder {name} cannot be listed ({error.strerror}): make it readable, or move it away")


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1
