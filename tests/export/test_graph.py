"""From a torch segment to an ONNX graph: what is rewritten, which opset, which axes stay free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from splitfrozen import SplitFrozenError
from splitfrozen_export.graph.finish import finish_graph
from splitfrozen_export.graph.trace import export_graph, opset_of, replace_conv1d, save_graph
from splitfrozen_export.measure.verify import graph_in, open_session, run_graph, verify
from splitfrozen_export.precision.census import count_products
from splitfrozen_export.precision.products import find_products
from splitfrozen_export.precision.quantize import Recipe
from splitfrozen_export.split import load_device_segment, resolve_model
from splitfrozen_export.split.checkpoint import StoredTensor
from tests.export.conftest import Traced, cut_of
from tests.export.invariance import ragged
from tests.tiny_models import FAMILIES, write_tiny_model


class Lookup(nn.Module):
    """The smallest segment: an embedding and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 32)
        self.linear = nn.Linear(32, 32)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(self.table(input_ids)) * attention_mask[..., None]


class FixedLength(Lookup):
    """A segment that was written for texts of exactly 11 tokens."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = input_ids.reshape(-1, 11)
        return super().forward(ids, attention_mask.reshape(-1, 11))


class Undecided(Lookup):
    """A segment whose way depends on the values of its input: there is no one graph of it."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if input_ids.sum() > 3:
            return super().forward(input_ids, attention_mask)
        return self.table(input_ids)


