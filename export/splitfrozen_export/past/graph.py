"""Cached device segment -> ONNX graph, with the names and axes of the SPEC, section 6.6."""

from __future__ import annotations

import onnx_ir as ir
import torch

from splitfrozen.errors import ModelError
from splitfrozen.graph import ATTENTION_MASK, HIDDEN, INPUT_IDS, past_names, present_names
from splitfrozen_export.graph.trace import OPSETS, replace_conv1d, trace
from splitfrozen_export.past.segment import CachedSegment
from splitfrozen_export.past.two_rows import keep_two_rows
from splitfrozen_export.split import DeviceSegment

_TOKENS = {0: "batch", 1: "seq"}
_COVERED = {0: "batch", 1: "total"}
_PAST = {0: "batch", 2: "past"}
_PRESENT = {0: "batch", 2: "total"}
_BATCH, _SEQ, _PAST_LENGTH = 2, 3, 7  # of the example: none is 0 or 1, no two sums are the same


def export_cached_graph(segment: DeviceSegment, *, opset: int | None = None) -> ir.Model:
    """Trace the segment with past keys and values as inputs and outputs.

    Without `opset` the newest operator set that works; give the one of `device.onnx`. Replaces
    Conv1D modules of `segment` in place. Stored weights stay in the checkpoint, as in
    `export_graph`, and initializers have the same names.

    Raises ModelError `model_not_supported` when the segment has no cached form: it is an encoder,
    a block keeps anything but keys and values, no operator set can say it, or an axis is not free.
    """
    if not segment.is_decoder:
        raise ModelError(
            "model_not_supported", "an encoder reads whole texts: it has no past keys and values"
        )
    replace_conv1d(segment)
    cached = CachedSegment(segment)
    failures = []
    for version in (opset,) if opset else OPSETS:
        try:
            model = _trace(cached, version)
        except Exception as error:  # the exporter raises whatever a converter raises
            failures.append(f"opset {version}: {type(error).__name__}: {str(error).strip()[:200]}")
            continue
        _name_axes(model, len(cached.forms))
        keep_two_rows(model)
        return model
    raise ModelError(
        "model_not_supported", "the cached segment has no ONNX form: " + "; ".join(failures)
    )


def _trace(cached: CachedSegment, opset: int) -> ir.Model:
    ids = torch.ones(_BATCH, _SEQ, dtype=torch.int64)
    mask = torch.ones(_BATCH, _PAST_LENGTH + _SEQ, dtype=torch.int64)
    mask[1, :2] = 0
    past = [tensor for form in cached.forms for tensor in form.random(_BATCH, _PAST_LENGTH)]
    count = len(cached.forms)
    return trace(
        cached,
        (ids, mask, *past),
        input_names=[INPUT_IDS, ATTENTION_MASK, *past_names(count)],
        output_names=[HIDDEN, *present_names(count)],
        dynamic_shapes=(_TOKENS, _COVERED, tuple(_PAST for _ in past)),
        opset=opset,
    )


def _name_axes(model: ir.Model, count: int) -> None:
    """Give every free axis its name; refuse a graph that fixed one."""
    wanted = {INPUT_IDS: _TOKENS, ATTENTION_MASK: _COVERED, HIDDEN: _TOKENS}
    wanted |= dict.fromkeys(past_names(count), _PAST)
    wanted |= dict.fromkeys(present_names(count), _PRESENT)
    for value in (*model.graph.inputs, *model.graph.outputs):
        name, shape = str(value.name), value.shape
        assert shape is not None
        for axis, label in wanted[name].items():
            if isinstance(shape[axis], int):
                raise ModelError(
                    "model_not_supported",
                    f"the exported graph fixes axis {axis} of {name} to {shape[axis]}; "
                    f"{label} must stay free",
                )
        value.shape = ir.Shape([wanted[name].get(axis, dim) for axis, dim in enumerate(shape)])
