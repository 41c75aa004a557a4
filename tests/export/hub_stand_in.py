"""A small HTTP server with the Hub's API for one private model repository, on a real socket.

It answers what `huggingface_hub` asks to resolve a revision, list the files of a commit and
download them, and keeps every request it saw.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class HubStandIn:
    """One repository, its named revisions, and what clients asked for."""

    directory: Path
    repository: str
    token: str
    revisions: dict[str, str]  # branch or tag -> commit (40 hex digits)
    url: str = ""
    seen: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, authorization

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]

    def commit(self, revision: str) -> str | None:
        known = self.revisions.get(revision)
        return known or (revision if revision in self.revisions.values() else None)


@contextmanager
def hub_stand_in(
    directory: Path, *, repository: str, token: str, revisions: dict[str, str]
) -> Iterator[HubStandIn]:
    """Serve `directory` as `repository` until the block ends."""
    hub = HubStandIn(directory, repository, token, revisions)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            authorization = self.headers.get("Authorization", "")
            hub.seen.append((self.command, path, authorization))
            if authorization != f"Bearer {hub.token}":
                return self._refuse(401, "RepoNotFound")
            parts = path.removeprefix("/api/models").strip("/").split("/")
            if "/".join(parts[:2]) != hub.repository:
                return self._refuse(404, "RepoNotFound")
            kind, revision, *rest = [*parts[2:], "", ""]
            commit = hub.commit(revision or "main")
            if commit is None:
                return self._refuse(404, "RevisionNotFound")
            if path.startswith("/api/models/"):
                return self._json(_tree(hub) if kind == "tree" else _info(hub, commit))
            self._file(commit, hub.directory / rest[0])

        def _json(self, body: Any) -> None:
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _file(self, commit: str, path: Path) -> None:
            if not path.is_file():
                return self._refuse(404, "EntryNotFound")
            body = path.read_bytes()
            self._send(200, body, {"X-Repo-Commit": commit, "ETag": f'"{_blob(path)}"'})

        def _refuse(self, status: int, code: str) -> None:
            self._send(status, b"", {"X-Error-Code": code})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _info(hub: HubStandIn, commit: str) -> dict[str, Any]:
    files = [{"rfilename": path.name} for path in _files(hub)]
    return {"id": hub.repository, "sha": commit, "private": True, "siblings": files}


def _tree(hub: HubStandIn) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _blob(path)}
        for path in _files(hub)
    ]


def _files(hub: HubStandIn) -> list[Path]:
    return sorted(path for path in hub.directory.iterdir() if path.is_file())


def _blob(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
