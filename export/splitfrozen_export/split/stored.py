"""Parameters that stay in the checkpoint: read when an operation needs them, dropped after.

To its callers, their hooks and the code of its family, a module with such parameters is like any
other, and it computes the same bits. Only one operation's weights are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from splitfrozen_export.split.checkpoint import StoredTensor


def _getters(*names: str) -> set[Any]:
    return {getattr(Tensor, name).__get__ for name in names}


# Answered without a value, from an empty tensor of the same form.
_FORM = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.nelement,
    Tensor.stride,
    Tensor.element_size,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.is_contiguous,
    Tensor.requires_grad_,
    Tensor.__len__,
    *_getters("shape", "ndim", "dtype", "layout", "nbytes", "itemsize"),
    *_getters("requires_grad", "grad", "grad_fn", "is_leaf", "is_sparse", "is_quantized"),
}
_PLACE: dict[Any, Any] = {
    **dict.fromkeys(_getters("device"), torch.device("cpu")),
    **dict.fromkeys(_getters("is_cpu"), True),
    **dict.fromkeys(_getters("is_meta", "is_cuda"), False),
}


class StoredParameter(nn.Parameter):
    """A constant fp32 parameter on the CPU whose values are read whenever they are used."""

    stored: StoredTensor
    _is_hf_initialized = True  # Transformers' mark of a parameter that has its values

    def __new__(cls, stored: StoredTensor) -> StoredParameter:
        """Stand for `stored` without reading it."""
        form = torch.empty(stored.shape, dtype=torch.float32, device="meta")
        parameter: StoredParameter = Tensor._make_subclass(cls, form, False)
        parameter.stored = stored
        return parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredParameter:
        """Another stand-in for the same tensor."""
        copy = memo[id(self)] = StoredParameter(self.stored)
        return copy

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run any operation of torch on the values, read for this call only."""
        kwargs = kwargs or {}
        if func in _PLACE:
            return _PLACE[func]
        if func is Tensor.__repr__:
            return f"StoredParameter({args[0].stored})"
        if func is Tensor.detach:
            return args[0]  # nothing is attached; a state dict must not read the model
        if func is functional.embedding and _plain_look_up(*args, **kwargs):
            return _look_up(*args[:2])
        with torch._C.DisableTorchFunctionSubclass():
            if func in _FORM:
                return func(*args, **kwargs)
            read: dict[int, Tensor] = {}
            args, kwargs = tree_map_only(StoredParameter, lambda p: _read(p, read), (args, kwargs))
            return func(*args, **kwargs)


@contextmanager
def hollow(module: nn.Module) -> Iterator[dict[str, StoredTensor]]:
    """Within the block, stored parameters are plain ones of the same shape and no values.

    For tracing, which looks at shapes only: pages that no one touches take no memory. Yields
    where the values lie, by parameter name (shared parameters under each of their names).
    """
    places = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner._parameters.items()
        if isinstance(parameter, StoredParameter)
    ]
    named = {
        name: parameter.stored
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if isinstance(parameter, StoredParameter)
    }
    empty: dict[int, nn.Parameter] = {}
    for owner, name, parameter in places:
        if id(parameter) not in empty:
            blank = torch.empty(parameter.stored.shape)
            empty[id(parameter)] = nn.Parameter(blank, requires_grad=False)
        owner._parameters[name] = empty[id(parameter)]
    try:
        yield named
    finally:
        for owner, name, parameter in places:
            owner._parameters[name] = parameter


def _read(parameter: StoredParameter, read: dict[int, Tensor]) -> Tensor:
    """The values; `read` are those that the running operation has already."""
    if id(parameter) not in read:
        read[id(parameter)] = parameter.stored.read()
    return read[id(parameter)]


def _plain_look_up(
    ids: Tensor,
    table: Tensor,
    padding_idx: int | None = None,
    max_norm: Any = None,
    *_: Any,
    **__: Any,
) -> bool:
    return isinstance(table, StoredParameter) and type(ids) is Tensor and max_norm is None


def _look_up(ids: Tensor, table: StoredParameter) -> Tensor:
    """Rows `ids` of the table, and no other: a table is half of a small model."""
    wanted, places = torch.unique(ids, return_inverse=True)
    rows, (height, *_) = wanted.tolist(), table.stored.shape
    if rows and not 0 <= rows[0] <= rows[-1] < height:
        raise IndexError(f"token id or position outside the table of {height} rows")
    return functional.embedding(places, table.stored.read_rows(rows))
