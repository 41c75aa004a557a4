"""A real bundle made in the test: embedding lookup as the device segment, ending in the codec."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from splitfrozen import graph
from splitfrozen.manifest import (
    MANIFEST_NAME,
    BaseModel,
    FileEntry,
    Manifest,
    Preprocess,
    manifest_bytes,
)
from tests.edge.tiny_codec import codec_constants, codec_nodes
from tests.edge.tiny_past import write_past_graph
from tests.tiny_tokenizer import TINY_VOCAB, TokenizerStyle, write_tiny_tokenizer

WIDTH = 16
CUT = 2


def embedding(seed: int = 0) -> NDArray[np.float32]:
    """The table [vocabulary, WIDTH] that the graph of `write_bundle` looks up."""
    return np.random.default_rng(seed).standard_normal((TINY_VOCAB, WIDTH)).astype(np.float32)


def write_bundle(
    directory: Path,
    *,
    family: str = "bert",
    table: NDArray[np.float32] | None = None,
    with_codec: bool = True,
    max_length: int = 32,
    chat_template: str | None = None,
    with_past: bool = False,
) -> Path:
    """Write graph, external weights, tokenizer and manifest; maybe the graph with past."""
    directory.mkdir(parents=True)
    style = TokenizerStyle.of(family)
    write_tiny_tokenizer(directory, style)
    (directory / "tokenizer_config.json").unlink()
    _write_graph(directory, embedding() if table is None else table, with_codec=with_codec)
    ids = style.config_ids()
    prefix = () if style.encoder or style.bos is None else (style.specials.index(style.bos),)
    rules = Preprocess(
        max_length, "right", prefix, ids["eos_token_id"], ids["pad_token_id"], chat_template
    )
    files = [graph.DEVICE_GRAPH, graph.DEVICE_WEIGHTS, graph.TOKENIZER]
    if with_past:
        write_past_graph(
            directory / graph.DEVICE_WITH_PAST, embedding() if table is None else table
        )
        files.append(graph.DEVICE_WITH_PAST)
    manifest = Manifest(
        base_model=BaseModel("tiny", None),
        prefix_digest="0" * 64,
        family=family,
        architecture="encoder" if style.encoder else "decoder",
        hidden_size=WIDTH,
        num_layers=4,
        cut=CUT,
        max_positions=512,
        vocab_size=TINY_VOCAB,
        precision="fp32",
        wire="int8",
        wire_codecs=("fp32", "bf16", "int8"),
        opset=20,
        preprocess=rules,
        files={name: _entry(directory / name) for name in files},
    )
    (directory / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
    return directory


def _entry(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))


def _write_graph(directory: Path, table: NDArray[np.float32], *, with_codec: bool) -> None:
    int64, axes = TensorProto.INT64, ["batch", "seq"]
    inputs = [
        helper.make_tensor_value_info(name, int64, axes)
        for name in (graph.INPUT_IDS, graph.ATTENTION_MASK)
    ]
    outputs = [_output(graph.HIDDEN, TensorProto.FLOAT, WIDTH)]
    # Padding multiplied by 0 / 0 is NaN there: whoever sent padded rows would be found out.
    nodes = [
        helper.make_node("Gather", ["table", graph.INPUT_IDS], ["looked_up"]),
        helper.make_node("Cast", [graph.ATTENTION_MASK], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["mask", "mask"], ["one_or_nan"]),
        helper.make_node("Unsqueeze", ["one_or_nan", "last"], ["factor"]),
        helper.make_node("Mul", ["looked_up", "factor"], [graph.HIDDEN]),
    ]
    weights = [numpy_helper.from_array(table, "table"), _constant("last", [-1])]
    if with_codec:
        nodes += codec_nodes()
        weights += codec_constants()
        outputs.append(_output(graph.HIDDEN_Q, TensorProto.INT8, WIDTH))
        outputs.append(_output(graph.SCALE, TensorProto.FLOAT16, 1))
    body = helper.make_graph(nodes, "device", inputs, outputs, weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(
        model,
        directory / graph.DEVICE_GRAPH,
        save_as_external_data=True,
        location=graph.DEVICE_WEIGHTS,
        size_threshold=64,
    )


def _output(name: str, kind: int, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", "seq", width])


def _constant(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)