class TiedHead(Lookup):
    """A segment that multiplies with its own table."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids, attention_mask) @ self.table.weight.T


@pytest.fixture(scope="module")
def lookup() -> ir.Model:
    return export_graph(Lookup())


def test_a_linear_layer_is_one_product_whose_weight_is_a_constant(lookup: ir.Model) -> None:
    assert opset_of(lookup) == 23
    assert [product.weight.read().shape for product in find_products(lookup.graph)] == [(32, 32)]


def test_a_graph_carries_no_traces_of_the_machine_it_was_made_on(lookup: ir.Model) -> None:
    model = lookup
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph)


PLAIN = ("gpt2", "llama", "bert", "deberta-v2")  # the others look no different to a reader


@pytest.mark.parametrize(
    "family",
    [name if name in PLAIN else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES],
)
def test_a_streamed_segment_has_the_graph_of_a_loaded_one_byte_for_byte(
    tiny_model: Callable[[str], Path],
    traced: Callable[[str], Traced],
    tmp_path: Path,
    family: str,
) -> None:
    source = resolve_model(tiny_model(family))
    streamed = load_device_segment(source, cut_of(family), stream=True)
    for name, model in (("streamed", export_graph(streamed)), ("loaded", traced(family).fp32)):
        (tmp_path / name).mkdir()
        save_graph(model.clone(), tmp_path / name)
    for file in ("device.onnx", "device.onnx.data"):
        streamed_bytes = (tmp_path / "streamed" / file).read_bytes()
        assert streamed_bytes == (tmp_path / "loaded" / file).read_bytes()


def test_tracing_reads_no_large_weight_and_writing_reads_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, ...]] = []
    values = StoredTensor.read

    def note(self: StoredTensor, *args: torch.dtype) -> Tensor:
        read.append(self.shape)
        return values(self, *args)

    monkeypatch.setattr(StoredTensor, "read", note)
    write_tiny_model("llama", tmp_path, hidden_size=128, intermediate_size=96)
    model = export_graph(load_device_segment(resolve_model(tmp_path), 1, stream=True))
    assert all(len(shape) == 1 for shape in read)  # the norms, to find equal ones

    read.clear()
    told: list[tuple[int, int]] = []
    save_graph(model, tmp_path, on_tensor=lambda done, total: told.append((done, total)))
    large = sorted(shape for shape in read if len(shape) == 2)
    queries, keys, gates = (32, 128), (16, 128), (96, 128)  # 4 heads, 2 of keys, 8 wide
    assert large == sorted([(128, 128), queries, keys, keys, (128, 32), gates, gates, (128, 96)])
    size = (tmp_path / "device.onnx.data").stat().st_size
    assert told[0][0] == 0 and told == sorted(told) and told[-1][0] < told[-1][1] <= size


def test_weights_keep_the_names_of_their_layers(traced: Callable[[str], Traced]) -> None:
    """Also those that a linear layer reads transposed: they are stored as they are multiplied."""
    graph = traced("llama").fp32.graph
    names = {name for name, value in graph.initializers.items() if len(value.shape or ()) == 2}
    assert {name for name in names if "layers" in name} == {
        f"model.layers.{index}.{layer}.weight"
        for index in range(2)
        for layer in (
            *(f"self_attn.{part}_proj" for part in "qkvo"),
            *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
        )
    }
    up = graph.initializers["model.layers.0.mlp.up_proj.weight"]
    weight = traced("llama").segment.get_parameter("model.layers.0.mlp.up_proj.weight")
    assert up.const_value is not None
    assert np.array_equal(up.const_value.numpy(), weight.detach().numpy().T)


def test_a_matrix_that_is_read_both_ways_is_stored_once() -> None:
    graph = export_graph(TiedHead()).graph
    large = [value for value in graph.initializers.values() if (value.shape or ()) == (128, 32)]
    assert [value.name for value in large] == ["table.weight"]
    assert [node.op_type for node in graph].count("Transpose") == 1


def test_blocks_are_measured_by_outputs_of_their_own(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    segment = load_device_segment(resolve_model(tiny_model("gpt2")), 3, stream=True)
    model = export_graph(segment, blocks=True)
    save_graph(model, tmp_path)
    assert [value.name for value in model.graph.outputs] == ["hidden", "block_0", "block_1"]
    outputs = run_graph(open_session(graph_in(tmp_path)), [[3, 4, 5, 6]])
    ids = torch.tensor([[3, 4, 5, 6]])
    for cut, found in zip((3, 1, 2), outputs, strict=True):
        upto = load_device_segment(resolve_model(tiny_model("gpt2")), cut)
        with torch.no_grad():
            expected = upto(ids, torch.ones_like(ids))
        torch.testing.assert_close(torch.from_numpy(found), expected)


def test_conv1d_is_replaced_and_computes_the_same(tiny_model: Callable[[str], Path]) -> None:
    segment = load_device_segment(resolve_model(tiny_model("gpt2")), 2)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = segment(ids, torch.ones_like(ids))
        assert replace_conv1d(segment) == 2 * 4
        after = segment(ids, torch.ones_like(ids))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert count_products(segment) == 2 * 4


def test_products_of_a_table_that_no_token_reaches_are_not_expected(
    tiny_model: Callable[[str], Path],
) -> None:
    """DeBERTa projects its relative positions with the layers that project its tokens."""
    segment = load_device_segment(resolve_model(tiny_model("deberta-v2")), 2)
    assert count_products(segment) == 2 * 6


def test_a_fixed_axis_is_refused() -> None:
    with pytest.raises(SplitFrozenError, match="must stay free") as refused:
        export_graph(FixedLength())
    assert refused.value.code == "model_not_supported"


def test_what_has_no_graph_is_refused_with_the_reason() -> None:
    with pytest.raises(SplitFrozenError, match=r"has no ONNX form: .+ \(opset 23") as refused:
        export_graph(Undecided())
    assert refused.value.code == "model_not_supported"


def test_a_reason_that_is_the_same_for_every_opset_is_said_once() -> None:
    class Impossible(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("this module cannot run at all")

    with pytest.raises(SplitFrozenError) as refused:
        export_graph(Impossible())
    assert refused.value.message.count("the device segment has no ONNX form") == 1
    assert refused.value.message.endswith("(opset 23 and 20)")


def test_an_older_opset_gives_the_same_graph_for_older_runtimes(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    segment = load_device_segment(resolve_model(tiny_model("gpt_neox")), 1)
    model = export_graph(segment, opset=20)
    finish_graph(model, segment, Recipe("int8", "int8"), wire="int8")
    save_graph(model, tmp_path)
    assert opset_of(ir.load(graph_in(tmp_path))) == 20
    report = verify(
        graph_in(tmp_path), segment, ragged(128, (5, 40, 1, 100)), max_length=512, causal=True
    )
    assert report.relative_error < 0.08
    assert (report.neighbour_difference, report.later_token_difference) == (0.0, 0.0)


def test_the_exporter_falls_back_to_the_older_opset(tmp_path: Path) -> None:
    """Falcon's parallel attention has no form in opset 23."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "falcon", vocab_size=128, hidden_size=32, num_hidden_layers=3, num_attention_heads=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    segment = load_device_segment(resolve_model(tmp_path), 1)
    assert opset_of(export_graph(segment)) == 20
