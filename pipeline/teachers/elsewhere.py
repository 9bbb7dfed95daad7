"""Teachers from elsewhere: code that `--teacher` names, as an installed entry point or as a factory in a module.

Such code is imported because somebody typed its name, and for no other reason: a job, an index, a plan or a run that
names it is refused (`names_code`). What it gives is held to the protocol, once when it is opened and at every answer:
what breaks it ends a job in one line, and never lies in a shard.
"""

import difflib
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pipeline import files
from pipeline.errors import UserError
from pipeline.shards.records import Text, Word
from pipeline.standardize import SIGN
from pipeline.teachers import TeacherError

GROUP = "pseudodepth.teachers"  # of entry points
ENTRY_POINT = "entry-point:"
# What a factory may take, with the value that means "not asked for" and what to type for another.
OPTIONS: dict[str, tuple[Any, str]] = {
    "device": ("auto", "--device"), "size": (None, "--teacher-size"), "aspect": ("keep", "--teacher-aspect"),
    "dtype": ("auto", "--dtype"), "compile": (False, "--compile"), "revision": (None, "--teacher-revision"),
    "threads": (None, "--threads"), "fov": (None, "--teacher-fov"),
}  # fmt: skip
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FACTORY = re.compile(rf"({_DOTTED}):({_DOTTED})")
_FACTS = ("name", "polarity", "unit")
_METHODS = ("identity", "prepare", "estimate")


def names_code(word: str) -> bool:
    """Whether a name of a teacher is `entry-point:NAME` or `package.module:factory`, which opening it would import."""
    return word.startswith(ENTRY_POINT) or _FACTORY.fullmatch(word) is not None


def open_elsewhere(name: str, options: Mapping[str, Any]) -> "Elsewhere":
    """The teacher that the code of that name makes. `options`: values of OPTIONS, where they are not its defaults.

    Its factory is given, by keyword, those that its signature names (all, where it takes **options). One that was asked
    for and that it does not take is refused. Raises TeacherError.
    """
    factory = _entry_point(name) if name.startswith(ENTRY_POINT) else _from_module(name)
    if not callable(factory):
        raise TeacherError(
            f"teacher {name}: a factory must be a function or class that makes a teacher, got {factory!r}"
        )
    given = _taken(name, factory, {option: default for option, (default, _) in OPTIONS.items()} | dict(options))
    try:
        teacher = factory(**given)
    except UserError:
        raise
    except Exception as error:
        raise TeacherError(f"teacher {name}: its factory failed ({_told(error)})") from error
    return Elsewhere(name, teacher)


def _entry_point(name: str) -> Any:
    wanted = name.removeprefix(ENTRY_POINT)
    installed = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    found = [point for point in installed.values() if point.name == wanted]
    if not found:
        names = sorted({point.name for point in installed.values()})
        hint = nearest(wanted, names) or (
            f"there are {', '.join(names)}" if names else "install the package that has it"
        )
        raise TeacherError(f"teacher {name}: no installed package has that entry point of group {GROUP}: {hint}")
    if len(found) > 1:
        values = ", ".join(sorted(point.value for point in found))
        raise TeacherError(f"teacher {name}: {len(found)} installed packages have it: name one of {values}")
    return _from_module(name, found[0].value.partition("[")[0].strip())


def _from_module(name: str, place: str = "") -> Any:
    """What `package.module:attribute` (`place`, or the name itself) stands for; a module may lie where we are run."""
    match = _FACTORY.fullmatch(place or name)
    if match is None:
        raise TeacherError(f"teacher {name}: its package names {place!r}, which is no package.module:factory")
    module, attributes = match.groups()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: it hides nothing that is installed
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever its lines raise
        fix = "install its package, or run where it lies" if isinstance(error, ModuleNotFoundError) else "mend it"
        raise TeacherError(f"teacher {name}: module {module} does not import ({_told(error)}): {fix}") from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            hint = nearest(attribute, (each for each in dir(found) if not each.startswith("_")))
            raise TeacherError(
                f"teacher {name}: {getattr(found, '__name__', found)} has no {attribute!r}"
                + (f": {hint}" if hint else "")
            ) from None
    return found


