"""Attention takes its inputs unsplit where it can, and gives the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from benchmarks.shapes import write_shape
from splitfrozen_export.graph.fuse import fuse_graph
from splitfrozen_export.graph.trace import export_graph, save_graph
from splitfrozen_export.split import load_device_segment, resolve_model
from tests.export.text_graphs import parse

SPLIT = """
block (float[batch, seq, 32] q, float[batch, seq, 16] k, float[batch, seq, 16] v)
    => (float[batch, seq, 32] y)
    <float[batch, seq, 4, 8] q4, float[batch, seq, 2, 8] k4, float[batch, seq, 2, 8] v4,
     float[batch, seq, 32] y>
{
    by4 = Constant<value_ints = [0, 0, 4, 8]>()
    by2 = Constant<value_ints = [0, 0, 2, 8]>()
    whole = Constant<value_ints = [0, 0, 32]>()
    q4 = Reshape(q, by4)
    k4 = Reshape(k, by2)
    v4 = Reshape(v, by2)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 1, 3]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    at = Attention(qt, kt, vt)
    a = Transpose<perm = [0, 2, 1, 3]>(at)
    y = Reshape(a, whole)
}"""


def _operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Constant"]


def test_the_split_of_heads_goes() -> None:
    model = parse(SPLIT)
    assert fuse_graph(model) == 1
    assert _operators(model) == ["Attention"]
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert [value.name for value in node.inputs] == ["q", "k", "v"]
    assert node.attributes["q_num_heads"].as_int() == 4
    assert node.attributes["kv_num_heads"].as_int() == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vt = Transpose<perm = [0, 2, 1, 3]>(v4)", "vt = Transpose<perm = [0, 2, 3, 1]>(v4)"),
        (
            "kt = Transpose<perm = [0, 2, 1, 3]>(k4)",
            "kn = Transpose<perm = [0, 2, 1, 3]>(k4) kt = Abs(kn)",
        ),
        ("y = Reshape(a, whole)", "b = Reshape(a, whole) c = ReduceSum(at) y = Add(b, c)"),
    ],
)
def test_an_attention_with_anything_else_around_it_stays(old: str, new: str) -> None:
    assert old in SPLIT
    model = parse(SPLIT.replace(old, new))
    before = _operators(model)
    assert fuse_graph(model) == 0
    assert _operators(model) == before


@pytest.mark.parametrize("shape", ["tiny", "tiny-llama"])
def test_the_results_are_the_same_bits(shape: str, tmp_path: Path) -> None:
    model = write_shape(shape, tmp_path / "model")
    plain = export_graph(load_device_segment(resolve_model(str(model)), 2))
    fused = plain.clone()
    assert fuse_graph(fused) == 2
    assert len(list(fused.graph)) <= len(list(plain.graph)) - 2 * 8
    assert not {"Expand", "Transpose"} & {
        node.op_type for node in fused.graph if _reaches_attention(node)
    }
    assert np.array_equal(_run(plain, tmp_path / "plain"), _run(fused, tmp_path / "fused"))


def _reaches_attention(node: ir.Node) -> bool:
    return any(after.op_type == "Attention" for after in node.successors())


def _run(model: ir.Model, directory: Path) -> NDArray[np.float32]:
    directory.mkdir()
    save_graph(model, directory)
    session = ort.InferenceSession(directory / "device.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 250, (3, 19))
    mask = np.ones_like(ids)
    mask[1, 11:] = 0  # padded right
    mask[2, :5] = 0  # padded left
    hidden: NDArray[np.float32] = session.run(
        ["hidden"], {"input_ids": ids, "attention_mask": mask}
    )[0]
    return hidden[mask.astype(bool)]
