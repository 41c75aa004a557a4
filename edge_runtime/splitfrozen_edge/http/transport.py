"""Requests that are sent again until they are answered. The only importer of httpx.

Every request is retried until the policy's patience ends: after a broken connection and after
codes marked retryable, waiting at least as long as Retry-After says. Any other refusal is raised
at once as RefusedError with the server's code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlencode

import httpx

from splitfrozen.errors import RefusedError
from splitfrozen.version import PROTOCOL
from splitfrozen_edge.http.chunks import Chunks
from splitfrozen_edge.http.compression import compress
from splitfrozen_edge.http.refusals import GaveUpError, TransientError, read_refusal
from splitfrozen_edge.http.retry import RetryPolicy
from splitfrozen_edge.identity.failures import (
    CertificateError,
    certificate_error,
    certificate_words,
    redirect_words,
    wrong_scheme_words,
)
from splitfrozen_edge.identity.trust import context_for
from splitfrozen_edge.state import StateError

Json = dict[str, Any]
T = TypeVar("T")
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_QUIET = 1.0  # seconds of failing that nobody needs to hear of


class Transport:
    """One server, one bearer token."""

    def __init__(
        self,
        server: str,
        token: str,
        *,
        ca_file: Path | None = None,
        pin: str | None = None,
        policy: RetryPolicy | None = None,
        wait: Callable[[float], object] = time.sleep,
        newest_token: Callable[[], str] | None = None,
        on_wait: Callable[[RefusedError, float], None] | None = None,
    ) -> None:
        """`wait` sleeps between attempts; a caller that wants to stop early raises from it.

        `ca_file`: PEM of all that is trusted; `pin`: the fingerprint that it was pinned by, for
        words. `newest_token`: asked after a 401, since the token may have been rotated meanwhile.
        `on_wait`: told once per outage, after about a second of it, why and for how many seconds
        it will be tried at most.
        """
        self.server = server.rstrip("/")
        self.bytes_up = 0  # content bytes of all shards sent, retries too, as they travelled
        self.sent_bytes = 0  # content bytes of bodies that were answered with success
        self.sent_seconds = 0.0  # from the first byte of those to their answers
        self.throttle: Callable[[int], None] | None = None  # before each chunk of an upload: bytes
        self.policy = policy or RetryPolicy()
        self._pin = pin
        self._wait = wait
        self._newest_token = newest_token
        self._on_wait = on_wait
        self._told = False  # about the outage that lasts
        verify = context_for(ca_file) if ca_file else True
        headers = {
            "Authorization": f"Bearer {token}",
            "SplitFrozen-Protocol": PROTOCOL,
            "User-Agent": "splitfrozen-edge",
        }
        try:
            httpx.URL(self.server).host.encode("idna")  # as a connection would, in all attempts
            self._http = httpx.Client(
                base_url=self.server, verify=verify, timeout=_TIMEOUT, headers=headers
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            message = f"no client for the server {self.server}: {error}; check its URL and token"
            raise StateError(message) from None

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """GET a path in chunks: (status 200 or 206, chunks).

        One attempt: raises TransientError when the stream breaks; call it within `retrying`.
        """
        try:
            with self._http.stream("GET", path, headers=headers) as response:
                if response.status_code not in (200, 206):
                    response.read()
                    self._raise_refusal(response, again=True)
                yield response.status_code, response.iter_bytes()
        except httpx.RequestError as error:
            self._raise_broken(error)

    def retrying(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it raises no TransientError; RefusedError when patience ends.

        Patience counts failed attempts and waiting since something last arrived, so that a long
        transfer over a bad network does not use it up.
        """
        spent, failures = 0.0, 0
        while True:
            started = time.monotonic()
            try:
                found = attempt()
                self._told = False
                return found
            except TransientError as error:
                if error.progressed:
                    spent, failures = 0.0, 0
                else:
                    spent += time.monotonic() - started
                failures += 1
                delay = self.policy.delay(failures, error.retry_after)
                spent += delay
                if spent > self.policy.patience:
                    raise GaveUpError(error) from None
                if spent > _QUIET and self._on_wait and not self._told:
                    self._told = True
                    self._on_wait(error.failure, self.policy.patience - spent + delay)
            self._wait(delay)

    def call(
        self,
        method: str,
        path: str,
        document: Json | None = None,
        *,
        params: Mapping[str, str] | None = None,
        idempotent: bool = True,
    ) -> Json:
        """A JSON request of any route; what must not arrive twice says `idempotent=False`."""
        request = self._http.build_request(method, path, json=document, params=params)
        return self.retrying(lambda: self._send(request, idempotent=idempotent))

    def call_with_body(
        self, method: str, path: str, body: bytes, *, params: Mapping[str, str] | None = None
    ) -> Json:
        """Send shard-profile bytes, compressed, to any route that may be repeated."""
        target = f"{path}?{urlencode(params)}" if params else path
        return self.retrying(lambda: self.send_body(method, target, body))

    def send_body(self, method: str, path: str, body: bytes) -> Json:
        """One attempt to send bytes, compressed; RefusedError or TransientError."""
        content, encoding = compress(body)
        headers = {"Content-Type": "application/octet-stream"}
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        self.bytes_up += len(content)
        stream: bytes | Chunks = content
        if self.throttle is not None:
            headers["Content-Length"] = str(len(content))
            stream = Chunks(content, self.throttle)
        started = time.monotonic()
        answer = self._send(self._http.build_request(method, path, content=stream, headers=headers))
        self.sent_bytes += len(content)
        self.sent_seconds += time.monotonic() - started
        return answer

    def _send(self, request: httpx.Request, *, idempotent: bool = True) -> Json:
        """One attempt; RefusedError or TransientError."""
        try:
            response = self._http.send(request)
            if response.status_code == 401 and self._take_newest_token():
                request.headers["Authorization"] = self._http.headers["Authorization"]
                response = self._http.send(request)  # a 401 is said before any work
        except httpx.RequestError as error:
            self._raise_broken(error, idempotent=idempotent)
        # These two are said before any work; after any other answer it may have been done.
        again = idempotent or response.status_code in (429, 503)
        if not response.is_success:
            self._raise_refusal(response, again=again)
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            nonsense = garbage("the server's answer is not a JSON object")
            raise TransientError(nonsense) if again else nonsense
        return document

    def _raise_broken(self, error: httpx.RequestError, *, idempotent: bool = True) -> NoReturn:
        reason = str(error) or type(error).__name__
        failure = RefusedError("unavailable", f"cannot reach {self.server}: {reason}")
        if words := wrong_scheme_words(self.server, error):
            raise RefusedError("unavailable", words) from error
        certain = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        if (refused := certificate_error(error)) is not None:
            words = certificate_words(self.server, refused, self._pin)
            raise CertificateError(words) from error
        # What may have arrived is not sent twice.
        final = isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError)
        if final or not (idempotent or certain):
            raise failure from error
        raise TransientError(failure) from error

    def _raise_refusal(self, response: httpx.Response, *, again: bool) -> NoReturn:
        if response.has_redirect_location:
            words = redirect_words(self.server, response.headers["location"])
            raise RefusedError("invalid_request", words)
        if response.status_code == 401 and again and self._take_newest_token():
            unauthorized = RefusedError("unauthorized", "the token was rotated meanwhile")
            raise TransientError(unauthorized)
        found = read_refusal(response.status_code, response.headers, response.content)
        raise found if again or isinstance(found, RefusedError) else found.failure

    def _take_newest_token(self) -> bool:
        """Whether there is another token than the one in use; it is in use from now on."""
        if self._newest_token is None:
            return False
        authorization = f"Bearer {self._newest_token()}"
        if authorization == self._http.headers["Authorization"]:
            return False
        self._http.headers["Authorization"] = authorization
        return True


def garbage(message: str) -> RefusedError:
    """What an answer that makes no sense is told as."""
    return RefusedError("unavailable", message)
