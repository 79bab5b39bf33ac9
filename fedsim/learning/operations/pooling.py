"""A pool of activations on the server: rows of many batches, in memory or in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, Final, Protocol
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.learning.core import Core, Operation
from fedsim.learning.operations.stepping import step_on
from fedsim.script import Payload

_POOL: Final = "pool"
Rows = NDArray[np.int64]


class _Store(Protocol):
    """Rows of one shape, appended and picked."""

    def append(self, rows: Tensor) -> None:
        """Add rows behind those that are there."""
        ...

    def pick(self, rows: Rows) -> Tensor:
        """The rows with these numbers, in this order."""
        ...


class _InMemory:
    """One tensor that doubles when it is full."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._count = 0

    def append(self, rows: Tensor) -> None:
        end = self._count + len(rows)
        if self._rows is None or end > len(self._rows):
            grown = torch.empty((max(end, 2 * self._count), *rows.shape[1:]), dtype=rows.dtype)
            if self._rows is not None:
                grown[: self._count] = self._rows[: self._count]
            self._rows = grown
        self._rows[self._count : end] = rows
        self._count = end

    def pick(self, rows: Rows) -> Tensor:
        assert self._rows is not None
        return self._rows.index_select(0, torch.from_numpy(rows))


class _InFile:
    """A temporary file without a name, which ends with its owner; read row by row, or through a memory map."""

    def __init__(self, *, mapped: bool) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as this object
        finalize(self, self._file.close)
        self._mapped = mapped
        self._map: NDArray[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def append(self, rows: Tensor) -> None:
        array = rows.contiguous().numpy()
        self._shape, self._dtype, self._map = array.shape[1:], array.dtype, None
        self._file.seek(0, 2)
        self._file.write(array.tobytes())

    def pick(self, rows: Rows) -> Tensor:
        self._file.flush()
        if self._mapped:
            if self._map is None:
                self._map = np.memmap(self._file, self._dtype, "r").reshape(-1, *self._shape)
            return torch.from_numpy(self._map[rows])
        size = int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize
        made = np.empty((len(rows), *self._shape), self._dtype)
        for at, row in enumerate(rows.tolist()):
            self._file.seek(row * size)
            made[at] = np.frombuffer(self._file.read(size), self._dtype).reshape(self._shape)
        return torch.from_numpy(made)


class _Pool:
    """Activations and their labels, row by row."""

    def __init__(self, store: str) -> None:
        self.z: _Store = _InMemory() if store == "ram" else _InFile(mapped=store == "mmap")
        self.y: _Store = _InMemory()  # labels are small


def _open(core: Core, node: int, number: int, store: str) -> None:
    core.memory[_POOL, node, number] = _Pool(store)


def _add(core: Core, node: int, number: int, activations: Payload, labels: Payload) -> None:
    pool: _Pool = core.memory[_POOL, node, number]
    pool.z.append(core.tensor(activations))
    pool.y.append(core.tensor(labels))


def _step(core: Core, node: int, learner: int, number: int, rows: Rows) -> None:
    pool: _Pool = core.memory[_POOL, node, number]
    step_on(core, node, learner, core.arranged(pool.z.pick(rows)), pool.y.pick(rows))


def _close(core: Core, node: int, number: int) -> None:
    del core.memory[_POOL, node, number]


METHODS: Final[Mapping[str, Operation]] = {
    "pool.open": _open,
    "pool.add": _add,
    "pool.step": _step,
    "pool.close": _close,
}
