"""Device segment -> ONNX graph: named axes, opset 23 or 20, weights as external data.

Inputs `input_ids` and `attention_mask`, int64 [batch, seq]; output `hidden`, float32
[batch, seq, d]. The graph computes positions itself. Nothing here knows a model family.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import optimize_ir
from onnxscript.rewriter.onnx_fusions import fuse
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from splitfrozen.errors import ModelError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, DEVICE_WEIGHTS, HIDDEN, INPUT_IDS
from splitfrozen_export.graph.edits import drop_unused, fold_flips, is_flip, lift_constants
from splitfrozen_export.graph.rotary import repair_rotary
from splitfrozen_export.graph.stored_rows import StoredInitializer
from splitfrozen_export.split.checkpoint import StoredTensor
from splitfrozen_export.split.segment import DeviceSegment, EveryBlock
from splitfrozen_export.split.stored import hollow

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal
OPSETS = (23, 20)  # the newest first; 23 needs ONNX Runtime 1.24, 20 runs on 1.20
OnTensor = Callable[[int, int], None]
_AXES = {0: "batch", 1: "seq"}
_INLINE = 256  # bytes; smaller constants stay in the graph file
_EXAMPLE_SHAPE = (2, 11)  # no axis of a traced example may be 0 or 1


class PlainLinear(nn.Module):
    """GPT-2's Conv1D as one product and one sum: as it is, it exports as Gemm and Reshapes."""

    def __init__(self, conv: Conv1D) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def export_graph(segment: nn.Module, *, opset: int | None = None, blocks: bool = False) -> ir.Model:
    """Trace a device segment to an ONNX model with the output `hidden`.

    `blocks` adds an output `block_{i}`, [batch, seq, d], for each block i before the last one: for
    measuring, never for a bundle. Replaces Conv1D modules of `segment` in place (the weights stay
    shared). Without `opset` the newest of OPSETS that the exporter can write is used. Weights of
    a streamed segment stay in the checkpoint: the initializers read them when they are asked.

    Raises ModelError `model_not_supported` when there is no graph, or when an axis of the input
    did not stay free.
    """
    replace_conv1d(segment)
    outputs, traced = [HIDDEN], segment
    if blocks:
        assert isinstance(segment, DeviceSegment)
        outputs += [f"block_{index}" for index in range(segment.cut - 1)]
        traced = EveryBlock(segment)
    failures: dict[str, list[int]] = {}  # reason -> opsets
    for version in (opset,) if opset else OPSETS:
        try:
            model = _trace(traced, version, outputs)
        except Exception as error:  # the exporter raises whatever a converter raises
            failures.setdefault(_first_line(error), []).append(version)
            continue
        _require_free_axes(model)
        return model
    reasons = (f"{why} (opset {' and '.join(map(str, at))})" for why, at in failures.items())
    raise ModelError(
        "model_not_supported", f"the device segment has no ONNX form: {'; '.join(reasons)}"
    )


def replace_conv1d(segment: nn.Module) -> int:
    """Put PlainLinear in the place of every Conv1D below `segment`; return how many."""
    found = [(name, m) for name, m in segment.named_modules() if isinstance(m, Conv1D)]
    for name, conv in found:
        parent, _, child = name.rpartition(".")
        setattr(segment.get_submodule(parent), child, PlainLinear(conv))
    return len(found)


def save_graph(model: ir.Model, directory: Path, *, on_tensor: OnTensor | None = None) -> None:
    """Write device.onnx and, as one file beside it, its weights, one tensor at a time.

    `on_tensor` is told (bytes written, bytes in all) as each tensor begins.
    """
    done = 0

    def note(tensor: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
        nonlocal done
        if on_tensor is not None:
            on_tensor(done, total)
        done += tensor.nbytes

    tensors = (value.const_value for value in model.graph.initializers.values())
    sizes = (tensor.nbytes for tensor in tensors if tensor is not None)
    total = sum(size for size in sizes if size >= _INLINE)
    ir.save(
        model,
        directory / DEVICE_GRAPH,
        external_data=DEVICE_WEIGHTS,
        size_threshold_bytes=_INLINE,
        callback=note,
    )


def opset_of(model: ir.Model) -> int:
    """The version of the standard operator set that the graph uses."""
    return int(model.graph.opset_imports[""])


def trace(
    module: nn.Module,
    inputs: tuple[Any, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: Any,
    opset: int,
) -> ir.Model:
    """Trace any module to a tidy ONNX model without the exporter's own metadata.

    `inputs` and `dynamic_shapes` are those of `torch.onnx.export`; no free axis of an example
    input may be 0 or 1. No value of a stored parameter is read, only its shape. Raises whatever
    the exporter raises.
    """
    with torch.no_grad(), _quiet(), hollow(module) as stored:
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=dynamic_shapes,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        _read_when_asked(program.model, stored)  # before constants are folded and compared
    return _tidy(_optimize(program.model))


def _read_when_asked(model: ir.Model, stored: Mapping[str, StoredTensor]) -> None:
    """Give the initializers of stored parameters their values: from the checkpoint, on demand."""
    for name, initializer in model.graph.initializers.items():
        if name in stored:
            initializer.const_value = StoredInitializer(stored[name], name)


def _optimize(model: ir.Model) -> ir.Model:
    """What the exporter itself does after a trace, but weights are neither renamed nor copied.

    It would compute the transpose of every linear layer's weight into a new constant.
    """
    optimize_ir(model, should_fold=lambda node: False if is_flip(node) else None)
    fuse(model)
    fold_flips(model)
    return model


def _trace(segment: nn.Module, opset: int, outputs: Sequence[str]) -> ir.Model:
    ids = torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64)
    mask = torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64)
    mask[1, -3:] = 0
    return trace(
        segment,
        (ids, mask),
        input_names=[INPUT_IDS, ATTENTION_MASK],
        output_names=outputs,
        dynamic_shapes=(_AXES, _AXES),
        opset=opset,
    )


def _tidy(model: ir.Model) -> ir.Model:
    lift_constants(model)
    repair_rotary(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.ClearMetadataAndDocStringPass()(model)  # it holds paths and stack traces
    drop_unused(model)
    return model


def _require_free_axes(model: ir.Model) -> None:
    for value in (*model.graph.inputs, *model.graph.outputs):
        names = [str(dim) for dim in value.shape or ()][:2]
        if names != list(_AXES.values()):
            raise ModelError(
                "model_not_supported",
                f"the exported graph fixes the shape of {value.name} to {value.shape}; "
                "batch and seq must stay free",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """The tracer warns about its own deprecations and optional packages: none of it is ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the exporter wraps what a converter raised
        error = error.__cause__
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