def _taken(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some that are written in C
        parameters = {}.values()
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    given = {option: value for option, value in options.items() if takes_all or option in by_name}
    for option, value in options.items():
        default, typed = OPTIONS[option]
        if value != default and option not in given:
            takes = ", ".join(OPTIONS[each][1] for each in given) or "none of these options"
            raise TeacherError(f"teacher {name} takes {takes}: leave out {typed}")
    owed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in given
    ]
    if owed:
        raise TeacherError(
            f"teacher {name}: its factory needs {', '.join(owed)}, which no option gives: it can have "
            f"{', '.join(OPTIONS)}; give the rest defaults"
        )
    return given


class Elsewhere:
    """A teacher from elsewhere, held to the protocol. Raises TeacherError where it breaks it.

    Its identity is asked for once. Exceptions of its own code are its author's, and show where.
    """

    def __init__(self, name: str, teacher: Any) -> None:
        self._asked, self._teacher = name, teacher
        lacking = [each for each in (*_FACTS, *_METHODS) if not hasattr(teacher, each)]
        lacking += [f"{each}()" for each in _METHODS if each not in lacking and not callable(getattr(teacher, each))]
        if lacking or inspect.isclass(teacher):
            what = f"lacks {', '.join(lacking)}" if lacking else "is a class, not one of its objects"
            raise self._wrong(f"{type(teacher).__name__} {what}; pipeline.teachers.Teacher says what one has")
        self.name: str = self._text("name", Text)
        self.polarity: str = teacher.polarity
        if self.polarity not in tuple(SIGN):
            raise self._wrong(f"polarity must be {' or '.join(SIGN)}, got {self.polarity!r}")
        self.unit: str = self._text("unit", Word)
        self.masks: bool = getattr(teacher, "masks", False)
        if not isinstance(self.masks, bool):
            raise self._wrong(f"masks must be True or False, got {self.masks!r}")
        self._identity = self._checked_identity()

    def _text(self, member: str, kind: Any) -> str:
        value = getattr(self._teacher, member)
        try:
            return TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError:
            held = "of ASCII letters, digits and _./^ -, at most 64" if kind is Word else "of at most 10,000 signs"
            raise self._wrong(f"{member} must be a text {held}, got {value!r}") from None

    def _checked_identity(self) -> dict[str, Any]:
        found = self._teacher.identity()
        try:
            content = json.loads(json.dumps(found, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise self._wrong(f"identity() must be JSON ({_told(error)})") from None
        if not isinstance(content, dict) or files.too_deep(content):
            raise self._wrong(f"identity() must be a dict that is not nested deeply, got {type(found).__name__}")
        for fact in (*_FACTS, "weights_sha256"):
            if not isinstance(content.get(fact), str):
                raise self._wrong(f"identity() must have a text {fact!r}, got {content.get(fact)!r}")
        for fact in ("polarity", "unit"):
            if content[fact] != getattr(self, fact):
                raise self._wrong(
                    f"identity() has {fact} {content[fact]!r}, the teacher itself {getattr(self, fact)!r}"
                )
        return content

    def _wrong(self, what: str) -> TeacherError:
        return TeacherError(f"teacher {self._asked}: {what}")

    def identity(self) -> dict[str, Any]:
        return dict(self._identity)

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        pixels = self._teacher.prepare(rgb)
        if not isinstance(getattr(pixels, "shape", None), tuple):
            raise self._wrong(f"prepare() must give an array or a tensor, got {type(pixels).__name__}")
        return pixels

    def estimate(self, pixels: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
        maps = list(self._teacher.estimate(pixels, sizes))
        if len(maps) != len(sizes):
            raise self._wrong(f"estimate() must give one map for each of {len(sizes)} images, got {len(maps)}")
        for depth, size in zip(maps, sizes, strict=True):
            if not isinstance(depth, np.ndarray):
                raise self._wrong(f"estimate() must give numpy arrays, got {type(depth).__name__}")
            if depth.dtype != np.float32 or depth.shape != tuple(size):
                raise self._wrong(
                    f"estimate() must give float32 of the photograph's size {tuple(size)}, got {depth.dtype} of "
                    f"{depth.shape}"
                )
        return maps


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?`, or nothing where no known word is near."""
    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
