"""A LAN server's own certificate authority and certificate. The only maker of certificates.

    tls/ca.pem       the authority: ten years, the fingerprint of this is what devices pin
    tls/ca.key       its key; needed for `tls renew` only, and may be kept elsewhere
    tls/server.pem   the server's key and certificate: 397 days, renewed without touching devices

Keys are P-256 (small and fast on a Raspberry Pi) and readable by the server's user only.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitfrozen.errors import SplitFrozenError
from splitfrozen_server.blobs import PART, flush_directory

CA_DAYS = 3653
SERVER_DAYS = 397
RENEW_DAYS = 30  # `serve` renews at a start when fewer are left
ALWAYS = ("localhost", "127.0.0.1", "::1")  # for commands on the server itself
_SKEW = datetime.timedelta(days=1)  # of the clocks of devices
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(\*\.)?({_LABEL}\.)*(?!\d+$){_LABEL}")  # 192.168.1.300 is no name


@dataclass(frozen=True)
class TlsFiles:
    """Where the files of a data directory are."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def server(self) -> Path:
        return self.directory / "server.pem"

    @property
    def complete(self) -> bool:
        """Whether a server can serve with them."""
        return self.ca.exists() and self.server.exists()


@dataclass(frozen=True)
class TlsState:
    """What a person wants to know of them."""

    pin: str  # fingerprint of the authority, as devices pin it
    hosts: list[str]  # names and addresses of the server's certificate
    ca_until: datetime.datetime
    server_until: datetime.datetime


def init_tls(directory: Path, hosts: Sequence[str], *, days: float = SERVER_DAYS) -> TlsState:
    """Make authority and certificate. Raises SplitFrozenError `name_taken` if there are some."""
    files = TlsFiles(directory)
    if files.ca.exists():
        raise SplitFrozenError(
            "name_taken",
            f"{files.ca} is there already, and devices may have pinned it: use tls renew, or "
            "remove the directory if every device shall be enrolled anew",
        )
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _make_authority(key)
    _write(files.ca_key, _key_bytes(key), 0o600)
    _issue(files, key, certificate, hosts, days)
    _write(files.ca, certificate.public_bytes(Encoding.PEM), 0o644)  # last: now it is complete
    return read_tls(directory)


def renew_tls(directory: Path, hosts: Sequence[str], *, days: float = SERVER_DAYS) -> TlsState:
    """A new certificate from the same authority, for the old names and `hosts`.

    Raises SplitFrozenError: `not_found` without the authority's files, `invalid_request` when its
    key is not one of `init_tls`.
    """
    files = TlsFiles(directory)
    state = read_tls(directory)
    certificate = x509.load_pem_x509_certificate(files.ca.read_bytes())
    try:
        key = load_pem_private_key(files.ca_key.read_bytes(), None)
    except OSError as error:
        raise SplitFrozenError(
            "not_found", f"{files.ca_key}: {error.strerror}; it is needed to sign a certificate"
        ) from None
    except (ValueError, TypeError):  # damaged, or with a password
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SplitFrozenError("invalid_request", f"{files.ca_key} is not a key of tls init")
    _issue(files, key, certificate, [*state.hosts, *hosts], days)
    return read_tls(directory)


def read_tls(directory: Path) -> TlsState:
    """What `directory` holds.

    Raises SplitFrozenError: `not_found` if nothing was made there, `bad_certificate`.
    """
    files = TlsFiles(directory)
    if not files.complete:
        raise SplitFrozenError(
            "not_found", f"no certificate in {directory}: run splitfrozen-server tls init"
        )
    try:
        authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
        certificate = x509.load_pem_x509_certificates(files.server.read_bytes())[0]
    except ValueError:
        raise SplitFrozenError(
            "bad_certificate", f"a certificate in {directory} is damaged: restore it from a backup"
        ) from None
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return TlsState(
        pin=fingerprint(files.ca.read_text()),
        hosts=[str(name.value) for name in names],
        ca_until=authority.not_valid_after_utc,
        server_until=certificate.not_valid_after_utc,
    )


def renew_when_due(directory: Path) -> TlsState:
    """The state, after a renewal if less than RENEW_DAYS are left and the authority's key is here.

    Raises what `read_tls` and `renew_tls` raise.
    """
    state = read_tls(directory)
    left = state.server_until - datetime.datetime.now(datetime.UTC)
    if left.days >= RENEW_DAYS or not TlsFiles(directory).ca_key.exists():
        return state
    return renew_tls(directory, ())


def fingerprint(pem: str) -> str:
    """`sha256:` and 64 hex digits of a certificate in PEM: what a device pins."""
    return "sha256:" + hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _make_authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SplitFrozen LAN authority")])
    usage = {"key_cert_sign": True, "crl_sign": True, "digital_signature": False}
    return (
        _builder(CA_DAYS)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def _issue(
    files: TlsFiles,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    hosts: Sequence[str],
    days: float,
) -> None:
    """Make and store the server's key and certificate."""
    names = list(dict.fromkeys([*hosts, *ALWAYS]))
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _builder(days)
        .subject_name(subject)
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(alternatives, critical=False)
        .add_extension(
            _usage(key_cert_sign=False, crl_sign=False, digital_signature=True), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, SHA256())
    )
    # One file holds both, so that a kill never leaves a certificate with another's key.
    chain = certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM)
    _write(files.server, _key_bytes(key) + chain, 0o600)


def _builder(days: float) -> x509.CertificateBuilder:
    today = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - _SKEW)
        .not_valid_after(today + datetime.timedelta(days=days))
    )


def _usage(*, key_cert_sign: bool, crl_sign: bool, digital_signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    """A name or an address of a certificate; SplitFrozenError for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode("ascii")
    except (UnicodeError, ValueError):
        name = ""
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise SplitFrozenError(
            "invalid_request", f"--host {host[:80]!r} is neither a host name nor an address"
        )
    return x509.DNSName(name)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    flush_directory(path.parent)
