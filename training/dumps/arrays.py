"""CONTRACT: what numpy and torch arrays need to be added up by the same code; imports no torch."""

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import csr_array

Array = Any  # numpy.ndarray or torch.Tensor


def namespace(array: Array) -> Any:
    """numpy, or torch where the array is a tensor (which has then been imported)."""
    return sys.modules["torch"] if type(array).__module__.startswith("torch") else np


def double(array: Array) -> Array:
    return array.astype(np.float64) if namespace(array) is np else array.double()


def to_numpy(array: Array) -> np.ndarray:
    return np.asarray(array if namespace(array) is np else array.cpu())


def alike(values: np.ndarray, like: Array) -> Array:
    """A numpy array as `like` is: the same kind and device; its own dtype."""
    xp = namespace(like)
    return values if xp is np else xp.as_tensor(values, device=like.device)


def empty_like(like: Array, shape: tuple[int, ...]) -> Array:
    """Room for numbers of the kind, precision and device of `like`."""
    return np.empty(shape, like.dtype) if namespace(like) is np else like.new_empty(shape)


class Sums:
    """Named arrays that start at zero and that batches are added to; float64 unless `dtypes` says otherwise.

    `like` decides where they live. `merge` adds another's; `finalize` gives numpy arrays.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], like: Array, dtypes: Mapping[str, str] | None = None
    ) -> None:
        self._dtypes = dtypes or {}
        self.arrays = {
            name: alike(np.zeros(shape, self._dtypes.get(name, "f8")), like) for name, shape in shapes.items()
        }

    def add(self, name: str, place: Any, values: Array) -> None:
        """arrays[name][place] += values, in the array's own precision."""
        target = self.arrays[name]
        xp = namespace(target)
        target[place] += values.astype(target.dtype) if xp is np else values.to(target.dtype)

    def scatter(self, name: str, groups: np.ndarray, values: Array, layer: int | None = None) -> None:
        """arrays[name][groups[k]] += values[k] for every k; of a layer, arrays[name][groups[k], layer]."""
        target = self.arrays[name]
        xp = namespace(target)
        place = target if layer is None else target[:, layer]
        if xp is np:
            np.add.at(place, groups, values.astype(target.dtype))
        else:
            place.index_add_(0, xp.as_tensor(groups, device=target.device), values.to(target.dtype))

    def merge(self, other: "Sums") -> None:
        for name, values in other.arrays.items():
            self.arrays[name] += values

    def finalize(self) -> dict[str, np.ndarray]:
        return {name: to_numpy(values) for name, values in self.arrays.items()}


class Cells:
    """Sums over the entries of each cell. `cell` (batch, entries) holds a number below `num_cells`, or -1 for none.

    Adds in the same order every time: on a GPU, where scattering is atomic and in no order, by a sparse indicator
    matrix (cells x entries); in numpy as well; on a CPU torch scatters in order, and is faster.
    """

    def __init__(self, cell: Array, num_cells: int, dtype: Any) -> None:
        self.num_cells, self._xp = num_cells, namespace(cell)
        self._cell = self._xp.where(cell >= 0, cell, self._xp.full_like(cell, num_cells))
        self.count = self._xp.stack([self._xp.bincount(c, minlength=num_cells + 1)[:-1] for c in self._cell])
        self._matrices: list[Any] = []
        if self._xp is np or cell.device.type != "cpu":
            self._matrices = [self._indicator(c, n, dtype) for c, n in zip(self._cell, self.count, strict=True)]

    def _indicator(self, cell: Array, count: Array, dtype: Any) -> Any:
        used, shape = int(count.sum()), (self.num_cells, len(cell))
        if self._xp is np:
            order = np.argsort(cell, kind="stable")[:used]
            return csr_array((np.ones(used, dtype), order, np.concatenate([[0], np.cumsum(count)])), shape)
        torch = self._xp
        order = torch.argsort(cell, stable=True)[:used]
        pointers = torch.nn.functional.pad(count.cumsum(0), (1, 0))
        ones = torch.ones(used, dtype=dtype, device=cell.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(pointers, order, ones, shape, check_invariants=False)

    def sum(self, values: Array) -> Array:
        """(batch, columns, entries) -> (batch, columns, cells)."""
        if self._matrices:
            return self._xp.stack([(m @ v.T).T for m, v in zip(self._matrices, values, strict=True)])
        found = values.new_zeros(*values.shape[:2], self.num_cells + 1)
        for image, (cell, planes) in enumerate(zip(self._cell, values, strict=True)):
            found[image].index_add_(1, cell, planes)
        return found[..., :-1]


def packed(square: np.ndarray) -> np.ndarray:
    """The upper triangle of symmetric matrices, row by row: (..., n, n) -> (..., n (n + 1) / 2)."""
    rows, columns = np.triu_indices(square.shape[-1])
    return square[..., rows, columns]


def unpacked(triangle: np.ndarray) -> np.ndarray:
    """What `packed` was given: (..., n (n + 1) / 2) -> (..., n, n)."""
    size = int((np.sqrt(8 * triangle.shape[-1] + 1) - 1) / 2)
    rows, columns = np.triu_indices(size)
    square = np.empty((*triangle.shape[:-1], size, size), triangle.dtype)
    square[..., rows, columns] = triangle
    square[..., columns, rows] = triangle
    return square


def packed_size(n: int) -> int:
    return n * (n + 1) // 2
