"""Teachers: what the labelling job asks of a depth estimator, and opening one by its name. Imports no torch.

`sparse_teacher` has those that `train depth` leaves, whose networks are `spd_v15` and `spd_v13`, made of `sparse`;
`hub` has the depth models of `transformers`, `view` at what sizes each class of them sees a photograph, `device` where
they run; `packaged` has Depth Anything 3, `moge` MoGe-2; `weights` loads theirs; `elsewhere` opens what is code of
somebody's own; `toy/` holds the weights of the embedded one.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

import data_manifests
from pipeline.errors import UserError
from pipeline.images import UnreadableImage

_FACTS = data_manifests.load("teachers")
DEFAULT_TEACHER: str = _FACTS["default"]
THESIS_STATS: tuple[float, float] = (_FACTS["thesis"]["mean"], _FACTS["thesis"]["std"])  # of DEFAULT_TEACHER at 224 px
PACKAGED: dict[str, dict[str, Any]] = _FACTS["packaged"]  # by name: Depth Anything 3, MoGe-2
SPARSE = ("spd-v15", "spd-v13")  # model types of networks that are asked for depth, trained by `train depth`
_RUN, _ITS_TEACHER = "run.json", "teacher"  # a training run's first file, and the folder that it ends with


class TeacherError(UserError):
    """The teacher cannot be used; one line that names it and the fix."""


class UnfitImage(UnreadableImage):
    """This teacher cannot see this one photograph, which makes it a reject; others are fine."""


class Teacher(Protocol):
    """A frozen depth estimator. `prepare` is called by many threads at once, `estimate` by one.

    Whatever an estimate depends on besides its pixels and the company in its batch stands in `identity`. A teacher that
    says which pixels it knows nothing of, as sky, has `masks = True` and gives NaN there.
    """

    name: str  # as it was asked for: a hub id, a folder, `toy`
    polarity: str  # closer_is_larger or farther_is_larger: of what `estimate` gives
    unit: str  # of the same: "m", "relative inverse depth", ...

    def identity(self) -> dict[str, Any]:
        """JSON that differs where estimates may: `name`, `polarity`, `unit`, `weights_sha256`, versions, device.

        It is part of the job: ranks and reruns with another one are refused.
        """

    def prepare(self, rgb: NDArray[np.uint8]) -> Any:
        """What `estimate` takes of one photograph (height, width, 3): any array or tensor; equal shapes share a batch.

        Raises UnfitImage for a photograph that this teacher cannot see.
        """

    def estimate(self, pixels: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
        """Depth of equally shaped prepared images, each at its (height, width), in `unit` and `polarity`.

        An estimate that is constant or not finite makes its image a reject; of one that masks, its valid pixels count,
        of which there must be some. Raises TeacherError.

        One that training may ask too (`data.depth=online`) has `online(device)`: a function from RGB as the models see
        it, (batch, 3, height, width) normalised by ImageNet's mean and std on that device, to depth (batch, height,
        width) in `unit` and `polarity`; TeacherError where its network does not do that. One that answers where it is
        asked has `online_at(device)` besides: of such RGB and of queries (queries, 2), u to the right and v down in its
        pixels, depth (batch, queries). `stats` of one that knows the mean and std of the depth that it was trained on
        take the place of constants that nobody measured.
        """


class TeacherOptions(TypedDict, total=False):
    """What `hub.HubTeacher` and `packaged.Packaged` take, with the defaults that stand there."""

    size: int | None
    aspect: str
    dtype: str
    compile: bool
    revision: str | None
    threads: int | None


def open_teacher(
    name: str,
    device: str = "auto",
    *,
    fov: float | None = None,
    typed: bool = False,
    given_as: str = "--teacher",
    **options: Unpack[TeacherOptions],
) -> Teacher:
    """The teacher of that name.

    `toy`; a hub id; a folder of `transformers`; the folder that `train depth` or `train teacher` leaves, or the
    finished run; one of PACKAGED, with `=` and a folder, file or hub id where its weights are not to come from their
    authors.

    The options are those of `hub.HubTeacher`; `given_as` is how the user names a teacher, for errors to say. With
    `typed`, whoever runs this typed the name themselves, and it may be code to import: `entry-point:NAME` or
    `package.module:factory` (see `elsewhere`). Raises TeacherError.
    """
    from pipeline.teachers.elsewhere import names_code, open_elsewhere

    if names_code(name):
        if not typed:
            raise TeacherError(
                f"teacher {name} is code of somebody's own, which runs only where precompute-depth --teacher names it: "
                "label with it, and train on the shards"
            )
        return open_elsewhere(name, {"device": device, "fov": fov, **options})
    if packaged := _packaged(name):
        from pipeline.teachers.packaged import open_packaged

        return open_packaged(packaged, device, fov=fov, **options)
    if fov is not None:
        raise TeacherError(f"teacher {name!r} asks for no field of view: leave out --teacher-fov")
    if ":" in name and not Path(name).exists():
        raise TeacherError(
            f"teacher {name!r} is no folder, and no name of code either: that is package.module:factory, or "
            "entry-point:NAME"
        )
    folder = _of_run(name)
    if _said(Path(folder), "model_type") in SPARSE:
        from pipeline.teachers.sparse_teacher import SparseTeacher

        return SparseTeacher(folder, device, **options)
    from pipeline.teachers.hub import HubTeacher  # torch and transformers take seconds

    return HubTeacher(folder, device, given_as=given_as, **options)


def placed(name: str) -> str:
    """The same teacher by a name that means it from any folder: with its path, if it has one, made absolute."""
    what, is_placed, where = name.partition("=")
    if what not in PACKAGED:
        what, is_placed, where = "", "", name
    where = os.path.expanduser(where) if is_placed else where  # a shell expands ~ where a word begins, alone
    if where in ("", "auto", "toy", "none") or not os.path.exists(where):
        return name
    return f"{what}{is_placed}{os.path.abspath(where)}"


def _packaged(name: str) -> str | None:
    """What `open_packaged` takes: `name` itself, or in place of a hub id or of a folder whose config.json tells."""
    if name.partition("=")[0] in PACKAGED:
        return name
    for known, facts in PACKAGED.items():
        if name == facts["hub"]:
            return known
    is_here = Path(name).exists()
    said = _said(Path(name), "model_name") if is_here else name  # as Depth Anything 3's authors write it
    if is_here and said in PACKAGED:
        return f"{said}={name}"
    if re.match(r"(depth-anything/)?da3|(ruicheng/)?moge", said, re.IGNORECASE):
        others = "; nested ones pool random pixels of the whole batch" if "nested" in said.lower() else ""
        raise TeacherError(f"teacher {name!r}: of Depth Anything 3 and MoGe there are {', '.join(PACKAGED)}{others}")
    return None


def _said(folder: Path, key: str) -> str:
    """What the config.json of a folder of weights says of itself, if it does."""
    try:
        return str(json.loads((folder / "config.json").read_text("utf-8")).get(key))
    except (OSError, ValueError, AttributeError):
        return ""


def _of_run(name: str) -> str:
    """The teacher's folder where `name` is that of a training run, else `name`."""
    if name in ("", "toy") or not (Path(name) / _RUN).is_file():
        return name
    inside = Path(name) / _ITS_TEACHER
    if not inside.is_dir():
        raise TeacherError(
            f"teacher {name} is a run without a finished teacher ({_ITS_TEACHER}/ is not there): let the run end, or "
            "give another folder"
        )
    return str(inside)
