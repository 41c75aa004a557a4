"""Split sessions of the server (SPEC 4.8): the upper half of a text that grows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from splitfrozen.errors import RefusedError
from splitfrozen_edge.http.client import Client

_SESSIONS = "/v1/split/sessions"


@dataclass(frozen=True)
class SessionRequest:
    """What a session is asked for."""

    model: str  # base model or ft:…
    bundle: str  # id
    temperature: float = 1.0  # 0: always the likeliest token
    top_p: float = 1.0  # of (0, 1]
    seed: int | None = None  # None: the server draws one
    logprobs: int = 0  # alternatives listed beside every token


@dataclass(frozen=True)
class Session:
    """A session that the server made."""

    id: str
    seed: int
    max_positions: int  # tokens that a text of the model can have
    max_step_tokens: int  # tokens of one request


@dataclass(frozen=True)
class Alternative:
    """A token that could have come, and its log probability."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Step:
    """The token that the server drew behind what it has."""

    token: int
    logprob: float
    alternatives: tuple[Alternative, ...]
    position: int  # tokens that the session has, without this one
    finish_reason: str | None  # stop: the token ends the text; length: there is no more room


class SplitSessions:
    """The routes, over a client that retries."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def open(self, request: SessionRequest) -> Session:
        """Make a session; one whose answer got lost ends by itself on the server."""
        answer = self._client.call(
            "POST",
            _SESSIONS,
            {
                "model": request.model,
                "bundle": request.bundle,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                "logprobs": request.logprobs,
            },
        )
        try:
            return Session(
                id=_text(answer["id"]),
                seed=_count(answer["seed"]),
                max_positions=_count(answer["max_positions"]),
                max_step_tokens=max(1, _count(answer.get("max_step_tokens", 512))),
            )
        except (LookupError, TypeError, ValueError):
            raise _strange("a new session", answer) from None

    def step(self, session: str, sequence: int, body: bytes) -> Step:
        """Send activations; the same number and bytes again give the same answer."""
        path = f"{_SESSIONS}/{quote(session, safe='')}/steps"
        answer = self._client.call_with_body("POST", path, body, params={"sequence": str(sequence)})
        try:
            return _step(answer)
        except (LookupError, TypeError, ValueError):
            raise _strange("a step", answer) from None

    def close(self, session: str) -> None:
        """Give a session up. Tried once: what cannot be deleted now ends by itself."""
        once = copy(self._client)  # over the same connections; the patience of others stays
        once.policy = replace(once.policy, patience=0.0)
        with suppress(RefusedError):
            once.call("DELETE", f"{_SESSIONS}/{quote(session, safe='')}")


def _step(answer: Mapping[str, Any]) -> Step:
    reason = answer.get("finish_reason")
    if reason not in (None, "stop", "length"):
        raise ValueError(reason)
    return Step(
        token=_count(answer["token"]),
        logprob=float(answer["logprob"]),
        alternatives=tuple(
            Alternative(_count(item["token"]), float(item["logprob"]))
            for item in answer.get("top_logprobs") or ()
        ),
        position=_count(answer["position"]),
        finish_reason=reason,
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def _strange(what: str, answer: Mapping[str, Any]) -> RefusedError:
    shown = ", ".join(sorted(map(str, answer)))[:200] or "nothing"
    return RefusedError(
        "internal_error",
        f"the server's answer to {what} is none of the protocol: it has {shown}",
    )
