"""A real HTTP server that speaks the device's half of the protocol and misbehaves on demand.

Shards are validated with `splitfrozen.decode` and kept in memory. `script` queues faults: each is
used up by the next request of its method.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import zstandard

from splitfrozen import Shard, SplitFrozenError, decode, digest, read_bundle
from splitfrozen.errors import CODES
from splitfrozen.manifest import MANIFEST_NAME
from tests.edge.split_sessions import SessionRefusal, Sessions

ENROL_TOKEN = "enrol-token"
DEVICE_TOKEN = "device-token"


@dataclass(frozen=True)
class Fault:
    """One way to misbehave, once.

    refuse: answer `status` with `code`; before: break the connection unheard; after: do the work,
    then break the connection inside the answer; wrong: a receipt for other bytes; garbage: no JSON;
    none: behave.
    """

    kind: str
    status: int = 503
    code: str = "unavailable"
    retry_after: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Refusal(Exception):
    """What a handler raises to answer with an error of the protocol."""

    def __init__(self, code: str, message: str = "", **details: Any) -> None:
        super().__init__(message or code)
        self.code = code
        self.details = details


class ProtocolServer:
    """State of the server; methods are called by the tests, routes by the handler threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: list[Seen] = []
        self.faults: dict[str, deque[Fault]] = {}
        self.bundles: dict[str, Path] = {}
        self.datasets: dict[str, dict[str, Any]] = {}
        self.shards: dict[str, dict[str, Shard]] = {}  # dataset id -> digest -> shard
        self.models: dict[str, dict[str, Any]] = {}
        self.devices = 0
        self.beats: list[dict[str, Any]] = []  # heartbeats as they came
        self.next_beat: float | None = 60  # seconds; None: a server of before heartbeats
        self.split = Sessions()
        self.url = ""

    def script(self, method: str, *faults: Fault) -> None:
        """Misbehave at the next requests of a method."""
        self.faults.setdefault(method, deque()).extend(faults)

    def publish(self, directory: Path) -> str:
        """Make a bundle known; its id."""
        bundle = read_bundle(directory)
        self.bundles[bundle.id] = directory
        return bundle.id

    def add_dataset(self, name: str, task: str, labels: list[str] | None = None) -> str:
        """Make a dataset, closed if labels are given; its id."""
        found = {
            "id": f"ds_{len(self.datasets)}",
            "object": "activation_dataset",
            "name": name,
            "base_model": "tiny",
            "cut": 2,
            "task": task,
            "labels": list(labels or []),
            "open_labels": labels is None,
            "sealed": False,
        }
        self.datasets[str(found["id"])] = found
        self.shards[str(found["id"])] = {}
        return str(found["id"])

    def example_ids(self, dataset: str) -> list[bytes]:
        """Ids of all stored examples, with repetitions if there were any."""
        stored = self.shards[dataset].values()
        return [row.tobytes() for shard in stored for row in shard.example_ids]  # type: ignore[union-attr]

    def bodies(self, method: str = "PUT") -> list[bytes]:
        """Content of the requests of a method, in order."""
        return [seen.body for seen in self.requests if seen.method == method]

    def find_dataset(self, name: str) -> dict[str, Any]:
        """By id or name; refuses with not_found."""
        for found in self.datasets.values():
            if name in (found["id"], found["name"]):
                return found
        raise Refusal("not_found", f"no dataset {name}")

    def route(self, seen: Seen) -> tuple[int, Any]:
        """Status and JSON document, or bytes."""
        parts = [unquote(part) for part in urlsplit(seen.path).path.strip("/").split("/")]
        query = {key: value[0] for key, value in parse_qs(urlsplit(seen.path).query).items()}
        if seen.headers.get("splitfrozen-protocol") != "1":
            raise Refusal("unsupported_protocol")
        if parts == ["version"]:
            return 200, {"version": "0", "protocols": ["1"], "bundle_key": None}
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        if token != (ENROL_TOKEN if parts[1:] == ["devices"] else DEVICE_TOKEN):
            raise Refusal("unauthorized", "no valid bearer token")
        match seen.method, parts[1:]:
            case "POST", ["devices"]:
                self.devices += 1
                name = json.loads(seen.body)["name"]
                return 201, {"id": f"dev_{self.devices}", "name": name, "token": DEVICE_TOKEN}
            case "PUT", ["devices", "self", "profile"]:
                return 200, {"id": "dev_1", **json.loads(seen.body)}
            case "POST", ["devices", "self", "heartbeat"] if self.next_beat is not None:
                return 200, self._beat(json.loads(seen.body))
            case "GET", ["bundles"]:
                return 200, {"data": self._bundles(query)}
            case "GET", ["bundles", bundle] if bundle in self.bundles:
                return 200, {"id": bundle, "manifest": self._manifest(bundle)}
            case "GET", ["bundles", bundle, "files", name]:
                return self._file(bundle, name, seen.headers.get("range"))
            case "GET", ["models", name] if name in self.models:
                return 200, self.models[name]
            case "GET", ["activation_datasets", name]:
                return 200, self.find_dataset(name)
            case "POST", ["activation_datasets"]:
                return self._create(json.loads(seen.body))
            case "POST", ["activation_datasets", name, "labels"]:
                return 200, self._labels(self.find_dataset(name), json.loads(seen.body)["names"])
            case "PUT", ["activation_datasets", name, "shards", wanted]:
                return self._store(self.find_dataset(name), wanted, seen)
            case "POST", ["split", "classifications"]:
                return 200, _classify(query["model"], decode(_content(seen)))
            case method, ["split", "sessions", *rest]:
                return self._split(method, rest, query, _content(seen))
        raise Refusal("not_found", f"no route {seen.path}")

    def _split(self, method: str, rest: list[str], query: dict[str, str], body: bytes) -> Any:
        try:
            return self.split.route(method, rest, query, body)
        except SessionRefusal as error:
            raise Refusal(error.code, str(error), **error.details) from None

    def _beat(self, beat: dict[str, Any]) -> dict[str, Any]:
        self.beats.append(beat)
        datasets = []
        for name in beat["datasets"]:
            try:
                datasets.append(self.find_dataset(name) | {"deleted": False})
            except Refusal:
                datasets.append({"id": name, "deleted": True})
        return {
            "object": "device.heartbeat",
            "now": 0,
            "next_in": self.next_beat,
            "datasets": datasets,
        }

    def _create(self, document: dict[str, Any]) -> tuple[int, Any]:
        if document["bundle"] not in self.bundles:
            raise Refusal("unknown_bundle", "publish the bundle first")
        if any(document["name"] == found["name"] for found in self.datasets.values()):
            raise Refusal("name_taken")
        return 201, self.datasets[self.add_dataset(document["name"], document["task"])]

    def _labels(self, dataset: dict[str, Any], names: list[str]) -> dict[str, Any]:
        new = [name for name in names if name not in dataset["labels"]]
        if new and not dataset["open_labels"]:
            raise Refusal("unknown_label", f"no label {new[0]}")
        dataset["labels"] += new
        return {"labels": dataset["labels"]}

    def _store(self, dataset: dict[str, Any], wanted: str, seen: Seen) -> tuple[int, Any]:
        body = _content(seen)
        if digest(body) != wanted:
            raise Refusal("digest_mismatch")
        stored = self.shards[dataset["id"]]
        receipt = {"object": "shard", "digest": wanted, "dataset": dataset["id"]}
        if wanted in stored:
            return 200, receipt
        if dataset["sealed"]:
            raise Refusal("dataset_sealed", "the dataset takes no more shards")
        shard = decode(body)
        self._check(dataset, shard)
        stored[wanted] = shard
        return 201, receipt

    def _check(self, dataset: dict[str, Any], shard: Shard) -> None:
        assert shard.example_ids is not None
        if shard.bundle not in self.bundles:
            raise Refusal("unknown_bundle", "publish the bundle first")
        if (shard.dataset, shard.task) != (dataset["id"], dataset["task"]):
            raise Refusal("dataset_mismatch")
        if shard.labels is not None and (shard.labels >= len(dataset["labels"])).any():
            raise Refusal("label_out_of_range")
        known = {row.tobytes() for row in shard.example_ids} & set(self.example_ids(dataset["id"]))
        if known:
            raise Refusal("duplicate_example", example_ids=sorted(i.hex() for i in known))

    def _bundles(self, query: dict[str, str]) -> list[dict[str, Any]]:
        found = [(known, read_bundle(path).manifest) for known, path in self.bundles.items()]
        return [
            {"id": known, "precision": manifest.precision, "created_at": place}
            for place, (known, manifest) in enumerate(found)
            if query["base_model"] == manifest.base_model.id
            and query.get("cut", str(manifest.cut)) == str(manifest.cut)
        ]

    def _manifest(self, bundle: str) -> Any:
        return json.loads((self.bundles[bundle] / MANIFEST_NAME).read_bytes())

    def _file(self, bundle: str, name: str, wanted: str | None) -> tuple[int, bytes]:
        if bundle not in self.bundles:
            raise Refusal("not_found", f"no bundle {bundle}")
        data = (self.bundles[bundle] / name).read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        return (206 if start else 200), data[start:]


