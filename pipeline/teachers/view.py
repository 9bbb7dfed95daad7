"""At what sizes and aspects each class of teacher can see a photograph, and its processor's settings for them."""

import math
from dataclasses import dataclass
from typing import Any

import data_manifests
from pipeline.teachers import TeacherError

_RGB = data_manifests.load("imagenet1k")
IMAGENET_MEAN, IMAGENET_STD = tuple(_RGB["rgb_mean"]), tuple(_RGB["rgb_std"])
_LARGEST_SIDE = 4096  # beyond: no memory


def check_view(size: int | None, aspect: str) -> None:
    if size is not None and size < 1:
        raise TeacherError(f"--teacher-size must be at least 1, got {size}")
    if aspect not in ("keep", "square"):
        raise TeacherError(f"--teacher-aspect must be keep or square, got {aspect!r}")
    if size is not None and size > _LARGEST_SIDE:
        raise TeacherError(f"--teacher-size must be at most {_LARGEST_SIDE}, got {size}")


def check_multiple(who: str, size: int | None, multiple: int) -> None:
    if size and size % multiple:
        below = size // multiple * multiple
        use = f"{below} or {below + multiple}" if below else f"{multiple}"
        raise TeacherError(f"--teacher-size must be a multiple of {multiple} for {who}, got {size}: use {use}")


@dataclass(frozen=True)
class View:
    """What a model can be shown."""

    multiple: int = 1  # of both sides; anything else the model would floor to silently
    square_only: bool = False
    only_side: int | None = None  # the one size the architecture works at
    as_is: bool = False  # no resizing but to the multiple


def view_of(config: Any, processor: Any) -> View:
    kind, backbone = config.model_type, getattr(config, "backbone_config", None)
    if kind == "glpn":
        return View(multiple=processor.size_divisor, as_is=True)
    if kind == "depth_pro":  # its smallest copy of the image must be one patch
        return View(square_only=True, only_side=round(config.patch_size / min(config.scaled_images_ratios)))
    if kind == "dpt" and config.is_hybrid:
        return View(square_only=True, only_side=config.image_size)
    if kind == "dpt" and backbone is not None and backbone.model_type == "swinv2":
        return View(square_only=True, only_side=backbone.image_size)  # as in MiDaS
    own = getattr(processor, "ensure_multiple_of", None) or 1
    # ZoeDepthImageProcessor's default is 1/32, which rounds to nothing; its checkpoints say 32.
    multiple = math.lcm((backbone or config).patch_size, round(own if own >= 1 else 1 / own))
    # DPT without a backbone takes the root of the number of tokens for the height of the grid.
    grid_is_square = kind == "dpt" and backbone is None
    return View(multiple, square_only=grid_is_square or not hasattr(processor, "keep_aspect_ratio"))


def processor_settings(who: str, processor: Any, view: View, size: int | None, aspect: str) -> dict[str, Any]:
    """What to change in the checkpoint's processor for this size and aspect."""
    settings: dict[str, Any] = {"do_resize": True}
    if view.as_is:
        if size is not None or aspect != "keep":
            raise TeacherError(
                f"teacher {who} sees a photograph at its own size, floored to multiples of {view.multiple}: leave out "
                "--teacher-size and --teacher-aspect"
            )
        return settings
    if aspect == "keep" and view.square_only:
        raise TeacherError(f"teacher {who} sees squares only: add --teacher-aspect square")
    if size and view.only_side and size != view.only_side:
        raise TeacherError(f"teacher {who} works at {view.only_side} px only, got --teacher-size {size}: leave it out")
    check_multiple(who, size, view.multiple)
    size = size or view.only_side
    own = dict(processor.size)
    if size is None and not processor.do_resize:
        raise TeacherError(f"teacher {who} has no size of its own: give --teacher-size, a multiple of {view.multiple}")
    if size is None and aspect == "square" and own["height"] != own["width"]:
        raise TeacherError(f"teacher {who}: its own size is {own['height']}x{own['width']}; give a --teacher-size")
    if size is not None:
        settings["size"] = {"height": size, "width": size}
    if hasattr(processor, "keep_aspect_ratio"):
        settings |= {"keep_aspect_ratio": aspect == "keep", "ensure_multiple_of": view.multiple}
    if hasattr(processor, "size_divisor"):  # pads to it where asked to, and never strips that; a multiple needs none
        settings["do_pad"] = False
    return settings
