"""The manifest of an exported bundle: what was made, from what, and how well it measured.

Nothing in it depends on when, where or by whom: the same export gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from splitfrozen.manifest import BaseModel, FileEntry, Manifest
from splitfrozen_export.measure.closeness import Closeness
from splitfrozen_export.measure.loss import LossReport
from splitfrozen_export.measure.verify import Report
from splitfrozen_export.past import CachedReport
from splitfrozen_export.plan import Plan
from splitfrozen_export.precision.quantize import Coverage, Recipe
from splitfrozen_export.split import ModelSource, Proof

_TOOLS = ("splitfrozen", "torch", "transformers", "onnx-ir", "onnxscript", "onnxruntime")
_WIRE_CODECS = {
    "fp32": ("fp32", "bf16"),
    "bf16": ("bf16", "fp32"),
    "int8": ("int8", "bf16", "fp32"),
}
_DIGITS = 6  # of a measured number; what comes after means nothing


@dataclass(frozen=True)
class Built:
    """The graphs on disk and what was found out about them."""

    opset: int
    hidden_size: int  # channels at the cut
    recipe: Recipe
    coverage: Coverage
    report: Report
    blocks: Sequence[Closeness]  # after each block of the device segment
    past: CachedReport | str | None  # of the graph with past keys and values, or why there is none
    loss: LossReport | None  # None without an evaluation text


def describe_bundle(
    plan: Plan, *, proof: Proof, built: Built, digest: str, files: Mapping[str, FileEntry]
) -> Manifest:
    """Put everything that an export found out into a manifest."""
    request, source, blueprint = plan.request, plan.source, plan.blueprint
    config = source.config
    return Manifest(
        base_model=BaseModel(_public_name(source), source.revision),
        prefix_digest=digest,
        family=config.model_type,
        architecture="decoder" if blueprint.causal else "encoder",
        hidden_size=built.hidden_size,
        num_layers=int(config.num_hidden_layers),
        cut=request.cut,
        max_positions=blueprint.max_positions or plan.preprocess.max_length,
        vocab_size=int(config.vocab_size),
        precision=request.precision,
        wire=request.wire,
        wire_codecs=_WIRE_CODECS[request.wire],
        opset=built.opset,
        preprocess=plan.preprocess,
        files=files,
        tools={name: version(name) for name in _TOOLS},
        report=_report(plan, proof, built),
    )


def _report(plan: Plan, proof: Proof, built: Built) -> dict[str, Any]:
    measured = {
        **asdict(built.report),
        **asdict(proof),
        "eval_text": "built-in" if plan.request.eval_text is None else "given",
        "blocks": [asdict(block) for block in built.blocks],
        "generation": _generation(built.past),
        "loss": None if built.loss is None else asdict(built.loss),
    }
    return {
        **_rounded(measured),
        "recipe": _recipe(plan, built),
        "coverage": asdict(built.coverage),
    }


def _generation(past: CachedReport | str | None) -> dict[str, Any] | None:
    if isinstance(past, str):
        return {"refused": past}
    return None if past is None else asdict(past)


def _recipe(plan: Plan, built: Built) -> dict[str, Any]:
    """What was asked for, so that the same bundle can be made again."""
    recipe, calibrated = built.recipe, built.recipe.calibration
    return {
        "embedding": recipe.embedding,
        "calibration": None if calibrated is None else calibrated.digest,
        "calibration_rows": len(plan.calibration),
        "keep_fp": sorted(recipe.keep_fp),
        "reduce_range": recipe.reduce_range,
        "target": plan.request.target,
    }


def _rounded(value: Any) -> Any:
    """Measured numbers to the digits that mean something."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _public_name(source: ModelSource) -> str:
    """The Hub id, or the last part of a directory: a manifest tells no one's paths."""
    return source.id if source.revision is not None else Path(source.id).resolve().name
