"""Sessions, memory and turns of split generation, in this process with a real model."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitfrozen.errors import RefusedError, SplitFrozenError
from splitfrozen.wire import Shard, encode
from splitfrozen_server.admission import Published
from splitfrozen_server.worker.generation import PADDING, Generator
from splitfrozen_server.worker.sampling import Sampling
from splitfrozen_server.worker.served import BaseRef, ModelRef, ServedModel
from splitfrozen_server.worker.sessions import Limits, Opening
from splitfrozen_server.worker.turns import Turns
from tests.worker.shards import Example, ShardMaker

PATIENCE = 60.0  # seconds
TOKEN = 2 * 2 * 2 * 8 * 4  # bytes: two blocks, keys and values, two heads, eight channels
PIECE = 64 * TOKEN  # what the cache of a short text takes
ROOM = Limits(bytes=1 << 20)


class Streams:
    """A generator with the tiny llama, and a device that feeds it."""

    def __init__(self, maker: ShardMaker, model: Path, limits: Limits) -> None:
        self.turns = Turns()
        self.generator = Generator(self.turns, limits)
        self.maker = maker
        self.opening = Opening(
            owner="default/dev_1",
            ref=ModelRef(BaseRef(str(model), maker.cut, False), None),
            bundle=maker.bundle,
            published=Published("bm_tiny", maker.cut, 32, 128, 512),
            max_positions=512,
            sampling=Sampling(temperature=0),
        )

    def open(self, **changes: Any) -> str:
        opened = self.generator.open(replace(self.opening, **changes)).result(PATIENCE)
        return str(opened["id"])

    def send(self, session: str, sequence: int, *new: int, after: tuple[int, ...] = ()) -> Future:
        hidden = self.maker.hidden([*after, *new])[len(after) :]
        made = self.maker.shard([Example(list(new))], task="inference")
        body = encode(replace(made, hidden=np.ascontiguousarray(hidden)))
        return self.generator.step(session, self.opening.owner, sequence, body)

    def step(self, session: str, sequence: int, *new: int, **options: Any) -> dict[str, Any]:
        return self.send(session, sequence, *new, **options).result(PATIENCE)

    def refusal(self, session: str, sequence: int, *new: int) -> SplitFrozenError:
        with pytest.raises(SplitFrozenError) as refused:
            self.step(session, sequence, *new)
        return refused.value


@pytest.fixture
def start(tiny_model: Callable[[str], Path]) -> Callable[..., Streams]:
    def started(limits: Limits = ROOM, family: str = "llama") -> Streams:
        model = tiny_model(family)
        return Streams(ShardMaker(model), model, limits)

    return started


def test_memory_is_bounded_and_the_session_used_longest_ago_gives_way(
    start: Callable[..., Streams],
) -> None:
    streams = start(Limits(bytes=3 * PIECE))
    first, second, third, fourth = (streams.open() for _ in range(4))
    for session in (first, second, third):
        streams.step(session, 1, 9, 8)
    streams.step(first, 2, 10, after=(9, 8))
    streams.step(fourth, 1, 9, 8)
    assert streams.refusal(second, 2, 10).code == "session_lost"
    streams.step(first, 3, *[11] * 100, after=(9, 8, 10))  # grows by a piece: one must go
    assert streams.refusal(third, 2, 10).code == "session_lost"
    assert streams.step(fourth, 2, 10, after=(9, 8))["position"] == 3
    assert streams.step(first, 4, 12, after=(9, 8, 10))["position"] == 104


def test_a_session_never_outgrows_the_memory_of_all(start: Callable[..., Streams]) -> None:
    streams = start(Limits(bytes=3 * PIECE))
    opened = streams.generator.open(streams.opening).result(PATIENCE)
    assert 64 <= opened["max_positions"] <= 3 * 64
    found = streams.step(opened["id"], 1, *[9] * opened["max_positions"])
    assert found["finish_reason"] == "length"
    assert streams.refusal(opened["id"], 2, 9).code == "bad_lengths"


def test_a_session_at_work_does_not_give_way(start: Callable[..., Streams]) -> None:
    streams = start(Limits(bytes=2 * PIECE, count=3))
    first, second, third = (streams.open() for _ in range(3))
    with streams.turns.step():  # training is at work: steps wait
        waiting = [streams.send(first, 1, 9), streams.send(second, 1, 9)]
        assert streams.refusal(third, 1, 9).code == "unavailable"
    assert len({future.result(PATIENCE)["token"] for future in waiting}) == 1
    streams.step(third, 1, 9)  # and now the first does


def test_the_oldest_of_too_many_sessions_goes(start: Callable[..., Streams]) -> None:
    streams = start(Limits(bytes=1 << 20, count=2))
    first, second = streams.open(), streams.open()
    streams.step(first, 1, 9)
    third = streams.open()
    assert streams.refusal(second, 1, 9).code == "session_lost"
    streams.step(first, 2, 9, after=(9,))
    streams.step(third, 1, 9)


def test_an_owner_of_many_sessions_crowds_out_its_own(start: Callable[..., Streams]) -> None:
    streams = start(Limits(bytes=1 << 20, count=32))
    others = streams.open(owner="default/dev_2")
    own = [streams.open() for _ in range(9)]
    assert streams.generator.sessions == 9
    assert streams.refusal(own[0], 1, 9).code == "session_lost"
    streams.step(own[1], 1, 9)
    streams.generator.close(others, "default/dev_2")


def test_idle_sessions_are_freed_though_nobody_asks(start: Callable[..., Streams]) -> None:
    streams = start(Limits(bytes=1 << 20, idle=0.2))
    session = streams.open()
    end = time.monotonic() + PATIENCE
    while streams.generator.sessions and time.monotonic() < end:
        time.sleep(0.02)
    assert streams.generator.sessions == 0
    assert streams.refusal(session, 1, 9).code == "session_lost"


def test_single_tokens_that_wait_together_run_as_one_batch(
    start: Callable[..., Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = start()
    prompts = [(9,), (30, 31, 32), (77,) * 20, (12, 13), (14, 15, 16, 17)]
    alone = start()
    expected = []
    for prompt in prompts:
        session = alone.open()
        alone.step(session, 1, *prompt)
        expected.append(alone.step(session, 2, 40, after=prompt))
    sessions = [streams.open() for _ in prompts]
    for session, prompt in zip(sessions[:-1], prompts, strict=False):
        streams.step(session, 1, *prompt)
    sizes = []
    forward = ServedModel.forward

    def counted(model: ServedModel, adapter: Any, hidden: Any, caches: Any) -> Any:
        sizes.append(tuple(hidden.shape[:2]))
        return forward(model, adapter, hidden, caches)

    monkeypatch.setattr(ServedModel, "forward", counted)
    with streams.turns.step():
        first = streams.send(sessions[0], 2, 40, after=prompts[0])
        while streams.turns.requests_waiting == 0:
            time.sleep(0.001)
        prefill = streams.send(sessions[-1], 1, *prompts[-1])
        rest = [
            streams.send(session, 2, 40, after=prompt)
            for session, prompt in zip(sessions[1:-1], prompts[1:-1], strict=True)
        ]
    found = [future.result(PATIENCE) for future in (first, *rest)]
    prefill.result(PATIENCE)
    assert sizes == [(4, 1), (1, 4)]
    for one, wanted in zip(found, expected, strict=False):
        assert one["token"] == wanted["token"] and one["position"] == wanted["position"]
        assert one["logprob"] == pytest.approx(wanted["logprob"], abs=1e-4)


def test_a_body_that_is_no_step_is_refused_before_its_activations_are_decoded(
    start: Callable[..., Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = start()
    session = streams.open()
    decoded = []
    activations = Shard.activations

    def noted(shard: Shard) -> Any:
        decoded.append(shard.tokens)
        return activations(shard)

    monkeypatch.setattr(Shard, "activations", noted)
    for tokens in (513, 600):
        assert streams.refusal(session, 1, *[9] * tokens).code == "bad_lengths"
    assert not decoded
    assert streams.step(session, 1, 9)["position"] == 1 and decoded == [1]


def test_a_long_stream_does_not_pad_many_short_ones_to_its_length(
    start: Callable[..., Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = start()
    prompts = [(9,) * 500, *[(9, 8)] * 4]
    sessions = [streams.open() for _ in prompts]
    for session, prompt in zip(sessions, prompts, strict=True):
        streams.step(session, 1, *prompt)
    sizes = []
    forward = ServedModel.forward

    def counted(model: ServedModel, adapter: Any, hidden: Any, caches: Any) -> Any:
        sizes.append([cache.tokens for cache in caches])
        return forward(model, adapter, hidden, caches)

    monkeypatch.setattr(ServedModel, "forward", counted)
    with streams.turns.step():
        found = [
            streams.send(session, 2, 40, after=prompt)
            for session, prompt in zip(sessions, prompts, strict=True)
        ]
    assert [future.result(PATIENCE)["position"] for future in found] == [501, 3, 3, 3, 3]
    assert max(len(batch) * max(batch) - 2 * sum(batch) for batch in sizes) <= PADDING
    assert len(sizes) == 2


def test_streams_that_crowd_each_other_out_all_say_what_they_say_alone(
    start: Callable[..., Streams],
) -> None:
    def text(streams: Streams, number: int, count: int = 16) -> tuple[list[int], int]:
        """A stream that opens another session whenever its own is lost; and how many it took."""
        sampling = Sampling(temperature=1.0, top_p=0.95, seed=number)
        whole = [20 + number, 30, 40 + number]
        prompt, opened = len(whole), 0
        session, sent, sequence = "", 0, 0
        while len(whole) < prompt + count:
            try:
                if not session:
                    session, sent, sequence = streams.open(sampling=sampling), 0, 0
                    opened += 1
                new, before = whole[sent:], tuple(whole[:sent])
                token = streams.step(session, sequence + 1, *new, after=before)["token"]
            except RefusedError as error:
                assert error.code in ("session_lost", "unavailable")
                session = "" if error.code == "session_lost" else session
                continue
            sent, sequence = len(whole), sequence + 1
            whole.append(token)
        return whole, opened

    calm, crowded = start(), start(Limits(bytes=1 << 20, count=3))
    expected = [text(calm, number) for number in range(5)]
    with ThreadPoolExecutor(5) as threads:
        found = list(threads.map(lambda number: text(crowded, number), range(5)))
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    assert {opened for _, opened in expected} == {1} and sum(opened for _, opened in found) > 5


def test_a_step_that_is_sent_again_while_it_runs_runs_once(start: Callable[..., Streams]) -> None:
    streams = start()
    session = streams.open()
    with streams.turns.step():
        first = streams.send(session, 1, 9, 8)
        again = streams.send(session, 1, 9, 8)
        assert streams.refusal(session, 1, 9).code == "out_of_order"
        early = streams.refusal(session, 2, 9)
        assert (early.code, early.details) == ("out_of_order", {"expected": 1})
    assert again is first
    assert streams.step(session, 1, 9, 8) == first.result(PATIENCE)
    assert streams.step(session, 2, 7, after=(9, 8))["position"] == 3


def test_a_session_closed_while_it_works_still_answers(start: Callable[..., Streams]) -> None:
    streams = start()
    session = streams.open()
    with streams.turns.step():
        answer = streams.send(session, 1, 9)
        streams.generator.close(session, streams.opening.owner)
    assert answer.result(PATIENCE)["position"] == 1
    assert streams.generator.sessions == 0
    with pytest.raises(RefusedError) as refused:
        streams.generator.close(session, streams.opening.owner)
    assert refused.value.code == "not_found"


def test_a_step_that_fails_leaves_the_session_as_it_was(start: Callable[..., Streams]) -> None:
    streams = start(family="gpt2")
    session, other = streams.open(), streams.open()
    for each in (session, other):
        streams.step(each, 1, 9, 8)
    made = streams.maker.shard([Example([7])], task="inference")
    huge = encode(replace(made, hidden=np.full_like(made.hidden, 3e38)))
    with pytest.raises(RefusedError) as refused:
        streams.generator.step(session, streams.opening.owner, 2, huge).result(PATIENCE)
    assert refused.value.code == "not_finite"
    assert streams.step(session, 2, 7, after=(9, 8)) == streams.step(other, 2, 7, after=(9, 8))


def test_a_model_that_cannot_be_loaded_says_so_and_the_next_is_served(
    start: Callable[..., Streams], tmp_path: Path
) -> None:
    streams = start()
    gone = ModelRef(BaseRef(str(tmp_path / "gone"), 2, False), None)
    with pytest.raises(SplitFrozenError) as refused:
        streams.open(ref=gone)
    assert refused.value.code == "model_not_found"
    streams.step(streams.open(), 1, 9)
