"""A new token for this device, without a moment in which neither opens the server.

The server keeps the old token valid until the new one is first used, and forgets a new one that
was never used when asked for another. So: fetch (an answer may be lost: asked again), store (a
kill before this leaves the old one, which works), and only then use it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from splitfrozen.errors import RefusedError
from splitfrozen_edge.state import Enrolment, StateDirectory, StateError

if TYPE_CHECKING:
    from splitfrozen_edge.http.client import Client

SELF = "/v1/devices/self"


def rotate_token(state: StateDirectory, connect: Callable[[Enrolment], Client]) -> Enrolment:
    """Replace this device's token and return the enrolment with the new one.

    `connect` opens a client of an enrolment. After any failure the stored token works. Raises
    StateError, and RefusedError: `unavailable` after the new token was stored means that its first
    use waits for the server to come back.
    """
    with _alone(state):
        old = state.enrolment()
        new = replace(old, token=_fetch(connect, old))
        state.store_enrolment(new)
        try:
            _use(connect, new)
        except RefusedError as error:
            if error.code == "unauthorized":  # the server was put back to an earlier state
                state.store_enrolment(old)
            raise
        return new


def _fetch(connect: Callable[[Enrolment], Client], enrolment: Enrolment) -> str:
    client = connect(enrolment)
    try:
        token = client.call("POST", f"{SELF}/token").get("token")
    finally:
        client.close()
    if not isinstance(token, str) or not token.isascii() or not 20 <= len(token) <= 500:
        raise RefusedError("unavailable", "the server's answer holds no token; the old one stays")
    return token


def _use(connect: Callable[[Enrolment], Client], enrolment: Enrolment) -> None:
    client = connect(enrolment)
    try:
        client.call("GET", SELF)
    finally:
        client.close()


@contextmanager
def _alone(state: StateDirectory) -> Iterator[None]:
    """Of two rotations at once the later would make the earlier's token worthless."""
    with (state.path / "token.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"another rotation is running with {state.path}") from None
        yield
