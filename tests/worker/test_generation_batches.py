"""The model's side of split sessions, in this process: caches, joined batches, shared weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splitfrozen.errors import ModelError
from splitfrozen_export.split import (
    load_device_segment,
    load_whole_model,
    resolve_model,
    run_segment,
)
from splitfrozen_server.worker import served
from splitfrozen_server.worker.adapter import pack, weights_bytes
from splitfrozen_server.worker.caches import LayerPlan, SessionCache, Tape
from splitfrozen_server.worker.model import adapter_tensors, build
from splitfrozen_server.worker.served import BaseRef, ModelRef, ServedModel, ServedModels
from splitfrozen_server.worker.settings import LoraSettings
from tests.tiny_models import DECODERS

CUT = 2


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
def test_streams_of_any_length_in_one_batch_equal_the_whole_model(
    tiny_model: Callable[[str], Path], family: str, *, atol: float = 5e-5
) -> None:
    source = resolve_model(tiny_model(family))
    model = ServedModel(BaseRef(str(source.path), CUT, False))
    torch.manual_seed(0)
    texts = [torch.randint(8, 120, (1, length)) for length in (9, 17, 6, 80)]
    whole = load_whole_model(source, "causal_lm")
    device = load_device_segment(source, CUT)
    hidden = [device(text, torch.ones_like(text)) for text in texts]
    expected = [whole(input_ids=t, attention_mask=torch.ones_like(t)).logits for t in texts]
    caches = [SessionCache(model.plan) for _ in texts]
    chance = random.Random(family)
    while left := [i for i, text in enumerate(texts) if caches[i].tokens < text.shape[1]]:
        if chance.random() < 0.3:  # several tokens of one text
            rows = [chance.choice(left)]
            new = chance.randint(1, texts[rows[0]].shape[1] - caches[rows[0]].tokens)
        else:
            rows, new = chance.sample(left, chance.randint(1, len(left))), 1
        seen = [caches[row].tokens for row in rows]
        parts = [hidden[row][:, at : at + new] for row, at in zip(rows, seen, strict=True)]
        logits = model.forward(None, torch.cat(parts), [caches[row] for row in rows])
        for row in rows:
            caches[row].commit(new)
        wanted = [expected[row][0, at + new - 1] for row, at in zip(rows, seen, strict=True)]
        torch.testing.assert_close(logits, torch.stack(wanted), atol=atol, rtol=1e-4)


@torch.no_grad()
def test_a_step_that_is_not_committed_leaves_no_trace(tiny_model: Callable[[str], Path]) -> None:
    model = ServedModel(BaseRef(str(tiny_model("gemma3")), CUT, False))
    cache, other = SessionCache(model.plan), SessionCache(model.plan)
    hidden = torch.randn(1, 8, 32)
    model.forward(None, hidden[:, :5], [cache])
    cache.commit(5)
    before = model.forward(None, hidden[:, 5:6], [cache])
    model.forward(None, hidden[:, 6:], [cache])  # larger than the first attempt
    assert torch.equal(model.forward(None, hidden[:, 5:6], [cache]), before)
    model.forward(None, hidden[:, :5], [other])
    other.commit(5)
    assert torch.equal(model.forward(None, hidden[:, 5:6], [other]), before)


def test_a_window_forgets_and_its_buffer_stops_growing() -> None:
    tape = Tape(window=5)
    kept: list[int] = []
    sizes = set()
    for token in range(1000):
        keys, _ = tape.write(*[torch.full((1, 2, 1, 3), float(token))] * 2)
        assert keys[0, 0, :, 0].tolist() == [*kept, token]
        tape.commit()
        kept = [*kept, token][-4:]
        sizes.add(tape.room_for(1))
    assert sizes == {64} and tape.token_bytes == 2 * 2 * 3 * 4


def test_the_bytes_that_a_step_will_take_are_known_before() -> None:
    plan = [LayerPlan(None, is_phantom=True), LayerPlan(None), LayerPlan(window=8)]
    cache = SessionCache(plan)
    row = [0, 48, 48]
    for new in (100, 1, 1, 60, 300):
        expected = cache.bytes_with(new, row)
        for tape in cache.tapes[1:]:
            tape.write(torch.zeros(1, 2, new, 3), torch.zeros(1, 2, new, 3))
        cache.commit(new)
        assert cache.bytes_with(0, row) == expected
    assert cache.tokens == 462


@pytest.fixture(scope="module")
def adapters(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory):
    """Two packed adapters of the tiny llama that change what it says, and their models."""
    source = resolve_model(tiny_model("llama"))
    made = {}
    for seed, targets in ((1, ("q_proj", "down_proj")), (2, None)):
        lora = LoraSettings(r=2 + seed, alpha=16, dropout=0.0, target_modules=targets)
        adapted = build(source, CUT, "causal_lm", num_labels=None, lora=lora, seed=seed)
        with torch.no_grad():
            for name, weight in adapted.model.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.2 * torch.randn_like(weight))
        config = adapted.model.peft_config["default"]
        fields = {"r": config.r, "lora_alpha": 16, "target_modules": sorted(config.target_modules)}
        files = {
            "adapter_config.json": json.dumps(fields).encode(),
            "adapter_model.safetensors": weights_bytes(adapter_tensors(adapted.model)),
            "splitfrozen.json": json.dumps(
                {"cut": CUT, "task": "causal_lm", "labels": []}
            ).encode(),
        }
        path = tmp_path_factory.mktemp("adapters") / f"{seed}.tar"
        path.write_bytes(pack(files))
        made[str(path)] = adapted.model
    return made


def last_logits(model: torch.nn.Module, hidden: Tensor) -> Tensor:
    mask = torch.ones(hidden.shape[:2], dtype=torch.int64)
    return run_segment(model, hidden, mask)[:, -1]


@torch.no_grad()
def test_base_and_adapters_share_one_segment_and_never_mix(
    tiny_model: Callable[[str], Path],
    adapters: dict[str, torch.nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = BaseRef(str(tiny_model("llama")), CUT, False)
    models = ServedModels()
    first, second = adapters
    hidden = torch.randn(1, 6, 32)
    plain = models.get(ModelRef(base, None))

    def logits(adapter: str | None) -> Tensor:
        model = models.get(ModelRef(base, adapter))
        assert model is plain
        return model.forward(adapter, hidden, [SessionCache(model.plan)])

    without = logits(None)
    for _ in range(2):
        for path, model in adapters.items():
            torch.testing.assert_close(logits(path), last_logits(model, hidden))
        assert torch.equal(logits(None), without)
    assert not torch.allclose(logits(first), without) and not torch.allclose(
        logits(first), logits(second)
    )
    monkeypatch.setattr(served, "ADAPTERS", 1)  # the first is dropped for the second, and back
    for path in (second, first, second, first):
        torch.testing.assert_close(logits(path), last_logits(adapters[path], hidden))
        assert torch.equal(logits(None), without)


def test_the_segment_asked_longest_ago_makes_place(tiny_model: Callable[[str], Path]) -> None:
    models = ServedModels()
    refs = [
        ModelRef(BaseRef(str(tiny_model(family)), CUT, False), None)
        for family in ("llama", "gpt2", "mistral")
    ]
    llama, gpt2 = models.get(refs[0]), models.get(refs[1])
    assert models.get(refs[0]) is llama
    models.get(refs[2])
    assert models.get(refs[0]) is llama and models.get(refs[1]) is not gpt2


def test_an_encoder_generates_nothing(tiny_model: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError) as refused:
        ServedModel(BaseRef(str(tiny_model("bert")), CUT, False))
    assert refused.value.code == "model_not_supported"


def test_the_ends_of_text_are_those_of_generate(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    source = resolve_model(tiny_model("llama"))
    assert served.end_tokens(source) == [2]
    (tmp_path / "config.json").write_bytes((source.path / "config.json").read_bytes())
    copy = replace(source, path=tmp_path)
    assert served.end_tokens(copy) == [2]  # of config.json
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert served.end_tokens(copy) == [7, 9]
