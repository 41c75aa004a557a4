"""The upper half as ONNX continues what the device segment sends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from splitfrozen.errors import ModelError
from splitfrozen_export.split import load_device_segment, resolve_model
from tests.export.home.adapters import stock_answers, write_adapter
from tests.export.home.conftest import take_home


def test_device_and_server_graph_are_the_whole_model_with_its_adapter(
    shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    """At once, and token by token behind kept keys and values."""
    model = shallow("llama")
    adapter = write_adapter(model, tmp_path / "adapter", layers=(1,))
    half = take_home(
        model, tmp_path / "half", segment="server", cut=1, adapter=adapter, precision="fp32"
    )
    ids = torch.tensor([[7, 30, 41, 12, 99, 5], [55, 8, 61, 20, 3, 17]])
    with torch.no_grad():
        hidden = load_device_segment(resolve_model(model), 1)(ids, torch.ones_like(ids)).numpy()
        stock = stock_answers(model, adapter)(input_ids=ids).logits.numpy()
    session = ort.InferenceSession(half.directory / "server.onnx")
    names = [value.name for value in session.get_inputs()]
    assert names == [
        "hidden",
        "attention_mask",
        "past_key_values.1.key",
        "past_key_values.1.value",
    ]

    def ask(first: int, end: int, past: list[np.ndarray]) -> list[np.ndarray]:
        fed = [hidden[:, first:end], np.ones((2, end), np.int64), *past]
        return session.run(None, dict(zip(names, fed, strict=True)))

    nothing = [np.zeros((2, 2, 0, 8), np.float32)] * 2
    together, *_ = ask(0, 6, nothing)
    assert np.abs(together - stock).max() < 1e-4
    past = nothing
    for token in range(6):
        logits, *past = ask(token, token + 1, past)
        assert np.abs(logits[:, 0] - stock[:, token]).max() < 1e-4


def test_an_adapter_that_reaches_below_the_cut_is_refused(
    shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    model = shallow("gpt2")
    adapter = write_adapter(model, tmp_path / "adapter", layers=(0, 1))
    with pytest.raises(ModelError, match="changes block 0, which lies below --cut 1"):
        take_home(model, tmp_path / "half", segment="server", cut=1, adapter=adapter)
    assert not (tmp_path / "half").exists()


def test_an_int8_upper_half_of_an_encoder_classifies(
    shallow: Callable[[str], Path], tmp_path: Path
) -> None:
    model = shallow("bert")
    adapter = write_adapter(model, tmp_path / "adapter", "SEQ_CLS", layers=(1,))
    half = take_home(
        model, tmp_path / "half", segment="server", cut=1, adapter=adapter, precision="int8"
    )
    assert half.record["coverage"]["products"] == 6 + 2  # one block, pooler, classifier
    session = ort.InferenceSession(half.directory / "server.onnx")
    (logits,) = session.run(
        None,
        {"hidden": np.ones((3, 4, 32), np.float32), "attention_mask": np.ones((3, 4), np.int64)},
    )
    assert logits.shape == (3, 3)
