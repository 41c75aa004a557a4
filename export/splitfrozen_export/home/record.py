"""export.json: what a directory holds, where it came from and how close it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitfrozen.bundle import hash_file
from splitfrozen_export.bundle import RECORD, Draft
from splitfrozen_export.precision.quantize import Coverage, Recipe
from splitfrozen_export.summary import products_line

if TYPE_CHECKING:
    from splitfrozen_export.home.check import HomeReport
    from splitfrozen_export.home.loss import HomeLoss
    from splitfrozen_export.home.plan import HomePlan

_FORMAT = 1
_TOOLS = ("splitfrozen", "torch", "transformers", "onnx", "onnxruntime")


@dataclass(frozen=True)
class HomeResult:
    """A written directory."""

    directory: Path
    record: Mapping[str, Any]  # what its export.json says

    def summary_json(self) -> dict[str, Any]:
        """The record and the place, for programs."""
        return {"directory": str(self.directory), **self.record}

    def summary_lines(self) -> list[str]:
        """The same for a person."""
        record, report = self.record, self.record["report"]
        size = sum(file["bytes"] for file in record["files"].values())
        adapter = record["adapter"]
        whole, generates = record["kind"] == "whole", record["task"] == "causal_lm"
        what = "whole model" if whole else f"blocks from {record['cut']} on"
        lines = [
            f"Wrote {self.directory} ({size / 1e6:.1f} MB): {record['base_model']}, {what}, "
            f"{record['precision']}",
            f"  adapter    merged from {adapter['path']}" if adapter else "  adapter    none",
            f"  task       {record['task']}"
            + (f" ({', '.join(record['labels'])})" if record["labels"] else ""),
            f"  graph      {record['graph']}, opset {record['opset']}, "
            f"{products_line(record['precision'], record['coverage'])}",
            f"  closeness  relative error of the logits {report['relative_error']:.2g}; same "
            f"choice as torch for {report['same_choice']:.1%} of {report['compared']} "
            + ("tokens" if generates else "texts"),
        ]
        if loss := record["loss"]:
            lines.append(
                f"  loss       {loss['exported']:.4f} nats per token, in torch "
                f"{loss['torch']:.4f} ({loss['gap']:+.4f}), over {loss['tokens']} tokens"
            )
        if whole and generates:
            place = shlex.quote(str(self.directory))
            example = f'Next: python examples/generate_on_device.py {place} "Once upon a time"'
            lines += ["", example]
        return lines


def describe(
    plan: HomePlan,
    draft: Draft,
    *,
    opset: int,
    recipe: Recipe,
    coverage: Coverage,
    report: HomeReport,
    loss: HomeLoss | None,
) -> dict[str, Any]:
    """Everything about the files in `draft`, JSON-ready."""
    request, adapter = plan.request, plan.adapter
    return {
        "format": _FORMAT,
        "kind": "whole" if request.whole else "server_half",
        "graph": next(path.name for path in draft.directory.glob("*.onnx")),
        "base_model": plan.source.id,
        "revision": plan.source.revision,
        "adapter": None
        if adapter is None
        else {
            "path": str(adapter.path),
            "sha256": hash_file(adapter.path / "adapter_model.safetensors"),
        },
        "task": plan.purpose.task,
        "labels": list(plan.purpose.labels),
        "cut": None if request.whole else request.cut,
        "precision": request.precision,
        "embedding": recipe.embedding,
        "calibration": None if recipe.calibration is None else recipe.calibration.digest,
        "opset": opset,
        "coverage": asdict(coverage),
        "report": asdict(report),
        "loss": None if loss is None else asdict(loss),
        "tools": {name: version(name) for name in _TOOLS},
        "files": {
            name: {"sha256": entry.sha256, "bytes": entry.size}
            for name, entry in draft.files().items()
        },
    }


def write_record(record: Mapping[str, Any], directory: Path) -> None:
    """Write export.json."""
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (directory / RECORD).write_text(text, "utf-8")
