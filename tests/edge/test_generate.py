"""generate: the prompt's activations go out, tokens come back, faults do not show in the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitfrozen import decode, read_bundle
from splitfrozen.bundle import Bundle
from splitfrozen.errors import DataError, RefusedError
from splitfrozen.graph import HIDDEN_Q, SCALE
from splitfrozen.quantize import decode_hidden
from splitfrozen_edge.http.client import Client
from splitfrozen_edge.inference import split_text
from splitfrozen_edge.inference.generate import Generation
from splitfrozen_edge.inference.sessions import SessionRequest
from splitfrozen_edge.inference.texts import Writer, chat_text, generate_text, open_text
from splitfrozen_edge.model.cached_session import CachedSession
from splitfrozen_edge.pushing.collect import piece_bytes
from tests.edge.conftest import NewClient
from tests.edge.protocol_server import Fault, ProtocolServer, _content
from tests.edge.split_sessions import EOS, next_token
from tests.edge.tiny_bundle import WIDTH

PROMPT = "the red bird and the snail"
SEED = 11
LENGTH = 12  # tokens of an answer


@pytest.fixture
def bundle(past_bundle: Path) -> Bundle:
    return read_bundle(past_bundle)


@pytest.fixture(scope="module")
def device(past_bundle: Path) -> CachedSession:
    return CachedSession(read_bundle(past_bundle), threads=1)


def expected_ids(device: CachedSession, prompt: Sequence[int], count: int, seed: int) -> list[int]:
    """What the test server's model says, without sessions, caches or wire: whole texts."""
    ids = list(prompt)
    for _ in range(count):
        outputs = device.start().feed(ids)
        rows = decode_hidden("int8", outputs[HIDDEN_Q][0], outputs[SCALE][0])
        ids.append(next_token([row.tobytes() for row in rows], seed))
    return ids[len(prompt) :]


def expected_text(device: CachedSession, bundle: Bundle, count: int = LENGTH) -> str:
    writer = Writer(bundle)
    prompt = writer.encode_prompt(PROMPT)
    ids = expected_ids(device, prompt, count, SEED)
    return writer.decode([*prompt, *ids])[len(writer.decode(prompt)) :]


def generate(client: Client, bundle: Bundle, device: CachedSession, **options: Any) -> str:
    fixed = {"seed": SEED, "max_tokens": LENGTH, "session": device}
    return "".join(generate_text(PROMPT, "tiny", bundle, client, **(fixed | options)))


