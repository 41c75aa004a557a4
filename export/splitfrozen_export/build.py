"""Write the graphs of a bundle into a directory and measure them there, step by step.

The order keeps peak memory at one of torch and ONNX Runtime: all that torch has to answer is
asked before the first session is opened, and the server segment comes when the last is closed.
A segment is streamed, so that what is traced later costs no memory for its weights.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from splitfrozen.errors import ModelError
from splitfrozen_export import steps
from splitfrozen_export.graph.finish import channels, finish_graph
from splitfrozen_export.graph.trace import export_graph, opset_of, save_graph
from splitfrozen_export.measure.closeness import Closeness
from splitfrozen_export.measure.limits import judge, judge_loss, judge_past
from splitfrozen_export.measure.loss import Hidden, LossReport, measure_loss, run_windows
from splitfrozen_export.measure.reference import Reference, run_reference
from splitfrozen_export.measure.verify import Report, compare, compare_blocks, graph_in
from splitfrozen_export.past import (
    CachedReport,
    cached_graph_in,
    compare_cached,
    export_cached_graph,
    save_beside,
)
from splitfrozen_export.plan import Plan
from splitfrozen_export.precision.calibrate import calibrate
from splitfrozen_export.precision.census import count_products
from splitfrozen_export.precision.quantize import Coverage, Recipe
from splitfrozen_export.record import Built
from splitfrozen_export.split import DeviceSegment, load_device_segment, load_server_segment

_MEASURED = "measured.onnx"  # the device graph with one more output for every block


@dataclass(frozen=True)
class Asked:
    """All that torch has to say about a segment."""

    recipe: Recipe  # with what calibration found
    products: int  # linear layers that it runs
    reference: Reference
    hidden: Hidden | None  # on the windows of the evaluation text


def build_graphs(plan: Plan, directory: Path, watch: steps.Watcher) -> Built:
    """Write the device graph into `directory` and measure it there.

    Raises SplitFrozenError `check_failed` when it is further from the model than is allowed.
    """
    watch.on_step(steps.LOAD)
    segment = load_device_segment(plan.source, plan.request.cut, stream=True)
    asked = _ask_torch(plan, segment, watch)
    watch.on_step(steps.TRACE)
    model = export_graph(segment, opset=plan.request.opset, blocks=True)
    opset, width = opset_of(model), channels(model)
    watch.on_step(steps.QUANTIZE)
    coverage = _finish(plan, model, segment, asked, watch)
    watch.on_step(steps.SAVE)
    _save(model, directory, watch)
    _forget_weights(model)
    watch.on_step(steps.COMPARE)
    report, blocks = _compare(plan, directory, asked.reference, coverage)
    refusal = _add_past(plan, directory, segment, asked, opset, watch)
    past = _compare_past(plan, directory, asked.reference, watch) or refusal
    loss = _measure_loss(plan, directory, asked.hidden, watch)
    return Built(opset, width, asked.recipe, coverage, report, blocks, past, loss)


def _ask_torch(plan: Plan, segment: DeviceSegment, watch: steps.Watcher) -> Asked:
    with _one_thread():
        recipe = _calibrated(plan, segment, watch)
        watch.on_step(steps.REFERENCE)
        return Asked(
            recipe,
            0 if recipe.precision == "fp32" else count_products(segment),
            run_reference(segment, plan.examples, max_length=plan.preprocess.max_length),
            run_windows(segment, plan.windows) if plan.windows else None,
        )


def _calibrated(plan: Plan, segment: DeviceSegment, watch: steps.Watcher) -> Recipe:
    recipe = plan.recipe
    if not plan.calibration:
        return recipe
    watch.on_step(steps.CALIBRATE)
    calibration = calibrate(segment, plan.calibration, watch.on_part)
    return replace(recipe, calibration=calibration, keep_fp=frozenset(plan.request.keep_fp))


def _finish(
    plan: Plan, model: ir.Model, segment: DeviceSegment, asked: Asked, watch: steps.Watcher
) -> Coverage:
    return finish_graph(
        model,
        segment,
        asked.recipe,
        wire=plan.request.wire,
        products=asked.products,
        on_part=watch.on_part,
    )


def _save(model: ir.Model, directory: Path, watch: steps.Watcher) -> None:
    """Write the weights once, and beside them the graph with and without outputs to measure."""
    contract = [value.name for value in model.graph.outputs if not _is_block(value.name)]
    save_graph(model, directory, on_tensor=watch.on_part)
    if len(contract) == len(model.graph.outputs):
        return
    path = graph_in(directory)
    proto = onnx.load(path, load_external_data=False)
    path.rename(directory / _MEASURED)
    shipped = [output for output in proto.graph.output if output.name in contract]
    del proto.graph.output[:]
    proto.graph.output.extend(shipped)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _add_past(
    plan: Plan,
    directory: Path,
    segment: DeviceSegment,
    asked: Asked,
    opset: int,
    watch: steps.Watcher,
) -> str | None:
    """Write the graph that takes past keys and values; else return why there is none."""
    if not plan.generation:
        return None
    watch.on_step(steps.PAST)
    gc.collect()  # what the comparison left
    try:
        model = export_cached_graph(segment, opset=opset)
    except ModelError as error:  # all else that a bundle is good for works without it
        return error.message
    _finish(plan, model, segment, asked, watch)
    save_beside(model, directory)
    return None


def _forget_weights(model: ir.Model) -> None:
    """Let go of what is on the disk now; a graph is full of cycles that keep it in memory."""
    for value in model.graph.initializers.values():
        value.const_value = None


def _is_block(name: str | None) -> bool:
    return (name or "").startswith("block_")


def _compare(
    plan: Plan, directory: Path, reference: Reference, coverage: Coverage
) -> tuple[Report, list[Closeness]]:
    report = compare(graph_in(directory), reference, causal=plan.blueprint.causal)
    judge(report, plan.request, kept=coverage.kept)
    measured = directory / _MEASURED
    if not measured.exists():  # one block: the cut is all there is
        return report, compare_blocks(graph_in(directory), reference)
    blocks = compare_blocks(measured, reference)
    measured.unlink()
    return report, blocks


def _compare_past(
    plan: Plan, directory: Path, reference: Reference, watch: steps.Watcher
) -> CachedReport | None:
    if not cached_graph_in(directory).exists():
        return None
    watch.on_step(steps.COMPARE_PAST)
    report = compare_cached(directory, reference)
    judge_past(report, plan.request)
    return report


def _measure_loss(
    plan: Plan, directory: Path, hidden: Hidden | None, watch: steps.Watcher
) -> LossReport | None:
    if hidden is None:
        return None
    watch.on_step(steps.LOSS)
    with _one_thread():
        loss = measure_loss(
            graph_in(directory),
            load_server_segment(plan.source, plan.request.cut, "causal_lm", stream=True),
            plan.windows,
            hidden,
            wire=plan.request.wire,
            on_part=watch.on_part,
        )
    judge_loss(loss, plan.request)
    return loss


@contextmanager
def _one_thread() -> Iterator[None]:
    """How a sum is split among threads changes its last bits, and with them the bundle's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
