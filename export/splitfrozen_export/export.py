"""The whole way from a model to a bundle, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from splitfrozen.errors import DataError, ModelError, SplitFrozenError
from splitfrozen.manifest import Preprocess
from splitfrozen_export.blueprint import Blueprint, available_memory, read_blueprint
from splitfrozen_export.bundle import check_target, draft_bundle
from splitfrozen_export.census import count_products
from splitfrozen_export.graph import export_graph, opset_of, save_graph
from splitfrozen_export.preprocess import TextSide, describe, read_text_side, write_tokenizer
from splitfrozen_export.quantize import MAX_ERROR, Coverage, apply_precision
from splitfrozen_export.record import Built, describe_bundle
from splitfrozen_export.request import Request, Result
from splitfrozen_export.samples import SENTENCES
from splitfrozen_export.split import (
    DeviceSegment,
    ModelSource,
    Proof,
    check_cut,
    load_device_segment,
    prefix_digest,
    prove_cut,
    resolve_model,
)
from splitfrozen_export.verify import Report, graph_in, verify
from splitfrozen_export.wire_codec import append_int8_codec

STEPS = (
    "Finding the model",
    "Proving the cut",
    "Loading the device segment",
    "Tracing it to ONNX",
    "Comparing ONNX Runtime with torch",
    "Writing the bundle",
)
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A request that nothing refuses: all is known that needs no weights."""

    request: Request
    source: ModelSource
    blueprint: Blueprint
    text: TextSide
    preprocess: Preprocess
    examples: Sequence[Sequence[int]]  # token ids to compare on


def export_bundle(request: Request, on_step: OnStep) -> Result:
    """Export a bundle; `on_step` is told each of STEPS as it begins.

    Raises SplitFrozenError: whatever `make_plan` refuses, and `check_failed` when a proof or a
    comparison fails. Then nothing new is left at `request.output`.
    """
    on_step(STEPS[0])
    plan = make_plan(request)
    on_step(STEPS[1])
    proof = prove(plan)
    with draft_bundle(request.output, force=request.force) as draft:
        built = build_graph(plan, draft.directory, on_step)
        on_step(STEPS[5])
        write_tokenizer(plan.text, draft.directory)
        manifest = describe_bundle(
            request,
            plan.source,
            blueprint=plan.blueprint,
            preprocess=plan.preprocess,
            proof=proof,
            built=built,
            digest=prefix_digest(plan.source, request.cut),
            files=draft.files(),
        )
        return Result(request.output, draft.publish(manifest), manifest)


def make_plan(request: Request) -> Plan:
    """Find and read everything but weights, and refuse what cannot be exported.

    Raises what `check_target`, `resolve_model`, `check_cut`, `describe` and `read_texts` raise.
    """
    check_target(request.output, force=request.force)
    texts = read_texts(request.eval_text)
    source = resolve_model(
        request.model, revision=request.revision, trust_remote_code=request.trust_remote_code
    )
    check_cut(source.config, request.cut, code=source.code)
    blueprint = read_blueprint(source)
    text = read_text_side(source)
    preprocess = describe(
        text,
        limit=blueprint.max_positions,
        max_length=request.max_length,
        causal=blueprint.causal,
        steady_only=blueprint.steady_only,
    )
    examples = [text.encode(line) for line in texts]
    _require_known_ids(source, examples)
    return Plan(request, source, blueprint, text, preprocess, examples)


def _require_known_ids(source: ModelSource, examples: Sequence[Sequence[int]]) -> None:
    largest = max((max(ids) for ids in examples if ids), default=0)
    if largest >= source.config.vocab_size:
        raise ModelError(
            "model_not_supported",
            f"the tokenizer of {source.id!r} gives the token id {largest}, but the model knows "
            f"{source.config.vocab_size}; they do not belong together",
        )


def prove(plan: Plan) -> Proof:
    """Prove the cut on a twin, and on the weights when asked or when they fit into memory.

    Raises SplitFrozenError `check_failed` for any difference but 0.0.
    """
    wish = plan.request.prove
    real = wish == "full" or (wish == "auto" and plan.blueprint.fits(available_memory()))
    proof = prove_cut(plan.source, plan.request.cut, real=real)
    if proof.twin_difference != 0 or (proof.real_difference or 0) != 0:
        raise SplitFrozenError(
            "check_failed",
            f"{plan.request.model} cut at {plan.request.cut} is not the whole model: logits differ "
            f"by {proof.twin_difference} on a random twin, {proof.real_difference} on the weights",
        )
    return proof


def build_graph(plan: Plan, directory: Path, on_step: OnStep) -> Built:
    """Write the device graph into `directory` and measure it there.

    Raises SplitFrozenError `check_failed` when it is not close enough to the torch segment.
    """
    request = plan.request
    on_step(STEPS[2])
    segment = load_device_segment(plan.source, request.cut)
    on_step(STEPS[3])
    model = export_graph(segment, opset=request.opset)
    opset, width = opset_of(model), channels(model)
    coverage = finish_graph(model, segment, precision=request.precision, wire=request.wire)
    save_graph(model, directory)
    del model  # its weights are on the disk now
    on_step(STEPS[4])
    report = verify(
        graph_in(directory),
        segment,
        plan.examples,
        max_length=plan.preprocess.max_length,
        causal=plan.blueprint.causal,
    )
    judge(report, request)
    return Built(opset, width, coverage, report)


def finish_graph(model: ir.Model, segment: DeviceSegment, *, precision: str, wire: str) -> Coverage:
    """Bring a traced fp32 graph to its precision and let it end in its wire codec, in place."""
    products = 0 if precision == "fp32" else count_products(segment)
    coverage = apply_precision(model, precision, products=products)
    if wire == "int8":
        append_int8_codec(model, channels(model))
    return coverage


def channels(model: ir.Model) -> int:
    """Width of the activations at the cut."""
    shape = model.graph.outputs[0].shape
    assert shape is not None
    return int(shape[-1])  # type: ignore[arg-type]


def judge(report: Report, request: Request) -> None:
    """Raise SplitFrozenError `check_failed` when a report is worse than the request allows."""
    limit = MAX_ERROR[request.precision] if request.max_error is None else request.max_error
    if not report.relative_error <= limit:  # NaN fails too
        raise SplitFrozenError(
            "check_failed",
            f"the graph's relative error {report.relative_error:.3g} (worst token "
            f"{report.worst_token:.3g}) is above --max-error {limit:g}; no bundle was written",
        )
    changed = max(report.neighbour_difference, report.later_token_difference or 0)
    if request.precision == "int8" and changed != 0:
        raise SplitFrozenError(
            "check_failed",
            f"an activation changes by {changed:.3g} with its batch, padding or later tokens; "
            "int8 must be the same to the bit: export with --precision fp32",
        )


def read_texts(path: Path | None) -> tuple[str, ...]:
    """The texts to compare on: one a line of the file, or the built-in sentences."""
    if path is None:
        return SENTENCES
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", path=str(path)) from None
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise DataError("has no text; write one text a line", path=str(path))
    return texts