def test_the_text_is_what_whole_texts_give_token_by_token(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    found = generate(client, bundle, device)
    assert found == expected_text(device, bundle)
    assert found.strip()
    prompt = Writer(bundle).encode_prompt(PROMPT)
    assert server.split.tokens_of_steps == [len(prompt), *[1] * (LENGTH - 1)]
    assert server.split.deleted == ["sess_1"]
    assert not server.split.open


def test_what_is_sent_are_activations_not_tokens(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    generate(client, bundle, device, max_tokens=3)
    steps = [seen for seen in server.requests if "/steps" in seen.path]
    assert len(steps) == 3
    for number, seen in enumerate(steps, 1):
        shard = decode(_content(seen))
        assert (shard.codec, shard.task, shard.dataset, shard.examples) == (
            "int8", "inference", "", 1,
        )  # fmt: skip
        assert shard.labels is None and shard.targets is None and shard.example_ids is None
        assert seen.path.endswith(f"?sequence={number}")
    assert server.split.made == [
        {
            "model": "tiny",
            "bundle": bundle.id,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": SEED,
            "logprobs": 0,
        }
    ]


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_other_wires_carry_the_same_text_on_their_own_terms(
    client: Client, server: ProtocolServer, bundle: Bundle, wire: str
) -> None:
    once = "".join(
        generate_text(PROMPT, "tiny", bundle, client, seed=1, max_tokens=5, wire=wire, threads=1)
    )
    server.split.lose_before = {server.split.steps + 3}
    again = "".join(
        generate_text(PROMPT, "tiny", bundle, client, seed=1, max_tokens=5, wire=wire, threads=1)
    )
    assert once == again
    assert len(server.split.made) == 3


FAULTS = {
    "before": Fault("before"),
    "after": Fault("after"),
    "garbage": Fault("garbage"),
    "busy": Fault("refuse", 429, "rate_limited", retry_after="3"),
    "away": Fault("refuse", 503, "unavailable"),
    "broken": Fault("refuse", 500, "internal_error"),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("at", [0, 1, 2, 7])  # 0: making the session; 1: prefill; then tokens
def test_a_fault_in_any_phase_does_not_show_in_the_text(
    new_client: NewClient,
    server: ProtocolServer,
    bundle: Bundle,
    device: CachedSession,
    kind: str,
    at: int,
) -> None:
    waits: list[float] = []
    server.script("POST", *[Fault("none")] * at, FAULTS[kind])
    found = generate(new_client(waits), bundle, device)
    assert found == expected_text(device, bundle)
    assert len(waits) == 1
    assert waits[0] >= (3 if kind == "busy" else 0)
    prompt = len(Writer(bundle).encode_prompt(PROMPT))
    assert server.split.tokens_of_steps == [prompt, *[1] * (LENGTH - 1)]  # nothing came twice


@pytest.mark.parametrize("at", [1, 2, 3, LENGTH])
def test_a_lost_session_is_made_again_and_the_text_goes_on(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession, at: int
) -> None:
    server.split.lose_before = {at}
    assert generate(client, bundle, device) == expected_text(device, bundle)
    assert [made["seed"] for made in server.split.made] == [SEED, SEED]
    prompt = len(Writer(bundle).encode_prompt(PROMPT))
    again = prompt + at - 1  # all that was there, in one step
    assert server.split.tokens_of_steps == [
        *[prompt, *[1] * LENGTH][: at - 1], again, *[1] * (LENGTH - at),
    ]  # fmt: skip
    assert not server.split.open


def test_the_seed_that_the_server_drew_outlives_the_session(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.split.lose_before = {4, 8}
    generate(client, bundle, device, seed=None)
    assert [made["seed"] for made in server.split.made] == [None, 1001, 1001]


def test_a_session_that_is_lost_again_and_again_ends_in_the_servers_words(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.split.lose_before = set(range(3, 99))
    with pytest.raises(RefusedError) as caught:
        generate(client, bundle, device)
    assert caught.value.code == "session_lost"
    assert len(server.split.made) < 10


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (409, "unknown_bundle"), (409, "model_not_ready")]
)
def test_a_refused_session_is_an_error_before_anything_is_sent(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession,
    status: int, code: str,
) -> None:  # fmt: skip
    server.script("POST", Fault("refuse", status, code))
    with pytest.raises(RefusedError) as caught:
        generate(client, bundle, device)
    assert caught.value.code == code
    assert not server.split.steps


def test_an_answer_without_a_token_is_refused(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.script("POST", Fault("none"), Fault("wrong"))
    with pytest.raises(RefusedError, match="none of the protocol: it has digest"):
        generate(client, bundle, device)
    assert server.split.deleted == ["sess_1"]


def test_a_long_prompt_goes_in_steps_of_512_tokens_and_its_middle_says_nothing(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.split.max_positions = 2000
    server.split.eos_at = 512  # behind the first step: drawn, but not what comes next
    writer = Writer(bundle)
    ids = [1 + token % 100 + 4 for token in range(1100)]
    with open_text(bundle, client, SessionRequest("tiny", bundle.id, seed=1), session=device) as t:
        generation = Generation(t, ids, writer.decode, max_tokens=3)
        list(generation)
    assert server.split.tokens_of_steps == [512, 512, 76, 1, 1]
    found = [step.token for step in generation.steps]
    assert found == expected_ids(device, ids, 3, 1)
    assert generation.finish_reason == "length"


@pytest.mark.parametrize("limited_by", ["the server", "the body"])
def test_steps_are_as_long_as_the_server_and_a_body_allow(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession,
    monkeypatch: pytest.MonkeyPatch, limited_by: str,
) -> None:  # fmt: skip
    if limited_by == "the server":
        server.split.max_step_tokens = 4
    else:
        monkeypatch.setattr(split_text, "MAX_BODY", 2048 + 4 * piece_bytes(1, WIDTH, "int8"))
    server.split.lose_before = {5}
    assert generate(client, bundle, device) == expected_text(device, bundle)
    assert max(server.split.tokens_of_steps) == 4
    assert len(server.split.made) == 2


def test_the_model_ends_the_text(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.split.eos_at = len(Writer(bundle).encode_prompt(PROMPT)) + 4
    assert generate(client, bundle, device) == expected_text(device, bundle, 4)
    assert EOS not in expected_ids(device, [7], 4, SEED)


def test_a_full_context_ends_the_text_with_its_last_token(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    prompt = Writer(bundle).encode_prompt(PROMPT)
    server.split.max_positions = len(prompt) + 3
    assert generate(client, bundle, device) == expected_text(device, bundle, 4)


def test_a_prompt_that_the_model_cannot_hold_is_refused_here(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.split.max_positions = 3
    with pytest.raises(DataError, match="more than the 3 that the model can read"):
        generate(client, bundle, device)
    assert (server.split.steps, server.split.deleted) == (0, ["sess_1"])


def test_a_stop_string_that_straddles_tokens_is_cut_exactly(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    whole = expected_text(device, bundle)
    stop = whole[3:6]
    assert generate(client, bundle, device, stop=["never there", stop]) == whole[: whole.find(stop)]
    assert server.split.steps < LENGTH


def test_leaving_early_deletes_the_session(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    pieces = generate_text(PROMPT, "tiny", bundle, client, seed=SEED, session=device)
    assert next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert server.split.deleted == ["sess_1"]


def test_a_server_that_is_away_in_the_end_does_not_spoil_the_text(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    server.script("DELETE", Fault("refuse", 503, "unavailable"))
    assert generate(client, bundle, device) == expected_text(device, bundle)
    assert server.split.open


def test_messages_are_answered_by_the_template(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    messages = [{"role": "user", "content": "the bird"}]
    found = "".join(
        chat_text(messages, "tiny", bundle, client, seed=1, max_tokens=4, session=device)
    )
    writer = Writer(bundle)
    prompt = writer.encode("<user>the bird\n<assistant>")
    ids = expected_ids(device, prompt, 4, 1)
    assert found == writer.decode([*prompt, *ids])[len(writer.decode(prompt)) :]


def test_a_step_tells_the_tokens_probabilities(
    client: Client, server: ProtocolServer, bundle: Bundle, device: CachedSession
) -> None:
    request = SessionRequest("tiny", bundle.id, seed=1, logprobs=2)
    with open_text(bundle, client, request, session=device) as text:
        step = text.extend([7, 8])
    assert step.logprob == -0.5
    assert [item.token for item in step.alternatives] == [step.token] * 2
    assert np.isfinite(text.timing.prefill_device)
