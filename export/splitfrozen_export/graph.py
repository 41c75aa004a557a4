"""Device segment -> ONNX graph: named axes, opset 23 or 20, weights as external data.

Inputs `input_ids` and `attention_mask`, int64 [batch, seq]; output `hidden`, float32
[batch, seq, d]. The graph computes positions itself. Nothing here knows a model family.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from splitfrozen.errors import ModelError
from splitfrozen.graph import ATTENTION_MASK, DEVICE_GRAPH, DEVICE_WEIGHTS, HIDDEN, INPUT_IDS
from splitfrozen_export.edits import drop_unused, lift_constants
from splitfrozen_export.rotary import repair_rotary

OPSETS = (23, 20)  # the newest first; 23 needs ONNX Runtime 1.24, 20 runs on 1.20
_AXES = {0: "batch", 1: "seq"}
_EXAMPLE_SHAPE = (2, 11)  # no axis of a traced example may be 0 or 1


class PlainLinear(nn.Module):
    """GPT-2's Conv1D as one product and one sum: as it is, it exports as Gemm and Reshapes."""

    def __init__(self, conv: Conv1D) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def export_graph(segment: nn.Module, *, opset: int | None = None) -> ir.Model:
    """Trace a device segment to an ONNX model with the single output `hidden`.

    Replaces Conv1D modules of `segment` in place (the weights stay shared). Without `opset` the
    newest of OPSETS that the exporter can write is used. Raises ModelError `model_not_supported`
    when none can, or when an axis of the input did not stay free.
    """
    replace_conv1d(segment)
    failures = []
    for version in (opset,) if opset else OPSETS:
        try:
            model = _trace(segment, version)
        except Exception as error:  # the exporter raises whatever a converter raises
            failures.append(f"opset {version}: {_first_line(error)}")
            continue
        _require_free_axes(model)
        return model
    raise ModelError(
        "model_not_supported", "the device segment has no ONNX form: " + "; ".join(failures)
    )


def replace_conv1d(segment: nn.Module) -> int:
    """Put PlainLinear in the place of every Conv1D below `segment`; return how many."""
    found = [(name, m) for name, m in segment.named_modules() if isinstance(m, Conv1D)]
    for name, conv in found:
        parent, _, child = name.rpartition(".")
        setattr(segment.get_submodule(parent), child, PlainLinear(conv))
    return len(found)


def save_graph(model: ir.Model, directory: Path) -> None:
    """Write device.onnx and, as one file beside it, its weights."""
    ir.save(model, directory / DEVICE_GRAPH, external_data=DEVICE_WEIGHTS)


def opset_of(model: ir.Model) -> int:
    """The version of the standard operator set that the graph uses."""
    return int(model.graph.opset_imports[""])


def _trace(segment: nn.Module, opset: int) -> ir.Model:
    ids = torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64)
    mask = torch.ones(_EXAMPLE_SHAPE, dtype=torch.int64)
    mask[1, -3:] = 0
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            segment,
            (ids, mask),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_IDS, ATTENTION_MASK],
            output_names=[HIDDEN],
            dynamic_shapes=(_AXES, _AXES),
            verbose=False,
        )
    assert program is not None
    model: ir.Model = program.model
    return _tidy(model)


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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
