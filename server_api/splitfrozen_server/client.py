"""Management over HTTP: the command line's only way to a server. The one importer of httpx in it.

A refusal of the server comes back as the RefusedError that the server raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from splitfrozen.errors import CODES, RefusedError
from splitfrozen.wire import PROTOCOL

DEFAULT_SERVER = "http://127.0.0.1:8000"


class UnreachableError(Exception):
    """No answer from the server; the message says which and why."""


class ServerClient:
    """A server and a token. Paths begin with a slash; bodies and answers are JSON."""

    def __init__(self, server: str, token: str, *, ca: Path | None = None) -> None:
        self.server = server.rstrip("/")
        self._http = httpx.Client(
            base_url=self.server,
            headers={"Authorization": f"Bearer {token}", "SplitFrozen-Protocol": PROTOCOL},
            timeout=httpx.Timeout(60.0, read=None),  # a Hub download may take long
            verify=_trust(ca),
        )

    def __enter__(self) -> ServerClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """GET; query values of None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST; fields of None are left out."""
        given = {name: value for name, value in (body or {}).items() if value is not None}
        return self._call("POST", path, json=given)

    def delete(self, path: str) -> Any:
        """DELETE."""
        return self._call("DELETE", path)

    def own_authority(self) -> str | None:
        """PEM of the server's own certificate authority, or None."""
        try:
            with self.stream("/v1/ca") as answer:
                return answer.read().decode("ascii")
        except RefusedError:
            return None

    def own_names(self, authority: str) -> list[str]:
        """Names and addresses of the server's certificate, which `authority` (PEM) signed."""
        import socket
        import ssl

        url = httpx.URL(self.server)
        context = ssl.create_default_context(cadata=authority)
        try:
            with (
                socket.create_connection((url.host, url.port or 443), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname=url.host) as stream,
            ):
                shown = stream.getpeercert() or {}
        except OSError:
            return []
        return [str(name[1]) for name in shown.get("subjectAltName", ())]

    def list_all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The `data` of a list."""
        found: list[dict[str, Any]] = self.get(path, **query)["data"]
        return found

    @contextmanager
    def stream(
        self, path: str, *, headers: dict[str, str] | None = None, **query: Any
    ) -> Iterator[httpx.Response]:
        """GET whose answer is read in pieces: a download, server-sent events."""
        try:
            with self._http.stream("GET", path, headers=headers, params=query) as answer:
                if answer.is_error:
                    answer.read()
                    raise refusal(answer)
                yield answer
        except httpx.TransportError as error:
            raise UnreachableError(f"{self.server} does not answer: {error}") from error

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise UnreachableError(
                f"{self.server} does not answer: {error}; is `splitfrozen-server serve` running?"
            ) from error
        if answer.is_error:
            raise refusal(answer)
        return answer.json()


def refusal(answer: httpx.Response) -> RefusedError:
    """The error of a refused request; a body in another shape keeps its text."""
    try:
        error = answer.json()["error"]
        code, message, param = error["code"], error["message"], error.get("param")
        details = error.get("details")
    except (ValueError, KeyError, TypeError):
        code, message, param, details = "", f"HTTP {answer.status_code}: {answer.text}", None, None
    if code not in CODES:
        code = "internal_error" if answer.status_code >= 500 else "invalid_request"
    return RefusedError(code, message, param=param, details=details)


def _trust(ca: Path | None) -> Any:
    if ca is None:
        return True
    import ssl

    return ssl.create_default_context(cafile=str(ca))
