"""From a model and an adapter to a directory that ONNX Runtime answers from on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from splitfrozen_export import steps
from splitfrozen_export.bundle import KIND, RECORD, draft_directory
from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.graph.trace import opset_of
from splitfrozen_export.home.answering import (
    Answering,
    ServerHalf,
    WholeClassifier,
    WholeDecoder,
    restore_padding,
)
from splitfrozen_export.home.calibrate import calibrate_answering
from splitfrozen_export.home.check import compare_graph, judge_home
from splitfrozen_export.home.directory import (
    copy_tokenizer,
    write_config,
    write_generation_config,
)
from splitfrozen_export.home.loss import HomeLoss, measure_home_loss
from splitfrozen_export.home.merging import merge_adapter
from splitfrozen_export.home.plan import HomePlan, make_home_plan
from splitfrozen_export.home.record import HomeResult, describe, write_record
from splitfrozen_export.home.shared_table import share_tables
from splitfrozen_export.home.trace import trace_answering
from splitfrozen_export.measure.limits import judge_gap
from splitfrozen_export.precision.census import count_products
from splitfrozen_export.precision.quantize import Coverage, Recipe, apply_precision
from splitfrozen_export.request import Request
from splitfrozen_export.split import load_device_segment, load_server_segment, load_whole_model
from splitfrozen_export.split.classes import is_decoder

WHOLE_GRAPH, SERVER_GRAPH = "model.onnx", "server.onnx"
WRITE = "Writing the directory"
READ = "Reading the weights"
HOME_STEPS = (
    steps.FIND,
    READ,
    steps.CALIBRATE,
    steps.TRACE,
    steps.QUANTIZE,
    steps.SAVE,
    steps.COMPARE,
    steps.LOSS,
    WRITE,
)


def export_whole(
    request: Request, on_step: steps.OnStep, on_part: steps.OnPart = steps.ignore_parts
) -> HomeResult:
    """Write the complete model, its adapter merged, as model.onnx with all that loaders read.

    Raises SplitFrozenError for a model, adapter or wish that cannot be used, and `check_failed`
    when ONNX Runtime's logits, or the loss with them, are further from torch's than the precision
    allows. Then nothing new is left at `request.output`.
    """
    return _export(request, steps.Watcher(on_step, on_part), WHOLE_GRAPH, _load_whole)


def export_server_half(
    request: Request, on_step: steps.OnStep, on_part: steps.OnPart = steps.ignore_parts
) -> HomeResult:
    """Write blocks cut..L-1 and the head, the adapter merged, as server.onnx: activations in.

    Raises what `export_whole` raises, and ModelError `base_model_mismatch` for an adapter that
    changes blocks below the cut.
    """
    return _export(request, steps.Watcher(on_step, on_part), SERVER_GRAPH, _load_half)


def _export(
    request: Request,
    watch: steps.Watcher,
    graph: str,
    load: Callable[[HomePlan], tuple[Any, Answering]],
) -> HomeResult:
    watch.on_step(steps.FIND)
    plan = make_home_plan(request)
    with draft_directory(request.output, force=request.force, marker=RECORD, kind=KIND) as draft:
        directory = draft.directory
        watch.on_step(READ)
        model, module = load(plan)
        recipe = _calibrated(plan, model, module, watch)
        opset, coverage = _write_graph(plan, recipe, model, module, directory / graph, watch)
        watch.on_step(steps.COMPARE)
        report = compare_graph(directory / graph, module, plan.examples)
        judge_home(report, request)
        loss = _measure_loss(plan, module, directory / graph, watch)
        watch.on_step(WRITE)
        _write_around(plan, model, directory)
        record = describe(
            plan, draft, opset=opset, recipe=recipe, coverage=coverage, report=report, loss=loss
        )
        write_record(record, directory)
        draft.put_in_place()
    return HomeResult(request.output, record)


def _load_whole(plan: HomePlan) -> tuple[Any, Answering]:
    purpose = plan.purpose
    model = load_whole_model(plan.source, purpose.task, num_labels=purpose.num_labels, stream=True)
    if plan.adapter is not None:
        model = merge_adapter(model, plan.adapter)
    if purpose.task == "causal_lm":
        return model, WholeDecoder(model)
    decoder = is_decoder(plan.source.config)
    types = not decoder and (getattr(plan.source.config, "type_vocab_size", 0) or 0) > 1
    # Devices upload activations without token types, so an adapter of theirs never saw any.
    trained_without = plan.adapter is not None and plan.adapter.trained_here
    return model, WholeClassifier(model, decoder=decoder, token_types=types and not trained_without)


def _load_half(plan: HomePlan) -> tuple[Any, Answering]:
    purpose, cut = plan.purpose, plan.request.cut
    segment = load_server_segment(
        plan.source, cut, purpose.task, num_labels=purpose.num_labels, stream=True
    )
    if plan.adapter is not None:
        segment = replace(segment, model=merge_adapter(segment.model, plan.adapter))
    lower = load_device_segment(plan.source, cut, stream=True)
    return segment.model, ServerHalf(segment, lower, int(plan.source.config.hidden_size))


def _calibrated(plan: HomePlan, model: Any, module: Answering, watch: steps.Watcher) -> Recipe:
    if not plan.calibration:
        return plan.recipe
    watch.on_step(steps.CALIBRATE)
    calibration = calibrate_answering(
        module, model.base_model_prefix, plan.calibration, watch.on_part
    )
    keep = frozenset(plan.request.keep_fp)
    return replace(plan.recipe, calibration=calibration, keep_fp=keep)


def _write_graph(
    plan: HomePlan,
    recipe: Recipe,
    model: Any,
    module: Answering,
    file: Path,
    watch: steps.Watcher,
) -> tuple[int, Coverage]:
    products = 0 if recipe.precision == "fp32" else _count_products(module)
    watch.on_step(steps.TRACE)
    graph = trace_answering(module, model.base_model_prefix, opset=plan.request.opset)
    opset = opset_of(graph)
    watch.on_step(steps.QUANTIZE)
    fuse_graph(graph)
    coverage = apply_precision(graph, recipe, products=products, on_part=watch.on_part)
    share_tables(graph)
    watch.on_step(steps.SAVE)
    ir.save(graph, file, external_data=f"{file.name}.data")
    return opset, coverage


def _count_products(module: Answering) -> int:
    def run(ids: Tensor) -> object:
        return module(*module.feed(ids, torch.ones_like(ids), None).values())

    return count_products(module, run)


def _measure_loss(
    plan: HomePlan, module: Answering, graph: Path, watch: steps.Watcher
) -> HomeLoss | None:
    if not plan.windows:
        return None
    watch.on_step(steps.LOSS)
    loss = measure_home_loss(graph, module, plan.windows, watch.on_part)
    judge_gap(loss.gap, loss.torch, plan.request)
    return loss


def _write_around(plan: HomePlan, model: Any, directory: Path) -> None:
    config = model.config
    restore_padding(config, plan.source.config)
    config.use_cache = plan.purpose.task == "causal_lm"
    write_config(config, directory, architecture=type(model).__name__, labels=plan.purpose.labels)
    if plan.purpose.task == "causal_lm":
        write_generation_config(plan.source, directory)
    if plan.request.whole:
        copy_tokenizer(plan.source, plan.text, directory)
