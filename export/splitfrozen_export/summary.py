"""What the exporter says at the end: lines for a person or one JSON object. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitfrozen_export.request import Result


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


def summary_lines(result: Result) -> list[str]:
    """The same for a person, with the command that comes next."""
    manifest, report = result.manifest, result.manifest.report
    sizes = [(name, entry.size) for name, entry in sorted(manifest.files.items())]
    return [
        f"{manifest.base_model.id} ({manifest.family}), blocks 0..{manifest.cut - 1} of "
        f"{manifest.num_layers}, precision {manifest.precision}, wire {manifest.wire}, "
        f"opset {manifest.opset}",
        f"Bundle     {result.directory}  ({megabytes(sum(size for _, size in sizes))})",
        *(f"           {name:21}  {megabytes(size)}" for name, size in sizes),
        f"Id         {result.id}",
        f"Weights    {_coverage(report)}",
        f"Proof      {_proof(report)}",
        f"Accuracy   {_accuracy(report)} ({report['tokens']} tokens)",
        *_blocks(report),
        *_generation(report),
        *_loss(report),
        f"Stability  {_stability(report)}",
        "",
        f"Next: splitfrozen-server bundles add {result.directory}",
    ]


def megabytes(size: int) -> str:
    """Bytes for a person; a megabyte is 10^6."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _coverage(report: Mapping[str, Any]) -> str:
    coverage, recipe = report["coverage"], report["recipe"]
    parts = [f"{coverage['products']} products coded"]
    if coverage["products_4bit"]:
        parts.append(f"{coverage['products_4bit']} of them in 4 bits")
    if coverage["smoothed"]:
        parts.append(f"{coverage['smoothed']} inputs smoothed")
    if coverage["kept"]:
        parts.append(f"in fp32: {', '.join(coverage['kept'])}")
    return "; ".join([*parts, f"embedding tables {recipe['embedding']}"])


def _proof(report: Mapping[str, Any]) -> str:
    real = report["real_difference"]
    weights = "not run on the weights" if real is None else f"{real} on the weights"
    twin = report["twin_difference"]
    return f"device + server = whole model: difference {twin} on a twin, {weights}"


def _accuracy(close: Mapping[str, Any]) -> str:
    return (
        f"relative error {close['relative_error']:.2g}, worst token {close['worst_token']:.2g}, "
        f"cosine mean {close['cosine_mean']:.5f}, least {close['cosine_min']:.5f}"
    )


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
