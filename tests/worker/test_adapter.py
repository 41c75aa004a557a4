"""The downloaded adapter in stock PEFT, on the base model that nobody touched."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from splitfrozen_server.worker.adapter import pack, unpack
from tests.worker.server import Server
from tests.worker.shards import ShardMaker, separable_examples


def test_the_adapter_loads_in_stock_peft_with_the_servers_answers(
    server: Server,
    bert: ShardMaker,
    trained: dict[str, Any],
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    *,
    atol: float = 1e-6,
) -> None:
    for name, content in server.download_adapter(trained).items():
        (tmp_path / name).write_bytes(content)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model("bert"), num_labels=2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, tmp_path).eval()
    assert not [warning for warning in seen if "adapter" in str(warning.message)]

    asked = separable_examples(12, seed=3)
    answer = server.ask(bert.shard(asked, task="inference"), "ft:my-words").json()
    ours = [[entry["scores"][name] for name in ("down", "up")] for entry in answer["data"]]
    with torch.inference_mode():
        theirs = [
            model(input_ids=torch.tensor([example.ids])).logits[0].double().softmax(-1).tolist()
            for example in asked
        ]
    np.testing.assert_allclose(ours, theirs, atol=atol)


def test_packing_is_deterministic() -> None:
    files = {"b.json": b"{}", "a.txt": b"text"}
    assert pack(files) == pack(dict(reversed(files.items())))
    assert unpack(pack(files)) == files
