"""From a torch segment to an ONNX graph: what is rewritten, which opset, which axes stay free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from splitfrozen import SplitFrozenError
from splitfrozen_export.census import count_products
from splitfrozen_export.export import finish_graph
from splitfrozen_export.graph import export_graph, opset_of, replace_conv1d, save_graph
from splitfrozen_export.products import find_products
from splitfrozen_export.split import load_device_segment, resolve_model
from splitfrozen_export.verify import graph_in, verify
from tests.export.invariance import ragged


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
    with pytest.raises(SplitFrozenError, match=r"opset 23: .*; opset 20: ") as refused:
        export_graph(Undecided())
    assert refused.value.code == "model_not_supported"


def test_an_older_opset_gives_the_same_graph_for_older_runtimes(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    segment = load_device_segment(resolve_model(tiny_model("gpt_neox")), 1)
    model = export_graph(segment, opset=20)
    finish_graph(model, segment, precision="int8", wire="int8")
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
