"""The comparison of a graph with torch sees what is wrong, and only that."""

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
from splitfrozen_export.graph.trace import export_graph, save_graph
from splitfrozen_export.measure.reference import run_reference
from splitfrozen_export.measure.verify import Report, compare_blocks, sample_batches, verify
from splitfrozen_export.precision.quantize import Recipe
from splitfrozen_export.split import load_device_segment, resolve_model
from tests.export.invariance import ragged
from tests.export.text_graphs import normal, parse

TABLE = normal(128, 16)
RIGHT = "hidden = Gather(table, input_ids)"


class Lookup(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.from_numpy(TABLE)[input_ids]


def compare(tmp_path: Path, body: str, **constants: np.ndarray) -> Report:
    """Verify a hand-made graph against a plain table look-up."""
    model = parse(
        "g (int64[batch, seq] input_ids, int64[batch, seq] attention_mask)"
        f" => (float[batch, seq, 16] hidden) {{ {body} }}",
        table=TABLE,
        **constants,
    )
    ir.save(model, tmp_path / "device.onnx")
    examples = ragged(128, (3, 20, 1, 9))
    return verify(tmp_path / "device.onnx", Lookup(), examples, max_length=64, causal=True)


def test_the_same_function_has_no_error(tmp_path: Path) -> None:
    report = compare(tmp_path, RIGHT)
    assert (report.relative_error, report.worst_token) == (0.0, 0.0)
    assert report.cosine_min == pytest.approx(1)
    assert (report.neighbour_difference, report.later_token_difference) == (0.0, 0.0)
    assert report.shapes == ((1, 1), (1, 64), (4, 20))
    assert report.tokens == 1 + 64 + 33


def test_a_constant_factor_is_an_error_but_no_other_direction(tmp_path: Path) -> None:
    body = "x = Gather(table, input_ids)\n hidden = Mul(x, f)"
    report = compare(tmp_path, body, f=np.array(1.25, np.float32))
    assert report.relative_error == pytest.approx(0.25)
    assert report.worst_token == pytest.approx(0.25)
    assert report.cosine_min == pytest.approx(1)


def test_what_is_not_a_number_is_no_small_error(tmp_path: Path) -> None:
    body = "x = Gather(table, input_ids)\n hidden = Div(x, f)"
    with np.errstate(all="ignore"):
        report = compare(tmp_path, body, f=np.array(0, np.float32))
    assert not report.relative_error <= 1e30


def test_a_scale_over_the_batch_shows_as_a_difference_by_neighbours(tmp_path: Path) -> None:
    body = "x = Gather(table, input_ids)\n m = ReduceMax<keepdims = 0>(x)\n hidden = Div(x, m)"
    assert compare(tmp_path, body).neighbour_difference > 0.01


def test_a_look_ahead_shows_as_a_difference_by_later_tokens(tmp_path: Path) -> None:
    body = "x = Gather(table, input_ids)\ns = CumSum<reverse = 1>(x, axis)\n hidden = Mul(s, f)"
    report = compare(tmp_path, body, axis=np.array(1), f=np.array(0.1, np.float32))
    assert report.later_token_difference is not None
    assert report.later_token_difference > 0.01


def test_a_graph_that_does_not_run_is_an_error_with_its_reason(tmp_path: Path) -> None:
    body = "x = Gather(table, input_ids)\n hidden = Reshape(x, shape)"
    with pytest.raises(SplitFrozenError, match=r"cannot run the graph .* Reshape") as failed:
        compare(tmp_path, body, shape=np.array([1, 7, 16]))
    assert failed.value.code == "check_failed"


def test_each_block_is_measured_for_itself(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    segment = load_device_segment(resolve_model(tiny_model("llama")), 2)
    model = export_graph(segment, blocks=True)
    finish_graph(
        model, segment, Recipe("int8", "fp32", keep_fp=frozenset({"layers.0.*"})), wire="int8"
    )
    save_graph(model, tmp_path)
    examples = ragged(128, (3, 20, 1, 9))
    reference = run_reference(segment, examples, max_length=64)
    first, last = compare_blocks(tmp_path / "device.onnx", reference)
    # the first block's products stayed in fp32; what norms know of a token is rounded all the same
    assert first.relative_error < 0.2 * last.relative_error
    assert last.relative_error > 1e-3
    report = verify(tmp_path / "device.onnx", segment, examples, max_length=64, causal=True)
    assert last.relative_error == pytest.approx(report.relative_error)


def test_a_long_example_is_made_of_short_ones_and_keeps_to_the_limit() -> None:
    rows = [[1, 2, 3], [4]]
    assert sample_batches(rows, 7) == [[[1]], [[1, 2, 3, 4, 1, 2, 3]], rows]
