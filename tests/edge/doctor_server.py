"""A server for the doctor: real sockets and real TLS, with whatever is wrong with it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "sf-secret-of-this-device"


@dataclass
class Behaviour:
    """What the server says; paths that are not listed are 404."""

    answers: dict[str, tuple[int, Any]] = field(
        default_factory=lambda: {
            "/version": (200, {"version": "1.2.3", "protocols": ["1"], "bundle_key": None}),
            "/ready": (200, {"status": "ready", "database": "ok", "worker": "running"}),
            "/v1/devices/self": (200, {"id": "dev_1", "object": "device"}),
        }
    )
    clock_offset: float = 0.0  # seconds added to the Date header
    tokens_seen: list[str] = field(default_factory=list)


@contextmanager
def serving(behaviour: Behaviour, certificate: Path | None = None) -> Iterator[int]:
    """The port of a server; with a certificate (and key in the same file) it speaks TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            if token:
                behaviour.tokens_seen.append(token)
            status, document = behaviour.answers.get(self.path, (404, {"error": {}}))
            if self.path.startswith("/v1/") and token != TOKEN:
                status, document = 401, {"error": {"code": "unauthorized"}}
            raw = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + behaviour.clock_offset, usegmt=True)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the test's output."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up in the middle is what these tests are about."""

    with Server(("127.0.0.1", 0), Handler) as http:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            http.socket = context.wrap_socket(
                http.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield http.server_port
        finally:
            http.shutdown()
            thread.join()


class Authority:
    """A certificate authority of a LAN, and the certificates that it makes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "LAN authority")])
        now = datetime.now(UTC)
        built = _builder(self._name, self._name, self._key, now, timedelta(days=3650))
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        signing = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        built = built.add_extension(signing, critical=True)
        signed = built.sign(self._key, hashes.SHA256())
        self.file = directory / "ca.pem"
        self.file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def certificate(self, *, host: str = "127.0.0.1", start: float = -1, days: float = 90) -> Path:
        """Certificate and key in one file, valid from `start` days from now for `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        begins = datetime.now(UTC) + timedelta(days=start)
        built = _builder(name, self._name, key, begins, timedelta(days=days))
        known: x509.GeneralName
        try:
            known = x509.IPAddress(ip_address(host))
        except ValueError:
            known = x509.DNSName(host)
        built = built.add_extension(x509.SubjectAlternativeName([known]), critical=False)
        issuer = self._key.public_key()
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
        built = built.add_extension(identifier, critical=False)
        signed = built.sign(self._key, hashes.SHA256())
        path = self._directory / f"server-{host}-{start}-{days}.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
        return path


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    lasts: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
