"""Training through the exported graph and the wire is training the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from splitfrozen import Shard, decode, encode, read_bundle
from splitfrozen.graph import HIDDEN
from splitfrozen.quantize import encode_hidden
from splitfrozen_edge.model.session import DeviceSession
from splitfrozen_export.split import load_server_segment, lora_config, resolve_model, run_segment
from tests.e2e.stack import export

CUT, STEPS, LABELS = 2, 20, 3


@dataclass(frozen=True)
class Batch:
    ids: Tensor  # [B, T]
    mask: Tensor  # [B, T]
    labels: Tensor  # [B]


def batches(vocab: int) -> list[Batch]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(STEPS):
        lengths = rng.integers(3, 12, 4)
        mask = torch.arange(int(lengths.max()))[None, :] < torch.tensor(lengths)[:, None]
        ids = torch.tensor(rng.integers(5, vocab, mask.shape)) * mask
        found.append(Batch(ids, mask.long(), torch.tensor(rng.integers(0, LABELS, 4))))
    return found


def over_the_wire(session: DeviceSession, batch: Batch) -> Tensor:
    """Activations [B, T, d] of a batch as a server has them: run, encoded, decoded, padded."""
    hidden = session.run(batch.ids.numpy(), batch.mask.numpy())[HIDDEN]
    valid = batch.mask.numpy().astype(bool)
    coded, scale = encode_hidden("fp32", hidden[valid])
    lengths: NDArray[np.int32] = valid.sum(axis=1).astype(np.int32)
    shard = Shard("ab" * 32, "", CUT, "fp32", "inference", coded, lengths, scale)
    padded = np.zeros_like(hidden)
    padded[valid] = decode(encode(shard)).activations()
    return torch.from_numpy(padded)


def train(model: nn.Module, loss: Callable[[Batch], Tensor], data: list[Batch]) -> list[float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = []
    for batch in data:
        value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def causal_loss(logits: Tensor, batch: Batch) -> Tensor:
    targets = batch.ids.masked_fill(batch.mask == 0, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


@pytest.mark.parametrize(
    ("family", "task"),
    [("gpt2", "causal_lm"), ("llama", "classification"), ("bert", "classification")],
)
def test_twenty_steps_through_onnx_runtime_equal_stock_peft_on_the_whole_model(
    family: str, task: str, tiny_model: Callable[[str], Path], tmp_path: Path,
    loss_atol: float = 1e-4, weights_rtol: float = 1e-3,
) -> None:  # fmt: skip
    path = tiny_model(family)
    bundle = export(path, CUT, tmp_path / "b", "--precision", "fp32", "--wire", "fp32")
    session = DeviceSession(read_bundle(bundle), threads=1, wire="fp32")
    source = resolve_model(str(path))
    labels = LABELS if task == "classification" else None
    segment = load_server_segment(source, CUT, task, num_labels=labels, seed=0)
    config = lora_config(segment, r=4, alpha=8, dropout=0.0)
    head = {
        name: value.clone()
        for name, value in segment.model.state_dict().items()
        if any(module in name.split(".") for module in segment.head_modules)
    }
    data = batches(int(source.config.vocab_size))

    torch.manual_seed(1)
    split = get_peft_model(segment.model, config).eval()

    def split_loss(batch: Batch) -> Tensor:
        logits = run_segment(split, over_the_wire(session, batch), batch.mask)
        if task == "causal_lm":
            return causal_loss(logits, batch)
        return F.cross_entropy(logits, batch.labels)

    stock = load_whole(path, task, head)
    torch.manual_seed(1)
    whole = get_peft_model(stock, config).eval()

    def whole_loss(batch: Batch) -> Tensor:
        logits = whole(input_ids=batch.ids, attention_mask=batch.mask).logits
        if task == "causal_lm":
            return causal_loss(logits, batch)
        return F.cross_entropy(logits, batch.labels)

    # The same start: PEFT draws in the order of its modules, which is the same in both models.
    ours, theirs = trained_weights(split), trained_weights(whole)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    found, expected = train(split, split_loss, data), train(whole, whole_loss, data)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= loss_atol
    moved = norm({n: theirs[n] - ours[n] for n in ours}) / norm(theirs)
    print(
        f"{family} {task}: losses within {max(map(diff, found, expected)):.1e}, weights {moved:.1e}"
    )
    assert moved <= weights_rtol


def load_whole(path: Path, task: str, head: dict[str, Tensor]) -> nn.Module:
    if task == "causal_lm":
        return AutoModelForCausalLM.from_pretrained(path)  # type: ignore[no-any-return]
    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=LABELS, pad_token_id=0
    )
    missing = model.load_state_dict(head, strict=False)
    assert not missing.unexpected_keys
    return model  # type: ignore[no-any-return]


def norm(weights: dict[str, Tensor]) -> float:
    return float(torch.sqrt(sum((w.double() ** 2).sum() for w in weights.values())))  # type: ignore[arg-type]


def diff(a: float, b: float) -> float:
    return abs(a - b)
