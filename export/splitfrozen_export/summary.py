"""What the exporter says at the end: lines for a person or one JSON object. Pure."""

from __future__ import annotations

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
    manifest = result.manifest
    sizes = [(name, entry.size) for name, entry in sorted(manifest.files.items())]
    return [
        f"{manifest.base_model.id} ({manifest.family}), blocks 0..{manifest.cut - 1} of "
        f"{manifest.num_layers}, precision {manifest.precision}, wire {manifest.wire}, "
        f"opset {manifest.opset}",
        f"Bundle     {result.directory}  ({_megabytes(sum(size for _, size in sizes))})",
        *(f"           {name:18}  {_megabytes(size)}" for name, size in sizes),
        f"Id         {result.id}",
        f"Proof      {_proof(manifest.report)}",
        f"Accuracy   {_accuracy(manifest.report)}",
        f"Stability  {_stability(manifest.report)}",
        "",
        f"Next: splitfrozen-server bundles add {result.directory}",
    ]


def _proof(report: Any) -> str:
    real = report["real_difference"]
    weights = "not run on the weights" if real is None else f"{real} on the weights"
    twin = report["twin_difference"]
    return f"device + server = whole model: difference {twin} on a twin, {weights}"


def _accuracy(report: Any) -> str:
    return (
        f"relative error {report['relative_error']:.2g}, worst token {report['worst_token']:.2g}, "
        f"cosine mean {report['cosine_mean']:.5f}, least {report['cosine_min']:.5f} "
        f"({report['tokens']} tokens)"
    )


def _stability(report: Any) -> str:
    text = f"batch neighbours and padding change {report['neighbour_difference']:g}"
    later = report["later_token_difference"]
    return text if later is None else f"{text}, later tokens {later:g}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
