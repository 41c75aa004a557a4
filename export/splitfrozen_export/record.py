"""The manifest of an exported bundle: what was made, from what, and how well it measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from splitfrozen.manifest import BaseModel, FileEntry, Manifest, Preprocess
from splitfrozen_export.blueprint import Blueprint
from splitfrozen_export.quantize import Coverage
from splitfrozen_export.request import Request
from splitfrozen_export.split import ModelSource, Proof
from splitfrozen_export.verify import Report

_TOOLS = ("splitfrozen", "torch", "transformers", "onnx-ir", "onnxscript", "onnxruntime")
_WIRE_CODECS = {
    "fp32": ("fp32", "bf16"),
    "bf16": ("bf16", "fp32"),
    "int8": ("int8", "bf16", "fp32"),
}


@dataclass(frozen=True)
class Built:
    """A graph on disk and what was found out about it."""

    opset: int
    hidden_size: int  # channels at the cut
    coverage: Coverage
    report: Report


def describe_bundle(
    request: Request,
    source: ModelSource,
    *,
    blueprint: Blueprint,
    preprocess: Preprocess,
    proof: Proof,
    built: Built,
    digest: str,
    files: Mapping[str, FileEntry],
) -> Manifest:
    """Put everything that an export found out into a manifest."""
    config = source.config
    return Manifest(
        base_model=BaseModel(_public_name(source), source.revision),
        prefix_digest=digest,
        family=config.model_type,
        architecture="decoder" if blueprint.causal else "encoder",
        hidden_size=built.hidden_size,
        num_layers=int(config.num_hidden_layers),
        cut=request.cut,
        max_positions=blueprint.max_positions or preprocess.max_length,
        vocab_size=int(config.vocab_size),
        precision=request.precision,
        wire=request.wire,
        wire_codecs=_WIRE_CODECS[request.wire],
        opset=built.opset,
        preprocess=preprocess,
        files=files,
        tools={name: version(name) for name in _TOOLS},
        report=_report(request, proof, built),
    )


def _report(request: Request, proof: Proof, built: Built) -> dict[str, Any]:
    return {
        **asdict(built.report),
        **asdict(proof),
        "eval_text": "built-in" if request.eval_text is None else "given",
        "int8_products": built.coverage.products,
        "int8_tables": built.coverage.tables,
    }


def _public_name(source: ModelSource) -> str:
    """The Hub id, or the last part of a directory: a manifest tells no one's paths."""
    return source.id if source.revision is not None else Path(source.id).resolve().name
