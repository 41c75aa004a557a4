"""A device's side of split sessions over HTTP: the torch device segment, no exporter needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import numpy as np

from splitfrozen.wire import Shard, encode
from tests.worker.server import Server
from tests.worker.shards import Example, ShardMaker

SESSIONS = "/v1/split/sessions"


class Stream:
    """One session and the ids that only its device knows."""

    def __init__(self, server: Server, maker: ShardMaker, device: str, opened: Any) -> None:
        self.maker = maker
        self.opened = opened
        self.id = opened["id"]
        self.ids: list[int] = []  # sent so far
        self.sequence = 0
        self._server = server
        self.headers = {"Authorization": f"Bearer {server.device_token(device)}"}

    def shard(self, new: list[int]) -> Shard:
        """The next tokens' activations, out of the whole text so far."""
        whole = self.maker.hidden(self.ids + new)
        made = self.maker.shard([Example(new)], task="inference")
        return replace_hidden(made, whole[len(self.ids) :])

    def send(self, body: bytes, sequence: int) -> httpx.Response:
        return self._server.http.post(
            f"{SESSIONS}/{self.id}/steps",
            params={"sequence": sequence},
            content=body,
            headers=self.headers,
        )

    def step(self, new: list[int]) -> dict[str, Any]:
        """The answer to the next step."""
        answer = self.send(encode(self.shard(new)), self.sequence + 1)
        assert answer.status_code == 200, answer.text
        self.sequence += 1
        self.ids = [*self.ids, *new]
        return answer.json()

    def generate(self, prompt: list[int], count: int) -> list[int]:
        """`count` tokens after the prompt, each sent back in the step after it."""
        found: list[int] = []
        new = prompt
        for _ in range(count):
            token = self.step(new)["token"]
            found.append(token)
            new = [token]
        return found


def open_stream(
    server: Server, maker: ShardMaker, model: str, *, device: str = "pi-1", **fields: Any
) -> Stream:
    """Open a session, once the worker is there."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        body = {"model": model, "bundle": maker.bundle, **fields}
        answers.append(post_session(server, device, **body))
        return answers[-1].status_code != 503

    server.wait(answered, "the worker answers")
    assert answers[-1].status_code == 201, answers[-1].text
    return Stream(server, maker, device, answers[-1].json())


def post_session(server: Server, device: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.device_token(device)}"}
    return server.http.post(SESSIONS, json=body, headers=headers)


def replace_hidden(shard: Shard, rows: np.ndarray) -> Shard:
    return replace(shard, hidden=np.ascontiguousarray(rows))
