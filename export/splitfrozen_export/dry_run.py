"""What an export would make, how large, and from what: said without reading a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitfrozen_export.estimate import (
    bytes_by_precision,
    data_bytes,
    memory_bytes,
    segment_weights,
    wire_bytes,
)
from splitfrozen_export.plan import Plan
from splitfrozen_export.precision.quantize import match_layers
from splitfrozen_export.split.needs import missing_files
from splitfrozen_export.split.source import absent_files, weight_map
from splitfrozen_export.words import megabytes


@dataclass(frozen=True)
class Forecast:
    """A plan in numbers. Sizes are estimates, within a few percent."""

    plan: Plan
    parameters: int  # of the device segment
    fp32_bytes: int  # of its weights
    data_bytes: int  # of device.onnx.data as asked for
    by_precision: dict[str, int]  # the same for every precision
    wire_bytes: dict[str, int]  # of one token, by codec
    memory: dict[str, int]  # peak bytes: export, device
    download: dict[str, int | None]  # bytes still to fetch, by file; None: the Hub did not say


def forecast(plan: Plan) -> Forecast:
    """Work out the sizes of a plan. Asks the Hub for the sizes of files, at most.

    Raises ModelError `invalid_request` for a layer to keep that does not exist.
    """
    cut = plan.request.cut
    weights = segment_weights(plan.source, cut)
    products = (weight.name for weight in weights if weight.kind == "product")
    match_layers((name.removesuffix(".weight") for name in products), plan.recipe.keep_fp)
    data = data_bytes(weights, plan.recipe)
    fp32 = sum(weight.fp32_bytes for weight in weights)
    sharded = weight_map(plan.source.path) is not None  # a single file is fetched whole anyway
    upper_too = bool(plan.windows) or (sharded and plan.proves_weights)
    missing = absent_files(plan.source) if upper_too else missing_files(plan.source, cut)
    return Forecast(
        plan,
        fp32 // 4,
        fp32,
        data,
        bytes_by_precision(weights),
        wire_bytes(int(plan.source.config.hidden_size)),
        dict(memory_bytes(weights, data)),
        missing,
    )


def forecast_json(known: Forecast) -> dict[str, Any]:
    """The forecast for a script."""
    plan = known.plan
    request, recipe = plan.request, plan.recipe
    return {
        "dry_run": True,
        "output": str(request.output),
        "model": plan.source.id,
        "revision": plan.source.revision,
        "family": plan.source.config.model_type,
        "architecture": "decoder" if plan.blueprint.causal else "encoder",
        "cut": request.cut,
        "num_layers": int(plan.source.config.num_hidden_layers),
        "precision": request.precision,
        "embedding": recipe.embedding,
        "wire": request.wire,
        "max_length": plan.preprocess.max_length,
        "generation": plan.generation,
        "segment_parameters": known.parameters,
        "segment_fp32_bytes": known.fp32_bytes,
        "data_bytes": known.data_bytes,
        "data_bytes_by_precision": known.by_precision,
        "wire_bytes_per_token": known.wire_bytes,
        "memory_bytes": known.memory,
        "download_bytes": known.download,
    }


def forecast_lines(known: Forecast) -> list[str]:
    """The forecast for a person."""
    plan = known.plan
    request, config = plan.request, plan.source.config
    others = ", ".join(f"{name} {megabytes(size)}" for name, size in known.by_precision.items())
    wire = ", ".join(f"{codec} {size}" for codec, size in known.wire_bytes.items())
    graphs = "device.onnx, device_with_past.onnx" if plan.generation else "device.onnx"
    return [
        f"Dry run: nothing is read or written. {plan.source.id} ({config.model_type}), blocks "
        f"0..{request.cut - 1} of {config.num_hidden_layers}, precision {request.precision}, "
        f"embedding tables {plan.recipe.embedding}, wire {request.wire}",
        f"Segment    {known.parameters:,} parameters, {megabytes(known.fp32_bytes)} in fp32",
        f"Bundle     {request.output}: {graphs}, tokenizer.json, and about "
        f"{megabytes(known.data_bytes)} of weights",
        f"           other precisions: {others}",
        f"Wire       bytes of a token: {wire}",
        f"Memory     about {megabytes(known.memory['export'])} for this export, "
        f"{megabytes(known.memory['device'])} on a device",
        f"Download   {download_line(known.download)}",
    ]


def download_line(download: Mapping[str, int | None]) -> str:
    """What an export would still fetch, in words."""
    if not download:
        return "nothing: all files are here"
    names = ", ".join(download)
    return f"{megabytes(sum(size or 0 for size in download.values()))} ({names})"
