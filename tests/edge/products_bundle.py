"""A bundle whose graph multiplies matrices as a precision does: what prepacking is about."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitfrozen import graph
from splitfrozen.manifest import MANIFEST_NAME, FileEntry, manifest_bytes, parse_manifest
from tests.edge.tiny_bundle import write_bundle

WIDTH = 64
BLOCKS = 2  # one product each
_BLOCK = 32  # weights that share a scale in MatMulNBits


def write_products_bundle(
    directory: Path, precision: str, *, kept: tuple[str, ...] = (), seed: int = 0
) -> Path:
    """Embedding lookup and two products in fp32, int8 or int8-hq; outputs `hidden` only."""
    write_bundle(directory, with_codec=False)
    raw = (directory / MANIFEST_NAME).read_bytes()
    manifest = parse_manifest(raw)
    for name in (graph.DEVICE_GRAPH, graph.DEVICE_WEIGHTS):
        (directory / name).unlink()
    _write_graph(directory, precision, manifest.vocab_size, np.random.default_rng(seed))
    files = {
        name: FileEntry(hashlib.sha256(data).hexdigest(), len(data))
        for name in manifest.files
        for data in [(directory / name).read_bytes()]
    }
    manifest = replace(
        manifest,
        hidden_size=WIDTH,
        cut=BLOCKS,
        precision=precision,
        wire="fp32",
        files=files,
        report={"coverage": {"kept": list(kept)}},
    )
    (directory / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return directory


def _write_graph(
    directory: Path, precision: str, vocabulary: int, source: np.random.Generator
) -> None:
    int64, axes = TensorProto.INT64, ["batch", "seq"]
    inputs = [
        helper.make_tensor_value_info(name, int64, axes)
        for name in (graph.INPUT_IDS, graph.ATTENTION_MASK)
    ]
    table = source.standard_normal((vocabulary, WIDTH)).astype(np.float32)
    weights = [numpy_helper.from_array(table, "table")]
    nodes = [helper.make_node("Gather", ["table", graph.INPUT_IDS], ["step0"])]
    for block in range(BLOCKS):
        made, arrays = _PRODUCTS[precision](f"step{block}", f"step{block + 1}", source)
        nodes += made
        weights += arrays
    nodes += [
        helper.make_node("Cast", [graph.ATTENTION_MASK], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["factor"]),
        helper.make_node("Mul", [f"step{BLOCKS}", "factor"], [graph.HIDDEN]),
    ]
    weights.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    shape = ["batch", "seq", WIDTH]
    output = helper.make_tensor_value_info(graph.HIDDEN, TensorProto.FLOAT, shape)
    body = helper.make_graph(nodes, "device", inputs, [output], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(
        helper.make_model(body, opset_imports=opsets, ir_version=10),
        directory / graph.DEVICE_GRAPH,
        save_as_external_data=True,
        location=graph.DEVICE_WEIGHTS,
        size_threshold=64,
    )


def _float_product(before: str, after: str, source: np.random.Generator) -> Any:
    weight = source.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 8
    name = f"{after}_weight"
    node = helper.make_node("MatMul", [before, name], [after])
    return [node], [numpy_helper.from_array(weight, name)]


def _integer_product(before: str, after: str, source: np.random.Generator) -> Any:
    """Activations in uint8 around 128, weights in int8 per column."""
    names = {part: f"{after}_{part}" for part in ("weight", "scale", "step", "zero", "coded")}
    weight = source.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    scale = source.uniform(1e-3, 2e-3, WIDTH).astype(np.float32)
    arrays = {
        "weight": weight,
        "scale": scale,
        "step": np.array(0.03, np.float32),
        "zero": np.array(128, np.uint8),
    }
    coded = [before, names["step"], names["zero"]]
    product = [names[part] for part in ("coded", "weight", "step", "scale", "zero")]
    nodes = [
        helper.make_node("QuantizeLinear", coded, [names["coded"]]),
        helper.make_node("MatMulIntegerToFloat", product, [after], domain="com.microsoft"),
    ]
    return nodes, [numpy_helper.from_array(value, names[part]) for part, value in arrays.items()]


def _blocked_product(before: str, after: str, source: np.random.Generator) -> Any:
    """8-bit weights in blocks of 32."""
    groups = WIDTH // _BLOCK
    weight = source.integers(0, 256, (WIDTH, groups, _BLOCK)).astype(np.uint8)
    scale = source.uniform(1e-3, 2e-3, WIDTH * groups).astype(np.float32)
    names = [f"{after}_weight", f"{after}_scale"]
    node = helper.make_node(
        "MatMulNBits",
        [before, *names],
        [after],
        domain="com.microsoft",
        K=WIDTH,
        N=WIDTH,
        bits=8,
        block_size=_BLOCK,
        accuracy_level=4,
    )
    pairs = zip((weight, scale), names, strict=True)
    return [node], [numpy_helper.from_array(value, name) for value, name in pairs]


_PRODUCTS = {"fp32": _float_product, "int8": _integer_product, "int8-hq": _blocked_product}
