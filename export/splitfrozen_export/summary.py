"""What the exporter says at the end: lines for a person or one JSON object. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitfrozen.manifest import Manifest
from splitfrozen_export.precision.quantize import MAX_ERROR
from splitfrozen_export.request import Request, Result
from splitfrozen_export.words import megabytes


def summary_json(result: Result) -> dict[str, Any]:
    """All that a script wants to know about a written bundle."""
    manifest = result.manifest
    report = manifest.report
    return {
        "output": str(result.directory),
        "bundle": result.id,
        "base_model": manifest.base_model.id,
        "revision": manifest.base_model.revision,
        "family": manifest.family,
        "cut": manifest.cut,
        "num_layers": manifest.num_layers,
        "precision": manifest.precision,
        "wire": manifest.wire,
        "opset": manifest.opset,
        "prefix_digest": manifest.prefix_digest,
        "size": sum(entry.size for entry in manifest.files.values()),
        "files": {name: entry.size for name, entry in sorted(manifest.files.items())},
        "report": dict(report),
    }


def summary_lines(result: Result, request: Request) -> list[str]:
    """The same for a person, with the commands that come next."""
    manifest, report = result.manifest, result.manifest.report
    sizes = [(name, entry.size) for name, entry in sorted(manifest.files.items())]
    return [
        f"{manifest.base_model.id} ({manifest.family}), blocks 0..{manifest.cut - 1} of "
        f"{manifest.num_layers}, precision {manifest.precision}, wire {manifest.wire}, "
        f"opset {manifest.opset}",
        f"Bundle     {result.directory}  ({megabytes(sum(size for _, size in sizes))})",
        *(f"           {name:21}  {megabytes(size)}" for name, size in sizes),
        f"Id         {result.id}",
        f"Weights    {_coverage(manifest.precision, report)}",
        f"Proof      {_proof(report)}",
        f"Accuracy   {_accuracy(report, _limit(request))} ({report['tokens']} tokens)",
        *_closer(manifest),
        *_blocks(report),
        *_generation(report),
        *_loss(report),
        f"Stability  {_stability(report)}",
        "",
        *_next_commands(result, request),
    ]


def products_line(precision: str, coverage: Mapping[str, Any]) -> str:
    """How many matrix products a precision changed."""
    if precision == "fp32":
        return "all matrix products in fp32"
    return f"{coverage['products']} matrix products in {precision}"


def _coverage(precision: str, report: Mapping[str, Any]) -> str:
    coverage, recipe = report["coverage"], report["recipe"]
    parts = [products_line(precision, coverage)]
    if coverage["products_4bit"]:
        parts.append(f"{coverage['products_4bit']} of them with 4-bit weights")
    if coverage["smoothed"]:
        parts.append(f"{coverage['smoothed']} of their inputs balanced by --calibrate")
    if coverage["kept"]:
        parts.append(f"in fp32: {', '.join(coverage['kept'])}")
    return "; ".join([*parts, f"embedding tables {recipe['embedding']}"])


def _proof(report: Mapping[str, Any]) -> str:
    real = report["real_difference"]
    weights = "not run on the weights" if real is None else f"{real} on the weights"
    twin = report["twin_difference"]
    return (
        f"device + server = whole model: difference {twin} on a random model of the same "
        f"shape, {weights}"
    )


def _accuracy(close: Mapping[str, Any], limit: str = "") -> str:
    return (
        f"relative error {close['relative_error']:.2g}{limit}, "
        f"worst token {close['worst_token']:.2g}, "
        f"cosine mean {close['cosine_mean']:.5f}, least {close['cosine_min']:.5f}"
    )


def _limit(request: Request) -> str:
    if request.max_error is not None:
        return f" (your --max-error: {request.max_error:g})"
    return f" (limit of {request.precision}: {MAX_ERROR[request.precision]:g})"


def _closer(manifest: Manifest) -> list[str]:
    """How to come closer, where the error is more than half of what the precision may cost."""
    report, precision = manifest.report, manifest.precision
    large = report["relative_error"] > MAX_ERROR[precision] / 2
    if precision == "fp32" or not large or report["recipe"]["calibration"] is not None:
        return []
    other = "fp32" if precision == "int8-hq" else "int8-hq"
    return [f"Closer:    --calibrate FILE.jsonl, or --precision {other}"]


def _next_commands(result: Result, request: Request) -> list[str]:
    """A server takes a bundle when it knows the base model."""
    base, bundle = result.manifest.base_model, shlex.quote(str(result.directory))
    here = base.revision is None
    source = str(Path(request.model).resolve()) if here else request.model
    add = [base.id.rsplit("/", 1)[-1], source]
    if request.revision is not None and not here:
        add += ["--revision", request.revision]
    if request.trust_remote_code:
        add.append("--trust-remote-code")
    return [
        f"Next: splitfrozen-server models add {shlex.join(add)}",
        f"      splitfrozen-server bundles add {bundle}",
        f"      or from another machine: splitfrozen-bundle publish {bundle} --server URL",
    ]


def _blocks(report: Mapping[str, Any]) -> list[str]:
    """After each block below the last one; the last one's output is what is sent."""
    return [
        f"           after block {index}: {_accuracy(block)}"
        for index, block in enumerate(report["blocks"][:-1])
    ]


def _generation(report: Mapping[str, Any]) -> list[str]:
    past = report["generation"]
    if past is None:
        return []
    if "refused" in past:
        return [f"Generation not token by token on the device: {past['refused']}"]
    same = "the same bytes as" if past["same_bytes"] else "not the same bytes as"
    return [
        f"Generation relative error {past['relative_error']:.2g} token by token, {same} reading "
        f"the text at once ({past['tokens']} tokens)"
    ]


def _loss(report: Mapping[str, Any]) -> list[str]:
    loss = report["loss"]
    if loss is None:
        return []
    return [
        f"Loss       {loss['whole']:.4f} nats per token for the whole model; "
        f"{loss['device_gap']:+.4f} with this device segment, {loss['wire_gap']:+.4f} over the "
        f"wire ({loss['tokens']} tokens)"
    ]


def _stability(report: Mapping[str, Any]) -> str:
    text = f"batch neighbours and padding change {report['neighbour_difference']:g}"
    later = report["later_token_difference"]
    return text if later is None else f"{text}, later tokens {later:g}"
