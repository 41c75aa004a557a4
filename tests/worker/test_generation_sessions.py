"""Split sessions on a real server: whose they are, what is refused, how they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from splitfrozen.wire import Shard, encode
from tests.worker.server import Server
from tests.worker.shards import BUNDLE, Example, ShardMaker, push_examples
from tests.worker.streams import SESSIONS, Stream, open_stream, post_session

PROMPT = [9, 30, 77, 12, 40]


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_repeated_step_is_answered_again_and_any_other_is_out_of_order(
    generation: Server, makers: dict[str, ShardMaker]
) -> None:
    stream = open_stream(generation, makers["llama"], "llama", seed=3)
    body = encode(stream.shard(PROMPT))
    first = stream.step(PROMPT)
    assert first["sequence"] == 1 and first["session"] == stream.id
    for _ in range(2):
        assert stream.send(body, 1).json() == first
    other = encode(stream.shard([9]))
    for sequence, content in ((1, other), (3, body), (7, other)):
        answer = stream.send(content, sequence)
        assert refused(answer) == (409, "out_of_order")
        assert answer.json()["error"]["details"] == {"expected": 2}
    assert stream.step([first["token"]])["position"] == len(PROMPT) + 1
    assert refused(stream.send(body, 1)) == (409, "out_of_order")


def test_the_codec_may_change_between_steps(
    generation: Server, makers: dict[str, ShardMaker]
) -> None:
    stream = open_stream(generation, makers["llama"], "llama", temperature=0)
    made = makers["llama"].shard([Example(PROMPT)], task="inference", codec="int8")
    assert stream.send(encode(made), 1).status_code == 200
    stream.ids, stream.sequence = list(PROMPT), 1
    assert stream.step([8])["position"] == len(PROMPT) + 1


def test_a_session_is_its_devices_own(generation: Server, makers: dict[str, ShardMaker]) -> None:
    stream = open_stream(generation, makers["llama"], "llama")
    body = encode(stream.shard(PROMPT))
    own = stream.headers
    for headers in (
        {"Authorization": f"Bearer {generation.device_token('pi-2')}"},
        {"Authorization": generation.http.headers["Authorization"]},  # an admin's
    ):
        stream.headers = headers
        assert refused(stream.send(body, 1)) == (410, "session_lost")
        gone = generation.http.delete(f"{SESSIONS}/{stream.id}", headers=headers)
        assert refused(gone) == (404, "not_found")
    stream.headers = own
    assert stream.send(body, 1).status_code == 200
    closed = generation.http.delete(f"{SESSIONS}/{stream.id}", headers=own)
    assert closed.json() == {"id": stream.id, "object": "split.session", "deleted": True}
    assert refused(stream.send(body, 1)) == (410, "session_lost")
    assert refused(generation.http.delete(f"{SESSIONS}/{stream.id}", headers=own)) == (
        404,
        "not_found",
    )


def test_admins_share_theirs(generation: Server, makers: dict[str, ShardMaker]) -> None:
    opened = generation.post(SESSIONS, {"model": "llama", "bundle": makers["llama"].bundle})
    stream = Stream(generation, makers["llama"], "pi-1", opened)
    other = generation.post("/v1/tokens", {"role": "admin"})["token"]
    stream.headers = {"Authorization": f"Bearer {other}"}
    assert stream.step(PROMPT)["position"] == len(PROMPT)


def test_bodies_that_are_no_next_tokens_are_refused(
    generation: Server, makers: dict[str, ShardMaker]
) -> None:
    maker = makers["llama"]
    stream = open_stream(generation, maker, "llama")
    good = stream.shard(PROMPT)

    def refusal(shard: Shard) -> tuple[int, str]:
        return refused(stream.send(encode(shard), 1))

    labelled = maker.shard([Example(PROMPT, label=1)])
    pair = maker.shard([Example(PROMPT), Example([9])], task="inference")
    endless = maker.shard([Example([9] * 513)], task="inference")
    narrow = replace(good, hidden=np.ascontiguousarray(good.hidden[:, :-1]))
    assert refusal(labelled) == (409, "dataset_mismatch")
    assert refusal(pair) == (422, "bad_lengths")
    assert refusal(endless) == (422, "bad_lengths")
    assert refusal(replace(good, bundle=makers["gpt2"].bundle)) == (409, "dataset_mismatch")
    assert refusal(replace(good, cut=3)) == (409, "dataset_mismatch")
    assert refusal(narrow) == (409, "dataset_mismatch")
    assert refused(stream.send(b"", 1)) == (400, "truncated")
    assert refused(stream.send(encode(good), 0)) == (400, "invalid_request")
    assert stream.step(PROMPT)["position"] == len(PROMPT)  # as if nothing had been sent


def test_sessions_that_cannot_be_opened_say_why(
    generation: Server, makers: dict[str, ShardMaker], counting: dict[str, Any]
) -> None:
    def refusal(**fields: Any) -> tuple[int, str]:
        body = {"model": "llama", "bundle": makers["llama"].bundle, **fields}
        return refused(post_session(generation, "pi-1", **body))

    open_stream(generation, makers["llama"], "llama")
    assert refusal(model="ft:nothing") == (404, "not_found")
    assert refusal(bundle="f" * 64) == (409, "unknown_bundle")
    assert refusal(bundle=makers["gpt2"].bundle) == (409, "dataset_mismatch")
    assert refusal(model="ft:counts", bundle=makers["gpt2"].bundle) == (409, "dataset_mismatch")
    assert refusal(model="tiny", bundle=BUNDLE) == (422, "model_not_supported")
    for field, value in (
        ("temperature", 2.1), ("temperature", -1), ("top_p", 0), ("top_p", 1.5), ("seed", -1),
        ("seed", 1.5), ("logprobs", 21), ("bundle", "abc"), ("unknown", 1),
    ):  # fmt: skip
        assert refusal(**{field: value}) == (400, "invalid_request"), field


def test_a_classifier_generates_nothing(
    generation: Server, tiny_model: Callable[[str], Path]
) -> None:
    dataset = generation.create_dataset()["id"]
    push_examples(generation, ShardMaker(tiny_model("bert")), dataset, 16)
    generation.seal(dataset)
    job = generation.create_job(dataset, suffix="words", hyperparameters={"n_epochs": 1})
    assert generation.wait_for_end(job["id"])["status"] == "succeeded"
    answer = post_session(generation, "pi-1", model="ft:words", bundle=BUNDLE)
    assert refused(answer) == (409, "model_not_ready")


def test_an_idle_or_crowded_out_session_is_lost(
    start_server: Callable[..., Server], decoders: dict[str, Path]
) -> None:
    server = start_server(decoders["llama"], "--session-idle", "1s", "--max-sessions", "2")
    maker = ShardMaker(decoders["llama"])
    first, second = (open_stream(server, maker, "tiny") for _ in range(2))
    first.step(PROMPT)
    third = open_stream(server, maker, "tiny")
    lost = refused(second.send(encode(second.shard(PROMPT)), 1))
    assert lost == (410, "session_lost")
    body = encode(third.shard(PROMPT))
    third.step(PROMPT)
    assert third.opened["idle_timeout"] == 1.0
    server.wait(lambda: third.send(body, 99).status_code == 410, "it is idle for too long")


def test_a_text_ends_at_the_models_last_position(
    generation: Server, makers: dict[str, ShardMaker]
) -> None:
    maker = makers["short"]
    stream = open_stream(generation, maker, "short", temperature=0)
    assert stream.opened["max_positions"] == 16
    assert stream.step([9] * 15)["finish_reason"] != "length"
    too_many = stream.send(encode(maker.shard([Example([9, 9])], task="inference")), 2)
    assert refused(too_many) == (422, "bad_lengths")
    assert stream.step([9])["finish_reason"] in ("length", "stop")
    more = stream.send(encode(maker.shard([Example([9])], task="inference")), 3)
    assert refused(more) == (422, "bad_lengths")


def test_a_request_to_open_is_as_bounded_as_any(generation: Server) -> None:
    huge = post_session(generation, "pi-1", model="m" * (2 << 20), bundle=BUNDLE)
    assert refused(huge) == (413, "too_large")


def test_the_worker_that_is_away_is_said_to_be(
    start_server: Callable[..., Server], decoders: dict[str, Path]
) -> None:
    server = start_server(decoders["llama"], "--no-worker")
    maker = ShardMaker(decoders["llama"])
    body = {"model": "tiny", "bundle": BUNDLE}
    assert refused(post_session(server, "pi-1", **body)) == (503, "unavailable")
    stream = Stream(server, maker, "pi-1", {"id": "sess_gone"})
    assert refused(stream.send(encode(stream.shard(PROMPT)), 1)) == (410, "session_lost")
