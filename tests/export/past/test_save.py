"""The weights of a bundle lie on the disk once, whatever graphs read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from splitfrozen.errors import ModelError, SplitFrozenError
from splitfrozen_export.graph.edits import add_constant
from splitfrozen_export.measure.verify import graph_in
from splitfrozen_export.past import cached_graph_in, export_cached_graph, save_beside
from splitfrozen_export.past.save import MAX_INLINE, SHARED_FROM
from splitfrozen_export.split import load_device_segment, resolve_model
from tests.export.past.conftest import Pair, write_pair


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_second_graph_adds_its_nodes_and_no_weights(stories_pair: Pair, precision: str) -> None:
    directory = stories_pair.directories[precision]
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    assert sorted(sizes) == ["device.onnx", "device.onnx.data", "device_with_past.onnx"]
    assert sizes["device_with_past.onnx"] < 60_000
    proto = onnx.load(cached_graph_in(directory), load_external_data=False)
    inside = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert inside < 5_000  # constants of a few numbers each


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_both_graphs_point_at_the_same_bytes(stories_pair: Pair, precision: str) -> None:
    first, second = (
        places(path(stories_pair.directories[precision])) for path in (graph_in, cached_graph_in)
    )
    assert set(second.values()) == set(first.values())
    assert len(second) >= 15


def test_the_names_and_axes_are_those_of_the_spec(stories_pair: Pair) -> None:
    graph = onnx.load(
        cached_graph_in(stories_pair.directories["int8"]), load_external_data=False
    ).graph
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    past = {
        f"past_key_values.{index}.{part}": ["batch", 4, "past", 8]
        for index in range(2)
        for part in ("key", "value")
    }
    present = {
        f"present.{index}.{part}": ["batch", 4, "total", 8]
        for index in range(2)
        for part in ("key", "value")
    }
    assert axes == {
        "input_ids": ["batch", "seq"],
        "attention_mask": ["batch", "total"],
        **past,
        "hidden": ["batch", "seq", 64],
        "hidden_q": ["batch", "seq", 64],
        "scale": ["batch", "seq", 1],
        **present,
    }


def test_a_graph_with_other_weights_is_refused_rather_than_stored_twice(
    stories_pair: Pair, tmp_path: Path
) -> None:
    directory = copy_of(stories_pair.directories["fp32"], tmp_path)
    model = ir.load(cached_graph_in(directory))
    value = model.graph.initializers["model.embed_tokens.weight"]
    table = tensor_of(value)
    assert table.nbytes > MAX_INLINE
    value.const_value = ir.tensor(table.numpy() + np.float32(1e-3), name=value.name)
    cached_graph_in(directory).unlink()
    with pytest.raises(SplitFrozenError, match="never holds weights twice") as caught:
        save_beside(model, directory)
    assert caught.value.code == "check_failed"
    assert not cached_graph_in(directory).exists()


def test_a_tensor_is_found_by_its_bytes_under_any_name(stories_pair: Pair, tmp_path: Path) -> None:
    directory = copy_of(stories_pair.directories["fp32"], tmp_path)
    model = ir.load(cached_graph_in(directory))
    before = places(cached_graph_in(directory))
    for value in list(model.graph.initializers.values()):
        if tensor_of(value).nbytes >= SHARED_FROM:
            value.name = f"other.{value.name}"
    save_beside(model, directory)
    after = places(cached_graph_in(directory))
    assert all(name.startswith("other.") for name in after)
    assert set(after.values()) == set(before.values())


def test_a_small_tensor_that_is_not_there_goes_into_the_graph(
    stories_pair: Pair, tmp_path: Path
) -> None:
    directory = copy_of(stories_pair.directories["fp32"], tmp_path)
    model = ir.load(cached_graph_in(directory))
    add_constant(model.graph, "own", np.arange(1000, dtype=np.float32))
    save_beside(model, directory)
    proto = onnx.load(cached_graph_in(directory), load_external_data=False)
    (own,) = [tensor for tensor in proto.graph.initializer if tensor.name == "own"]
    assert len(own.raw_data) == 4000


def test_an_encoder_has_no_second_graph(tiny_model: Callable[[str], Path]) -> None:
    segment = load_device_segment(resolve_model(tiny_model("bert")), 1)
    with pytest.raises(ModelError, match="encoder") as caught:
        export_cached_graph(segment)
    assert caught.value.code == "model_not_supported"


@pytest.mark.long
@pytest.mark.parametrize("opset", [20, 23])
def test_every_precision_shares_its_weights_in_both_operator_sets(
    stories: Path, tmp_path: Path, opset: int
) -> None:
    pair = write_pair(
        stories, 2, tmp_path, ("fp32", "int8", "int8-hq", "int4", "int4-all"), opset=opset
    )
    for directory in pair.directories.values():
        first, second = places(graph_in(directory)), places(cached_graph_in(directory))
        assert set(second.values()) == set(first.values())


def places(path: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> offset and length in the weights file."""
    graph = onnx.load(path, load_external_data=False).graph
    found = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            facts = {entry.key: entry.value for entry in tensor.external_data}
            assert facts["location"] == "device.onnx.data"
            found[tensor.name] = (int(facts["offset"]), int(facts["length"]))
    return found


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def copy_of(directory: Path, target: Path) -> Path:
    for path in directory.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
