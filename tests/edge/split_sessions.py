"""The split sessions of the protocol server (SPEC 4.8): every rule, and a model of one line.

The next token is a pure function of all activations of the session, so a device that repeats,
loses, reorders or changes any gets another text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splitfrozen import Shard, decode, digest
from tests.tiny_tokenizer import TINY_VOCAB

FIRST_TOKEN = 5  # behind the special tokens
EOS = 2


class SessionRefusal(Exception):
    """What the server answers with an error of the protocol."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


@dataclass
class Session:
    """What the server keeps of one."""

    request: dict[str, Any]
    seed: int
    rows: list[bytes] = field(default_factory=list)  # activations, token by token
    sequence: int = 0
    digest: str = ""
    answer: dict[str, Any] = field(default_factory=dict)


class Sessions:
    """All sessions, and what the tests make of them."""

    def __init__(self) -> None:
        self.open: dict[str, Session] = {}
        self.made: list[dict[str, Any]] = []  # requests for sessions, in order
        self.deleted: list[str] = []
        self.steps = 0  # requests for a step that were heard
        self.lose_before: set[int] = set()  # numbers of such requests that find no session
        self.max_positions = 512
        self.max_step_tokens = 512
        self.eos_at: int | None = None  # number of tokens behind which the text ends
        self.tokens_of_steps: list[int] = []

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        """POST /v1/split/sessions."""
        self.made.append(document)
        seed = document["seed"] if document["seed"] is not None else 1000 + len(self.made)
        known = f"sess_{len(self.made)}"
        self.open[known] = Session(document, seed)
        return {
            "id": known,
            "object": "split.session",
            "model": document["model"],
            "seed": seed,
            "max_positions": self.max_positions,
            "max_step_tokens": self.max_step_tokens,
            "eos_token_ids": [EOS],
            "idle_timeout": 600,
            "created_at": 0,
        }

    def step(self, known: str, sequence: int, body: bytes) -> dict[str, Any]:
        """POST …/{id}/steps."""
        self.steps += 1
        if self.steps in self.lose_before:
            self.open.clear()
        if known not in self.open:
            raise SessionRefusal("session_lost", "prefill again")
        session = self.open[known]
        if sequence == session.sequence and digest(body) == session.digest:
            return session.answer
        if sequence != session.sequence + 1:
            raise SessionRefusal("out_of_order", "not next", expected=session.sequence + 1)
        shard = decode(body)
        self._check(session, shard)
        self.tokens_of_steps.append(shard.tokens)
        session.rows += [row.tobytes() for row in shard.activations()]
        session.sequence, session.digest = sequence, digest(body)
        session.answer = self._answer(known, session)
        return session.answer

    def delete(self, known: str) -> dict[str, Any]:
        """DELETE …/{id}."""
        if self.open.pop(known, None) is None:
            raise SessionRefusal("not_found", f"no session {known}")
        self.deleted.append(known)
        return {"id": known, "object": "split.session", "deleted": True}

    def route(self, method: str, parts: list[str], query: dict[str, str], body: bytes) -> Any:
        """Status and document of what is behind /v1/split/sessions."""
        match method, parts:
            case "POST", []:
                return 201, self.create(json.loads(body))
            case "POST", [known, "steps"]:
                return 200, self.step(known, int(query["sequence"]), body)
            case "DELETE", [known]:
                return 200, self.delete(known)
        raise SessionRefusal("not_found", "no such route")

    def _check(self, session: Session, shard: Shard) -> None:
        if (shard.task, shard.dataset) != ("inference", ""):
            raise SessionRefusal("dataset_mismatch", "another task")
        if shard.bundle != session.request["bundle"]:
            raise SessionRefusal("dataset_mismatch", "another bundle")
        room = self.max_positions - len(session.rows)
        if shard.examples != 1 or not 1 <= shard.tokens <= min(room, self.max_step_tokens):
            raise SessionRefusal("bad_lengths", "one example, within the limits")

    def _answer(self, known: str, session: Session) -> dict[str, Any]:
        position = len(session.rows)
        token = EOS if position == self.eos_at else next_token(session.rows, session.seed)
        reason = "stop" if token == EOS else None
        if position == self.max_positions and reason is None:
            reason = "length"
        top = [{"token": token, "logprob": -0.5}] * session.request["logprobs"]
        return {
            "object": "split.step",
            "session": known,
            "sequence": session.sequence,
            "token": token,
            "logprob": -0.5,
            "top_logprobs": top,
            "position": position,
            "finish_reason": reason,
        }


def next_token(rows: list[bytes], seed: int) -> int:
    """A token that depends on every byte of the activations, and on the seed."""
    found = hashlib.sha256(b"".join(rows) + seed.to_bytes(8, "little")).digest()
    return FIRST_TOKEN + int(np.frombuffer(found[:4], "<u4")[0]) % (TINY_VOCAB - FIRST_TOKEN)
