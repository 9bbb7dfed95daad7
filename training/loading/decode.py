"""RGB from a sample's bytes, the same in training, evaluation and dumps, and tensors that workers hand over."""

import math
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from pipeline import shards


def _jpeg_operator() -> Any:
    """torchvision's, faster than Pillow and of the same libjpeg-turbo: the tests hold them to the same pixels.

    Its library is loaded alone: importing torchvision takes two seconds, and the operator's Python wrapper warns since
    0.29 that it will go. Where it is gone, None, and Pillow takes over.
    """
    package = find_spec("torchvision")
    folder = Path(package.origin).parent if package and package.origin else Path()
    for library in sorted(folder.glob("image*.so")):
        with suppress(OSError):  # of another torch
            torch.ops.load_library(str(library))
    return getattr(torch.ops.image, "decode_jpeg", None)


_decode_jpeg = _jpeg_operator()
_RGB = 3  # torchvision.io.ImageReadMode.RGB


def decode_rgb(extension: str, data: bytes) -> Tensor:
    """uint8 (3, height, width), a pixel's channels side by side in memory."""
    if extension == "rgb.jpg" and _decode_jpeg is not None:
        return _decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB)
    return torch.from_numpy(np.array(shards.decode_member(extension, data))).permute(2, 0, 1)


def sendable(shape: tuple[int, ...], dtype: torch.dtype, order: torch.memory_format) -> Tensor:
    """An uninitialised tensor; in a loader's worker in shared memory, as default_collate's, which spares a copy."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype, memory_format=order)
    strides = torch.empty(shape, dtype=dtype, memory_format=order, device="meta").stride()
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)


def is_one_number(tensor: Tensor) -> bool:
    """Whether all elements are the same place in memory."""
    return tensor.untyped_storage().size() == tensor.element_size()