def _content(seen: Seen) -> bytes:
    if seen.headers.get("content-encoding") == "zstd":
        return zstandard.ZstdDecompressor().decompress(seen.body, max_output_size=1 << 24)
    return seen.body


def _classify(model: str, shard: Shard) -> dict[str, Any]:
    """Label by the sign of the first text token's first channel: pure in the text."""
    starts = [int(shard.lengths[:i].sum()) for i in range(shard.examples)]
    score = [float(shard.activations()[start + 1, 0]) for start in starts]
    scores = {"no": 0.25, "yes": 0.75}
    data = [{"label": ("no", "yes")[s > 0], "index": int(s > 0), "scores": scores} for s in score]
    return {"object": "split.classifications", "model": model, "data": data}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet per answer: separate ones wait for delayed acknowledgements
    state: ProtocolServer

    def handle_any(self) -> None:
        """Log, misbehave if scripted, else route."""
        length = int(self.headers.get("content-length") or 0)
        try:
            body = self.rfile.read(length)
        except OSError:
            body = b""
        if len(body) < length:  # the connection broke within the body: nobody to answer
            self.close_connection = True
            return
        headers = {key.lower(): value for key, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body)
        with self.state.lock:
            self.state.requests.append(seen)
            queued = self.state.faults.get(self.command)
            fault = queued.popleft() if queued else None
            if fault and fault.kind in ("refuse", "before", "garbage", "wrong"):
                return self._misbehave(fault)
            status, document, extra = self._answer(seen)
        self._reply(status, document, extra, cut=fault is not None and fault.kind != "none")

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def _answer(self, seen: Seen) -> tuple[int, Any, dict[str, Any]]:
        try:
            return *self.state.route(seen), {}
        except Refusal as error:
            return _error(error.code, str(error), error.details)
        except SplitFrozenError as error:
            return _error(error.code, error.message, error.details)

    def _misbehave(self, fault: Fault) -> None:
        if fault.kind == "before":
            self.close_connection = True
        elif fault.kind == "garbage":
            self._reply(200, b"<html>a captive portal</html>", {})
        elif fault.kind == "wrong":
            self._reply(201, {"digest": "0" * 64}, {})
        else:
            _, document, _ = _error(fault.code, "scripted", fault.details)
            extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._reply(fault.status, document, extra)

    def _reply(
        self, status: int, document: Any, headers: dict[str, Any], *, cut: bool = False
    ) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        # A torn answer leaves the client in doubt whether the work was done.
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the test's output."""


def _error(code: str, message: str, details: dict[str, Any]) -> tuple[int, Any, dict[str, Any]]:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    status = CODES[code].status if code in CODES else 500
    return status, {"error": error | ({"details": details} if details else {})}, {}


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing about clients that were killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_server() -> Iterator[ProtocolServer]:
    """A server on a free port of the loopback."""
    state = ProtocolServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with _Http(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        state.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            http.shutdown()
            thread.join()
