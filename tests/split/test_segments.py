"""What the two segments hold, and how they behave as modules."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splitfrozen_export.split import (
    Proof,
    load_device_segment,
    load_server_segment,
    prove_cut,
    resolve_model,
    run_segment,
)
from tests.split.inputs import LABELS, load_stock, make_ids, make_mask
from tests.tiny_models import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_each_segment_holds_only_its_own_blocks(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    source = resolve_model(tiny_model(family))
    device = block_indices(load_device_segment(source, 3))
    server = load_server_segment(source, 3, "classification", num_labels=LABELS)
    assert device == {0, 1, 2}
    assert block_indices(server.model) == {3}
    assert server.lora_layers == [3]


def block_indices(model: torch.nn.Module) -> set[int]:
    """The numbers in the parameter names, which only block lists have here."""
    parts = [part for name, _ in model.named_parameters() for part in name.split(".")]
    return {int(part) for part in parts if part.isdigit()}


@pytest.mark.parametrize("family", ["llama", "bert", "gemma2"])
def test_a_classifying_server_does_not_hold_the_token_table(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    source = resolve_model(tiny_model(family))
    model = load_server_segment(source, 2, "classification", num_labels=LABELS).model
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    assert (source.config.vocab_size, source.config.hidden_size) not in shapes


def test_the_device_segment_survives_torch_export(
    tiny_model: Callable[[str], Path], *, atol: float = 1e-5
) -> None:
    """One family; the graphs of all of them are compared with torch where they are written."""
    segment = load_device_segment(resolve_model(tiny_model("llama")), 2)
    mask = make_mask("right")
    ids = make_ids(segment.model.config, mask)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
    shapes = ({0: batch, 1: tokens}, {0: batch, 1: tokens})
    exported = torch.export.export(segment, (ids, mask), dynamic_shapes=shapes).module()
    fewer, shorter = ids[1:, :7].contiguous(), mask[1:, :7].contiguous()
    with torch.no_grad():
        difference = exported(fewer, shorter) - segment(fewer, shorter)
    assert float(difference[shorter.bool()].abs().max()) <= atol


def test_a_later_token_changes_no_earlier_activation(tiny_model: Callable[[str], Path]) -> None:
    segment = load_device_segment(resolve_model(tiny_model("llama")), 2)
    mask = make_mask("ones")
    ids = make_ids(segment.model.config, mask)
    other = ids.clone()
    other[:, -1] = 5
    with torch.no_grad():
        assert torch.equal(segment(ids, mask)[:, :-1], segment(other, mask)[:, :-1])


def test_calls_that_overlap_keep_their_own_activations(
    tiny_model: Callable[[str], Path],
) -> None:
    """One server segment answers several requests at once."""
    source = resolve_model(tiny_model("gpt2"))
    server = load_server_segment(source, 2, "causal_lm")
    mask = make_mask("ones")
    hidden = [torch.randn(3, 12, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    answers: dict[int, list[Tensor]] = {index: [] for index in range(4)}

    def ask(index: int) -> None:
        with torch.no_grad():
            answers[index] = [run_segment(server, hidden[index], mask) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for index in range(4):
            alone = run_segment(server, hidden[index], mask)
            assert len(answers[index]) == 20
            assert all(torch.equal(answer, alone) for answer in answers[index])


def test_the_server_segment_is_frozen_and_in_evaluation_mode(
    tiny_model: Callable[[str], Path],
) -> None:
    source = resolve_model(tiny_model("bert"))
    model = load_server_segment(source, 2, "classification", num_labels=LABELS).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert type(model).__name__ == "BertForSequenceClassification"


def test_loading_a_segment_leaves_the_random_state_alone(
    tiny_model: Callable[[str], Path],
) -> None:
    source = resolve_model(tiny_model("bert"))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    load_device_segment(source, 2)
    load_server_segment(source, 2, "classification", num_labels=LABELS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_head_of_other_labels_is_replaced(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """A checkpoint that was fine-tuned for three labels may be trained for five."""
    load_stock(tiny_model("bert"), "classification").save_pretrained(tmp_path)
    segment = load_server_segment(resolve_model(tmp_path), 2, "classification", num_labels=5)
    mask = make_mask("right")
    assert run_segment(segment, torch.zeros(3, 12, 32), mask).shape == (3, 5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_half_precision_weights_are_computed_in_fp32(
    tiny_model: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    stock = load_stock(tiny_model(family), "classification")
    stock.to(torch.bfloat16).save_pretrained(tmp_path)
    source = resolve_model(tmp_path)
    device = load_device_segment(source, 2)
    server = load_server_segment(source, 2, "classification", num_labels=LABELS)
    for module in (device, server.model):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert prove_cut(source, 2, real=True) == Proof(0.0, 0.0)
