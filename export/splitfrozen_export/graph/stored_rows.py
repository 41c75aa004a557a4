"""Initializers that stay in the checkpoint: read when asked for, whole or some rows at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitfrozen_export.split.checkpoint import StoredTensor


class Rows(Protocol):
    """A float32 matrix [rows, columns] of which a slice of rows can be had; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, piece: slice, /) -> NDArray[np.float32]: ...


class StoredInitializer(ir.LazyTensor):
    """A float32 initializer whose values lie in a checkpoint."""

    def __init__(self, stored: StoredTensor, name: str) -> None:
        self.stored = stored
        super().__init__(
            lambda: ir.tensor(stored.read().numpy()),
            dtype=ir.DataType.FLOAT,
            shape=ir.Shape(stored.shape),
            name=name,
        )


class _StoredRows:
    def __init__(self, stored: StoredTensor) -> None:
        self._stored = stored
        self.shape = stored.shape

    def __getitem__(self, piece: slice, /) -> NDArray[np.float32]:
        rows: Iterable[int] = range(*piece.indices(self.shape[0]))
        return np.asarray(self._stored.read_rows(list(rows)).numpy(), np.float32)


def rows_of(tensor: ir.TensorProtocol) -> Rows:
    """The rows of a matrix; those of a stored one are read as they are asked for.

    An embedding table is the largest tensor of a small model: whole in fp32, beside its codes, it
    alone would decide how much memory an export needs.
    """
    if isinstance(tensor, StoredInitializer):
        return _StoredRows(tensor.stored)
    whole: NDArray[np.float32] = np.asarray(tensor.numpy(), np.float32)
    return whole
